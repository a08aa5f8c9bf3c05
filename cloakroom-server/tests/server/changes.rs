//! What bindings need of a change: whole documents, deadlines, repeats, and reading and writing in one call.

use std::time::Duration;

use cloakroom::{Assurance, Lifetimes};
use cloakroom_server::{ApiKey, ApiKeys, Scope, Server, keys};
use http::Method;
use serde_json::{Value, json};

use crate::common::{
    Answer, TestServer, agent,
    binary::{Directory, Done},
    send,
};

fn resume(server: &TestServer, body: &Value) -> Answer {
    server.post("/v1/sessions/resume", &body.to_string())
}

#[test]
fn a_change_replaces_the_whole_document_or_removes_all_of_it() {
    let server = TestServer::start();
    let (_, id) = server.start_session(r#"{"data":{"a":1,"b":2}}"#);
    let replaced = server.patch(&id, r#"{"replace":{"c":3}}"#).expect(200);
    assert_eq!((replaced.at("/session/data"), replaced.at("/session/version")), (json!({"c": 3}), json!(1)));
    let emptied = server.patch(&id, r#"{"replace":{}}"#).expect(200);
    assert_eq!(emptied.at("/session/data"), json!({}));
    server.patch(&id, r#"{"set":{"a":1,"n":5}}"#).expect(200);
    let removed = server.patch(&id, r#"{"remove_all":true,"set":{"b":2},"add":{"n":1}}"#).expect(200);
    assert_eq!(removed.at("/session/data"), json!({"b": 2, "n": 1}), "what is set or added comes after");
    for beside in [r#""set":{"a":1}"#, r#""remove":["a"]"#, r#""remove_all":true"#, r#""add":{"a":1}"#] {
        let refused = server.patch(&id, &format!(r#"{{"replace":{{}},{beside}}}"#));
        assert_eq!(refused.expect_problem(422, "invalid_field").at("/field"), "replace");
    }
    let outdated = server.patch(&id, r#"{"replace":{},"if_version":1}"#).expect_problem(409, "version_conflict");
    assert_eq!(outdated.at("/session/data"), json!({"b": 2, "n": 1}));
    let twice = server.patch(&id, r#"{"replace":{"a":1,"a":2}}"#).expect_problem(422, "duplicate_field");
    assert_eq!(twice.at("/field"), "replace.a");
}

#[test]
fn a_change_moves_the_idle_time_and_the_end() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna","idle_milliseconds":1500}"#);
    let shown = server.get(&format!("/v1/sessions/{id}")).expect(200);
    assert_eq!((shown.at("/session/idle_seconds"), shown.at("/session/idle_milliseconds")), (json!(1), json!(1500)));
    assert_ne!(shown.at("/session/ends_at"), Value::Null);

    let moved = server.patch(&id, r#"{"idle_seconds":7200,"ends_at":"never"}"#).expect(200);
    assert_eq!((moved.at("/session/idle_milliseconds"), moved.at("/session/ends_at")), (json!(7_200_000), Value::Null));
    let moved = server.patch(&id, r#"{"ends_at":"2100-01-01T00:00:00.250Z"}"#).expect(200);
    assert_eq!(moved.at("/session/ends_at"), "2100-01-01T00:00:00.250Z");
    let moved = server.patch(&id, r#"{"ends_at":"9999-12-31T23:59:59Z","set":{"a":1}}"#).expect(200);
    assert_eq!((moved.at("/session/ends_at"), moved.at("/session/data/a")), (Value::Null, json!(1)));
    let audit = server.get(&format!("/v1/audit?session={id}")).expect(200).text;
    assert_eq!(audit.matches("\"event\":\"changed\"").count(), 3, "{audit}");

    for (body, field) in [
        (r#"{"idle_seconds":0}"#, "idle_seconds"),
        (r#"{"idle_milliseconds":0}"#, "idle_milliseconds"),
        (r#"{"idle_seconds":1,"idle_milliseconds":1000}"#, "idle_milliseconds"),
        (r#"{"ends_at":"2001-01-01T00:00:00Z"}"#, "ends_at"),
        (r#"{"ends_at":"tomorrow"}"#, "ends_at"),
        (r#"{"ends_at":null}"#, "ends_at"),
    ] {
        let refused = server.patch(&id, body).expect_problem(422, "invalid_field");
        assert_eq!(refused.at("/field"), field, "{body}");
        assert!(refused.text_of("/detail").starts_with(&format!("{field}: ")), "{}", refused.text);
    }

    server.clock.advance(Duration::from_mins(30));
    let refused = server.patch(&id, r#"{"idle_seconds":60}"#).expect_problem(422, "invalid_field");
    assert_eq!(refused.at("/field"), "idle_seconds", "it would end at once");
    let touched = server.patch(&id, r#"{"idle_seconds":60,"touch":true}"#).expect(200);
    assert_eq!(touched.at("/session/idle_seconds"), 60);
    server.clock.advance(Duration::from_secs(59));
    server.patch(&id, r#"{"touch":true}"#).expect(200);
    server.post("/v1/reap", "{}").expect(200); // Writes what waits.
    server.clock.advance(Duration::from_secs(59));
    server.resume(&token).expect(200);
    server.clock.advance(Duration::from_secs(61));
    assert_eq!(server.resume(&token).expect(410).at("/reason"), "idle_timeout");
    server.patch(&id, r#"{"touch":true,"idle_seconds":9000}"#).expect_problem(410, "session_ended");
}

#[test]
fn a_session_starts_without_an_end_where_that_is_allowed() {
    let server = TestServer::start();
    for never in ["never", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999+00:00"] {
        let started = server.post("/v1/sessions", &json!({"user": "anna", "ends_at": never}).to_string()).expect(201);
        assert_eq!(started.at("/session/ends_at"), Value::Null, "{never}");
    }
    let audited = json!({"user": "anna", "audit_user": "olga", "ends_at": "never"}).to_string();
    assert_eq!(server.post("/v1/sessions", &audited).expect_problem(422, "invalid_field").at("/field"), "ends_at");
    let audited = server.start_session(r#"{"user":"anna","audit_user":"olga"}"#).1;
    for end in ["never", "2100-01-01T00:00:00Z"] {
        let refused = server.patch(&audited, &json!({ "ends_at": end }).to_string());
        assert_eq!(refused.expect_problem(422, "invalid_field").at("/field"), "ends_at");
    }
}

#[test]
fn x3_no_change_gives_a_session_more_than_its_level_allows() {
    let key = keys::generate().unwrap();
    let api_keys = ApiKeys::new(vec![ApiKey::new("shop", Scope::Admin, &key).unwrap()]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = runtime.block_on(async { cloakroom_server::listen("127.0.0.1:0".parse().unwrap()).unwrap() });
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = runtime.spawn(async move {
        let store = cloakroom::store::open("memory:").await.unwrap();
        let sessions = cloakroom::Sessions::builder(store).lifetimes(Lifetimes::nist(Assurance::Aal2)).build().unwrap();
        cloakroom_server::run(listener, Server::new(sessions, api_keys), async { stopped.await.unwrap_or_default() })
            .await;
    });
    let call = |method, path: &str, body: &str| send(&agent(), &format!("{url}{path}"), Some(&key), method, body);
    let config = call(Method::GET, "/v1/config", "").expect(200);
    assert_eq!((config.at("/lifetimes/level"), config.at("/lifetimes/may_never_end")), (json!(2), json!(false)));
    let never = call(Method::POST, "/v1/sessions", r#"{"user":"anna","ends_at":"never"}"#);
    assert_eq!(never.expect_problem(422, "invalid_field").at("/field"), "ends_at");
    let id = call(Method::POST, "/v1/sessions", r#"{"user":"anna"}"#).expect(201).text_of("/session/id");
    let path = format!("/v1/sessions/{id}");
    for (body, field) in [
        (r#"{"ends_at":"never"}"#, "ends_at"),
        (r#"{"ends_at":"2100-01-01T00:00:00Z"}"#, "ends_at"),
        (r#"{"idle_seconds":3601}"#, "idle_seconds"),
    ] {
        assert_eq!(call(Method::PATCH, &path, body).expect_problem(422, "invalid_field").at("/field"), field);
    }
    call(Method::PATCH, &path, r#"{"idle_seconds":600}"#).expect(200);
    drop(stop);
    runtime.block_on(serving).unwrap();
}

#[test]
fn i1_a_repeated_change_is_made_once_whatever_it_relied_on() {
    let server = TestServer::start();
    let (token, id) = server.start_session("{}");
    let path = format!("/v1/sessions/{id}");
    let repeat = |key: &str, body: &str| server.repeatable(key, Method::PATCH, &path, body);
    for _ in 0..2 {
        let added = repeat("one", r#"{"add":{"n":1},"if_version":0}"#).expect(200);
        assert_eq!(added.at("/session/data/n"), 1);
    }
    repeat("another", r#"{"add":{"n":1},"if_version":0}"#).expect_problem(409, "version_conflict");
    repeat("text", r#"{"set":{"n":"text"}}"#).expect(200);
    repeat("new", r#"{"add":{"n":1}}"#).expect_problem(422, "not_a_number");
    assert_eq!(repeat("one", r#"{"add":{"n":1},"if_version":0}"#).expect(200).at("/session/data/n"), "text");
    for _ in 0..2 {
        let moved = repeat("lifetimes", r#"{"idle_seconds":600,"add":{"m":1}}"#).expect(200);
        assert_eq!(moved.at("/session/data/m"), 1);
    }
    let adding = json!({"token": token, "add": {"k": 1}}).to_string();
    for _ in 0..2 {
        let resumed = server.repeatable("resume", Method::POST, "/v1/sessions/resume", &adding).expect(200);
        assert_eq!(resumed.at("/session/data/k"), 1);
    }
    server.end(&id).expect(200);
    repeat("one", r#"{"add":{"n":1},"if_version":0}"#).expect_problem(410, "session_ended");
}

#[test]
fn a_resume_reads_and_writes_in_one_call() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"data":{"a":1,"b":2,"n":1}}"#);
    let changed = json!({"token": token, "set": {"a": 9}, "remove": ["b"], "add": {"n": 2}, "if_version": 0});
    let resumed = resume(&server, &changed).expect(200);
    assert_eq!(resumed.at("/session/data"), json!({"a": 9, "n": 3}));
    assert_eq!(resumed.at("/session/version"), 1);
    let outdated = resume(&server, &changed).expect_problem(409, "version_conflict");
    assert_eq!(outdated.at("/session/version"), 1);
    resume(&server, &json!({"token": token, "if_version": 0})).expect_problem(409, "version_conflict");
    resume(&server, &json!({"token": token, "if_version": 1})).expect(200);
    let replaced = resume(&server, &json!({"token": token, "replace": {"x": [1]}})).expect(200);
    assert_eq!(replaced.at("/session/data"), json!({"x": [1]}));
    let shown = server.get(&format!("/v1/sessions/{id}")).expect(200);
    assert_eq!(shown.at("/session/data"), json!({"x": [1]}), "what was answered was stored");

    let wrong = server.start_session("{}").0.replacen(char::is_alphanumeric, "!", 1);
    resume(&server, &json!({"token": wrong, "set": {"a": 1}})).expect_problem(404, "session_unknown");
    server.end(&id).expect(200);
    let gone = resume(&server, &json!({"token": token, "set": {"a": 1}})).expect_problem(410, "session_ended");
    assert!(gone.text_of("/clear_cookie").starts_with("__Host-session=;"));
}

#[test]
fn a_resume_without_a_token_starts_a_session_once_something_is_set() {
    let server = TestServer::start();
    for nothing in [json!({}), json!({"touch": true}), json!({"remove": ["a"]}), json!({"replace": {}})] {
        let refused = resume(&server, &nothing).expect_problem(422, "missing_field");
        assert_eq!(refused.at("/field"), "token", "{nothing}");
    }
    for (field, given) in
        [("if_version", json!({"set": {"a": 1}, "if_version": 0})), ("lock", json!({"set": {"a": 1}, "lock": 1}))]
    {
        assert_eq!(resume(&server, &given).expect_problem(422, "invalid_field").at("/field"), field);
    }
    assert_eq!(server.get("/v1/sessions").at("/sessions"), json!([]), "none was started");

    let set = json!({"set": {"cart": [1]}, "add": {"visits": 1}, "client": {"ip": "192.0.2.7"}});
    let started = resume(&server, &set).expect(201);
    assert_eq!(started.at("/session/data"), json!({"cart": [1], "visits": 1}));
    assert_eq!(started.at("/session/client/ip"), "192.0.2.7");
    let token = started.text_of("/token");
    assert_eq!(started.text_of("/cookie/value"), token);
    assert!(started.text_of("/set_cookie").starts_with(&format!("__Host-session={token};")));
    resume(&server, &json!({ "token": token })).expect(200);

    let repeat = || server.repeatable("k", Method::POST, "/v1/sessions/resume", &set.to_string()).expect(201);
    let (first, second) = (repeat().text_of("/token"), repeat().text_of("/token"));
    server.resume(&first).expect(410);
    server.resume(&second).expect(200);
}

#[test]
fn a_key_that_may_read_alone_resumes_and_changes_nothing() {
    let server = TestServer::start();
    let (token, _) = server.start_session("{}");
    let read = |body: Value| server.call(&server.read, Method::POST, "/v1/sessions/resume", &body.to_string());
    read(json!({ "token": token })).expect(200);
    for change in
        [json!({"set": {"a": 1}}), json!({"add": {"a": 1}}), json!({"remove_all": true}), json!({"replace": {}})]
    {
        let mut body = change.clone();
        body["token"] = token.clone().into();
        assert_eq!(read(body).expect_problem(403, "scope_missing").at("/scope"), "write");
    }
    read(json!({"set": {"a": 1}})).expect_problem(403, "scope_missing");
    read(json!({"add": {"a": 1}})).expect_problem(403, "scope_missing");
    assert_eq!(server.get("/v1/sessions/count").at("/count"), 1, "none was started");
    let written = json!({"token": token, "set": {"a": 1}}).to_string();
    server.call(&server.write, Method::POST, "/v1/sessions/resume", &written).expect(200);
}

#[test]
fn l1_a_rotation_without_grace_leaves_one_token_and_can_be_repeated() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    let body = |token: &str| json!({"token": token, "grace_seconds": 0}).to_string();
    let rotate = |token: &str| server.post("/v1/sessions/rotate", &body(token));
    let rotated = rotate(&token).expect(200);
    let gone = server.resume(&token).expect_problem(410, "session_ended");
    assert_eq!(gone.at("/reason"), "replaced");
    rotate(&token).expect_problem(410, "session_ended");
    let second = rotated.text_of("/token");
    assert_eq!((rotated.text_of("/session/id"), rotated.text_of("/cookie/value")), (id.clone(), second.clone()));
    server.resume(&second).expect(200);

    let repeat = |key: &str, token: &str| server.repeatable(key, Method::POST, "/v1/sessions/rotate", &body(token));
    let third = repeat("k", &second).expect(200).text_of("/token");
    let fourth = repeat("k", &second).expect(200).text_of("/token");
    server.resume(&third).expect(410);
    server.resume(&fourth).expect(200);
    repeat("other", &second).expect_problem(410, "session_ended");
    // Whoever presents the first token with the key of a later call gets nothing.
    repeat("k", &token).expect_problem(410, "session_ended");
    let graced = json!({"token": fourth, "grace_seconds": 5}).to_string();
    let refused = server.post("/v1/sessions/rotate", &graced).expect_problem(422, "invalid_field");
    assert_eq!(refused.at("/field"), "grace_seconds");
    server.resume(&fourth).expect(200);
}

#[test]
fn the_cookie_comes_as_fields_too() {
    let server = TestServer::start();
    let started = server.post("/v1/sessions", r#"{"user":"anna","remember":true,"ends_at":"2100-01-01T00:00:00Z"}"#);
    let started = started.expect(201);
    let cookie = started.at("/cookie");
    let Value::Object(fields) = &cookie else { panic!("{cookie}") };
    assert_eq!(fields["name"], "__Host-session");
    assert_eq!(fields["value"], started.text_of("/token"));
    assert_eq!((&fields["path"], &fields["domain"]), (&json!("/"), &Value::Null));
    assert_eq!(
        (&fields["secure"], &fields["http_only"], &fields["same_site"]),
        (&json!(true), &json!(true), &json!("Lax"))
    );
    assert_eq!(fields["partitioned"], false);
    let age = format!("; Max-Age={};", fields["max_age"]);
    assert!(started.text_of("/set_cookie").contains(&age), "{age} {}", started.text);
    let (token, _) = server.start_session("{}");
    let rotated = server.post("/v1/sessions/rotate", &json!({ "token": token }).to_string()).expect(200);
    assert_eq!((rotated.at("/cookie/max_age"), rotated.at("/cookie/value")), (Value::Null, rotated.at("/token")));
}

#[test]
fn the_configuration_says_what_bindings_must_know() {
    let server = TestServer::start();
    let config = server.call(&server.read, Method::GET, "/v1/config", "").expect(200);
    for (pointer, value) in [
        ("/lifetimes/idle_milliseconds", json!(3_600_000)),
        ("/lifetimes/absolute_milliseconds", json!(86_400_000)),
        ("/lifetimes/may_never_end", json!(true)),
        ("/mobile_lifetimes", Value::Null),
        ("/rotation_grace_seconds", json!(30)),
        ("/limits/data_bytes", json!(65_536)),
        ("/limits/sessions", Value::Null),
        ("/cookie/name", json!("__Host-session")),
        ("/cookie/same_site", json!("Lax")),
        ("/lock/most_lease_seconds", json!(3600)),
    ] {
        assert_eq!(config.at(pointer), value, "{pointer}");
    }
    assert!(config.at("/features").as_array().unwrap().contains(&json!("resume-and-change")), "{}", config.text);
}

#[test]
fn a_count_says_whether_it_is_exact() {
    let server = TestServer::start();
    for user in ["anna", "anna", "ben"] {
        server.start_session(&json!({"user": user, "client": {"ip": "192.0.2.7"}}).to_string());
    }
    for (query, count) in [("", 3), ("?user=anna", 2), ("?ip=192.0.2.7", 3), ("?user=nobody", 0)] {
        let counted = server.call(&server.read, Method::GET, &format!("/v1/sessions/count{query}"), "").expect(200);
        assert_eq!(counted.json(), json!({"count": count, "exact": true}), "{query}");
    }
    server.get("/v1/sessions/count?users=anna").expect_problem(422, "invalid_parameter");
}

#[test]
fn the_command_line_changes_a_session() {
    let directory = Directory::new();
    let server = directory.serve(&[]);
    let id = server.call(Method::POST, "/v1/sessions", r#"{"user":"anna","data":{"n":1,"gone":1}}"#).expect(201);
    let id = id.text_of("/session/id");
    let change = |arguments: &[&str]| {
        let key = directory.path("cloakroom.key");
        let all = [&["change", &id, "--server", &server.url, "--json"], arguments].concat();
        let output = directory.command(&all).env("CLOAKROOM_API_KEY_FILE", key).output().unwrap();
        Done::of(output)
    };
    let changed =
        change(&["--set", r#"theme="dark""#, "--add", "n=2", "--remove", "gone", "--idle", "2h", "--ends-at", "never"]);
    let session: Value = serde_json::from_str(&changed.expect(0).out).unwrap();
    assert_eq!(session["session"]["data"], json!({"n": 3, "theme": "dark"}));
    assert_eq!((&session["session"]["idle_seconds"], &session["session"]["ends_at"]), (&json!(7200), &Value::Null));
    change(&["--touch"]).expect(0);
    assert!(change(&[]).expect(2).err.contains("--touch"), "nothing to do is said");
    assert!(change(&["--set", "theme=dark"]).expect(2).err.contains("not JSON"));
    assert!(change(&["--ends-at", "tomorrow"]).expect(2).err.contains("never"));
}
