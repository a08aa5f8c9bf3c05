//! What strangers put into sessions stays text, and browsers are told to do no more than pages need.

use super::Visitor;
use crate::common::TestServer;

const TRICK: &str = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>&\u{202e}evil";

#[test]
fn every_field_is_shown_as_text() {
    let server = TestServer::start();
    let body = serde_json::json!({
        "user": TRICK, "full_name": TRICK, "user_type": TRICK, "audit_user": format!("a{TRICK}"),
        "data": { TRICK: TRICK },
        "client": { "user_agent": TRICK, "device": TRICK },
    });
    let (_, id) = server.start_session(&body.to_string());
    let mut operator = Visitor::signed_in(&server, &server.admin);
    let trick = "%3Cscript%3Ealert(1)%3C/script%3E%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%22%27%3E%26%E2%80%AEevil";
    let mut pages = vec![
        operator.get("/console/sessions").expect(200),
        operator.get(&format!("/console/sessions/{id}")).expect(200),
        operator.get(&format!("/console/sessions/{id}?show={trick}")).expect(200),
        operator.get(&format!("/console/sessions?user={trick}&device={trick}&impersonated_by={trick}")).expect(200),
        operator.get(&format!("/console/sessions/end?user={trick}")).expect(200),
        operator.get(&format!("/console/sessions?{trick}={trick}")).expect(422),
        operator.get(&format!("/console/sessions?idle={trick}")).expect(422),
        operator.get("/console").expect(200),
        operator.get("/console/users").expect(200),
        operator.get(&format!("/console/users/{}", trick.replace('/', "%2F"))).expect(200),
        operator.get("/console/audit").expect(200),
        operator.get(&format!("/console/audit?user={trick}")).expect(200),
        operator.get(&format!("/console/audit?since={trick}")).expect(422),
        operator.get(&format!("/console/audit?event={trick}")).expect(422),
        operator.get(&format!("/console/sign-in?next={trick}")).expect(303),
    ];
    operator.post(&format!("/console/sessions/{id}/end"), &format!("note={trick}")).expect(303);
    pages.push(operator.get(&format!("/console/sessions/{id}")).expect(200));
    let mut shown = 0;
    for page in pages {
        assert!(!page.text.contains("<script>alert") && !page.text.contains("<img"), "{}", page.text);
        // Fields of the filter hold what was typed, to the letter.
        let beside_fields: String =
            page.text.split(" value=\"").map(|part| part.split_once('"').map_or(part, |(_, rest)| rest)).collect();
        assert!(!beside_fields.contains('\u{202e}'), "{}", page.text);
        shown += page.text.matches("&lt;script&gt;alert(1)").count();
    }
    assert!(shown > 20, "{shown}");
}

#[test]
fn values_are_hidden_until_they_are_asked_for() {
    let server = TestServer::start();
    let (_, id) = server.start_session(r#"{"user":"anna","data":{"address":"Main Street 1","cart":["coat"]}}"#);
    let mut operator = Visitor::signed_in(&server, &server.read);
    let page = operator.get(&format!("/console/sessions/{id}")).expect(200).text;
    assert!(page.contains("address") && !page.contains("Main Street"), "{page}");
    let page = operator.get(&format!("/console/sessions/{id}?show=address")).expect(200).text;
    assert!(page.contains("Main Street") && !page.contains("coat"), "{page}");
}

#[test]
fn browsers_are_told_to_load_nothing_else_and_to_frame_nothing() {
    let server = TestServer::start();
    let mut visitor = Visitor::signed_in(&server, &server.admin);
    let pages = [
        "/",
        "/console",
        "/console/sign-in",
        "/console/sessions",
        "/console/sessions/AAAA",
        "/console/nothing",
        "/console/assets/console.css",
        "/console/assets/console.js",
    ];
    for page in pages {
        let answer = visitor.get(page);
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{page}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{page}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{page}");
        let kept = if page.contains("/assets/") { "public, max-age=31536000, immutable" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), kept, "{page}");
        for outside in ["http://", "https://", "style=\"", "onclick="] {
            assert!(page.contains("assets") || !answer.text.contains(outside), "{page}: {outside}");
        }
    }
}
