//! S5: costly work comes after limits, and never keeps a thread from its other tasks.

use std::time::Duration;

use http::Method;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{Answer, Api, block_on};

/// How long one request may keep a thread. Without optimisation, or beside other tests, everything takes longer.
const MOST: Duration = if cfg!(debug_assertions) { Duration::from_millis(150) } else { Duration::from_millis(10) };

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// What a call answers, and the time of this thread that it took.
async fn timed(api: &Api, method: &Method, path: &str, body: String) -> (Answer, Duration) {
    let request = api.request(method, path, Some(body));
    let before = cpu_time();
    let answer = api.send(request).await;
    (answer, cpu_time().saturating_sub(before))
}

async fn refused(api: &Api, method: Method, path: &str, body: String, status: u16, code: &str) -> Value {
    let size = body.len();
    let (answer, took) = timed(api, &method, path, body).await;
    let answer = answer.expect(status, code, path);
    assert!(took < MOST, "{method} {path} with {size} bytes kept a thread for {took:?}: {}", answer.text);
    answer.json()
}

fn object_of(keys: usize) -> String {
    let members: Vec<_> = (0..keys).map(|key| format!("\"{key}\":1")).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn s5_eighty_thousand_keys_are_refused_at_once() {
    block_on(async {
        let api = Api::new().await;
        let session = format!("/v1/sessions/{}", api.id);
        let many = object_of(80_000);
        for (method, path, body) in [
            (Method::POST, "/v1/sessions", format!(r#"{{"data":{many}}}"#)),
            (Method::PATCH, &session, format!(r#"{{"set":{many}}}"#)),
            (Method::PATCH, &session, format!(r#"{{"add":{many}}}"#)),
        ] {
            let refused = refused(&api, method, path, body, 413, "data_too_large").await;
            assert_eq!(refused["size"], many.len() - 1 - 4 * 80_000, "keys and values, all of them");
        }
        let removed: Vec<_> = (0..80_000).map(|key| key.to_string()).collect();
        refused(&api, Method::PATCH, &session, json!({"remove": removed}).to_string(), 422, "invalid_field").await;
        refused(&api, Method::POST, "/v1/sessions", many, 422, "unknown_field").await;
    });
}

#[test]
fn s5_as_many_keys_as_fit_are_taken_in_linear_time() {
    block_on(async {
        let api = Api::new().await;
        // One byte of a value and at most five of a key each.
        let (few, many) = (object_of(1_100), object_of(11_000));
        let mut took = Vec::new();
        for data in [&few, &many] {
            let (answer, time) = timed(&api, &Method::POST, "/v1/sessions", format!(r#"{{"data":{data}}}"#)).await;
            assert_eq!(answer.status, 201, "{}", answer.text);
            took.push(time);
        }
        assert!(took[1] < MOST && took[1] < took[0].max(Duration::from_millis(1)) * 40, "{took:?}");
    });
}

#[test]
fn s5_values_that_nest_too_deep_are_refused_with_their_key() {
    block_on(async {
        let api = Api::new().await;
        let session = format!("/v1/sessions/{}", api.id);
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for levels in [121, 128, 20_000, 500_000] {
            for (method, path, field) in [(Method::POST, "/v1/sessions", "data"), (Method::PATCH, &*session, "set")] {
                let body = format!(r#"{{"{field}":{{"fine":1,"deep":{}}}}}"#, nested(levels));
                let (status, code) = if levels > 30_000 { (413, "data_too_large") } else { (422, "nested_too_deep") };
                assert_eq!(refused(&api, method, path, body, status, code).await["key"], "deep");
            }
        }
        // What is taken can be read by everybody, wherever it comes back.
        let body = format!(r#"{{"set":{{"deep":{}}}}}"#, nested(120));
        let answer = api.send(api.request(&Method::PATCH, &session, Some(body))).await;
        assert_eq!(answer.json()["session"]["version"], 1);
        let many = json!({"tokens": [api.token]});
        let answer = api.call(&Method::POST, "/v1/sessions/resume-many", Some(&many)).await;
        assert_eq!(answer.json()["results"][0]["session"]["id"], *api.id);
    });
}

#[test]
fn s5_a_mebibyte_of_anything_is_refused_at_once() {
    block_on(async {
        let api = Api::new().await;
        let fill = |unit: &str| unit.repeat(((1 << 20) - 100) / unit.len());
        let lists = format!("[{}1]", fill("1,"));
        let ids = format!("[{}\"{}\"]", fill(&format!("\"{}\",", api.id)), api.id);
        let networks = format!("[{}\"::1\"]", fill("\"10.0.0.0/8\","));
        for (method, path, body, status, code) in [
            (Method::POST, "/v1/sessions", fill("["), 400, "malformed_json"),
            (Method::POST, "/v1/sessions", lists.clone(), 422, "invalid_field"),
            (Method::POST, "/v1/sessions", format!(r#"{{"user":"{}"}}"#, fill("x")), 422, "invalid_field"),
            (Method::POST, "/v1/sessions", format!(r#"{{"data":{{"{}":1}}}}"#, fill("k")), 413, "data_too_large"),
            (Method::POST, "/v1/sessions", format!(r#"{{"{}":1}}"#, fill("k")), 422, "unknown_field"),
            (Method::POST, "/v1/sessions/resume", format!(r#"{{"token":"{}"}}"#, fill("x")), 404, "session_unknown"),
            (Method::POST, "/v1/sessions/resume-many", format!(r#"{{"tokens":{ids}}}"#), 422, "invalid_field"),
            (Method::POST, "/v1/sessions/revoke", format!(r#"{{"all":true,"except":{ids}}}"#), 422, "invalid_field"),
            (Method::PATCH, "/v1/users/x", format!(r#"{{"allowed_networks":{networks}}}"#), 422, "invalid_field"),
        ] {
            let refused = refused(&api, method, path, body, status, code).await;
            assert!(refused.to_string().len() < 2000, "{path}");
        }
    });
}

#[test]
fn s5_many_large_sessions_are_answered_with_pauses() {
    block_on(async {
        let api = Api::new().await;
        let value = "x".repeat(65_000);
        let mut tokens = Vec::new();
        for _ in 0..100 {
            let body = json!({"data": {"large": value}});
            tokens.push(api.call(&Method::POST, "/v1/sessions", Some(&body)).await.json()["token"].clone());
        }
        // Whoever waits for the thread has a turn each time: so often that none waits long.
        let turns = std::rc::Rc::new(std::cell::Cell::new(0));
        let local = tokio::task::LocalSet::new();
        let counted = turns.clone();
        local
            .run_until(async move {
                let other = tokio::task::spawn_local(async move {
                    loop {
                        counted.set(counted.get() + 1);
                        tokio::task::yield_now().await;
                    }
                });
                let body = json!({"tokens": tokens});
                let answer = api.call(&Method::POST, "/v1/sessions/resume-many", Some(&body)).await;
                assert!(answer.text.len() > 6_500_000);
                other.abort();
            })
            .await;
        assert!(turns.get() > 15, "{}", turns.get());
    });
}
