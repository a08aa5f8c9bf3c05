//! Whatever is sent, the answer is clear and nothing breaks.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::common::{Answer, TestServer, raw};
use cloakroom_server::Bounds;
use http::Method;
use serde_json::json;

fn with_content_type(server: &TestServer, content_type: &str, body: &str) -> Answer {
    let head = format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        server.admin,
        body.len()
    );
    let answer = raw(server, format!("{head}{body}").as_bytes());
    let status = answer[9..12].parse().unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    let mut headers = http::HeaderMap::new();
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    Answer { status, headers, text: text.to_owned() }
}

#[test]
fn malformed_json_is_told_where() {
    let server = TestServer::start();
    let refused = server.post("/v1/sessions", "{\n  \"user\": \"anna\",\n}").expect_problem(400, "malformed_json");
    assert_eq!((refused.at("/line"), refused.at("/column")), (json!(3), json!(1)));
    for body in ["{", "nonsense", "{}{}", "{} x", "\u{feff}{}", r#"{"user":"\ud800"}"#, "{\"user\":\"\u{1}\"}", "  "] {
        server.post("/v1/sessions", body).expect_problem(400, "malformed_json");
    }
    server.post("/v1/sessions", &"[".repeat(100_000)).expect_problem(400, "malformed_json");
    for body in ["[]", "1", "null", "\"text\""] {
        server.post("/v1/sessions", body).expect(422);
    }
}

#[test]
fn unknown_fields_are_refused_by_name() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    let one = format!("/v1/sessions/{id}");
    for (method, path, body, field) in [
        (Method::POST, "/v1/sessions", r#"{"usr":"anna"}"#, "usr"),
        (Method::POST, "/v1/sessions", r#"{"client":{"ipp":"::1"}}"#, "client.ipp"),
        (Method::POST, "/v1/sessions", r#"{"limit":{"max":1,"full":"evict"}}"#, "limit.full"),
        (Method::POST, "/v1/sessions/resume", r#"{"token":"x","tuch":true}"#, "tuch"),
        (Method::POST, "/v1/sessions/resume-many", r#"{"token":"x"}"#, "token"),
        (Method::POST, "/v1/sessions/rotate", r#"{"id":"x"}"#, "id"),
        (Method::POST, "/v1/sessions/revoke", r#"{"everyone":true}"#, "everyone"),
        (Method::POST, "/v1/reap", r#"{"limit":1}"#, "limit"),
        (Method::PATCH, &one, r#"{"delete":["a"]}"#, "delete"),
    ] {
        let refused = server.call(&server.admin, method, path, body).expect_problem(422, "unknown_field");
        assert_eq!(refused.at("/field"), field);
    }
    for path in ["/v1/sessions?usr=a", "/v1/audit?id=1"] {
        let refused = server.get(path).expect_problem(422, "invalid_parameter");
        assert!(refused.text_of("/detail").contains("unknown; known are user, "), "{}", refused.text);
    }
    let refused = server.call(&server.admin, Method::DELETE, &format!("{one}?why=x"), "");
    assert!(refused.expect_problem(422, "invalid_parameter").text_of("/detail").contains("why"));
}

#[test]
fn wrong_values_name_their_field() {
    let server = TestServer::start();
    for (body, field) in [
        (r#"{"user":5}"#, "user"),
        (r#"{"user":""}"#, "user"),
        (r#"{"user":"a\u0000b"}"#, "user"),
        (r#"{"user":["anna"]}"#, "user"),
        (r#"{"data":[]}"#, "data"),
        (r#"{"remember":"yes"}"#, "remember"),
        (r#"{"idle_seconds":-1}"#, "idle_seconds"),
        (r#"{"idle_seconds":1.5}"#, "idle_seconds"),
        (r#"{"ends_at":"tomorrow"}"#, "ends_at"),
        (r#"{"ends_at":"1999-01-01T00:00:00Z"}"#, "ends_at"),
        (r#"{"limit":{"max":0}}"#, "limit.max"),
        (r#"{"limit":{"max":1,"when_full":"explode"}}"#, "limit.when_full"),
        (r#"{"client":{"ip":"1.2.3"}}"#, "client.ip"),
        (r#"{"client":{"ip":"192.0.2.7:99999"}}"#, "client.ip"),
        (r#"{"replaces":17}"#, "replaces"),
    ] {
        assert_eq!(
            server.post("/v1/sessions", body).expect_problem(422, "invalid_field").at("/field"),
            field,
            "{body}"
        );
    }
    let refused = server.post("/v1/sessions", &json!({"user": "u".repeat(257)}).to_string());
    assert!(refused.expect_problem(422, "invalid_field").text_of("/detail").contains("256"));
    assert_eq!(server.post("/v1/sessions/resume", "{}").expect_problem(422, "missing_field").at("/field"), "token");
    let refused = server.post("/v1/sessions", r#"{"data":{"":1}}"#).expect_problem(422, "invalid_key");
    assert!(refused.text_of("/detail").contains("empty"));
    assert_eq!(server.get("/v1/sessions").at("/sessions"), json!([]), "nothing was stored");
}

#[test]
fn a_key_given_twice_is_refused_by_name() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    for body in [r#"{"set":{"a":1,"a":2}}"#, r#"{"set":{"a":1},"remove":["a"]}"#, r#"{"remove":["a","a"]}"#] {
        let refused = server.patch(&id, body).expect_problem(422, "duplicate_field");
        assert!(refused.text_of("/detail").contains('a'), "{}", refused.text);
    }
    server.patch(&id, r#"{"set":{"a":1},"set":{"b":1}}"#).expect_problem(422, "duplicate_field");
    server.post("/v1/sessions", r#"{"data":{"a":1,"\u0061":2}}"#).expect_problem(422, "duplicate_field");
}

#[test]
fn t4_malformed_tokens_open_nothing_and_break_nothing() {
    let server = TestServer::start();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    let long = "A".repeat(8192);
    for bad in ["", "\0", "a\r\nset-cookie: x=y", "ключ", &format!("{token}="), &format!("{token}\0"), &long] {
        server.resume(bad).expect_problem(404, "session_unknown");
        server.post("/v1/sessions/rotate", &json!({ "token": bad }).to_string()).expect_problem(404, "session_unknown");
    }
    for bad in ["x", "..%2F..%2Fetc%2Fpasswd", "%00", "%ff", &token, &long] {
        server.get(&format!("/v1/sessions/{bad}")).expect_problem(404, "session_unknown");
    }
    for cookie in [format!("__Host-session={long}"), "__Host-session=\u{e9}".into(), "__Host-session".into()] {
        let request = format!("GET /auth HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncookie: {cookie}\r\n\r\n");
        assert!(raw(&server, request.as_bytes()).starts_with("HTTP/1.1 401 "));
    }
}

#[test]
fn bodies_of_ten_megabytes_get_a_clean_answer() {
    let server = TestServer::start();
    let body = format!(r#"{{"user":"{}"}}"#, "x".repeat(10_000_000));
    let refused = server.post("/v1/sessions", &body).expect_problem(413, "body_too_large");
    assert_eq!(refused.at("/limit"), 1_048_576);
    // Whoever has no key is told that, and is not cut off either.
    server.call("no such key", Method::POST, "/v1/sessions", &body).expect_problem(401, "unauthorized");

    let head = format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\n",
        server.admin
    );
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(0x0010_0000));
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(10));
    assert!(raw(&server, chunked.as_bytes()).starts_with("HTTP/1.1 413 "));
    // Asked first, the server says no before anything is sent.
    let asking = format!("{head}content-length: 10000000\r\nexpect: 100-continue\r\n\r\n");
    assert!(raw(&server, asking.as_bytes()).starts_with("HTTP/1.1 413 "));
}

#[test]
fn bodies_must_be_declared_as_json() {
    let server = TestServer::start();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        with_content_type(&server, content_type, "{}").expect_problem(415, "unsupported_media_type");
    }
    for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
        with_content_type(&server, content_type, "{}").expect(201);
    }
}

#[test]
fn paths_and_methods_that_are_not_there_are_told_so() {
    let server = TestServer::start();
    server.get("/v2/sessions").expect_problem(404, "path_unknown");
    server.get("/v1/sessions/").expect_problem(404, "path_unknown");
    let refused =
        server.call(&server.admin, Method::PUT, "/v1/sessions", "{}").expect_problem(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD,POST");
    let refused = server.call(&server.admin, Method::POST, "/healthz", "").expect_problem(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD");
}

#[test]
fn what_is_not_http_is_refused() {
    let server = TestServer::start();
    for request in ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n"] {
        assert!(raw(&server, request.as_bytes()).starts_with("HTTP/1.1 400 "), "{request:?}");
    }
    server.plain("/healthz", &[]).expect(200);
}

#[test]
fn those_who_dawdle_are_cut_off() {
    let short = Duration::from_millis(50);
    let server = TestServer::with_bounds(Bounds { head_timeout: short, ..Bounds::default() });
    // Reading to the end returns only because the server closes.
    let unfinished = raw(&server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n");
    assert!(unfinished.is_empty() || unfinished.starts_with("HTTP/1.1 408 "), "{unfinished}");
    // A server of its own, so that a head which is late on a busy machine is none of its worries.
    let server = TestServer::with_bounds(Bounds { body_timeout: short, ..Bounds::default() });
    let request = format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 10\r\n\r\n{{",
        server.admin
    );
    let answer = raw(&server, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
}

#[test]
fn a_shutdown_does_not_wait_for_idle_connections() {
    let mut server = TestServer::start();
    server.plain("/healthz", &[]).expect(200);
    let mut idle = TcpStream::connect(&server.address).unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut first = [0];
    idle.read_exact(&mut first).unwrap();
    server.stop();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(TcpStream::connect(&server.address).is_err(), "nobody listens any more");
}
