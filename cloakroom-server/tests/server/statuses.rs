//! What is answered where the server or its store cannot work, and whether waiting helps.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use crate::common::{TestServer, binary::Directory};
use http::Method;
use serde_json::{Value, json};

/// One connection that stays open: its calls need no further one.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn to(url: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap()))
    }

    /// The status, the headers as they came, and the document.
    fn call(&mut self, key: &str, method: &str, path: &str, body: &str) -> (u16, String, Value) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "{head}");
            if let Some(value) = head[start..].strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).unwrap();
        (head[9..12].parse().unwrap(), head, serde_json::from_slice(&text).unwrap())
    }
}

/// Files are opened by calls here, so that no more of them can be is what a call meets.
#[test]
#[cfg(unix)]
fn too_many_open_files_are_told_as_what_they_are_and_pass() {
    let directory = Directory::new();
    let store = ["--store", "file:sessions"];
    let server = directory.serve_with_files(100, &store);
    let key = server.key().to_owned();
    let mut kept = Kept::to(&server.url);
    assert_eq!(kept.call(&key, "POST", "/v1/sessions", r#"{"user":"anna"}"#).0, 201);

    let mut idle = Vec::new();
    let refused = loop {
        idle.push(TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap());
        assert!(idle.len() < 500, "there is always room");
        let (status, head, document) = kept.call(&key, "POST", "/v1/sessions", r#"{"user":"ben"}"#);
        if status != 201 {
            break (status, head, document);
        }
    };
    let (status, head, document) = refused;
    assert_eq!((status, &document["code"]), (503, &json!("out_of_files")), "{document}");
    assert!(document["detail"].as_str().unwrap().contains("ulimit -n"), "{document}");
    assert!(head.contains("retry-after: "), "{head}");
    let (status, _, document) = kept.call(&key, "GET", "/readyz", "");
    assert!([200, 503].contains(&status), "{document}");
    drop(idle);
    while kept.call(&key, "POST", "/v1/sessions", r#"{"user":"carl"}"#).0 != 201 {}
}

#[test]
fn what_waiting_does_not_help_is_told_without_retry_after() {
    let server = TestServer::start();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    let db = rusqlite::Connection::open(server.database()).unwrap();
    let tables: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for table in tables {
        db.execute_batch(&format!("ALTER TABLE \"{table}\" RENAME TO \"gone {table}\"")).unwrap();
    }
    let token = json!({ "token": token }).to_string();
    for (method, path, body) in [
        (Method::POST, "/v1/sessions", r#"{"user":"anna"}"#),
        (Method::POST, "/v1/sessions/resume", &*token),
        (Method::POST, "/v1/sessions/rotate", &*token),
        (Method::GET, "/v1/sessions", ""),
        (Method::GET, "/v1/users/anna", ""),
        (Method::PATCH, "/v1/users/anna", "{}"),
        (Method::POST, "/v1/sessions/revoke", r#"{"user":"anna"}"#),
        (Method::POST, "/v1/users/anna/clear-sessions", "{}"),
        (Method::GET, "/v1/audit", ""),
        (Method::POST, "/v1/reap", ""),
    ] {
        let failed = server.call(&server.admin, method, path, body).expect_problem(500, "store_failed");
        assert_eq!(failed.header("retry-after"), "(none)", "{path}");
    }
    let ready = server.plain("/readyz", &[]);
    assert!([200, 503].contains(&ready.status), "{}", ready.text);
}
