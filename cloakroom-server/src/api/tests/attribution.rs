//! S4: every entry of the audit log names the key that acted, beside who it says it acted for.

use cloakroom::{Reason, SignIn, audit::AuditEntry};
use http::Method;
use serde_json::{Value, json};

use super::{super::routes::Effect, Api, ROUTES, block_on};

/// What a call wrote into the log.
async fn entries(api: &Api, method: &Method, path: &str, body: Option<&Value>) -> Vec<AuditEntry> {
    let before = api.log().await.len();
    let answer = api.call(method, path, body).await;
    assert!(answer.status.is_success() || answer.status == 403, "{path}: {}", answer.text);
    api.log().await.into_iter().skip(before).map(|logged| logged.entry).collect()
}

#[test]
fn s4_every_call_that_changes_something_names_its_key() {
    block_on(async {
        for route in ROUTES.iter().filter(|route| route.effect != Effect::Looks) {
            let api = Api::new().await;
            let (path, body) = api.sample(route);
            let written = entries(&api, &route.method, &path, body.as_ref()).await;
            // Data and locks are not in the log, and what runs out does so by itself.
            let is_silent = ["/v1/reap", "/v1/sessions/resume", "/v1/sessions/{id}"].contains(&route.path)
                && route.method != Method::DELETE;
            let writes = !is_silent && !["lock", "renew"].iter().any(|verb| route.path.ends_with(verb));
            assert_eq!(!written.is_empty(), writes, "{route:?}");
            for entry in written {
                let by = entry.by.as_deref().unwrap_or_default();
                assert!(by == "key:shop" || by.starts_with("key:shop for "), "{route:?}: {entry:?}");
            }
        }
    });
}

#[test]
fn s4_whatever_reason_and_whomever_a_call_names_the_key_is_there() {
    block_on(async {
        for reason in Reason::ALL {
            let api = Api::new().await;
            let path = format!("/v1/sessions/{}?reason={}", api.id, reason.code());
            let ended = entries(&api, &Method::DELETE, &path, None).await;
            assert_eq!(ended[0].by.as_deref(), Some("key:shop"), "{reason}");

            let api = Api::new().await;
            let revoke = json!({"ip": "192.0.2.1", "reason": reason.code()});
            let client = json!({"user": "anna", "client": {"ip": "192.0.2.1"}});
            api.call(&Method::POST, "/v1/sessions", Some(&client)).await;
            let ended = entries(&api, &Method::POST, "/v1/sessions/revoke", Some(&revoke)).await;
            assert_eq!(ended[0].by.as_deref(), Some("key:shop"), "{reason}");
        }
        for by in ["root", "anna", "key:other", "x for y"] {
            let api = Api::new().await;
            let body = json!({"by": by, "force": true});
            let ended = entries(&api, &Method::POST, "/v1/users/anna/clear-sessions", Some(&body)).await;
            assert_eq!(ended[0].by.as_deref(), Some(&*format!("key:shop for {by}")));
        }
    });
}

#[test]
fn s4_refusals_and_what_a_start_ends_name_the_key_too() {
    block_on(async {
        let api = Api::new().await;
        let body = json!({"user": "anna", "limit": {"max": 1}});
        let written = entries(&api, &Method::POST, "/v1/sessions", Some(&body)).await;
        assert_eq!(written.len(), 2, "one ended to make room, one started");

        let visitor = api.sessions.start(SignIn::anonymous()).await.unwrap().token.reveal();
        let replacing = json!({"user": "ben", "replaces": visitor});
        let mut written = [written, entries(&api, &Method::POST, "/v1/sessions", Some(&replacing)).await].concat();
        let own = json!({"token": api.root, "user": "root", "reason": "x"});
        written.extend(entries(&api, &Method::POST, "/v1/sessions/impersonate", Some(&own)).await);
        let away = json!({"allowed_networks": ["10.0.0.0/8"]});
        written.extend(entries(&api, &Method::PATCH, "/v1/users/ben", Some(&away)).await);
        let from = json!({"user": "ben", "client": {"ip": "192.0.2.1"}});
        written.extend(entries(&api, &Method::POST, "/v1/sessions", Some(&from)).await);
        assert!(written.len() >= 5, "{written:?}");
        for entry in written {
            assert_eq!(entry.by.as_deref(), Some("key:shop"), "{entry:?}");
        }
    });
}
