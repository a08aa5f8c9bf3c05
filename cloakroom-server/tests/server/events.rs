//! The audit log as it grows: `/v1/events` and `cloakroom watch`.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::Duration,
};

use crate::common::{TestServer, agent, binary::Directory};
use cloakroom_server::Bounds;
use http::Method;
use serde_json::Value;

/// One event: its fields by name.
type Event = HashMap<String, String>;

struct Events<R>(BufReader<R>);

impl<R: Read> Events<R> {
    /// The next event; `None` at the end of the stream.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("", _comment)) => {}
                Some((name, value)) => {
                    event.insert(name.to_owned(), value.to_owned());
                }
                None if !event.is_empty() => return Some(event),
                None => {}
            }
        }
    }
}

/// If it waited for streams to end by themselves, a stop would take an hour.
fn server() -> TestServer {
    let (events_interval, shutdown_grace) = (Duration::from_millis(10), Duration::from_hours(1));
    TestServer::with_bounds(Bounds { events_interval, shutdown_grace, ..Bounds::default() })
}

fn follow(server: &TestServer, query: &str, last_event_id: Option<&str>) -> Events<impl Read + use<>> {
    let mut request = agent().get(format!("http://{}/v1/events{query}", server.address));
    request = request.header("authorization", format!("Bearer {}", server.read));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let response = request.call().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    Events(BufReader::new(response.into_body().into_reader()))
}

#[test]
fn i16_events_are_the_audit_log_as_it_grows_and_go_on_after_the_last_one() {
    let server = server();
    let (_, id) = server.start_session(r#"{"user":"anna"}"#);
    let mut all = follow(&server, "", None);
    let started = all.next().unwrap();
    assert_eq!(started["event"], "signed_in");
    let entry = server.get("/v1/audit").expect(200).at("/entries/0");
    assert_eq!(serde_json::from_str::<Value>(&started["data"]).unwrap(), entry);
    assert_eq!(started["id"], entry["cursor"].as_str().unwrap());

    let mut of_ben = follow(&server, "?user=ben", None);
    server.end(&id).expect(200);
    let ended = all.next().unwrap();
    assert_eq!(ended["event"], "ended");
    assert!(ended["data"].contains("signed_out"), "{ended:?}");

    for (query, last_event_id) in [
        (format!("?after={}", started["id"]), None),
        (String::new(), Some(&*started["id"])),
        (format!("?after={}", ended["id"]), Some(&*started["id"])),
    ] {
        assert_eq!(follow(&server, &query, last_event_id).next().unwrap(), ended, "{query}");
    }
    server.start_session(r#"{"user":"ben"}"#);
    assert!(of_ben.next().unwrap()["data"].contains("ben"), "nobody else's came before");
}

#[test]
fn events_begin_at_once_though_nothing_happens() {
    let server = server();
    let mut events = follow(&server, "", None);
    let mut line = String::new();
    events.0.read_line(&mut line).unwrap();
    assert_eq!(line, ": following\n");
}

#[test]
fn events_end_when_the_server_shuts_down() {
    let mut server = server();
    server.start_session(r#"{"user":"anna"}"#);
    let mut events = follow(&server, "", None);
    assert!(events.next().is_some());
    server.stop();
    assert_eq!(events.next(), None);
}

#[test]
fn events_need_a_key_and_a_cursor_that_was_given_out() {
    let server = server();
    server.plain("/v1/events", &[]).expect_problem(401, "unauthorized");
    server.get("/v1/events?after=made-up").expect_problem(422, "invalid_parameter");
    server.get("/v1/events?limit=3").expect_problem(422, "invalid_parameter");
    let key = format!("Bearer {}", server.read);
    let wrong = server.plain("/v1/events", &[("authorization", &key), ("last-event-id", "made-up")]);
    wrong.expect_problem(422, "invalid_parameter");
}

#[test]
fn watch_prints_what_comes_and_not_what_was() {
    let directory = Directory::new();
    let server = directory.serve(&[]);
    let start = |user: &str| {
        server.call(Method::POST, "/v1/sessions", &format!(r#"{{"user":"{user}"}}"#)).expect(201);
    };
    start("before");
    let first = server.call(Method::GET, "/v1/audit", "").at("/entries/0/cursor");
    start("after");
    let watch = |arguments: &[&str], made_meanwhile: Option<&str>| {
        let mut command = directory.command(&[&["watch", "--server", &server.url], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| printed.read_line(&mut line).unwrap());
            // Until it has looked where the log ends, what comes is not news for it.
            while let Some(user) = made_meanwhile.filter(|_| !reader.is_finished()) {
                start(user);
                std::thread::yield_now();
            }
        });
        // Nobody reads any more: it notices with the next entries, and stops.
        drop(printed);
        let done = std::thread::scope(|scope| {
            let ended = scope.spawn(|| child.wait().unwrap());
            while !ended.is_finished() {
                start("unread");
                std::thread::yield_now();
            }
            ended.join().unwrap()
        });
        assert_eq!(done.code(), Some(0));
        line
    };
    let line = watch(&[], Some("news"));
    assert!(line.contains("signed_in") && line.contains("news"), "{line}");
    let line = watch(&["--after", first.as_str().unwrap(), "--json"], None);
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["user"], "after");
}
