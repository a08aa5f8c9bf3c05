//! Every route of the list, on a real store, without the network between.

use std::{collections::BTreeMap, time::Duration};

use axum::{Router, body::Body, response::Response};
use cloakroom::{
    Found, Impersonate, Sessions, SignIn, User,
    sessions::TakeLock,
    store::{self, AuditQuery, Logged, Query},
};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower_service::Service;

use super::routes::{ROUTES, Route};
use crate::{Scope, Server, keys};

mod attribution;
mod cost;
mod strictness;

/// The API on a store in memory, with sessions that its calls can be made about.
pub(super) struct Api {
    router: Router,
    pub(super) sessions: Sessions,
    key: String,
    /// By their scope.
    keys: Vec<(Scope, String)>,
    /// What requests about these name: tokens and ids.
    pub(super) token: String,
    pub(super) id: String,
    free: String,
    pub(super) root: String,
    acting: String,
}

impl Api {
    pub(super) async fn new() -> Self {
        let store = store::open("memory:").await.unwrap();
        let sessions = Sessions::builder(store).stored_users().without_upkeep().build().unwrap();
        for user in ["anna", "ben"] {
            sessions.users().put(user, User::default(), None).await.unwrap();
        }
        let keys = [Scope::Read, Scope::Write, Scope::Admin].map(|scope| (scope, keys::generate().unwrap()));
        let known = keys.iter().map(|(scope, key)| keys::ApiKey::new("shop", *scope, key).unwrap()).collect();
        let router = Server::new(sessions.clone(), keys::ApiKeys::new(known)).router();
        let anna = sessions.start(SignIn::new("anna")).await.unwrap();
        let hour = Duration::from_hours(1);
        sessions.take_lock(anna.token.id(), TakeLock { lease: hour, patience: Duration::ZERO }).await.unwrap();
        let root = sessions.start(SignIn::new("root")).await.unwrap();
        let boss = sessions.start(SignIn::new("boss")).await.unwrap();
        let acting = sessions.impersonate(&boss.token, Impersonate::new("ben", "a test")).await.unwrap();
        Self {
            router,
            key: keys[2].1.clone(),
            keys: keys.into(),
            token: anna.token.reveal(),
            id: anna.token.id().to_string(),
            free: root.token.id().to_string(),
            root: root.token.reveal(),
            acting: acting.token.reveal(),
            sessions,
        }
    }

    /// A request of this route that does something, and what its body says.
    pub(super) fn sample(&self, route: &Route) -> (String, Option<Value>) {
        // Anna's session is locked, so that it can be unlocked; root's can be locked.
        let id = if route.path.ends_with("/lock") { &self.free } else { &self.id };
        let path = route.path.replace("/v1/sessions/{id}", &format!("/v1/sessions/{id}"));
        let path = path.replace("{user}", "anna").replace("{id}", "AAAAAAAAAAAAAAAAAAAAAA");
        let body = match (route.method.as_str(), route.path) {
            ("GET" | "DELETE", _) => None,
            ("POST", "/v1/sessions") => Some(json!({
                "user": "anna", "full_name": "Anna", "limit": {"max": 9}, "client": {"ip": "192.0.2.1"}, "data": {"a": 1},
            })),
            ("POST", "/v1/sessions/resume" | "/v1/sessions/rotate") => Some(json!({"token": self.token})),
            ("POST", "/v1/sessions/resume-many") => Some(json!({"tokens": [self.token]})),
            ("POST", "/v1/sessions/impersonate") => {
                Some(json!({"token": self.root, "user": "anna", "reason": "ticket 17"}))
            }
            ("POST", "/v1/sessions/impersonate/stop") => Some(json!({"token": self.acting})),
            ("POST", "/v1/sessions/revoke") => Some(json!({"user": "anna", "note": "lost"})),
            ("PATCH", "/v1/sessions/{id}") => Some(json!({"set": {"a": 1}, "add": {"n": 1}, "remove": ["b"]})),
            ("PATCH", "/v1/users/{user}") => Some(json!({"enabled": false, "session_limit": 2})),
            ("POST", "/v1/users/{user}/clear-sessions") => Some(json!({"force": true})),
            ("POST", "/v1/sessions/{id}/lock") => Some(json!({"lease_seconds": 5})),
            ("POST", "/v1/sessions/{id}/renew" | "/v1/sessions/{id}/unlock") => Some(json!({"lock": 1})),
            ("POST", "/v1/reap") => Some(json!({})),
            other => panic!("no sample for {other:?}"),
        };
        (path, body)
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let Ok(response) = self.router.clone().call(request).await;
        Answer::of(response).await
    }

    pub(super) fn request(&self, method: &Method, path: &str, body: Option<String>) -> Request<Body> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.key));
        match body {
            Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap(),
            None => request.body(Body::empty()).unwrap(),
        }
    }

    pub(super) async fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Answer {
        self.send(self.request(method, path, body.map(ToString::to_string))).await
    }

    pub(super) async fn log(&self) -> Vec<Logged> {
        self.sessions.audit_log().page(&AuditQuery::default(), None, 500).await.unwrap().items
    }

    /// All that a call could have changed.
    pub(super) async fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for info in self.sessions.find(&Query::default(), None, 500).await.unwrap().items {
            let Found::Live(record) = self.sessions.get(info.id).await.unwrap() else { continue };
            state.insert(info.id.to_string(), format!("{record:?} {:?}", record.data));
        }
        for entry in self.sessions.users().list(None, 500).await.unwrap().items {
            state.insert(entry.user.to_string(), format!("{entry:?}"));
        }
        let log: Vec<_> = self.log().await.into_iter().map(|logged| format!("{:?}", logged.entry)).collect();
        state.insert("log".into(), log.join("\n"));
        state
    }
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: http::HeaderMap,
    pub(super) text: String,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        // What is followed does not end.
        let follows = parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "text/event-stream");
        let text = if follows { String::new() } else { text_of(body).await };
        Self { status: parts.status, headers: parts.headers, text }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    #[track_caller]
    pub(super) fn expect(self, status: u16, code: &str, about: &str) -> Self {
        assert_eq!(self.status.as_u16(), status, "{about}: {}", self.text);
        assert_eq!(self.json()["code"], code, "{about}: {}", self.text);
        self
    }
}

async fn text_of(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
}

/// A runtime whose tasks all run on this thread.
pub(super) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

#[test]
fn every_sample_is_understood() {
    block_on(async {
        for route in ROUTES {
            let api = Api::new().await;
            let (path, body) = api.sample(route);
            let answer = api.call(&route.method, &path, body.as_ref()).await;
            let expected = if route.path == "/v1/jobs/{id}" { 404..405 } else { 200..300 };
            assert!(expected.contains(&answer.status.as_u16()), "{route:?}: {}", answer.text);
            let is_public = route.path == "/.well-known/jwks.json";
            let caching = if is_public { "public, max-age=300" } else { "no-store" };
            assert_eq!(answer.headers.get(header::CACHE_CONTROL).unwrap(), caching, "{route:?}");
        }
    });
}

#[test]
fn every_route_takes_keys_of_its_scope_and_larger_ones_alone() {
    block_on(async {
        for route in ROUTES {
            let Some(scope) = route.scope else { continue };
            let api = Api::new().await;
            let before = api.state().await;
            let (path, body) = api.sample(route);
            let request = || api.request(&route.method, &path, body.as_ref().map(ToString::to_string));
            let with = |authorization: &str| {
                let mut request = request();
                request.headers_mut().insert(header::AUTHORIZATION, authorization.parse().unwrap());
                request
            };
            let mut without = request();
            without.headers_mut().remove(header::AUTHORIZATION);
            for wrong in [without, with("Bearer"), with("Bearer made-up"), with(&format!("Basic {}", api.key))] {
                api.send(wrong).await.expect(401, "unauthorized", route.path);
            }
            for (smaller, key) in api.keys.iter().filter(|(has, _)| *has < scope) {
                let refused = api.send(with(&format!("Bearer {key}"))).await.expect(403, "scope_missing", route.path);
                assert_eq!(refused.json()["scope"], scope.name(), "{route:?}");
                assert!(refused.json()["detail"].as_str().unwrap().contains(smaller.name()));
            }
            assert_eq!(api.state().await, before, "{route:?}");
        }
        for route in ROUTES {
            for has in [Scope::Read, Scope::Write, Scope::Admin] {
                if route.scope.is_some_and(|scope| has < scope) {
                    continue;
                }
                let mut api = Api::new().await;
                api.key = api.keys.iter().find(|(scope, _)| *scope == has).unwrap().1.clone();
                let (path, body) = api.sample(route);
                let status = api.call(&route.method, &path, body.as_ref()).await.status;
                assert!(status.is_success() || status == 404 && route.path == "/v1/jobs/{id}", "{route:?} {has:?}");
            }
        }
    });
}
