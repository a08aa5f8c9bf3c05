//! What was answered is there after the server was killed.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::common::{
    agent,
    binary::{Directory, is_whole},
};
use http::Method;

#[test]
fn every_answered_write_survives_kill_9_and_the_file_opens_without_repair() {
    let directory = Directory::new();
    let server = directory.serve(&[]);
    let id = server.call(Method::POST, "/v1/sessions", r#"{"user":"anna"}"#).expect(201).text_of("/session/id");
    let path = format!("/v1/sessions/{id}");

    let answered = AtomicUsize::new(0);
    let killed = AtomicBool::new(false);
    let mut written = BTreeMap::new();
    std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for client in 0..8 {
            let (server, path, answered, killed) = (&server, &path, &answered, &killed);
            clients.push(scope.spawn(move || {
                let agent = agent();
                let mut last = 0;
                for n in 1.. {
                    let body = format!(r#"{{"set":{{"c{client}":{n}}},"add":{{"all":1}}}}"#);
                    match server.try_call(&agent, Method::PATCH, path, &body) {
                        Some(answer) => _ = answer.expect(200),
                        None => break,
                    }
                    last = n;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                assert!(killed.load(Ordering::SeqCst), "a connection broke before the server was killed");
                (format!("c{client}"), last)
            }));
        }
        while answered.load(Ordering::SeqCst) < 300 && !clients.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::yield_now();
        }
        killed.store(true, Ordering::SeqCst);
        server.kill();
        written.extend(clients.into_iter().map(|client| client.join().unwrap()));
    });
    drop(server);

    let server = directory.serve(&[]);
    let data = server.call(Method::GET, &path, "").expect(200).at("/session/data");
    for (key, last) in &written {
        let stored = data[key].as_i64().unwrap();
        assert!(stored == *last || stored == last + 1, "{key}: {last} was answered, {stored} is there");
    }
    let answered = i64::try_from(answered.load(Ordering::SeqCst)).unwrap();
    let sum: i64 = written.keys().map(|key| data[key].as_i64().unwrap()).sum();
    assert_eq!(data["all"], sum, "each write is there whole");
    assert!((answered..=answered + 8).contains(&sum), "{answered} answered, {sum} there");

    // It still works, and ends in peace.
    server.call(Method::PATCH, &path, r#"{"set":{"after":true}}"#).expect(200);
    assert_eq!(server.terminate(), Some(0));
    assert!(is_whole(&directory.path("cloakroom.db")));
}
