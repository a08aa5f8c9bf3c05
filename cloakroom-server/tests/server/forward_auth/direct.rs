//! Without a proxy between: what is answered to which path.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use super::{cookie, server, site::block};
use crate::common::{TestServer, agent, binary::Directory, raw};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

const ALWAYS: [&str; 8] = [
    "x-session-id",
    "x-user",
    "x-full-name",
    "x-user-type",
    "x-impersonated-by",
    "x-audit-user",
    "x-session-assertion",
    "x-session-ended",
];

#[test]
fn s1_requirements_come_from_the_settings_never_from_the_query() {
    let server = server();
    let (customer, _) = server.start_session(r#"{"user":"anna","user_type":"customer"}"#);
    let ask = |path: &str, cookie: &str| server.plain(path, &[("cookie", cookie)]).status;
    for query in ["anonymous=1", "page=2", "user_type=customer", "fresh=1", "level=3", "policy=public", "&&", "%zz=%"] {
        assert_eq!(ask(&format!("/auth?{query}"), ""), 401, "{query}");
        assert_eq!(ask(&format!("/auth?{query}"), &cookie(&customer)), 200, "{query}");
        assert_eq!(ask(&format!("/auth:staff/a?{query}"), &cookie(&customer)), 403, "{query}");
    }
}

#[test]
fn s1_no_path_and_no_header_of_a_visitor_selects_a_policy() {
    let server = server();
    let (customer, _) = server.start_session(r#"{"user":"anna","user_type":"customer"}"#);
    let visitors =
        ["/", "/public", "/auth", "/auth:public", "//public", "/..", "/../auth:public", "/%2e%2e/auth:public"];
    let more = ["/%2fpublic", "/:public", "/:public/", "/;public", "/public?policy=public", "/?:public", "/\\:public"];
    for path in visitors.into_iter().chain(more) {
        for (prefix, nobody, customers) in [
            ("/auth", 403, 403),
            ("/auth/", 403, 403),
            ("/auth:", 403, 403),
            ("/auth:Staff", 403, 403),
            ("/auth:default", 401, 200),
            ("/auth:staff", 401, 403),
            ("/auth:staff/", 401, 403),
            ("/auth:public", 200, 200),
        ] {
            let asked = format!("{prefix}{path}");
            assert_eq!(server.plain(&asked, &[]).status, nobody, "{asked}");
            assert_eq!(server.plain(&asked, &[("cookie", &cookie(&customer))]).status, customers, "{asked}");
        }
    }
    for header in ["x-forwarded-uri", "x-original-url", "x-rewrite-url", "x-policy", "x-http-method-override", "host"] {
        for value in ["/auth:public", "public"] {
            assert_eq!(server.plain("/auth", &[(header, value)]).status, 401, "{header}: {value}");
        }
    }
}

#[test]
fn s1_what_has_no_policy_is_refused_and_the_log_says_what_to_write() {
    let directory = Directory::new();
    fs::write(directory.path("cloakroom.toml"), "[policies.staff]\nuser_types = ['staff']\n").unwrap();
    let server = directory.serve(&[]);
    let started = server.call(Method::POST, "/v1/sessions", r#"{"user":"anna","user_type":"staff"}"#).expect(201);
    let cookie = cookie(&started.text_of("/token"));
    let ask = |path: &str| {
        let request = agent().get(format!("{}{path}", server.url)).header("cookie", &cookie);
        request.call().unwrap().status().as_u16()
    };
    assert_eq!([ask("/auth"), ask("/auth:staff"), ask("/auth:staff/a?b=1"), ask("/auth:staff?c=1")], [200; 4]);
    assert_eq!([ask("/auth/staff"), ask("/auth/"), ask("/auth:stuff"), ask("/auth:stuff"), ask("/auth/x")], [403; 5]);
    let log = directory.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("query of requests for /auth is ignored"), 1, "{log}");
    assert_eq!(lines("a proxy asked for a policy that is not there"), 1, "{log}");
    assert_eq!(lines("policy=\"stuff\""), 1, "{log}");
    assert_eq!(lines("add [policies.NAME]"), 1, "{log}");
    assert_eq!(lines("Write /auth:NAME"), 1, "{log}");
}

#[test]
fn s1_only_200_401_403_and_503_are_answered() {
    let server = server();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "x"];
    for path in
        ["/auth", "/auth/", "/auth/x", "/auth:", "/auth:staff", "/auth:staff/", "/auth:%00", "/auth:a%ffb/", "/auth?"]
    {
        for method in methods {
            for cookie in [String::new(), cookie(&token), cookie("x"), "=;;=".into()] {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncookie: {cookie}\r\n\
                     accept: image/png\r\ncontent-type: text/nonsense\r\nauthorization: Bearer x\r\n\r\n"
                );
                let answer = raw(&server, request.as_bytes());
                let status = answer.split(' ').nth(1).unwrap_or_default();
                assert!(["200", "401", "403"].contains(&status), "{method} {path} {cookie}: {answer}");
            }
        }
    }
}

#[test]
fn s1_a_store_that_fails_is_answered_with_503_and_lets_no_one_in() {
    let server = server();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    let database = rusqlite::Connection::open(server.database()).unwrap();
    database.execute_batch("ALTER TABLE slot RENAME TO elsewhere").unwrap();
    for path in ["/auth", "/auth:public"] {
        let answer = server.plain(path, &[("cookie", &cookie(&token))]).expect_problem(503, "store_unavailable");
        assert_eq!(answer.header("x-user"), "");
    }
    server.plain("/auth", &[]).expect(401);
}

#[test]
fn a_body_is_not_waited_for_and_the_connection_is_said_to_close() {
    let server = server();
    // The announced body never comes.
    let head = "POST /auth HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map(|line| line.unwrap().to_lowercase());
    let answer: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    assert!(answer[0].starts_with("http/1.1 401 ") && answer.contains(&"connection: close".into()), "{answer:?}");
    // A client that sends all of it first gets its answer.
    let answer = raw(&server, format!("{head}{}", "x".repeat(1_000_000)).as_bytes()).to_lowercase();
    assert!(answer.starts_with("http/1.1 401 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    // Without a body the connection stays open.
    let two = "GET /auth HTTP/1.1\r\nhost: x\r\n\r\nGET /auth HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(&server, two.as_bytes()).matches("HTTP/1.1 401 ").count(), 2);
}

#[test]
fn s1_an_assertion_is_verified_with_the_published_key_alone() {
    if !needs::is_met(Command::new("node").arg("--version").output().is_ok(), "node is not here") {
        return;
    }
    let directory = Directory::new();
    fs::write(directory.path("cloakroom.toml"), block("Policies", "toml")).unwrap();
    let server = directory.serve(&[]);
    let body = r#"{"user":"anna","full_name":"Änne","user_type":"staff","methods":"pwd otp","level":2}"#;
    let started = server.call(Method::POST, "/v1/sessions", body).expect(201);
    let cookie = cookie(&started.text_of("/token"));
    let ask = |path: &str, cookie: &str| {
        let answer = agent().get(format!("{}{path}", server.url)).header("cookie", cookie).call().unwrap();
        answer.headers()["x-session-assertion"].to_str().unwrap().to_owned()
    };
    let (staff, default) = (ask("/auth:staff", &cookie), ask("/auth", &cookie));
    assert_eq!([ask("/auth:public", ""), ask("/auth", ""), ask("/auth:payments", "")], [""; 3]);

    // What the page shows, against every way to forge one.
    let page = block("Assertions", "js").replace("http://127.0.0.1:7600", &server.url);
    fs::write(directory.path("page.mjs"), page).unwrap();
    let parts: Vec<_> = staff.split('.').collect();
    let of_default: Vec<_> = default.split('.').collect();
    let none = base64(r#"{"alg":"none","typ":"JWT"}"#);
    let another = base64(r#"{"iss":"cloakroom","aud":"staff","sub":"root","exp":99999999999}"#);
    let forged = [
        [parts[0], of_default[1], parts[2]].join("."),
        [parts[0], &another, parts[2]].join("."),
        [&none, parts[1], ""].join("."),
        [&none, &another, parts[2]].join("."),
        [parts[0], parts[1], of_default[2]].join("."),
        [parts[0], parts[1], ""].join("."),
        String::new(),
    ];
    let tried = json!([[staff, "staff"], [default, "default"], [default, "staff"], [staff, "public"]]);
    let script = format!(
        "import {{ claimsOf }} from './page.mjs'; const tried = {tried}.concat({}.map((text) => [text, 'staff']));
         console.log(JSON.stringify(tried.map(([text, policy]) => claimsOf(text, policy))));",
        json!(forged)
    );
    fs::write(directory.path("try.mjs"), script).unwrap();
    let output = Command::new("node").arg("try.mjs").current_dir(directory.path("")).output().unwrap();
    let said: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(said.len(), 11);
    assert!(said[2..].iter().all(Value::is_null), "{said:?}");
    assert_eq!(said[1]["aud"], "default");
    let session = started.at("/session");
    let expected =
        json!({"aud": "staff", "sid": session["id"], "sub": "anna", "name": "Änne", "user_type": "staff", "level": 2});
    for (claim, value) in expected.as_object().unwrap() {
        assert_eq!(said[0][claim], *value, "{claim}");
    }
    assert_eq!(said[0]["amr"], json!(["pwd", "otp"]));
    assert_eq!(said[0]["exp"].as_i64().unwrap() - said[0]["iat"].as_i64().unwrap(), 60);
}

#[test]
fn s1_assertion_keys_are_replaced_without_an_assertion_that_cannot_be_verified() {
    let directory = Directory::new();
    // As the page makes one.
    let make = block("Assertions", "sh");
    let made = Command::new("sh").args(["-c", &make]).current_dir(directory.path("")).status().unwrap();
    if !needs::is_met(made.success(), "openssl is not here") {
        return;
    }
    let old = fs::read_to_string(directory.path("cloakroom-assertions.pem")).unwrap();
    fs::remove_file(directory.path("cloakroom-assertions.pem")).unwrap();
    let new = cloakroom_server::assertion::keys::generate().unwrap();
    let published = |keys: &str| {
        directory.write_private("keys.pem", keys);
        let server = directory.serve(&["--store", "memory:", "--assertion-keys", "keys.pem"]);
        let token = server.call(Method::POST, "/v1/sessions", r#"{"user":"anna"}"#).expect(201).text_of("/token");
        let said = agent().get(format!("{}/auth", server.url)).header("cookie", cookie(&token)).call().unwrap();
        let head = said.headers()["x-session-assertion"].to_str().unwrap().split('.').next().unwrap().to_owned();
        let mut answer = agent().get(format!("{}/.well-known/jwks.json", server.url)).call().unwrap();
        assert_eq!(answer.headers()["content-type"], "application/jwk-set+json");
        assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
        let text = answer.body_mut().read_to_string().unwrap();
        let keys: Value = serde_json::from_str(&text).unwrap();
        let kids: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
        let head: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
        (kids, head["kid"].clone())
    };
    let (before, signs_before) = published(&old);
    let (between, signs_between) = published(&format!("{old}{new}"));
    let (after, signs_after) = published(&format!("{new}{old}"));
    assert_eq!((before[0].clone(), signs_between), (signs_before.clone(), signs_before.clone()));
    assert_eq!(signs_after, between[1]);
    assert!(after.contains(&signs_before) && after.contains(&signs_after) && signs_after != signs_before);
    assert!(!directory.path("cloakroom-assertions.pem").exists());
    directory.write_private("keys.pem", "nonsense");
    let refused =
        directory.run(&["serve", "--listen", "127.0.0.1:0", "--store", "memory:", "--assertion-keys", "keys.pem"]);
    assert!(refused.expect(2).err.contains("openssl genpkey"));
}

fn base64(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn t6_forward_auth_takes_the_token_from_the_cookie_alone() {
    let server = TestServer::start();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    let bearer = format!("Bearer {token}");
    for headers in [
        &[("authorization", bearer.as_str())][..],
        &[("x-session-token", &token)],
        &[("cookie", &format!("session={token}"))],
        &[("cookie", &format!("__HOST-session={token}"))],
    ] {
        server.plain("/auth", headers).expect_problem(401, "not_signed_in");
    }
    server.plain(&format!("/auth:default/{token}"), &[]).expect(401);
    server.plain(&format!("/auth:{token}"), &[]).expect_problem(403, "policy_unknown");
    server.plain(&format!("/auth?token={token}"), &[]).expect(401);
    server.plain("/auth", &[("cookie", &format!("a=b; {}", cookie(&token)))]).expect(200);
}

#[test]
fn forward_auth_answers_who_it_is_in_headers_that_are_always_there() {
    let server = server();
    let (token, id) =
        server.start_session(r#"{"user":"anna@example.com","full_name":"Änne\" Berg","user_type":"staff"}"#);
    let (visitor, visitor_id) = server.start_session("{}");
    let (signed_out, ended_id) = server.start_session(r#"{"user":"ben"}"#);
    server.end(&ended_id).expect(200);
    let ask = |path: &str, token: &str| server.plain(path, &[("cookie", &cookie(token))]);

    let known = ask("/auth:default/any/path", &token).expect(200);
    assert_eq!(known.header("x-session-id"), id);
    assert_eq!(known.header("x-user"), "anna%40example.com");
    assert_eq!(known.header("x-full-name"), "%C3%84nne%22%20Berg");
    assert_eq!(known.header("x-impersonated-by"), "");

    for (path, token, status) in [
        ("/auth:fresh-staff", &token, 200),
        ("/auth:staff", &token, 200),
        ("/auth:nowhere", &token, 403),
        ("/auth/", &token, 403),
        ("/auth", &visitor, 401),
        ("/auth", &signed_out, 401),
        ("/auth", &"A".repeat(67), 401),
        ("/auth", &"x\u{1}y".repeat(3000)[..60].to_owned().replace('\u{1}', "-"), 401),
        ("/auth:public", &visitor, 200),
        ("/auth:public", &signed_out, 200),
        ("/auth:public", &token, 200),
        ("/auth:staff", &visitor, 401),
    ] {
        let answer = ask(path, token).expect(status);
        assert!(ALWAYS.iter().all(|name| answer.headers.contains_key(*name)), "{path}: {:?}", answer.headers);
        assert!(!answer.headers.contains_key("set-cookie"));
        let identified = ALWAYS[..7].iter().any(|name| !answer.header(name).is_empty());
        assert!(status == 200 || !identified, "{path}");
    }
    assert_eq!(ask("/auth:public", &visitor).header("x-session-id"), visitor_id);
    assert_eq!(ask("/auth", &signed_out).header("x-session-ended"), "signed_out");

    let two = format!("{}; {}", cookie(&token), cookie(&visitor));
    server.plain("/auth", &[("cookie", &two)]).expect(401);
}

#[test]
fn r7_forward_auth_asks_for_a_fresh_and_a_strong_sign_in() {
    let server = server();
    let (weak, _) = server.start_session(r#"{"user":"anna"}"#);
    let (strong, _) = server.start_session(r#"{"user":"anna","methods":"pwd otp","level":2}"#);
    let ask = |path: &str, token: &str| server.plain(path, &[("cookie", &cookie(token))]);
    for (path, token, status) in [
        ("/auth:aal1", &weak, 403),
        ("/auth:aal1", &strong, 200),
        ("/auth:aal2", &strong, 200),
        ("/auth:aal3", &strong, 403),
        ("/auth:fresh", &weak, 200),
        ("/auth:fresh-staff", &weak, 403),
        ("/auth:aal1", &"A".repeat(67), 401),
    ] {
        ask(path, token).expect(status);
    }
    for (body, field) in
        [(r#"{"user":"anna","level":4}"#, "level"), (r#"{"user":"anna","methods":"pwd  otp"}"#, "methods")]
    {
        let problem = server.post("/v1/sessions", body).expect_problem(422, "invalid_field");
        assert_eq!(problem.at("/field"), field);
    }
    server.clock.advance(Duration::from_mins(2));
    ask("/auth:fresh", &strong).expect_problem(403, "requirement_not_met");
    ask("/auth:aal2", &strong).expect(200);
}

#[test]
fn t9_among_several_cookies_exactly_one_living_session_is_believed() {
    let server = server();
    let (token, id) = server.start_session(r#"{"user":"anna"}"#);
    let (other, other_id) = server.start_session(r#"{"user":"mallory"}"#);
    let (stale, stale_id) = server.start_session(r#"{"user":"anna"}"#);
    server.call(&server.admin, Method::DELETE, &format!("/v1/sessions/{stale_id}"), "").expect(200);
    let ask = |cookies: &[&String]| {
        let cookies: Vec<_> = cookies.iter().map(|token| cookie(token)).collect();
        server.plain("/auth", &[("cookie", &cookies.join("; "))])
    };
    for cookies in [[&stale, &token], [&token, &stale]] {
        let answer = ask(&cookies);
        assert_eq!((answer.status, answer.header("x-user")), (200, "anna"), "{cookies:?}");
    }
    assert_eq!(ask(&[&stale, &stale, &"garbage".to_owned()]).header("x-session-ended"), "signed_out");
    let answer = ask(&[&other, &token]);
    assert_eq!((answer.status, answer.header("x-user")), (401, ""));
    for id in [id, other_id] {
        let audit = server.get(&format!("/v1/audit?session={id}")).expect(200).at("/entries");
        let refused = audit.as_array().unwrap().last().unwrap();
        assert_eq!(refused["event"], "refused");
        assert!(refused["note"].as_str().unwrap().contains("several living sessions"), "{refused}");
    }
}
