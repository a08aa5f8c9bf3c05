//! S6: what ends sessions runs to its end, though its caller goes away, and a repeat tells what the first try did.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::common::{Answer, agent};
use cloakroom::{Clock, Sessions, SignIn, clock::SystemClock, store};
use cloakroom_server::{ApiKey, ApiKeys, Bounds, Scope, Server, keys};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

/// A server on a store of any kind, in this process, with this many sessions of many users.
struct On {
    address: String,
    key: String,
    sessions: Sessions,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    runtime: Runtime,
}

impl On {
    fn new(url: &str, sessions: usize, bounds: Bounds) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let key = keys::generate().unwrap();
        let api_keys = ApiKeys::new(vec![ApiKey::new("ops", Scope::Admin, &key).unwrap()]);
        let (stop, stopped) = oneshot::channel::<()>();
        let (address, sessions, serving) = runtime.block_on(async {
            let store = store::open(url).await.unwrap();
            let service = Sessions::builder(store).stored_users().without_upkeep();
            let service = service.call_timeout(Duration::from_secs(30)).build().unwrap();
            for portion in (0..sessions).collect::<Vec<_>>().chunks(50) {
                let start = |n: &usize| {
                    let (service, user) = (service.clone(), format!("user {}", n % 97));
                    tokio::spawn(async move { service.start(SignIn::new(user)).await.unwrap() })
                };
                for started in portion.iter().map(start).collect::<Vec<_>>() {
                    started.await.unwrap();
                }
            }
            let listener = cloakroom_server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = Server::new(service.clone(), api_keys).bounds(bounds);
            let stopped = async { stopped.await.unwrap_or_default() };
            (address, service, tokio::spawn(cloakroom_server::run(listener, server, stopped)))
        });
        Self { address, key, sessions, stop: Some(stop), serving: Some(serving), runtime }
    }

    fn call(&self, method: Method, path: &str, body: &str, idempotency_key: Option<&str>) -> Answer {
        let request = http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let mut request = request.header("authorization", format!("Bearer {}", self.key));
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let request = request.header("content-type", "application/json").body(body.to_owned()).unwrap();
        Answer::of(agent().run(request).unwrap())
    }

    /// Sends a call and hangs up, at the latest after 50 ms.
    fn hang_up(&self, path: &str, body: &str, idempotency_key: &str) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nidempotency-key: {idempotency_key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // An answer that comes so early does not matter here.
        stream.read(&mut [0; 16]).unwrap_or_default();
    }

    fn living(&self) -> usize {
        self.try_living().unwrap()
    }

    fn try_living(&self) -> Option<usize> {
        Some(self.runtime.block_on(self.sessions.ids_where(&store::Query::default(), &[])).ok()?.len())
    }

    /// It would go on for ever if they were not ended.
    fn wait_until_none_lives(&self) {
        let begun = Instant::now();
        let query = store::Query::default();
        let any = || self.runtime.block_on(self.sessions.find(&query, None, 1));
        // A store that has much to do may not answer in time.
        while any().is_ok_and(|page| !page.items.is_empty() || page.next.is_some()) || self.try_living() != Some(0) {
            assert!(begun.elapsed() < Duration::from_mins(3), "{:?} live on", self.try_living());
        }
    }

    fn shut_down(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            self.runtime.block_on(serving).unwrap();
        }
    }
}

/// A name of its own in a service that others use too.
fn namespace(name: &str) -> String {
    let moment = SystemClock.now().as_millis();
    format!("{name}_{}_{moment}", std::process::id())
}

fn with(address: &str, name: &str, value: &str) -> String {
    let separator = if address.contains('?') { '&' } else { '?' };
    format!("{address}{separator}{name}={value}")
}

/// A test on each kind of store.
macro_rules! on_every_store {
    ($($name:ident;)+) => {
        mod memory {
            $(#[test] fn $name() { super::$name("memory:") })+
        }
        mod sqlite {
            $(#[test] fn $name() {
                let directory = super::TempDir::new().unwrap();
                super::$name(&format!("sqlite:{}", directory.path().join("test.db").display()));
            })+
        }
        mod file {
            $(#[test] fn $name() {
                let directory = super::TempDir::new().unwrap();
                super::$name(&format!("file:{}", directory.path().join("sessions").display()));
            })+
        }
        mod postgres {
            $(#[test] fn $name() {
                let Some(url) = needs::variable("CLOAKROOM_TEST_POSTGRES_URL") else { return };
                super::$name(&super::with(&url, "schema", &super::namespace("s6")));
            })+
        }
        mod mariadb {
            $(#[test] fn $name() {
                let Some(url) = needs::variable("CLOAKROOM_TEST_MARIADB_URL") else { return };
                super::$name(&super::with(&url, "prefix", &format!("{}_", super::namespace("s6"))));
            })+
        }
        mod redis {
            $(#[test] fn $name() {
                let Some(url) = needs::variable("CLOAKROOM_TEST_REDIS_URL") else { return };
                super::$name(&super::with(&url, "prefix", &format!("{}:", super::namespace("s6"))));
            })+
        }
    };
}

on_every_store! {
    s6_an_ending_runs_to_its_end_though_its_caller_goes_away;
    s6_a_repeated_sign_in_keeps_what_the_visitor_had;
}

fn s6_an_ending_runs_to_its_end_though_its_caller_goes_away(url: &str) {
    // A file for each takes its time.
    let sessions = if url.starts_with("file:") { 600 } else { 2_000 };
    let on = On::new(url, sessions, Bounds::default());
    let revoke = r#"{"all":true,"note":"a leak"}"#;
    on.hang_up("/v1/sessions/revoke", revoke, "leak-7");
    on.wait_until_none_lives();

    let repeat = || on.call(Method::POST, "/v1/sessions/revoke", revoke, Some("leak-7")).expect(200);
    let told = repeat();
    assert_eq!((told.at("/matched"), told.at("/ended").as_array().unwrap().len()), (json!(sessions), sessions));
    assert_eq!(repeat().text, told.text);
    let anew = on.call(Method::POST, "/v1/sessions/revoke", revoke, Some("leak-8")).expect(200);
    assert_eq!(anew.at("/matched"), 0, "another key is another call");
    let other = on.call(Method::POST, "/v1/sessions/revoke", r#"{"all":true}"#, Some("leak-7"));
    assert_eq!(other.expect_problem(422, "invalid_field").at("/field"), "Idempotency-Key");
}

fn s6_a_repeated_sign_in_keeps_what_the_visitor_had(url: &str) {
    let on = On::new(url, 0, Bounds::default());
    // Another node knows nothing of the first one's calls; a store in memory has none.
    let other = (url != "memory:").then(|| On::new(url, 0, Bounds::default()));
    for (user, repeats_elsewhere) in [(Some("anna"), false), (Some("anna"), true), (None, false)] {
        let start = |on: &On, body: &Value, key: Option<&str>| {
            on.call(Method::POST, "/v1/sessions", &body.to_string(), key).expect(201)
        };
        let visitor = start(&on, &json!({"data": {"cart": [7], "seen": 1}}), None).text_of("/token");
        let mut body = json!({"replaces": visitor, "data": {"seen": 2}, "limit": {"max": 50}});
        match user {
            Some(user) => body["user"] = user.into(),
            None => drop(body.as_object_mut().unwrap().remove("limit")),
        }
        let first = start(&on, &body, Some("sign-in-7"));
        let again = if repeats_elsewhere { other.as_ref().unwrap_or(&on) } else { &on };
        let second = start(again, &body, Some("sign-in-7"));
        for answer in [&first, &second] {
            assert_eq!(answer.at("/session/data"), json!({"cart": [7], "seen": 2}), "{user:?} {repeats_elsewhere}");
        }
        assert_eq!(second.at("/ended"), json!([first.at("/session/id")]), "the first try's session is no second one");
        // What was put in meanwhile is kept too, and `fresh_data` still carries nothing over.
        let path = format!("/v1/sessions/{}", second.text_of("/session/id"));
        on.call(Method::PATCH, &path, r#"{"set":{"coupon":"x"}}"#, None).expect(200);
        let third = start(again, &body, Some("sign-in-7"));
        assert_eq!(third.at("/session/data"), json!({"cart": [7], "coupon": "x", "seen": 2}));
        body["fresh_data"] = true.into();
        assert_eq!(start(&on, &body, Some("sign-in-7")).at("/session/data"), json!({"seen": 2}));
        on.call(Method::POST, "/v1/sessions/revoke", r#"{"all":true}"#, None).expect(200);
    }
}

#[test]
fn s6_what_takes_long_is_a_job_that_tells_how_far_it_is() {
    let bounds = Bounds { answer_within: Duration::ZERO, ..Bounds::default() };
    let directory = TempDir::new().unwrap();
    let on = On::new(&format!("sqlite:{}", directory.path().join("test.db").display()), 1_500, bounds);
    let begun = on.call(Method::POST, "/v1/sessions/revoke", r#"{"all":true}"#, None).expect(202);
    let path = begun.header("location").to_owned();
    assert_eq!(path, format!("/v1/jobs/{}", begun.text_of("/job/id")));
    assert_eq!((begun.at("/job/state"), begun.at("/job/call")), (json!("running"), json!("POST /v1/sessions/revoke")));
    let mut ended = 0;
    let done = loop {
        let job = on.call(Method::GET, &path, "", None).expect(200);
        let now = job.at("/job/ended").as_u64().unwrap();
        assert!(now >= ended && now <= 1_500, "{}", job.text);
        ended = now;
        if job.at("/job/state") == "done" {
            break job;
        }
        assert_eq!(job.json()["job"].get("answer"), None);
    };
    assert_eq!((done.at("/job/status"), done.at("/job/answer/matched")), (json!(200), json!(1_500)));
    assert_eq!(on.living(), 0);
    on.call(Method::GET, "/v1/jobs/AAAAAAAAAAAAAAAAAAAAAA", "", None).expect_problem(404, "job_unknown");
    on.call(Method::GET, "/v1/jobs/x", "", None).expect_problem(404, "job_unknown");
}

#[test]
fn s6_a_shutdown_waits_for_what_was_begun() {
    let directory = TempDir::new().unwrap();
    let mut on = On::new(&format!("sqlite:{}", directory.path().join("test.db").display()), 2_000, Bounds::default());
    on.hang_up("/v1/sessions/revoke", r#"{"all":true}"#, "last");
    on.shut_down();
    let left = on.living();
    assert_eq!(left, 0, "{left} live on");
}

#[test]
fn s6_what_a_shutdown_breaks_off_ends_when_it_is_repeated() {
    let directory = TempDir::new().unwrap();
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let bounds = Bounds { shutdown_grace: Duration::ZERO, ..Bounds::default() };
    let mut on = On::new(&url, 2_000, bounds);
    on.hang_up("/v1/sessions/revoke", r#"{"all":true}"#, "last");
    on.shut_down();
    let left = on.living();
    drop(on);
    let on = On::new(&url, 0, Bounds::default());
    let repeat = on.call(Method::POST, "/v1/sessions/revoke", r#"{"all":true}"#, Some("last")).expect(200);
    // Another process: it tells of what it ended itself. What the first had handed to its store may have ended since.
    let matched = repeat.at("/matched").as_u64().unwrap();
    assert!(matched <= left as u64, "{matched} of {left}");
    assert_eq!(on.living(), 0);
}

/// A write that waits for longer than a call may take is done later, or never: the caller hears neither.
#[test]
fn s6_a_repeat_tells_what_was_done_though_the_first_try_did_not_hear_of_it() {
    for (name, method, path, body) in [
        ("revoke user", Method::POST, "/v1/sessions/revoke", r#"{"user":"anna"}"#),
        ("revoke query", Method::POST, "/v1/sessions/revoke", r#"{"ip":"192.0.2.1"}"#),
        ("clear", Method::POST, "/v1/users/anna/clear-sessions", r#"{"force":true}"#),
        ("disable", Method::PATCH, "/v1/users/anna", r#"{"enabled":false}"#),
        ("delete", Method::DELETE, "/v1/users/anna", ""),
    ] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("test.db");
        let runtime = Runtime::new().unwrap();
        let key = keys::generate().unwrap();
        let api_keys = ApiKeys::new(vec![ApiKey::new("ops", Scope::Admin, &key).unwrap()]);
        let (address, ids, sessions, _serving) = runtime.block_on(async {
            let store = store::open(&format!("sqlite:{}", file.display())).await.unwrap();
            let sessions = Sessions::builder(store).stored_users().without_upkeep();
            let sessions = sessions.call_timeout(Duration::from_millis(300)).build().unwrap();
            let mut ids = Vec::new();
            for _ in 0..3 {
                let client = cloakroom::Client { ip: Some([192, 0, 2, 1].into()), ..Default::default() };
                ids.push(sessions.start(SignIn::new("anna").client(client)).await.unwrap().token.id().to_string());
            }
            let listener = cloakroom_server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let server = Server::new(sessions.clone(), api_keys);
            (address, ids, sessions, tokio::spawn(cloakroom_server::run(listener, server, std::future::pending())))
        });
        let call = || {
            let request = http::Request::builder().method(method.clone()).uri(format!("http://{address}{path}"));
            let request = request.header("authorization", format!("Bearer {key}")).header("idempotency-key", "k");
            if body.is_empty() {
                return Answer::of(agent().run(request.body(()).unwrap()).unwrap());
            }
            let request = request.header("content-type", "application/json").body(body.to_owned()).unwrap();
            Answer::of(agent().run(request).unwrap())
        };
        let locker = rusqlite::Connection::open(&file).unwrap();
        locker.execute_batch("BEGIN IMMEDIATE").unwrap();
        call().expect_problem(503, "outcome_unknown");
        locker.execute_batch("ROLLBACK").unwrap();
        let begun = Instant::now();
        let told = loop {
            let answer = call();
            if answer.status == 200 {
                break answer;
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "{name}: {}", answer.text);
        };
        let mut ended: Vec<_> =
            told.at("/ended").as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
        ended.sort();
        let mut expected = ids.clone();
        expected.sort();
        assert_eq!(ended, expected, "{name}");
        assert_eq!(runtime.block_on(sessions.list("anna")).unwrap().len(), 0, "{name}");
        assert_eq!(call().text, told.text, "{name}");
    }
}

#[test]
fn s6_a_repeated_impersonation_is_answered_with_a_token_of_the_same_session() {
    let on = On::new("memory:", 0, Bounds::default());
    on.call(Method::PATCH, "/v1/users/anna", "{}", None).expect(200);
    let start = |user: &str| {
        let started = on.call(Method::POST, "/v1/sessions", &json!({ "user": user }).to_string(), None).expect(201);
        (started.text_of("/token"), started.text_of("/session/id"))
    };
    let ((root, own), (other, _)) = (start("root"), start("other"));
    let post = |path: &str, body: Value, key: Option<&str>| on.call(Method::POST, path, &body.to_string(), key);
    let resume = |token: &str| post("/v1/sessions/resume", json!({ "token": token }), None);
    let impersonate = |token: &str, key: Option<&str>| {
        post("/v1/sessions/impersonate", json!({"token": token, "user": "anna", "reason": "ticket 17"}), key)
    };
    let stop = |token: &str, key: Option<&str>| post("/v1/sessions/impersonate/stop", json!({ "token": token }), key);

    let first = impersonate(&root, Some("there")).expect(201);
    impersonate(&root, None).expect_problem(410, "session_ended");
    impersonate(&root, Some("elsewhere")).expect_problem(410, "session_ended");
    let second = impersonate(&root, Some("there")).expect(201);
    assert_eq!(second.at("/session/id"), first.at("/session/id"));
    resume(&first.text_of("/token")).expect(410);
    resume(&second.text_of("/token")).expect(200);
    // A key alone hands nothing over: another token with it starts a session of its own.
    let others = impersonate(&other, Some("there")).expect(201);
    assert_ne!(others.at("/session/id"), first.at("/session/id"));

    let acting = second.text_of("/token");
    let back = stop(&acting, Some("back")).expect(201);
    stop(&acting, None).expect_problem(410, "session_ended");
    let again = stop(&acting, Some("back")).expect(201);
    assert_eq!((back.text_of("/session/id"), again.text_of("/session/id")), (own.clone(), own));
    resume(&back.text_of("/token")).expect(410);
    resume(&again.text_of("/token")).expect(200);
    // Whoever is back is not there any more.
    impersonate(&root, Some("there")).expect_problem(410, "session_ended");
    let all: Value = on.call(Method::GET, "/v1/audit?limit=500", "", None).json();
    let by = |entry: &Value| entry["by"].as_str().unwrap_or_default().starts_with("key:ops");
    assert!(all["entries"].as_array().unwrap().iter().all(by), "{all}");
}

#[test]
fn i1_a_repeated_change_with_one_key_is_made_once() {
    let on = On::new("memory:", 0, Bounds::default());
    let id = on.call(Method::POST, "/v1/sessions", "{}", None).expect(201).text_of("/session/id");
    let path = format!("/v1/sessions/{id}");
    for (key, body, visits) in [
        (Some("a"), r#"{"add":{"visits":1}}"#, 1),
        (Some("a"), r#"{"add":{"visits":1}}"#, 1),
        (Some("b"), r#"{"add":{"visits":1}}"#, 2),
        (None, r#"{"add":{"visits":1}}"#, 3),
        (None, r#"{"add":{"visits":1}}"#, 4),
        (Some("c"), r#"{"set":{"visits":9}}"#, 9),
        (Some("a"), r#"{"add":{"visits":1}}"#, 9),
    ] {
        assert_eq!(on.call(Method::PATCH, &path, body, key).expect(200).at("/session/data/visits"), visits);
    }
    for bad in ["", "a b", &"k".repeat(257)] {
        let refused = on.call(Method::PATCH, &path, "{}", Some(bad));
        assert_eq!(refused.expect_problem(422, "invalid_field").at("/field"), "Idempotency-Key");
    }
    let again = |key| on.call(Method::DELETE, &path, "", Some(key)).expect(200).at("/ended_now");
    assert_eq!((again("end"), again("end"), again("other")), (json!(true), json!(true), json!(false)));
}

#[test]
fn i1_parallel_repeats_wait_for_the_first() {
    let on = Arc::new(On::new("memory:", 700, Bounds::default()));
    let answers: Vec<_> = std::thread::scope(|scope| {
        let repeats: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| on.call(Method::POST, "/v1/sessions/revoke", r#"{"all":true}"#, Some("k")).text))
            .collect();
        repeats.into_iter().map(|repeat| repeat.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.contains("\"matched\":700")), "{answers:?}");
}
