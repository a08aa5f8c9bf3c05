//! I12 over HTTP: locks as leases, with a number that fences writers whose lease ran out.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::common::{Answer, TestServer};

fn post(server: &TestServer, id: &str, what: &str, body: &Value) -> Answer {
    server.post(&format!("/v1/sessions/{id}/{what}"), &body.to_string())
}

#[test]
fn i12_a_lock_excludes_others_until_it_is_given_back() {
    let server = TestServer::start();
    let (_, id) = server.start_session(r#"{"data":{"a":1}}"#);
    let taken = post(&server, &id, "lock", &json!({"lease_seconds": 10})).expect(200);
    assert_eq!((taken.at("/lock"), taken.at("/session/data/a")), (json!(1), json!(1)));
    let held = post(&server, &id, "lock", &json!({})).expect_problem(409, "locked");
    assert_eq!(held.at("/until"), taken.at("/until"));

    server.patch(&id, r#"{"set":{"a":2},"lock":1}"#).expect(200);
    server.patch(&id, r#"{"set":{"b":2}}"#).expect(200);
    server.patch(&id, r#"{"set":{"a":3},"lock":7}"#).expect_problem(409, "lock_lost");
    let released = post(&server, &id, "unlock", &json!({"lock": 1})).expect(200);
    assert_eq!(released.json(), json!({"released": true}));
    assert_eq!(post(&server, &id, "unlock", &json!({"lock": 1})).expect(200).json(), json!({"released": false}));
    server.patch(&id, r#"{"set":{"a":3},"lock":1}"#).expect_problem(409, "lock_lost");
    assert_eq!(post(&server, &id, "lock", &json!({})).expect(200).at("/lock"), 2, "each number is higher");
    assert_eq!(server.get(&format!("/v1/sessions/{id}")).at("/session/data"), json!({"a": 2, "b": 2}));
}

#[test]
fn i12_who_crashed_delays_others_by_the_lease_alone_and_writes_nothing_more() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"data":{"n":1}}"#);
    let until = post(&server, &id, "lock", &json!({"lease_seconds": 10})).expect(200).text_of("/until");
    server.clock.advance(Duration::from_secs(9));
    let renewed = post(&server, &id, "renew", &json!({"lock": 1, "lease_seconds": 10})).expect(200);
    assert!(renewed.text_of("/until") > until && renewed.at("/lock") == 1, "{}", renewed.text);
    server.clock.advance(Duration::from_secs(10));
    assert_eq!(post(&server, &id, "lock", &json!({})).expect(200).at("/lock"), 2);
    for change in [
        json!({"set": {"a": 1}}),
        json!({"add": {"n": 1}}),
        json!({"replace": {}}),
        json!({"idle_seconds": 60}),
        json!({}),
    ] {
        let mut patch = change.clone();
        patch["lock"] = 1.into();
        server.patch(&id, &patch.to_string()).expect_problem(409, "lock_lost");
        if change.get("idle_seconds").is_none() {
            patch["token"] = token.clone().into();
            server.post("/v1/sessions/resume", &patch.to_string()).expect_problem(409, "lock_lost");
        }
    }
    post(&server, &id, "renew", &json!({"lock": 1})).expect_problem(409, "lock_lost");
    assert_eq!(post(&server, &id, "unlock", &json!({"lock": 1})).expect(200).at("/released"), false);
    assert_eq!(server.get(&format!("/v1/sessions/{id}")).at("/session/data"), json!({"n": 1}));
}

#[test]
fn i12_endings_ask_no_lock_and_locks_of_the_ended_are_refused() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    post(&server, &id, "lock", &json!({})).expect(200);
    server.end(&id).expect(200);
    for (what, body) in [("lock", json!({})), ("renew", json!({"lock": 1})), ("unlock", json!({"lock": 1}))] {
        post(&server, &id, what, &body).expect_problem(410, "session_ended");
        post(&server, &"A".repeat(24), what, &body).expect_problem(404, "session_unknown");
    }
}

#[test]
fn a_lock_is_waited_for_when_that_is_asked() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    post(&server, &id, "lock", &json!({"lease_seconds": 3600})).expect(200);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| post(&server, &id, "lock", &json!({"wait_seconds": 10})).expect(200).at("/lock"));
        assert_eq!(post(&server, &id, "unlock", &json!({"lock": 1})).expect(200).at("/released"), true);
        assert_eq!(waiting.join().unwrap(), 2);
    });
    for (body, field) in [
        (json!({"lease_seconds": 0}), "lease_seconds"),
        (json!({"lease_seconds": 3601}), "lease_seconds"),
        (json!({"wait_seconds": 11}), "wait_seconds"),
    ] {
        assert_eq!(post(&server, &id, "lock", &body).expect_problem(422, "invalid_field").at("/field"), field);
    }
}

#[test]
fn a_repeated_call_for_a_lock_answers_the_lock_that_the_first_try_took() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    let path = format!("/v1/sessions/{id}/lock");
    let repeat = |key: &str| server.repeatable(key, Method::POST, &path, "{}");
    assert_eq!(repeat("a").expect(200).at("/lock"), 1);
    assert_eq!(repeat("a").expect(200).at("/lock"), 1);
    repeat("b").expect_problem(409, "locked");
    server.clock.advance(Duration::from_secs(31));
    assert_eq!(repeat("b").expect(200).at("/lock"), 2);
}
