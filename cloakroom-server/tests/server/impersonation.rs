//! Acting as somebody else, over the API.

use crate::common::TestServer;
use http::Method;
use serde_json::json;

#[test]
fn set_impersonated_there_and_back() {
    let server = TestServer::start();
    let settle = |user: &str, kind: &str| {
        let body = json!({ "user_type": kind }).to_string();
        server.call(&server.admin, Method::PATCH, &format!("/v1/users/{user}"), &body).expect(200);
    };
    settle("anna", "customer");
    let (token, own) = server.start_session(r#"{"user":"root","user_type":"administrator"}"#);
    let call = |body: serde_json::Value| {
        server.call(&server.admin, Method::POST, "/v1/sessions/impersonate", &body.to_string())
    };
    let stop = |token: &str| {
        let body = json!({ "token": token }).to_string();
        server.call(&server.admin, Method::POST, "/v1/sessions/impersonate/stop", &body)
    };

    let acting = call(json!({"token": token, "user": "anna", "reason": "ticket 17", "minutes": 30}));
    let acting = acting.expect(201);
    let (as_anna, id) = (acting.text_of("/token"), acting.text_of("/session/id"));
    assert!(acting.text_of("/set_cookie").starts_with(&format!("__Host-session={as_anna};")));
    let session = server.resume(&as_anna).expect(200).at("/session");
    assert_eq!((&session["user"], &session["impersonated_by"]), (&json!("anna"), &json!("root")));
    assert_eq!(session["user_type"], "customer");
    let listed = server.get("/v1/sessions?impersonated_by=root").expect(200);
    assert_eq!(listed.at("/sessions").as_array().unwrap().len(), 1);
    assert_eq!(listed.at("/sessions/0/id"), json!(id));

    // The actor's own token is dead at once; their session waits.
    let gone = server.resume(&token).expect_problem(410, "session_ended");
    assert_eq!((gone.at("/reason"), gone.at("/clear_cookie")), (json!("replaced"), json!(null)));
    server.get(&format!("/v1/sessions/{own}")).expect(200);

    let returned = stop(&as_anna).expect(201);
    assert_eq!(returned.text_of("/session/id"), own);
    server.resume(&returned.text_of("/token")).expect(200);
    let ended = server.resume(&as_anna).expect_problem(410, "session_ended");
    assert_eq!(ended.at("/reason"), "impersonation_ended");
    stop(&as_anna).expect_problem(410, "session_ended");

    let audit = server.get(&format!("/v1/audit?session={id}")).expect(200).at("/entries");
    let events: Vec<_> = audit.as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["impersonated", "ended"]);
    assert_eq!((&audit[0]["impersonated_by"], &audit[0]["note"]), (&json!("root"), &json!("ticket 17")));
}

#[test]
fn set_impersonated_refusals_say_why_and_are_audited() {
    let server = TestServer::start();
    for (user, kind) in [("root", "administrator"), ("boss", "administrator"), ("anna", "customer")] {
        let body = json!({ "user_type": kind }).to_string();
        server.call(&server.admin, Method::PATCH, &format!("/v1/users/{user}"), &body).expect(200);
    }
    let (token, own) = server.start_session(r#"{"user":"root"}"#);
    let call = |body: serde_json::Value| {
        server.call(&server.admin, Method::POST, "/v1/sessions/impersonate", &body.to_string())
    };
    for (user, reason, more, why) in [
        ("root", "x", json!({}), "oneself"),
        ("anna", "", json!({}), "no_reason"),
        ("anna", "x", json!({"minutes": 100_000}), "too_long"),
        ("boss", "x", json!({}), "policy"),
        ("ana", "x", json!({}), "unknown_user"),
    ] {
        let mut body = json!({"token": token, "user": user, "reason": reason});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(call(body).expect_problem(403, "impersonation_refused").at("/why"), why);
    }
    let audit = server.get(&format!("/v1/audit?session={own}")).expect(200).at("/entries");
    let refused = audit.as_array().unwrap().iter().filter(|entry| entry["event"] == "refused").count();
    assert_eq!(refused, 5);

    call(json!({"token": "nonsense", "user": "anna", "reason": "x"})).expect_problem(404, "session_unknown");
    call(json!({"token": token, "user": "anna"})).expect_problem(422, "missing_field");
    call(json!({"token": token, "user": "", "reason": "x"})).expect_problem(422, "invalid_field");
    let stop = json!({ "token": token }).to_string();
    let refused = server.call(&server.admin, Method::POST, "/v1/sessions/impersonate/stop", &stop);
    assert_eq!(refused.expect_problem(403, "impersonation_refused").at("/why"), "not_impersonating");
    let body = json!({"token": token, "user": "anna", "reason": "x"}).to_string();
    server.call(&server.write, Method::POST, "/v1/sessions/impersonate", &body).expect_problem(403, "scope_missing");
    server.resume(&token).expect(200);
}

#[test]
fn set_impersonated_a_start_in_its_place_ends_the_actors_own_session_too() {
    let server = TestServer::start();
    server.call(&server.admin, Method::PATCH, "/v1/users/anna", "{}").expect(200);
    let (token, own) = server.start_session(r#"{"user":"root"}"#);
    let body = json!({"token": token, "user": "anna", "reason": "ticket 17"}).to_string();
    let acting = server.call(&server.admin, Method::POST, "/v1/sessions/impersonate", &body).expect(201);
    let (as_anna, id) = (acting.text_of("/token"), acting.text_of("/session/id"));
    server.call(&server.admin, Method::PATCH, &format!("/v1/sessions/{id}"), r#"{"set":{"note":"roots"}}"#).expect(200);

    let started = server.post("/v1/sessions", &json!({"user": "anna", "replaces": as_anna}).to_string()).expect(201);
    assert_eq!(started.at("/ended"), json!([own, id]));
    assert_eq!(started.at("/session/data"), json!({}), "another person put it in");
    for ended in [own, id] {
        let problem = server.get(&format!("/v1/sessions/{ended}")).expect_problem(410, "session_ended");
        assert_eq!(problem.at("/reason"), "replaced");
    }
}

#[test]
fn audit_user_is_refused_by_policy_and_by_the_directory() {
    let server = TestServer::start();
    let settle = |user: &str, body: serde_json::Value| {
        server.call(&server.admin, Method::PATCH, &format!("/v1/users/{user}"), &body.to_string()).expect(200);
    };
    settle("boss", json!({"user_type": "administrator"}));
    let look = |user: &str| {
        let body = json!({"user": user, "user_type": "customer", "audit_user": "olga"}).to_string();
        server.post("/v1/sessions", &body)
    };
    look("boss").expect_problem(403, "audit_forbidden");
    let audited = look("anna").expect(201);
    let (token, id) = (audited.text_of("/token"), audited.text_of("/session/id"));
    assert_eq!(server.resume(&token).expect(200).at("/session/audit_user"), "olga");
    let endless = r#"{"user":"anna","audit_user":"olga","ends_at":"2100-01-01T00:00:00Z"}"#;
    assert_eq!(server.post("/v1/sessions", endless).expect_problem(422, "invalid_field").at("/field"), "ends_at");

    settle("olga", json!({"enabled": false}));
    let ended = server.resume(&token).expect_problem(410, "session_ended");
    assert_eq!(ended.at("/reason"), "user_disabled");
    look("anna").expect_problem(403, "user_disabled");
    let entries = server.get("/v1/audit?user=anna").expect(200).at("/entries");
    let last = entries.as_array().unwrap().last().unwrap();
    assert_eq!((&last["event"], &last["audit_user"]), (&json!("refused"), &json!("olga")));
    assert_eq!(last["note"], "olga: the user is disabled");
    server.get(&format!("/v1/sessions/{id}")).expect_problem(410, "session_ended");
}
