//! The directory of users and clear-sessions, over the API and on the command line.

use std::time::Duration;

use crate::common::{Answer, TestServer, agent, binary::Directory};
use cloakroom::client::TrustedProxies;
use http::Method;
use serde_json::{Value, json};

fn patch(server: &TestServer, user: &str, body: &Value) -> Answer {
    server.call(&server.admin, Method::PATCH, &format!("/v1/users/{user}"), &body.to_string())
}

fn delete(server: &TestServer, user: &str) -> Answer {
    server.call(&server.admin, Method::DELETE, &format!("/v1/users/{user}"), "")
}

fn resume_from(server: &TestServer, token: &str, ip: &str) -> Answer {
    server.post("/v1/sessions/resume", &json!({"token": token, "client": {"ip": ip}}).to_string())
}

#[test]
fn a_user_is_made_shown_changed_listed_and_deleted() {
    let server = TestServer::start();
    server.get("/v1/users/anna").expect_problem(404, "user_unknown");
    let made = patch(&server, "anna", &json!({"full_name": "Anna Berg", "allowed_networks": ["10.0.0.0/8", "::1"]}));
    let expected = json!({
        "id": "anna", "enabled": true, "full_name": "Anna Berg", "user_type": null, "session_limit": null,
        "when_full": null, "allowed_networks": ["10.0.0.0/8", "::1"], "last_sign_in": null,
    });
    assert_eq!(made.expect(200).json(), json!({"user": expected, "ended": []}));
    assert_eq!(server.get("/v1/users/anna").expect(200).json(), json!({ "user": expected }));

    let body = json!({"full_name": null, "session_limit": 2, "when_full": "refuse", "allowed_networks": []});
    let changed = patch(&server, "anna", &body).expect(200);
    assert_eq!(changed.at("/user/full_name"), Value::Null);
    assert_eq!((changed.at("/user/session_limit"), changed.at("/user/when_full")), (json!(2), json!("refuse")));
    let changed = patch(&server, "anna", &json!({"session_limit": null})).expect(200);
    assert_eq!((changed.at("/user/session_limit"), changed.at("/user/when_full")), (Value::Null, json!("refuse")));

    server.start_session(r#"{"user":"anna","client":{"ip":"192.0.2.7"}}"#);
    assert_eq!(server.get("/v1/users/anna").expect(200).at("/user/last_sign_in/ip"), "192.0.2.7");

    let strange = "a%2Fb%20%D0%B0%3F%25";
    assert_eq!(patch(&server, strange, &json!({})).expect(200).at("/user/id"), "a/b а?%");
    assert_eq!(server.get(&format!("/v1/users/{strange}")).expect(200).at("/user/id"), "a/b а?%");

    let mut listed = Vec::new();
    let mut path = "/v1/users?limit=1".to_owned();
    loop {
        let page = server.get(&path).expect(200).json();
        listed.extend(page["users"].as_array().unwrap().iter().map(|user| user["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/users?limit=1&cursor={next}");
    }
    listed.sort_by_key(ToString::to_string);
    assert_eq!(listed, ["a/b а?%", "anna"]);

    assert_eq!(delete(&server, "anna").expect(200).at("/deleted"), true);
    assert_eq!(delete(&server, "anna").expect(200).json(), json!({"deleted": false, "ended": []}));
    server.get("/v1/users/anna").expect_problem(404, "user_unknown");
}

#[test]
fn r2_disabling_or_deleting_a_user_ends_all_of_their_sessions() {
    let server = TestServer::start();
    let disable = |user: &str| patch(&server, user, &json!({"enabled": false}));
    for end_all in [&disable as &dyn Fn(&str) -> Answer, &|user: &str| delete(&server, user)] {
        let tokens: Vec<_> = (0..3).map(|_| server.start_session(r#"{"user":"anna"}"#).0).collect();
        let (ben, _) = server.start_session(r#"{"user":"ben"}"#);
        assert_eq!(end_all("anna").expect(200).at("/ended").as_array().unwrap().len(), 3);
        for token in tokens {
            let gone = server.resume(&token).expect_problem(410, "session_ended");
            assert_eq!((gone.at("/reason"), gone.at("/by")), (json!("user_disabled"), json!("key:root")));
        }
        server.resume(&ben).expect(200);
        let refused = server.post("/v1/sessions", r#"{"user":"anna"}"#);
        if server.get("/v1/users/anna").status == 200 {
            refused.expect_problem(403, "user_disabled");
            patch(&server, "anna", &json!({"enabled": true})).expect(200);
        } else {
            refused.expect(201);
        }
    }
}

#[test]
fn restrict_ip_is_honoured_by_start_resume_and_rotate() {
    let server = TestServer::start();
    patch(&server, "anna", &json!({"allowed_networks": ["10.0.0.0/8"]})).expect(200);
    for client in ["", r#","client":{}"#, r#","client":{"ip":"192.0.2.1"}"#] {
        server
            .post("/v1/sessions", &format!(r#"{{"user":"anna"{client}}}"#))
            .expect_problem(403, "network_not_allowed");
    }
    let (token, _) = server.start_session(r#"{"user":"anna","client":{"ip":"10.1.2.3"}}"#);
    resume_from(&server, &token, "10.9.9.9").expect(200);
    resume_from(&server, &token, "::ffff:10.9.9.9").expect(200);
    resume_from(&server, &token, "192.0.2.1").expect_problem(403, "network_not_allowed");
    server.resume(&token).expect_problem(403, "network_not_allowed");
    resume_from(&server, &token, "10.9.9.9").expect(200);

    let rotate = |client: &str| server.post("/v1/sessions/rotate", &format!(r#"{{"token":"{token}"{client}}}"#));
    for client in ["", r#","client":{"ip":"192.0.2.1"}"#] {
        rotate(client).expect_problem(403, "network_not_allowed");
    }
    let token = rotate(r#","client":{"ip":"10.9.9.9"}"#).expect(200).text_of("/token");

    let (ben, _) = server.start_session(r#"{"user":"ben"}"#);
    let many = |body: Value| server.post("/v1/sessions/resume-many", &body.to_string()).expect(200);
    let answer = many(json!({"tokens": [token, ben]}));
    assert_eq!(answer.at("/results/0/problem/code"), "network_not_allowed");
    assert_eq!(answer.at("/results/1/session/user"), "ben");
    let answer = many(json!({"tokens": [token, ben], "client": {"ip": "10.9.9.9"}}));
    assert_eq!(answer.at("/results/0/session/user"), "anna");

    let cookie = format!("__Host-session={token}");
    server.plain("/auth", &[("cookie", &cookie)]).expect_problem(403, "network_not_allowed");
    let audit = server.get("/v1/audit?user=anna").expect(200).json();
    let refused = audit["entries"].as_array().unwrap().iter().filter(|entry| entry["event"] == "refused");
    let notes: Vec<_> = refused.map(|entry| entry["note"].as_str().unwrap()).collect();
    assert!(notes.contains(&"the user may not come from this address: 192.0.2.1"), "{notes:?}");
    assert!(notes.len() >= 6, "{notes:?}");
}

#[test]
fn the_directory_gives_name_type_and_limit_where_the_call_does_not() {
    let server = TestServer::start();
    let anna = json!({"full_name": "Anna Berg", "user_type": "staff", "session_limit": 1, "when_full": "refuse"});
    patch(&server, "anna", &anna).expect(200);
    let started = server.post("/v1/sessions", r#"{"user":"anna"}"#).expect(201);
    assert_eq!(started.at("/session/full_name"), "Anna Berg");
    assert_eq!(started.at("/session/user_type"), "staff");
    server.post("/v1/sessions", r#"{"user":"anna"}"#).expect_problem(409, "session_limit");
    server.post("/v1/sessions", r#"{"user":"anna","limit":{"max":2}}"#).expect(201);
}

#[test]
fn clear_sessions_ends_the_seeds_selection_for_the_right_reason() {
    let server = TestServer::start();
    patch(&server, "anna", &json!({"session_limit": 2})).expect(200);
    let start = || {
        server.clock.advance(Duration::from_secs(1));
        server.start_session(r#"{"user":"anna","limit":{"max":10}}"#)
    };
    let clear =
        |key: &str, body: &Value| server.call(key, Method::POST, "/v1/users/anna/clear-sessions", &body.to_string());
    for (body, stays, reason) in [
        (json!({}), 2, "signed_in_elsewhere"),
        (json!({"by": "anna"}), 2, "signed_in_elsewhere"),
        (json!({"force": true}), 0, "signed_out_elsewhere"),
        (json!({"by": "support"}), 0, "revoked_by_admin"),
    ] {
        let sessions: Vec<_> = (0..5).map(|_| start()).collect();
        let newest_first: Vec<_> = sessions.iter().rev().map(|(_, id)| json!(id)).collect();
        let mut preview = body.clone();
        preview["dry_run"] = true.into();
        let preview = clear(&server.write, &preview).expect(200);
        let would_end = preview.at("/would_end").as_array().unwrap().clone();
        assert_eq!(would_end[..5 - stays], newest_first[stays..], "{body}");
        assert_eq!((preview.at("/ended"), preview.at("/matched")), (json!([]), json!(would_end.len())));

        let cleared = clear(&server.write, &body).expect(200);
        assert_eq!(cleared.at("/ended"), json!(would_end));
        assert_eq!(cleared.json().get("would_end"), None);
        let gone = server.resume(&sessions[0].0).expect_problem(410, "session_ended");
        let by = body["by"].as_str().map_or("key:writer".into(), |by| format!("key:writer for {by}"));
        assert_eq!((gone.at("/reason"), gone.at("/by")), (json!(reason), json!(by)));
        let keep = &newest_first[0];
        let left = clear(&server.write, &json!({"force": true, "keep": keep})).expect(200);
        assert_eq!(left.at("/matched"), stays.saturating_sub(1), "the kept one stays");
        clear(&server.write, &json!({"force": true})).expect(200);
    }
    clear(&server.read, &json!({})).expect_problem(403, "scope_missing");
}

#[test]
fn bad_input_is_refused_by_name_and_changes_nothing() {
    let server = TestServer::start();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    for (body, field, word) in [
        (
            json!({"enabled": false, "allowed_networks": ["10.0.0.0/8", "10.1.2.3/8"]}),
            "allowed_networks[1]",
            "10.0.0.0/8",
        ),
        (json!({"enabled": false, "allowed_networks": ["192.168."]}), "allowed_networks[0]", "192.168.0.0/16"),
        (json!({"enabled": false, "allowed_networks": "10.0.0.0/8"}), "allowed_networks", "a list, not text"),
        (json!({"enabled": false, "session_limit": 0}), "session_limit", "at least one"),
        (json!({"enabled": false, "session_limit": -1}), "session_limit", "from 0"),
        (json!({"enabled": false, "when_full": "explode"}), "when_full", "explode"),
        (json!({"enabled": "no"}), "enabled", "true or false"),
        (json!({"enabled": false, "full_name": "x".repeat(257)}), "full_name", "256"),
    ] {
        let refused = patch(&server, "anna", &body).expect_problem(422, "invalid_field");
        assert_eq!(refused.at("/field"), field, "{body}");
        assert!(refused.text_of("/detail").contains(word), "{}", refused.text);
    }
    let refused = patch(&server, "anna", &json!({"enabeld": false})).expect_problem(422, "unknown_field");
    assert_eq!(refused.at("/field"), "enabeld");
    for user in ["%00", "a%0Ab", &"u".repeat(257)] {
        assert_eq!(patch(&server, user, &json!({})).expect_problem(422, "invalid_field").at("/field"), "user");
        server.get(&format!("/v1/users/{user}")).expect_problem(422, "invalid_field");
        delete(&server, user).expect_problem(422, "invalid_field");
        let path = format!("/v1/users/{user}/clear-sessions");
        server.post(&path, "{}").expect_problem(422, "invalid_field");
    }
    server.get("/v1/users/%FF").expect_problem(422, "invalid_field");
    server.get("/v1/users?cursor=*").expect_problem(422, "invalid_parameter");
    server.get("/v1/users?limit=0").expect_problem(422, "invalid_parameter");
    server.post("/v1/users/anna/clear-sessions", r#"{"keep":"x"}"#).expect_problem(422, "invalid_field");
    server.resume(&token).expect(200);
    server.get("/v1/users/anna").expect_problem(404, "user_unknown");
}

#[test]
fn the_directory_needs_an_administrators_key() {
    let server = TestServer::start();
    for key in [&server.read, &server.write] {
        for (method, path) in [
            (Method::GET, "/v1/users"),
            (Method::GET, "/v1/users/anna"),
            (Method::PATCH, "/v1/users/anna"),
            (Method::DELETE, "/v1/users/anna"),
        ] {
            server.call(key, method, path, "").expect_problem(403, "scope_missing");
        }
    }
}

#[test]
fn users_are_set_shown_listed_and_deleted_over_the_api_and_on_the_store() {
    for over_the_api in [true, false] {
        let directory = Directory::new();
        let server = over_the_api.then(|| directory.serve(&[]));
        let target = match &server {
            Some(server) => ["--server", server.url.as_str()],
            None => ["--store", "sqlite:cloakroom.db"],
        };
        let run = |arguments: &[&str]| directory.run(&[arguments, &target[..]].concat());
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();

        let set = [
            "users",
            "set",
            "anna",
            "--full-name",
            "Anna Berg",
            "--session-limit",
            "2",
            "--when-full",
            "refuse",
            "--network",
            "10.0.0.0/8",
            "--network",
            "2001:db8::1",
        ];
        let shown = run(&set).expect(0).out;
        for line in [
            "id                anna",
            "enabled           yes",
            "session limit     2",
            "when full         refuse",
            "allowed networks  10.0.0.0/8, 2001:db8::1",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        assert_eq!(run(&["users", "show", "anna"]).expect(0).out, shown);
        run(&["users", "show", "nobody"]).expect(4);
        run(&["start", "--user", "anna", "--ip", "10.1.2.3"]).expect(0);
        run(&["start", "--user", "anna"]).expect(1);
        let emptied = ["users", "set", "anna", "--full-name", "", "--session-limit", "none", "--anywhere", "--json"];
        let emptied = json(&run(&emptied).expect(0).out);
        assert_eq!(emptied["user"]["full_name"], Value::Null);
        assert_eq!(
            (&emptied["user"]["session_limit"], &emptied["user"]["when_full"]),
            (&Value::Null, &"refuse".into())
        );
        assert_eq!(emptied["user"]["allowed_networks"], serde_json::json!([]));
        assert_eq!(emptied["user"]["last_sign_in"]["ip"], "10.1.2.3");

        run(&["users", "set", "ben"]).expect(0);
        let listed = run(&["users", "list"]).expect(0).out;
        assert!(listed.starts_with("USER ") && listed.contains("anna") && listed.contains("ben"), "{listed}");
        assert_eq!(json(&run(&["users", "list", "--json"]).expect(0).out)["users"].as_array().unwrap().len(), 2);

        let refused = run(&["users", "set", "anna", "--network", "10.1.2.3/8"]).expect(1);
        assert!(refused.err.contains("allowed_networks[0]") && refused.err.contains("10.0.0.0/8"), "{}", refused.err);
        run(&["users", "set", "anna", "--network", "::1", "--anywhere"]).expect(2);
        run(&["users", "set", "anna", "--session-limit", "many"]).expect(2);

        assert!(run(&["users", "set", "anna", "--disabled"]).expect(0).out.contains("1 sessions ended"));
        run(&["start", "--user", "anna"]).expect(1);
        assert_eq!(run(&["users", "delete", "ben"]).expect(0).out, "ben deleted, 0 sessions ended\n");
        assert_eq!(run(&["users", "delete", "ben"]).expect(0).out, "ben was not in the directory, 0 sessions ended\n");
    }
}

#[test]
fn clear_sessions_on_the_command_line_shows_and_ends() {
    let directory = Directory::new();
    let run = |arguments: &[&str]| directory.run(&[arguments, &["--store", "sqlite:cloakroom.db"][..]].concat());
    for _ in 0..3 {
        run(&["start", "--user", "anna"]).expect(0);
    }
    let preview = run(&["clear-sessions", "anna", "--dry-run"]).expect(0).out;
    assert!(preview.ends_with("2 would end\n"), "{preview}");
    let ended = run(&["clear-sessions", "anna"]).expect(0).out;
    assert_eq!(ended.lines().take(2).collect::<Vec<_>>(), preview.lines().take(2).collect::<Vec<_>>());
    assert!(ended.ends_with("2 ended\n"), "{ended}");
    let forced = run(&["clear-sessions", "anna", "--force", "--json"]).expect(0).out;
    assert_eq!(serde_json::from_str::<Value>(&forced).unwrap()["matched"], 1);
    let log = run(&["audit", "--user", "anna"]).expect(0).out;
    assert!(log.contains("reason: signed_in_elsewhere") && log.contains("reason: signed_out_elsewhere"), "{log}");
}

#[test]
fn restrict_ip_is_honoured_by_forward_auth_behind_proxies_that_are_trusted() {
    let proxies = TrustedProxies::parse("127.0.0.0/8").unwrap();
    let server = TestServer::with(|server| server.trusted_proxies(proxies));
    patch(&server, "anna", &json!({"allowed_networks": ["10.0.0.0/8"]})).expect(200);
    let (token, _) = server.start_session(r#"{"user":"anna","client":{"ip":"10.1.2.3"}}"#);
    let cookie = format!("__Host-session={token}");
    let ask = |from: &str| server.plain("/auth", &[("cookie", &cookie), ("x-forwarded-for", from)]);
    assert_eq!(ask("10.9.9.9").expect(200).header("x-user"), "anna");
    ask("192.0.2.1").expect_problem(403, "network_not_allowed");
    // What stands left of the proxy's word is the visitor's own.
    ask("10.9.9.9, 192.0.2.1").expect_problem(403, "network_not_allowed");
    ask("nonsense").expect_problem(403, "network_not_allowed");
    server.plain("/auth", &[("cookie", &cookie)]).expect_problem(403, "network_not_allowed");
}

#[test]
fn set_impersonated_on_the_command_line_there_and_back() {
    let directory = Directory::new();
    let store = ["--store", "sqlite:cloakroom.db"];
    let run = |token: &str, arguments: &[&str]| directory.run_reading(token, &[arguments, &store[..]].concat());
    let own = run("", &["start", "--user", "root"]).expect(0).out;
    let shown = |token: &str| run("", &["show", &token[..24]]).expect(0).out;

    run("", &["users", "set", "anna"]).expect(0);

    let begin = ["impersonate", "anna", "--reason", "ticket 17", "--for", "15m"];
    let acting = run(&format!("{own}\n"), &begin).expect(0).out;
    let told = shown(&acting);
    assert!(told.contains("user              anna") && told.contains("impersonated by   root"), "{told}");
    let listed = run("", &["list"]).expect(0).out;
    assert!(listed.lines().any(|line| line.contains("anna") && line.contains("root")), "{listed}");
    assert!(run(&own, &begin).expect(4).err.contains("ended"), "the actor's own token is dead meanwhile");

    let back = run(&acting, &["stop-impersonating", "--json"]).expect(0).out;
    let back: Value = serde_json::from_str(&back).unwrap();
    assert_eq!((&back["session"]["user"], &back["session"]["impersonated_by"]), (&"root".into(), &Value::Null));
    run(&acting, &["stop-impersonating"]).expect(4);

    let own = back["token"].as_str().unwrap();
    let auditing = run(own, &[&begin[..], &["--as-auditor"]].concat()).expect(0).out;
    let told = shown(&auditing);
    assert!(told.contains("impersonated by   root") && told.contains("audit user        root"), "{told}");

    assert!(run("\n", &begin).expect(2).err.contains("standard input"));
    run(own, &["impersonate", "anna"]).expect(2);
    let log = run("", &["audit", "--user", "anna"]).expect(0).out;
    assert!(log.contains("ticket 17") && !log.contains(own), "{log}");
}

#[test]
fn validate_user_lets_only_known_users_in_where_that_is_set() {
    let directory = Directory::new();
    let server = directory.serve_with(&["--trusted-proxies", "127.0.0.1"], &[("CLOAKROOM_ONLY_KNOWN_USERS", "true")]);
    let start = || server.call(Method::POST, "/v1/sessions", r#"{"user":"anna"}"#);
    start().expect_problem(403, "not_in_directory");
    server.call(Method::PATCH, "/v1/users/anna", r#"{"allowed_networks":["10.0.0.0/8"]}"#).expect(200);
    let with_address = r#"{"user":"anna","client":{"ip":"10.1.2.3"}}"#;
    let started = server.call(Method::POST, "/v1/sessions", with_address).expect(201);
    let token = started.json()["token"].as_str().unwrap().to_owned();
    let ask = |from: &str| {
        let request = agent().get(format!("{}/auth", server.url)).header("cookie", format!("__Host-session={token}"));
        request.header("x-forwarded-for", from).call().unwrap().status().as_u16()
    };
    assert_eq!((ask("10.1.2.3"), ask("192.0.2.1")), (200, 403));

    let wrong = directory.run(&["serve", "--trusted-proxies", "10.0.0.0/33", "--listen", "127.0.0.1:0"]).expect(2);
    assert!(wrong.err.contains("--trusted-proxies") && wrong.err.contains("10.0.0.0/33"), "{}", wrong.err);
}
