//! Who gets into the console, and how far.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use cloakroom_server::Bounds;
use http::Method;

use super::Visitor;
use crate::common::{TestServer, raw};

const PAGES: [&str; 10] = [
    "/console",
    "/console/sessions",
    "/console/sessions/end",
    "/console/sessions/AAAAAAAAAAAAAAAAAAAAAAAA",
    "/console/jobs/x",
    "/console/users",
    "/console/users/anna",
    "/console/audit",
    "/console/audit/live",
    "/console/audit/export",
];

#[test]
fn the_way_in_is_a_key_and_the_way_out_ends_the_session() {
    let server = TestServer::start();
    let mut visitor = Visitor::new(&server);
    assert_eq!(visitor.get("/").expect(303).header("location"), "/console");
    let to_sign_in = visitor.get("/console/sessions?user=anna").expect(303);
    assert_eq!(to_sign_in.header("location"), "/console/sign-in?next=/console/sessions%3Fuser%3Danna");
    let form = visitor.get("/console/sign-in?next=/console/sessions").expect(200);
    assert!(form.text.contains("action=\"/console/sign-in?next=/console/sessions\""), "{}", form.text);

    visitor.sign_in(&server.read).expect(303);
    let cookie = visitor.cookie.clone().unwrap();
    assert!(cookie.starts_with("__Host-cloakroom-console="), "{cookie}");
    let back = visitor.get("/console/sign-in?cookie=set&next=/console/sessions").expect(303);
    assert_eq!(back.header("location"), "/console/sessions");
    for outside in ["//evil.example/", "/v1/sessions", "https://evil.example/console"] {
        let back = visitor.get(&format!("/console/sign-in?cookie=set&next={outside}")).expect(303);
        assert_eq!(back.header("location"), "/console");
    }
    assert!(visitor.get("/console/sessions").expect(200).text.contains("This console"));

    visitor.post("/console/sign-out", "").expect(303);
    assert_eq!(visitor.cookie, None);
    visitor.cookie = Some(cookie);
    visitor.get("/console/sessions").expect(303);
}

#[test]
fn l1_signing_in_again_ends_what_the_browser_held_before() {
    let server = TestServer::start();
    let mut visitor = Visitor::signed_in(&server, &server.read);
    let before = visitor.cookie.clone();
    visitor.sign_in(&server.admin).expect(303);
    assert_ne!(visitor.cookie, before);
    visitor.get("/console/sessions").expect(200);
    visitor.cookie = before;
    visitor.get("/console/sessions").expect(303);
}

#[test]
fn s3_wrong_keys_are_refused_and_count_for_the_limit_of_the_api() {
    let server = TestServer::start();
    let mut visitor = Visitor::new(&server);
    visitor.post("/console/sign-in", "key=").expect(422);
    for wrong in ["nonsense", &server.admin[1..], "a%0d%0ab", "%00", "%ff"] {
        let refused = visitor.sign_in(wrong).expect(403);
        assert!(!refused.headers.contains_key("set-cookie"));
        assert!(refused.text.contains("does not take that key"));
    }
    let mut tried = 5;
    while visitor.sign_in("wrong").status == 403 {
        tried += 1;
    }
    assert_eq!(tried, 20);
    assert_ne!(visitor.sign_in(&server.admin).expect(429).header("retry-after"), "(none)");
    server.get("/v1/sessions").expect_problem(429, "too_many_keys");
    server.clock.advance(Duration::from_mins(2));
    visitor.sign_in(&server.admin).expect(303);
}

#[test]
fn nothing_is_shown_without_a_key() {
    let server = TestServer::start();
    server.start_session(r#"{"user":"anna"}"#);
    let mut visitor = Visitor::new(&server);
    for page in PAGES {
        let answer = visitor.get(page).expect(303);
        assert!(answer.header("location").starts_with("/console/sign-in?next="), "{page}");
        visitor.send("GET", page, &[("accept", "text/event-stream")], "").expect(401);
    }
    for action in [
        "/console/sessions/end",
        "/console/sessions/x/end",
        "/console/users/anna",
        "/console/users/anna/disable",
        "/console/users/anna/enable",
        "/console/users/anna/sign-out",
    ] {
        visitor.post(action, "sure=yes&user=anna").expect(303);
    }
    assert_eq!(server.get("/v1/sessions?user=anna").at("/sessions").as_array().unwrap().len(), 1);
}

#[test]
fn no_session_that_the_api_starts_or_changes_opens_the_console() {
    let server = TestServer::start();
    let operator = Visitor::signed_in(&server, &server.admin);
    let cookie = operator.cookie.as_deref().unwrap();
    let id = &cookie["__Host-cloakroom-console=".len()..][..24];
    let own = server.get(&format!("/v1/sessions/{id}")).expect(200).at("/session/data/console");
    // A copy of what is stored in an operator's session, in one of the writer's own.
    let body = serde_json::json!({ "data": { "console": own } }).to_string();
    let started = server.call(&server.write, Method::POST, "/v1/sessions", &body).expect(201);
    let mut forger = Visitor::new(&server);
    forger.cookie = Some(format!("__Host-cloakroom-console={}", started.text_of("/token")));
    forger.get("/console/sessions").expect(303);
    // Neither does raising a key's name, nor moving the time of the sign-in.
    let mut reader = Visitor::signed_in(&server, &server.read);
    let id = reader.cookie.as_deref().unwrap()["__Host-cloakroom-console=".len()..][..24].to_owned();
    let own = server.get(&format!("/v1/sessions/{id}")).at("/session/data/console");
    for (name, value) in [("key", serde_json::json!("root")), ("at", serde_json::json!(1))] {
        let mut forged = own.clone();
        forged[name] = value;
        server.patch(&id, &serde_json::json!({ "set": { "console": forged } }).to_string()).expect(200);
        reader.get("/console/sessions").expect(303);
    }
    server.patch(&id, &serde_json::json!({ "set": { "console": own } }).to_string()).expect(200);
    reader.get("/console/sessions").expect(200);
}

#[test]
fn s1_an_operator_is_no_visitor_of_the_application() {
    let server = TestServer::start();
    let operator = Visitor::signed_in(&server, &server.admin);
    let token = operator.cookie.unwrap().split_once('=').unwrap().1.to_owned();
    assert_eq!(server.resume(&token).expect(200).at("/session/user"), serde_json::Value::Null);
    let cookie = format!("__Host-session={token}");
    server.plain("/auth", &[("cookie", &cookie)]).expect(401);
}

#[test]
fn scope_decides_what_a_page_offers_and_what_it_does() {
    let server = TestServer::start();
    let (_, id) = server.start_session(r#"{"user":"anna"}"#);
    let mut reader = Visitor::signed_in(&server, &server.read);
    let mut writer = Visitor::signed_in(&server, &server.write);
    let page = format!("/console/sessions/{id}");
    assert!(!reader.get(&page).expect(200).text.contains("End this session"));
    assert!(!reader.get("/console/sessions").expect(200).text.contains("End all"));
    reader.post(&format!("{page}/end"), "").expect(403);
    for visitor in [&mut reader, &mut writer] {
        visitor.get("/console/sessions/end?user=anna").expect(403);
        visitor.post("/console/sessions/end", "user=anna&sure=yes").expect(403);
    }
    server.get(&format!("/v1/sessions/{id}")).expect(200);

    assert!(writer.get(&page).expect(200).text.contains("End this session"));
    writer.post(&format!("{page}/end"), "note=lost+phone").expect(303);
    let shown = writer.get(&page).expect(200).text;
    assert!(shown.contains("The session ended.") && shown.contains("lost phone"), "{shown}");
    let ended = server.get("/v1/audit?user=anna").at("/entries/1");
    assert_eq!((&ended["by"], &ended["reason"]), (&"key:writer".into(), &"revoked_by_admin".into()), "{ended}");
    assert!(!writer.get(&page).expect(200).text.contains("The session ended."), "it is said once");
}

#[test]
fn f1_what_another_site_makes_the_browser_send_is_refused() {
    let server = TestServer::start();
    let (_, id) = server.start_session(r#"{"user":"anna"}"#);
    let mut operator = Visitor::signed_in(&server, &server.admin);
    let end = format!("/console/sessions/{id}/end");
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ] {
        operator.send("POST", &end, headers, "note=x").expect(403);
        operator.send("POST", "/console/sessions/end", headers, "user=anna&sure=yes").expect(403);
        operator.send("POST", &end, headers, "csrf_token=AAAA&note=x").expect(403);
    }
    operator.send("GET", &end, &[("sec-fetch-site", "cross-site")], "").expect(405);
    server.get(&format!("/v1/sessions/{id}")).expect(200);

    // The token that a page holds proves it as well: an old browser says nothing of where a form was.
    let page = operator.get(&format!("/console/sessions/{id}")).expect(200).text;
    let token = page.split("name=\"csrf_token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    operator.send("POST", &end, &[], &format!("csrf_token={token}&note=x")).expect(303);
    server.get(&format!("/v1/sessions/{id}")).expect(410);
}

#[test]
fn a_filter_is_what_ending_ends_and_the_operator_stays() {
    let server = TestServer::start();
    let anna = |device: &str| server.start_session(&format!(r#"{{"user":"anna","client":{{"device":"{device}"}}}}"#)).1;
    let (phone, desk) = (anna("phone"), anna("desk"));
    let mut operator = Visitor::signed_in(&server, &server.admin);
    let list = operator.get("/console/sessions?user=anna&device=phone").expect(200).text;
    assert!(list.contains(&phone) && !list.contains(&desk));
    let preview = operator.get("/console/sessions/end?user=anna&device=phone").expect(200).text;
    assert!(preview.contains("1 session</strong> would end now") && preview.contains(&phone), "{preview}");
    let without = operator.post("/console/sessions/end", "user=anna&device=phone").expect(422).text;
    assert!(without.contains("Tick the box"), "{without}");
    server.get(&format!("/v1/sessions/{phone}")).expect(200);
    operator.post("/console/sessions/end", "user=anna&device=phone&sure=yes&reason=revoked_by_admin").expect(303);
    server.get(&format!("/v1/sessions/{phone}")).expect(410);
    server.get(&format!("/v1/sessions/{desk}")).expect(200);

    operator.post("/console/sessions/end", "sure=yes&reason=all_revoked").expect(303);
    server.get(&format!("/v1/sessions/{desk}")).expect(410);
    assert!(operator.get("/console/sessions").expect(200).text.contains("1 session ended."));
}

#[test]
fn s2_pages_refuse_what_they_do_not_know() {
    let server = TestServer::start();
    let mut operator = Visitor::signed_in(&server, &server.admin);
    for (path, problem) in [
        ("/console/sessions?zz=1", "zz: this page does not know it"),
        ("/console/sessions?user=a&user=b", "user: it is given twice"),
        ("/console/sessions?ip=nowhere", "ip: "),
        ("/console/sessions?idle=90", "write 90m"),
        ("/console/sessions?cursor=made-up", "cursor: "),
        ("/console/sessions/end?zz=1", "zz: "),
    ] {
        let answer = operator.get(path).expect(422).text;
        assert!(answer.contains(problem), "{path}: {answer}");
    }
    operator.post("/console/sessions/end", "sure=yes&zz=1").expect(422);
    operator.get("/console/nothing").expect(404);
    operator.get("/console/sessions/nothing").expect(404);
    operator.get("/console/assets/nothing").expect(404);
}

#[test]
fn a_form_that_does_not_arrive_is_not_waited_for() {
    let body_timeout = Duration::from_millis(200);
    let server = TestServer::with_bounds(Bounds { body_timeout, ..Bounds::default() });
    for headers in ["sec-fetch-site: same-origin\r\n", ""] {
        let head = format!(
            "POST /console/sign-in HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-type: \
             application/x-www-form-urlencoded\r\ncontent-length: 100\r\n\r\nkey="
        );
        let answer = raw(&server, head.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    let mut visitor = Visitor::new(&server);
    assert_eq!(visitor.post("/console/sign-in", &format!("key={}", "x".repeat(3 << 20))).status, 413);
    visitor.get("/console/sign-in").expect(200);
}

#[test]
fn what_is_followed_ends_with_the_operators_session() {
    let server = TestServer::with_bounds(Bounds { events_interval: Duration::from_millis(10), ..Bounds::default() });
    let mut operator = Visitor::signed_in(&server, &server.read);
    let cookie = operator.cookie.clone().unwrap();
    let request = format!("GET /console/audit/live HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\n\r\n");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.starts_with("event: started")), "the operator's own session");
    operator.post("/console/sign-out", "").expect(303);
    server.start_session(r#"{"user":"anna"}"#);
    // The end of the body, as chunks say it.
    let rest: Vec<_> = lines.take_while(|line| line != "0").collect();
    assert!(!rest.iter().any(|line| line.contains("anna")), "{rest:?}");
}
