//! The application behind a proxy: it answers what it was sent.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

/// It ends with the test's process.
pub(crate) fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(|| serve(stream.unwrap()));
        }
    });
    address
}

/// Until the proxy closes.
fn serve(stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while reader.read_line(&mut head).ok().filter(|length| *length > 0)? > 2 {}
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        reader.read_exact(&mut vec![0; length.unwrap_or_default()]).ok()?;
        if head.to_lowercase().contains("\r\nupgrade: websocket\r\n") {
            let start = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket";
            // To the key of RFC 6455's example.
            let answer = format!("{start}\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n{head}");
            return reader.get_mut().write_all(answer.as_bytes()).ok();
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

/// What reached the application.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    /// Names in lower case, underscores as dashes: as CGI, WSGI and PHP take them.
    pub(crate) headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn of(answer: &str) -> Self {
        let mut lines = answer.lines();
        let path = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines.filter_map(|line| line.split_once(':'));
        Self {
            path: path.unwrap_or_else(|| panic!("no request line: {answer:?}")).to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_lowercase().replace('_', "-"), value.trim().to_owned()))
                .collect(),
        }
    }

    /// The values of a header that is taken for this one; empty ones count as none.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(own, value)| own == name && !value.is_empty());
        found.map(|(_, value)| &**value).collect()
    }
}
