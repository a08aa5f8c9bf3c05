//! A browser's connection: one request at a time, kept alive.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Servers close what is idle for longer.
const IDLE: Duration = Duration::from_secs(2);

pub(crate) struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    used: Instant,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// What the browser sends back of a cookie that was set.
    pub(crate) cookie: Option<String>,
    pub(crate) body: String,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = connect(address).await;
        Self { address, stream, used: Instant::now(), request: Vec::new(), answer: Vec::with_capacity(4096) }
    }

    /// Connects anew after a pause.
    pub(crate) async fn wake(&mut self) {
        if self.used.elapsed() >= IDLE {
            self.stream = connect(self.address).await;
        }
    }

    /// `line`: method and path.
    pub(crate) async fn ask(&mut self, line: &str, cookie: &str) -> Answer {
        self.request.clear();
        for part in [
            line,
            " HTTP/1.1\r\nhost: shop.example.com\r\n\
             user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0\r\n\
             accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
             accept-language: en-GB,en;q=0.5\r\naccept-encoding: gzip, deflate, br, zstd\r\n",
            if line.starts_with("POST") { "content-length: 0\r\n" } else { "" },
            if cookie.is_empty() { "" } else { "cookie: " },
            cookie,
            if cookie.is_empty() { "\r\n" } else { "\r\n\r\n" },
        ] {
            self.request.extend_from_slice(part.as_bytes());
        }
        self.stream.write_all(&self.request).await.expect("the subject reads");
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await.expect("the subject answers");
            assert!(read > 0, "the subject closed the connection");
            if let Some(answer) = parse(&self.answer) {
                self.used = Instant::now();
                return answer;
            }
        }
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the subject listens");
    stream.set_nodelay(true).expect("it is a TCP connection");
    stream
}

/// None until it is all there.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = str::from_utf8(&bytes[..end]).expect("heads are ASCII");
    let status = head.get(9..12)?.parse().ok()?;
    let header = |wanted: &str| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then_some(value.trim())
        })
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().expect("it is a number"));
    let body = bytes.get(end + 4..end + 4 + length)?;
    let cookie = header("set-cookie").and_then(|cookie| cookie.split(';').next());
    Some(Answer { status, cookie: cookie.map(ToOwned::to_owned), body: String::from_utf8_lossy(body).into_owned() })
}
