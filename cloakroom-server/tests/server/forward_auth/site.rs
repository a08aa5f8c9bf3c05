//! A site: the session server, a real proxy as `docs/forward-auth.md` sets it up, and an application.

use std::{
    fs,
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::application::{self, Seen};
use crate::common::{
    Answer,
    binary::{Directory, Running},
};
use http::Method;
use needs::Port;
use tokio::net::TcpSocket;

/// A proxy of the page.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Its heading.
    pub(crate) heading: &'static str,
    /// The variable that holds the path of its program.
    pub(crate) variable: &'static str,
    /// Its files: the language of the block, and what it is called.
    pub(crate) files: &'static [(&'static str, &'static str)],
    pub(crate) arguments: &'static [&'static str],
}

pub(crate) const NGINX: Proxy = Proxy {
    heading: "nginx",
    variable: "CLOAKROOM_TEST_NGINX",
    files: &[("nginx", "nginx.conf")],
    arguments: &["-p", ".", "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; pid nginx.pid; user root;"],
};

pub(crate) const CADDY: Proxy = Proxy {
    heading: "Caddy",
    variable: "CLOAKROOM_TEST_CADDY",
    files: &[("caddyfile", "Caddyfile")],
    arguments: &["run", "--config", "Caddyfile", "--adapter", "caddyfile"],
};

pub(crate) const HAPROXY: Proxy = Proxy {
    heading: "HAProxy",
    variable: "CLOAKROOM_TEST_HAPROXY",
    files: &[("haproxy", "haproxy.cfg"), ("lua", "cloakroom.lua")],
    arguments: &["-db", "-f", "haproxy.cfg"],
};

pub(crate) const ENVOY_GRPC: Proxy = Proxy { heading: "Envoy over gRPC", ..ENVOY };

pub(crate) const ENVOY: Proxy = Proxy {
    heading: "Envoy",
    variable: "CLOAKROOM_TEST_ENVOY",
    files: &[("yaml", "envoy.yaml")],
    arguments: &["-c", "envoy.yaml", "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"],
};

/// Where visitors come from: not from where the proxy is.
pub(crate) const VISITOR: &str = "127.0.0.9";

pub(crate) struct Site {
    pub(crate) server: Running,
    address: SocketAddr,
    _proxy: Program,
    _port: Port,
    // Last: the others work in it.
    directory: Directory,
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().ok();
    }
}

impl Site {
    /// `None` where the proxy is not here: skip the test.
    pub(crate) fn start(proxy: &Proxy) -> Option<Self> {
        let program = needs::variable(proxy.variable)?;
        let directory = Directory::new();
        fs::write(directory.path("cloakroom.toml"), block("Policies", "toml")).unwrap();
        let server = directory.serve(&["--trusted-proxies", "127.0.0.1", "--grpc-listen", "127.0.0.1:0"]);
        let port = Port::take().unwrap();
        let proxy = start(proxy, &program, &directory, &server, port.number());
        Some(Self {
            server,
            address: SocketAddr::from(([127, 0, 0, 1], port.number())),
            _proxy: proxy,
            _port: port,
            directory,
        })
    }

    /// Starts a session: the cookie, and its id.
    pub(crate) fn session(&self, body: &str) -> (String, String) {
        let answer = self.server.call(Method::POST, "/v1/sessions", body).expect(201);
        (super::cookie(&answer.text_of("/token")), answer.text_of("/session/id"))
    }

    pub(crate) fn end(&self, id: &str) -> Answer {
        self.server.call(Method::DELETE, &format!("/v1/sessions/{id}"), "")
    }

    /// What the visitor gets who asks for `path` with these lines in the head.
    pub(crate) fn visit(&self, path: &str, lines: &[&str]) -> Reply {
        let lines = lines.iter().fold(String::new(), |lines, line| lines + line + "\r\n");
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: site.example\r\nconnection: close\r\n{lines}\r\n"))
    }

    /// What is answered to these bytes.
    pub(crate) fn send(&self, request: &str) -> Reply {
        let mut stream = connect_from(VISITOR, self.address);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_one(&mut stream);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{request}: {answer:?} {}", log(&self.directory)));
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        // Only the application answers like this.
        let seen = ["GET ", "POST ", "OPTIONS "].iter().any(|method| body.starts_with(method)).then(|| Seen::of(&body));
        Reply { status, seen, answer }
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// What the application was sent, if it was.
    pub(crate) seen: Option<Seen>,
    pub(crate) answer: String,
}

impl Reply {
    /// What the application saw of a visitor that it let in.
    #[track_caller]
    pub(crate) fn seen(self) -> Seen {
        assert_eq!(self.status, 200, "{}", self.answer);
        self.seen.unwrap_or_else(|| panic!("the application was not asked: {}", self.answer))
    }
}

fn start(proxy: &Proxy, program: &str, directory: &Directory, server: &Running, port: u16) -> Program {
    let application = application::start().port();
    let grpc = server.ready.split_once("gRPC on 127.0.0.1:").and_then(|(_, rest)| rest.split(',').next());
    let grpc = grpc.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{}", server.ready));
    let server: SocketAddr = server.url.trim_start_matches("http://").parse().unwrap();
    for (language, name) in proxy.files {
        let ports = [(7600, server.port()), (7601, grpc), (8000, application), (8080, port)];
        let text = ports.iter().fold(block(proxy.heading, language), |text, (documented, real)| {
            let text = text.replace(&format!(":{documented}"), &format!(":{real}"));
            text.replace(&format!("port_value: {documented}"), &format!("port_value: {real}"))
        });
        fs::write(directory.path(name), text).unwrap();
    }
    let output = File::create(directory.path("proxy.log")).unwrap();
    let mut command = Command::new(program);
    command.args(proxy.arguments).current_dir(directory.path("")).env("HOME", directory.path(""));
    command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
    let mut running = Program(command.spawn().unwrap());
    let limit = Instant::now() + Duration::from_mins(1);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = running.0.try_wait().unwrap();
        assert!(ended.is_none() && Instant::now() < limit, "{program} did not start: {}", log(directory));
        // Another process is waited for.
        thread::sleep(Duration::from_millis(5));
    }
    running
}

/// One answer. The proxy may keep the connection open for a while.
fn read_one(stream: &mut TcpStream) -> String {
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut part).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let complete = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            length.is_some_and(|length: usize| body.len() >= length)
        });
        if read == 0 || complete {
            return text;
        }
    }
}

fn connect_from(visitor: &str, address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(visitor.parse().unwrap(), 0))?;
        socket.connect(address).await?.into_std()
    };
    let stream = runtime.block_on(connect).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

fn log(directory: &Directory) -> String {
    fs::read_to_string(directory.path("proxy.log")).unwrap_or_default()
}

/// A block of the page, by its heading and its language.
pub(crate) fn block(heading: &str, language: &str) -> String {
    let page = include_str!("../../../../docs/forward-auth.md");
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("docs/forward-auth.md has no heading {heading}"));
    let block = section.split_once(&format!("\n```{language}\n")).and_then(|(_, rest)| rest.split_once("\n```"));
    block.unwrap_or_else(|| panic!("{heading} has no block of {language}")).0.to_owned() + "\n"
}
