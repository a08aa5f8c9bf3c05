//! The API over real HTTP, on a real database.

use std::{collections::BTreeSet, time::Duration};

use crate::common::{Answer, TestServer};
use http::Method;
use serde_json::json;

fn ids(answer: &Answer, pointer: &str) -> BTreeSet<String> {
    let ids = answer.at(pointer);
    ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap_or_else(|| id["id"].as_str().unwrap()).into()).collect()
}

fn set<const N: usize>(ids: [&String; N]) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

#[test]
fn a_session_from_start_to_end() {
    let server = TestServer::start();
    let started = server.post(
        "/v1/sessions",
        r#"{"user":"anna","full_name":"Anna Berg","user_type":"customer","methods":"pwd otp","level":2,"idle_seconds":600,
            "ends_at":"2100-01-01T00:00:00Z","remember":true,"data":{"cart":[1]},
            "client":{"ip":"192.0.2.7","user_agent":"Firefox","device":"phone","country":"DE"}}"#,
    );
    let started = started.expect(201);
    assert_eq!(started.header("cache-control"), "no-store");
    let (token, id) = (started.text_of("/token"), started.text_of("/session/id"));
    assert!(started.text_of("/set_cookie").starts_with(&format!("__Host-session={token}; Path=/; Max-Age=")));
    assert_eq!(started.at("/ended"), json!([]));

    let session = server.resume(&token).expect(200).at("/session");
    assert_eq!(session, started.at("/session"));
    for (field, value) in [
        ("user", json!("anna")),
        ("full_name", json!("Anna Berg")),
        ("user_type", json!("customer")),
        ("audit_user", json!(null)),
        ("ends_at", json!("2100-01-01T00:00:00.000Z")),
        ("idle_seconds", json!(600)),
        ("remember", json!(true)),
        ("client", json!({"ip": "192.0.2.7", "user_agent": "Firefox", "device": "phone", "country": "DE"})),
        ("impersonated_by", json!(null)),
        ("methods", json!("pwd otp")),
        ("level", json!(2)),
        ("version", json!(0)),
        ("data", json!({"cart": [1]})),
    ] {
        assert_eq!(session[field], value, "{field}");
    }

    let patched = server.patch(&id, r#"{"set":{"theme":"dark","note":null},"remove":["cart"],"add":{"visits":1}}"#);
    assert_eq!(patched.expect(200).at("/session/data"), json!({"theme": "dark", "note": null, "visits": 1}));
    let shown = server.get(&format!("/v1/sessions/{id}")).expect(200);
    assert_eq!(shown.at("/session/version"), 1);

    let listed = server.get("/v1/sessions?user=anna").expect(200);
    assert_eq!(ids(&listed, "/sessions"), set([&id]));
    assert!(!listed.text.contains("theme"), "listings leave the data out");

    let rotated = server.post("/v1/sessions/rotate", &json!({ "token": token }).to_string()).expect(200);
    let successor = rotated.text_of("/token");
    assert_ne!(successor, token);
    assert_eq!(rotated.text_of("/session/id"), id);
    assert!(rotated.text_of("/set_cookie").contains(&successor));

    let ended = server.end(&id).expect(200);
    assert_eq!(ended.at("/ended_now"), true);
    assert!(ended.text_of("/clear_cookie").starts_with("__Host-session=; Path=/; Max-Age=0"));
    let again = server.end(&id).expect(200);
    assert_eq!((again.at("/ended_now"), again.at("/reason")), (json!(false), json!("signed_out")));

    let gone = server.resume(&successor).expect_problem(410, "session_ended");
    assert_eq!(gone.at("/reason"), "signed_out");
    assert_eq!(server.get("/v1/sessions").at("/sessions"), json!([]));

    let audit = server.get(&format!("/v1/audit?session={id}")).expect(200).at("/entries");
    let events: Vec<_> = audit.as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["signed_in", "rotated", "ended"]);
}

#[test]
fn an_empty_body_starts_an_anonymous_session() {
    let server = TestServer::start();
    let started = server.call(&server.write, Method::POST, "/v1/sessions", "{}").expect(201);
    assert_eq!(started.at("/session/user"), json!(null));
    assert_eq!(started.at("/session/authenticated_at"), json!(null));
}

#[test]
fn i1_eight_clients_with_fifty_patches_each_lose_none() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, id) = (&server, &id);
            scope.spawn(move || {
                std::thread::scope(|scope| {
                    for n in 0..50 {
                        scope.spawn(move || {
                            server.patch(id, &format!(r#"{{"set":{{"c{client}.{n}":{n}}}}}"#)).expect(200);
                        });
                    }
                });
            });
        }
    });
    let session = server.get(&format!("/v1/sessions/{id}")).at("/session");
    assert_eq!(session["version"], 400);
    for client in 0..8 {
        for n in 0..50 {
            assert_eq!(session["data"][format!("c{client}.{n}")], n);
        }
    }
}

#[test]
fn i1_parallel_additions_are_all_counted() {
    let server = TestServer::start();
    let (_, id) = server.start_session(r#"{"data":{"n":18446744073709551615}}"#);
    let sums: BTreeSet<String> = std::thread::scope(|scope| {
        let additions: Vec<_> =
            (0..50).map(|_| scope.spawn(|| server.patch(&id, r#"{"add":{"n":1}}"#).expect(200).text)).collect();
        additions.into_iter().map(|addition| addition.join().unwrap()).collect()
    });
    assert_eq!(sums.len(), 50, "each is told its own sum");
    let shown = server.get(&format!("/v1/sessions/{id}")).text;
    assert!(shown.contains(r#""n":18446744073709551665"#), "{shown}");
}

#[test]
fn i1_clients_that_never_pause_are_all_served() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, id) = (&server, &id);
            scope.spawn(move || {
                for n in 0..50 {
                    let body = format!(r#"{{"add":{{"all":1}},"set":{{"c{client}":{n}}}}}"#);
                    server.patch(id, &body).expect(200);
                }
            });
        }
    });
    assert_eq!(server.get(&format!("/v1/sessions/{id}")).at("/session/data/all"), 400);
}

#[test]
fn i17_values_come_back_byte_for_byte() {
    let server = TestServer::start();
    let data =
        r#"{"$a.b[0]\"\\":-0.0,"big":18446744073709551615,"deep":{"z":1,"a":[1e400,  2]},"nul":"\u0000","ключ":1.10}"#;
    // This test reads text alone: few JSON readers keep all of these values themselves.
    let started = server.post("/v1/sessions", &format!(r#"{{"data":{data}}}"#)).expect(201).text;
    let token = &started[r#"{"token":""#.len()..][..67];
    let id = &token[..24];
    for text in [&started, &server.resume(token).text, &server.get(&format!("/v1/sessions/{id}")).text] {
        assert!(text.contains(&format!(r#""data":{data}"#)), "{text}");
    }
    let patched = server.patch(id, r#"{"set":{"n":{"b":1.0,"a":[ ]}}}"#).text;
    assert!(patched.contains(r#""n":{"b":1.0,"a":[ ]}"#), "{patched}");
}

#[test]
fn a_version_that_is_outdated_is_told_the_fresh_session() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    server.patch(&id, r#"{"set":{"a":1},"if_version":0}"#).expect(200);
    for stale in [r#"{"set":{"a":2},"if_version":0}"#, r#"{"add":{"a":2},"if_version":0}"#, r#"{"if_version":0}"#] {
        let conflict = server.patch(&id, stale).expect_problem(409, "version_conflict");
        assert_eq!(conflict.at("/session/version"), 1);
        assert_eq!(conflict.at("/session/data"), json!({"a": 1}));
    }
    server.patch(&id, r#"{"add":{"a":2},"if_version":1}"#).expect(200);
}

#[test]
fn sums_that_cannot_be_are_refused_and_change_nothing() {
    let server = TestServer::start();
    let (_, id) = server.start_session(r#"{"data":{"name":"x","max":170141183460469231731687303715884105727}}"#);
    let refused = server.patch(&id, r#"{"add":{"name":1},"set":{"other":1}}"#).expect_problem(422, "not_a_number");
    assert_eq!(refused.at("/key"), "name");
    server.patch(&id, r#"{"add":{"max":1}}"#).expect_problem(422, "number_overflow");
    server.patch(&id, r#"{"add":{"max":"1"}}"#).expect_problem(422, "invalid_field");
    server.patch(&id, r#"{"add":{"max":1},"set":{"max":1}}"#).expect_problem(422, "duplicate_field");
    let shown = server.get(&format!("/v1/sessions/{id}"));
    assert_eq!(shown.at("/session/version"), 0);
}

#[test]
fn i11_data_over_its_limit_is_refused_whole() {
    let server = TestServer::start();
    let (_, id) = server.start_session("{}");
    let large = "x".repeat(65_536);
    let refused = server.patch(&id, &json!({"set": {"small": 1, "large": large}}).to_string());
    let refused = refused.expect_problem(413, "data_too_large");
    assert_eq!(refused.at("/key"), "large");
    server.post("/v1/sessions", &json!({"data": {"large": large}}).to_string()).expect_problem(413, "data_too_large");
    assert_eq!(server.get(&format!("/v1/sessions/{id}")).at("/session/data"), json!({}));
}

#[test]
fn l5_nothing_brings_an_ended_session_back() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    server.end(&id).expect(200);
    for late in [r#"{"set":{"a":1}}"#, r#"{"add":{"a":1}}"#, r#"{"remove":["a"]}"#, "{}"] {
        let gone = server.patch(&id, late).expect_problem(410, "session_ended");
        assert_eq!(gone.at("/reason"), "signed_out");
    }
    server.post("/v1/sessions/rotate", &json!({ "token": token }).to_string()).expect_problem(410, "session_ended");
    server.get(&format!("/v1/sessions/{id}")).expect_problem(410, "session_ended");
    assert_eq!(server.get("/v1/sessions?user=anna").at("/sessions"), json!([]));
}

#[test]
fn r1_sign_out_is_final_and_repeating_it_is_harmless() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    server.call(&server.write, Method::DELETE, &format!("/v1/sessions/{id}?reason=signed_out"), "").expect(200);
    server.resume(&token).expect_problem(410, "session_ended");
    let again = format!("/v1/sessions/{id}?reason=revoked_by_admin&note=again");
    let again = server.call(&server.write, Method::DELETE, &again, "").expect(200);
    assert_eq!(again.at("/reason"), "signed_out", "the first ending counts");
}

#[test]
fn r3_all_others_end_and_the_current_one_lives() {
    let server = TestServer::start();
    let [(kept, kept_id), (other, other_id), (third, third_id)] =
        std::array::from_fn(|_| server.start_session(r#"{"user":"anna"}"#));
    let (bystander, _) = server.start_session(r#"{"user":"ben"}"#);
    let request = json!({"user": "anna", "except": [kept_id], "reason": "signed_out_elsewhere", "dry_run": true});
    let preview = server.post("/v1/sessions/revoke", &request.to_string()).expect(200);
    assert_eq!((preview.at("/matched"), preview.at("/ended")), (json!(2), json!([])));
    assert_eq!(ids(&preview, "/would_end"), set([&other_id, &third_id]));
    server.resume(&other).expect(200);

    let request = json!({"user": "anna", "except": [kept_id], "reason": "signed_out_elsewhere"});
    let revoked = server.post("/v1/sessions/revoke", &request.to_string()).expect(200);
    assert_eq!(ids(&revoked, "/ended"), set([&other_id, &third_id]));
    for token in [other, third] {
        assert_eq!(server.resume(&token).expect(410).at("/reason"), "signed_out_elsewhere");
    }
    for token in [kept, bystander] {
        server.resume(&token).expect(200);
    }
}

#[test]
fn r4_an_administrator_ends_one_some_or_all() {
    let server = TestServer::start();
    let (one, one_id) = server.start_session(r#"{"user":"anna"}"#);
    let (phone, _) = server.start_session(r#"{"user":"ben","client":{"device":"phone","ip":"192.0.2.1"}}"#);
    let (laptop, _) = server.start_session(r#"{"user":"ben","client":{"device":"laptop","ip":"192.0.2.1"}}"#);
    let (visitor, visitor_id) = server.start_session("{}");

    let path = format!("/v1/sessions/{one_id}?reason=revoked_by_admin&note=stolen%20phone");
    server.call(&server.admin, Method::DELETE, &path, "").expect(200);
    let gone = server.resume(&one).expect(410);
    assert_eq!((gone.at("/reason"), gone.at("/by")), (json!("revoked_by_admin"), json!("key:root")));
    assert_eq!(gone.at("/note"), "stolen phone");

    let revoked = server.post("/v1/sessions/revoke", r#"{"ip":"192.0.2.1","device":"phone"}"#).expect(200);
    assert_eq!(revoked.at("/matched"), 1);
    server.resume(&phone).expect(410);
    server.resume(&laptop).expect(200);

    let all = json!({"all": true, "except": [visitor_id]});
    assert_eq!(server.post("/v1/sessions/revoke", &all.to_string()).expect(200).at("/matched"), 1);
    assert_eq!(server.resume(&laptop).expect(410).at("/reason"), "all_revoked");
    server.resume(&visitor).expect(200);

    server.post("/v1/sessions/revoke", "{}").expect_problem(422, "query_empty");
    server.post("/v1/sessions/revoke", r#"{"except":[]}"#).expect_problem(422, "query_empty");
    server.post("/v1/sessions/revoke", r#"{"all":true,"user":"anna"}"#).expect_problem(422, "invalid_field");
    server.post("/v1/sessions/revoke", r#"{"user":"a","reason":"bored"}"#).expect_problem(422, "invalid_field");
}

#[test]
fn r4_an_address_is_one_value_however_it_is_spelled() {
    let spellings = ["192.0.2.9", "::ffff:192.0.2.9", "[::ffff:c000:209]:4711", "192.0.2.9:4711"];
    for stored in spellings {
        for asked in spellings {
            let server = TestServer::start();
            let (token, _) = server.start_session(&json!({"user": "anna", "client": {"ip": stored}}).to_string());
            let shown = server.resume(&token).expect(200);
            assert_eq!(shown.at("/session/client/ip"), "192.0.2.9", "{stored}");
            let listed = server.get(&format!("/v1/sessions?ip={}", asked.replace('[', "%5B").replace(']', "%5D")));
            assert_eq!(listed.expect(200).at("/sessions/0/id"), shown.at("/session/id"), "{stored} {asked}");
            let revoked = server.post("/v1/sessions/revoke", &json!({"ip": asked}).to_string()).expect(200);
            assert_eq!(revoked.at("/matched"), 1, "{stored} {asked}");
            server.resume(&token).expect(410);
        }
    }
    let server = TestServer::start();
    let zoned = json!({"user": "anna", "client": {"ip": "fe80::1%eth0"}}).to_string();
    server.start_session(&zoned);
    assert_eq!(server.post("/v1/sessions/revoke", r#"{"ip":"fe80::1"}"#).expect(200).at("/matched"), 1);
}

#[test]
fn r4_what_nobody_used_for_long_can_be_ended() {
    let server = TestServer::start();
    let (old, _) = server.start_session(r#"{"user":"anna"}"#);
    server.clock.advance(Duration::from_mins(30));
    let (new, _) = server.start_session(r#"{"user":"ben"}"#);
    assert_eq!(server.post("/v1/sessions/revoke", r#"{"idle_longer_than":1200}"#).expect(200).at("/matched"), 1);
    server.resume(&old).expect(410);
    server.resume(&new).expect(200);
}

#[test]
fn r6_fifty_parallel_sign_ins_leave_exactly_three_sessions() {
    for (when_full, refused) in [("evict", 0), ("refuse", 47)] {
        let server = TestServer::start();
        let body = json!({"user": "anna", "limit": {"max": 3, "when_full": when_full}}).to_string();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let sign_ins: Vec<_> = (0..50).map(|_| scope.spawn(|| server.post("/v1/sessions", &body))).collect();
            sign_ins.into_iter().map(|sign_in| sign_in.join().unwrap()).collect()
        });
        let (started, not_started): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
        assert_eq!(not_started.len(), refused);
        for answer in not_started {
            answer.expect_problem(409, "session_limit");
        }
        let resumed: Vec<_> = started.iter().map(|answer| server.resume(&answer.text_of("/token"))).collect();
        assert_eq!(resumed.iter().filter(|answer| answer.status == 200).count(), 3);
        for evicted in resumed.into_iter().filter(|answer| answer.status != 200) {
            assert_eq!(evicted.expect_problem(410, "session_ended").at("/reason"), "signed_in_elsewhere");
        }
    }
}

#[test]
fn t3_a_token_of_the_clients_choice_is_never_adopted() {
    let server = TestServer::start();
    let chosen = "A".repeat(67);
    server.resume(&chosen).expect_problem(404, "session_unknown");
    server.post("/v1/sessions/rotate", &json!({ "token": chosen }).to_string()).expect_problem(404, "session_unknown");
    let refused = server.post("/v1/sessions", &json!({"user": "anna", "replaces": chosen}).to_string());
    assert_eq!(refused.expect_problem(404, "session_unknown").at("/field"), "replaces");
    assert_eq!(server.get("/v1/sessions").at("/sessions"), json!([]), "nothing was stored");
}

#[test]
fn t5_a_token_with_any_character_changed_opens_nothing() {
    let server = TestServer::start();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    for at in 0..token.len() {
        let other = if &token[at..=at] == "A" { "Q" } else { "A" };
        let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        server.resume(&changed).expect_problem(404, "session_unknown");
    }
    server.resume(&token).expect(200);
}

#[test]
fn t8_the_id_alone_opens_nothing_and_learns_nothing() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    let forged = format!("{id}{}", "B".repeat(42) + "A");
    server.resume(&forged).expect_problem(404, "session_unknown");
    server.post("/v1/sessions/rotate", &json!({ "token": forged }).to_string()).expect_problem(404, "session_unknown");
    server.resume(&token).expect(200);
    server.end(&id).expect(200);
    server.resume(&forged).expect_problem(404, "session_unknown");
}

#[test]
fn i14_a_visitors_data_is_carried_into_the_sign_in() {
    let server = TestServer::start();
    let (visitor, visitor_id) = server.start_session(r#"{"data":{"cart":[7],"seen":1}}"#);
    let body = json!({"user": "anna", "replaces": visitor, "data": {"seen": 2}}).to_string();
    let signed_in = server.post("/v1/sessions", &body).expect(201);
    assert_eq!(signed_in.at("/session/data"), json!({"cart": [7], "seen": 2}));
    assert_eq!(ids(&signed_in, "/ended"), set([&visitor_id]));
    let gone = server.resume(&visitor).expect(410);
    assert_eq!((gone.at("/reason"), gone.at("/clear_cookie")), (json!("replaced"), json!(null)));

    let anna = signed_in.text_of("/token");
    let ben = server.post("/v1/sessions", &json!({"user": "ben", "replaces": anna}).to_string()).expect(201);
    assert_eq!(ben.at("/session/data"), json!({}), "another user starts with fresh data");

    let (visitor, _) = server.start_session(r#"{"data":{"cart":[7]}}"#);
    let body = json!({"user": "anna", "replaces": visitor, "fresh_data": true}).to_string();
    assert_eq!(server.post("/v1/sessions", &body).expect(201).at("/session/data"), json!({}));
    // Its place was taken already: there is nothing to replace, and nothing wrong.
    assert_eq!(server.post("/v1/sessions", &body).expect(201).at("/ended"), json!([]));
}

#[test]
fn a_repeated_start_ends_the_first_try() {
    let server = TestServer::start();
    let request = || {
        let agent = crate::common::agent();
        let request = http::Request::post(format!("http://{}/v1/sessions", server.address))
            .header("authorization", format!("Bearer {}", server.write))
            .header("content-type", "application/json")
            .header("idempotency-key", "order-7")
            .body(r#"{"user":"anna","limit":{"max":1,"when_full":"refuse"}}"#)
            .unwrap();
        let mut response = agent.run(request).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    };
    let (status, first) = request();
    assert_eq!(status, 201);
    let (status, second) = request();
    assert_eq!(status, 201, "the repeat does not count twice: {second}");
    let token =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["token"].as_str().unwrap().to_owned();
    server.resume(&token(&first)).expect_problem(410, "session_ended");
    server.resume(&token(&second)).expect(200);
}

#[test]
fn l4_of_parallel_rotations_one_wins_and_the_losers_keep_a_working_token() {
    let server = TestServer::start();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    let body = json!({ "token": token }).to_string();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let rotations: Vec<_> = (0..50).map(|_| scope.spawn(|| server.post("/v1/sessions/rotate", &body))).collect();
        rotations.into_iter().map(|rotation| rotation.join().unwrap().expect(200)).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.text_of("/token") != token);
    assert_eq!(won.len(), 1);
    assert!(won[0].at("/set_cookie").is_string());
    assert!(lost.iter().all(|answer| answer.at("/set_cookie").is_null()));
    for answer in &answers {
        server.resume(&answer.text_of("/token")).expect(200);
    }
}

#[test]
fn x1_an_idle_session_ends_and_is_told_so() {
    let server = TestServer::start();
    let (idle, _) = server.start_session(r#"{"user":"anna","idle_seconds":60}"#);
    let (used, _) = server.start_session(r#"{"user":"ben","idle_seconds":60}"#);
    server.clock.advance(Duration::from_secs(59));
    server.resume(&used).expect(200);
    // The reaper writes what was noted first.
    assert_eq!(server.post("/v1/reap", "").expect(200).at("/ended"), 0);
    server.clock.advance(Duration::from_secs(1));
    server.resume(&used).expect(200);
    assert_eq!(server.resume(&idle).expect_problem(410, "session_ended").at("/reason"), "idle_timeout");
    assert_eq!(server.post("/v1/reap", "").expect(200).at("/ended"), 1);
    assert_eq!(server.resume(&idle).expect(410).at("/reason"), "idle_timeout");
}

#[test]
fn looking_without_touching_does_not_keep_a_session_alive() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna","idle_seconds":60}"#);
    server.clock.advance(Duration::from_secs(59));
    server.post("/v1/sessions/resume", &json!({"token": token, "touch": false}).to_string()).expect(200);
    server.get(&format!("/v1/sessions/{id}")).expect(200);
    server.post("/v1/reap", "").expect(200);
    server.clock.advance(Duration::from_secs(1));
    server.resume(&token).expect_problem(410, "session_ended");
}

#[test]
fn many_tokens_are_answered_in_their_order() {
    let server = TestServer::start();
    let (live, live_id) = server.start_session(r#"{"user":"anna"}"#);
    let (ended, ended_id) = server.start_session(r#"{"user":"ben"}"#);
    server.end(&ended_id).expect(200);
    let request = json!({"tokens": ["no token", ended, live]}).to_string();
    let results = server.post("/v1/sessions/resume-many", &request).expect(200);
    assert_eq!(results.at("/results/0/problem/code"), "session_unknown");
    assert_eq!(results.at("/results/1/problem/reason"), "signed_out");
    assert_eq!(results.at("/results/2/session/id"), live_id);
    let too_many = json!({"tokens": vec!["x"; 101]}).to_string();
    server.post("/v1/sessions/resume-many", &too_many).expect_problem(422, "invalid_field");
}

#[test]
fn listings_and_the_audit_log_are_read_in_pages() {
    let server = TestServer::start();
    let mut started = Vec::new();
    for _ in 0..7 {
        started.push(server.start_session(r#"{"user":"anna"}"#).1);
        server.clock.advance(Duration::from_millis(1));
    }
    let mut listed = Vec::new();
    let mut path = "/v1/sessions?user=anna&limit=3".to_owned();
    loop {
        let page = server.get(&path).expect(200).json();
        listed.extend(page["sessions"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/sessions?user=anna&limit=3&cursor={next}");
    }
    started.reverse();
    assert_eq!(listed, started, "newest first, each once");

    let mut read = 0;
    let mut after = String::new();
    loop {
        let page = server.get(&format!("/v1/audit?user=anna&limit=3{after}")).expect(200).json();
        read += page["entries"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(read, 7);
    server.get("/v1/sessions?cursor=made-up").expect_problem(422, "invalid_parameter");
    server.get("/v1/sessions?limit=501").expect_problem(422, "invalid_parameter");
    server.get("/v1/sessions?limit=0").expect_problem(422, "invalid_parameter");
}

#[test]
fn a_key_can_do_what_its_scope_covers_and_no_more() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    let with_token = json!({ "token": token }).to_string();
    let one = format!("/v1/sessions/{id}");
    let calls = [
        ("read", Method::POST, "/v1/sessions/resume", with_token.as_str()),
        ("read", Method::POST, "/v1/sessions/resume-many", r#"{"tokens":[]}"#),
        ("read", Method::GET, &one, ""),
        ("read", Method::GET, "/v1/sessions", ""),
        ("read", Method::GET, "/v1/audit", ""),
        ("write", Method::POST, "/v1/sessions", "{}"),
        ("write", Method::PATCH, &one, "{}"),
        ("write", Method::POST, "/v1/sessions/rotate", &with_token),
        ("admin", Method::POST, "/v1/reap", "{}"),
        ("admin", Method::POST, "/v1/sessions/revoke", r#"{"user":"nobody"}"#),
        ("write", Method::DELETE, &one, ""),
    ];
    let scopes = [("read", &server.read), ("write", &server.write), ("admin", &server.admin)];
    let rank = |scope: &str| scopes.iter().position(|(name, _)| *name == scope).unwrap();
    for (needed, method, path, body) in calls {
        let unknown = server.call(&"x".repeat(46), method.clone(), path, body).expect_problem(401, "unauthorized");
        assert!(unknown.header("www-authenticate").starts_with("Bearer"));
        for (scope, key) in scopes {
            let answer = server.call(key, method.clone(), path, body);
            if rank(scope) < rank(needed) {
                assert_eq!(answer.expect_problem(403, "scope_missing").at("/scope"), needed, "{method} {path}");
            } else {
                assert!(answer.status < 300, "{scope} {method} {path}: {}", answer.text);
            }
        }
    }
    server.plain("/v1/sessions", &[]).expect_problem(401, "unauthorized");
}

#[test]
fn health_needs_no_key() {
    let server = TestServer::start();
    assert_eq!(server.plain("/healthz", &[]).expect(200).at("/status"), "ok");
    assert_eq!(server.plain("/readyz", &[]).expect(200).at("/status"), "ready");
}

#[test]
fn t7_metrics_count_and_tell_no_secret() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    server.resume(&token).expect(200);
    server.plain(&format!("/{token}"), &[]).expect(404);
    let metrics = server.plain("/metrics", &[]).expect(200).text;
    assert!(metrics.contains("{route=\"/v1/sessions/resume\",status=\"2xx\"} 1\n"), "{metrics}");
    for secret in [&token[24..], &id, "anna", &server.admin[3..]] {
        assert!(!metrics.contains(secret), "{metrics}");
    }
}

#[test]
fn c5_answers_carry_the_token_only_where_it_was_made() {
    let server = TestServer::start();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    for answer in [
        server.resume(&token),
        server.get(&format!("/v1/sessions/{id}")),
        server.get("/v1/sessions"),
        server.get("/v1/audit"),
        server.plain("/auth", &[("cookie", &format!("__Host-session={token}"))]),
        server.end(&id),
    ] {
        let headers = format!("{:?}", answer.headers);
        assert!(!answer.text.contains(&token[24..]) && !headers.contains(&token[24..]), "{}", answer.text);
    }
}
