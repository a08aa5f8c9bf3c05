//! What the pages of users and of the audit log do, and large endings.

use std::{collections::HashSet, time::Duration};

use super::Visitor;
use crate::common::TestServer;
use cloakroom_server::Bounds;

#[test]
fn users_take_a_key_of_scope_admin() {
    let server = TestServer::start();
    for key in [&server.read, &server.write] {
        let mut visitor = Visitor::signed_in(&server, key);
        let menu = visitor.get("/console/sessions").expect(200).text;
        assert!(!menu.contains("/console/users"), "{menu}");
        for page in ["/console/users", "/console/users/anna"] {
            visitor.get(page).expect(403);
        }
        for action in ["", "/disable", "/enable", "/sign-out"] {
            let form = if action == "/disable" { "sure=yes" } else { "" };
            visitor.post(&format!("/console/users/anna{action}"), form).expect(403);
        }
    }
    server.get("/v1/users/anna").expect(404);
}

#[test]
fn a_user_of_any_name_has_a_page() {
    let server = TestServer::start();
    let mut operator = Visitor::signed_in(&server, &server.admin);
    for (name, path) in [("a/b", "a%2Fb"), ("..", "%2E%2E"), ("ü 1", "%C3%BC%201"), ("a?b#c", "a%3Fb%23c")] {
        server.start_session(&serde_json::json!({ "user": name }).to_string());
        let page = operator.get(&format!("/console/users/{path}")).expect(200).text;
        assert!(page.contains("1 session"), "{name}: {page}");
        operator.post(&format!("/console/users/{path}/sign-out"), "note=x").expect(303);
        let page = operator.get(&format!("/console/users/{path}")).expect(200).text;
        assert!(page.contains("Signed out everywhere. 1 session ended."), "{name}: {page}");
    }
}

#[test]
fn an_ending_that_takes_long_is_a_job_with_a_page() {
    let server = TestServer::with_bounds(Bounds { answer_within: Duration::ZERO, ..Bounds::default() });
    for _ in 0..20 {
        server.call(&server.write, http::Method::POST, "/v1/sessions", r#"{"user":"anna"}"#);
    }
    let mut operator = Visitor::signed_in(&server, &server.admin);
    let answer = operator.post("/console/sessions/end", "user=anna&sure=yes").expect(303);
    let job = answer.header("location").to_owned();
    assert!(job.starts_with("/console/jobs/"), "{job}");
    let mut page = operator.get(&job).expect(200).text;
    while page.contains("data-refresh") {
        page = operator.get(&job).expect(200).text;
    }
    assert!(page.contains("20 sessions</strong> ended."), "{page}");
    let mut other = Visitor::signed_in(&server, &server.write);
    other.get(&job).expect(404);
}

#[test]
fn pages_of_the_audit_log_hold_every_entry_once_the_latest_first() {
    let server = TestServer::start();
    let mut started = Vec::new();
    for n in 0..1_250 {
        let body = format!(r#"{{"user":"user-{}"}}"#, n % 3);
        started.push(server.start_session(&body).1);
        // Some come in the same millisecond, some do not.
        if n % 70 == 0 {
            server.clock.advance(Duration::from_millis(1));
        }
    }
    let mut operator = Visitor::signed_in(&server, &server.read);
    for (filter, wanted) in [("event=signed_in", started.clone()), ("user=user-1", every_third(&started))] {
        let (mut seen, mut next) = (Vec::new(), format!("/console/audit?{filter}"));
        loop {
            let page = operator.get(&next).expect(200).text;
            seen.extend(ids(&page));
            let Some(older) = page.split("rel=\"next\" href=\"").nth(1) else { break };
            next = older.split('"').next().unwrap().replace("&amp;", "&");
        }
        assert_eq!(seen.len(), wanted.len(), "{filter}");
        assert_eq!(seen.into_iter().collect::<HashSet<_>>(), wanted.into_iter().collect(), "{filter}");
    }
    let csv = operator.get("/console/audit/export?format=csv&user=user-2").expect(200);
    assert_eq!(csv.text.lines().count(), 1 + 416);
    assert_eq!(csv.header("content-disposition"), "attachment; filename=\"audit.csv\"");
    let lines = operator.get("/console/audit/export?event=signed_in").expect(200);
    assert_eq!((lines.text.lines().count(), lines.header("content-type")), (1_250, "application/jsonl"));
    operator.get("/console/audit/export?format=xml").expect(422);
    operator.get("/console/audit/live?zz=1").expect(422);
}

fn every_third(ids: &[String]) -> Vec<String> {
    ids.iter().skip(1).step_by(3).cloned().collect()
}

/// The sessions that rows are about.
fn ids(page: &str) -> Vec<String> {
    let rows = page.split("class=\"id\" href=\"/console/sessions/").skip(1);
    rows.map(|row| row.split('"').next().unwrap().to_owned()).collect()
}
