//! The documented configurations in the real proxies: what each does with what visitors may write.

use super::site::{self, Reply, Site};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

macro_rules! each_proxy {
    ($($test:ident;)+) => {
        each_proxy! { @ nginx NGINX; $($test)+ }
        each_proxy! { @ caddy CADDY; $($test)+ }
        each_proxy! { @ haproxy HAPROXY; $($test)+ }
        each_proxy! { @ envoy ENVOY; $($test)+ }
        each_proxy! { @ envoy_grpc ENVOY_GRPC; $($test)+ }
    };
    (@ $module:ident $proxy:ident; $($test:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    if let Some(site) = super::Site::start(&super::site::$proxy) {
                        super::$test(&site);
                    }
                }
            )+
        }
    };
}

each_proxy! {
    s1_no_url_lets_a_visitor_in_who_is_not_signed_in;
    s1_a_signed_in_visitor_passes_with_any_query_and_is_named;
    s1_a_policy_holds_for_every_spelling_of_its_paths;
    s1_what_a_client_says_of_itself_never_arrives;
    s1_a_client_cannot_have_what_is_said_of_it_dropped;
    s1_a_websocket_is_asked_for_as_well;
    s1_no_connection_leaves_http;
    s1_an_ended_session_is_refused;
    s1_a_session_server_that_is_gone_lets_no_one_in;
    restrict_ip_a_user_comes_from_where_the_proxy_says;
}

/// With their values where anna, of the staff, is acted as by root.
const IDENTITY: [(&str, &str); 7] = [
    ("x-session-id", ""),
    ("x-user", "anna%40example.com"),
    ("x-full-name", "%C3%84nne"),
    ("x-user-type", "staff"),
    ("x-impersonated-by", ""),
    ("x-audit-user", ""),
    ("x-session-ended", ""),
];

const ANNA: &str = r#"{"user":"anna@example.com","full_name":"Änne","user_type":"staff"}"#;
const BEN: &str = r#"{"user":"ben","user_type":"customer"}"#;

fn s1_no_url_lets_a_visitor_in_who_is_not_signed_in(site: &Site) {
    for path in ["/", "/a", "/auth", "/auth:public", "/auth/public", "/staff/", "/publicity"] {
        for query in ["", "?anonymous=1", "?policy=public", "?user_type=staff&level=0", "?", "?/public/"] {
            let reply = site.visit(&format!("{path}{query}"), &["cookie: a=b"]);
            assert!(reply.status == 401 && reply.seen.is_none(), "{path}{query}: {reply:?}");
        }
    }
    // Nor does a visitor reach the session server itself.
    for path in ["/public", "/_cloakroom/public", "/_cloakroom/default", "/_cloakroom/public/", "/healthz", "/metrics"]
    {
        let reply = site.visit(path, &[]);
        assert!(reply.status != 200 && reply.seen.is_none(), "{path}: {reply:?}");
    }
    assert_eq!(site.visit("/public/?page=2", &[]).seen().path, "/public/?page=2");
    assert_eq!(site.visit("/public/auth", &[]).seen().path, "/public/auth");
}

fn s1_a_signed_in_visitor_passes_with_any_query_and_is_named(site: &Site) {
    let (anna, id) = site.session(ANNA);
    let (ben, _) = site.session(BEN);
    let line = format!("cookie: a=b; {anna}");
    for path in
        ["/", "/a?page=2", "/a?fresh=0&level=3&user_type=none", "/auth", "/auth?anonymous=0", "/staff/", "/public/x"]
    {
        let seen = site.visit(path, &[&line]).seen();
        assert_eq!(seen.path, path);
        for (name, value) in IDENTITY {
            let value = if name == "x-session-id" { &id } else { value };
            let expected = if value.is_empty() { vec![] } else { vec![value] };
            assert_eq!(seen.header(name), expected, "{path} {name}");
        }
    }
    // For the policy of the place, and no longer than the session.
    for (path, policy) in [("/a", "default"), ("/staff/", "staff"), ("/public/", "public")] {
        let seen = site.visit(path, &[&line]).seen();
        let [assertion] = seen.header("x-session-assertion")[..] else { panic!("{seen:?}") };
        let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((&claims["aud"], &claims["sub"]), (&json!(policy), &json!("anna@example.com")));
    }
    let refused = site.visit("/staff/?user_type=customer", &[&format!("cookie: {ben}")]);
    assert!(refused.status == 403 && refused.seen.is_none(), "{refused:?}");
    // A form arrives whole.
    let form = format!("POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n{line}\r\n\r\na=b");
    assert_eq!(site.send(&form).seen().header("x-user"), ["anna%40example.com"]);
}

fn s1_a_policy_holds_for_every_spelling_of_its_paths(site: &Site) {
    let (ben, _) = site.session(BEN);
    let line = format!("cookie: {ben}");
    let outside = |path: &str| !path.starts_with("/public/") && path != "/public";
    let escapes = [
        "/public/../a",
        "/public/./../a",
        "/public/x/../../a",
        "//a",
        "/public//../a",
        "/public/%2e%2e/a",
        "/public/..%2fa",
        "/public%2f..%2fa",
        "/public/.%2e/%2e./a",
        "/public/..%5ca",
        "/public/..\\a",
        "/public/..;/a",
        "/public/%2e%2e%2fa",
        "/public/%252e%252e/a",
        "/public/..%00/a",
        "/public/..//a",
        "//public/../a",
        "/./public/../a",
        "/public/../../a",
        "/x/../public/../a",
        "/public/a/..%2f..%2f..%2fa",
        "/public/..",
        "/public/%2e%2e",
    ];
    for path in escapes {
        let reply = site.visit(path, &[]);
        if let Some(seen) = &reply.seen {
            for meant in readings(&seen.path) {
                assert!(!outside(&meant), "{path}: the application was asked for {}, may read {meant}", seen.path);
            }
        }
        // Nor does the way lead into the place of the staff.
        let path = path.strip_suffix('a').map_or_else(|| format!("{path}/staff/"), |start| format!("{start}staff/a"));
        for path in
            [&path, &path.replace("/public", ""), &path.replace("staff", "%73taff"), &path.replace("staff", "STAFF")]
        {
            for lines in [&[][..], &[line.as_str()]] {
                let reply = site.visit(path, lines);
                if let Some(seen) = &reply.seen {
                    for meant in readings(&seen.path) {
                        assert!(!meant.starts_with("/staff/"), "{path}: was asked for {}, may read {meant}", seen.path);
                    }
                }
            }
        }
    }
    for request in ["GET http://site.example/staff/ HTTP/1.1", "GET http://site.example?anonymous=1 HTTP/1.1"] {
        let reply = site.send(&format!("{request}\r\nhost: site.example\r\nconnection: close\r\n\r\n"));
        assert!(reply.status >= 400 && reply.seen.is_none(), "{request}: {reply:?}");
    }
    // Some answer this themselves.
    let reply = site.send("OPTIONS * HTTP/1.1\r\nhost: site.example\r\nconnection: close\r\n\r\n");
    assert!(reply.seen.is_none(), "{reply:?}");
}

fn s1_what_a_client_says_of_itself_never_arrives(site: &Site) {
    let (anna, id) = site.session(ANNA);
    let mut forged = Vec::new();
    for name in IDENTITY.map(|(name, _)| name).into_iter().chain(["x-session-assertion"]) {
        for name in spellings(name) {
            forged.push(format!("{name}: forged"));
            forged.push(format!("{}: forged", name.to_uppercase()));
            forged.push(format!("{name}: "));
        }
    }
    for lines in forged.chunks(24).chain([&forged[..]]) {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let stranger = site.visit("/public/", &lines).seen();
        let anna = site.visit("/a", &[&lines[..], &[&format!("cookie: {anna}")]].concat()).seen();
        for (name, value) in IDENTITY {
            assert!(stranger.header(name).is_empty(), "{name}: {stranger:?}");
            assert!(stranger.header("x-session-assertion").is_empty(), "{stranger:?}");
            assert_eq!(anna.header("x-session-assertion").len(), 1, "{anna:?}");
            let value = if name == "x-session-id" { &id } else { value };
            let expected = if value.is_empty() { vec![] } else { vec![value] };
            assert_eq!(anna.header(name), expected, "{name}: {anna:?}");
        }
        for seen in [&stranger, &anna] {
            assert!(!format!("{seen:?}").contains("forged"), "{seen:?}");
        }
        assert_eq!(site.visit("/a", &lines).status, 401);
    }
}

fn s1_a_client_cannot_have_what_is_said_of_it_dropped(site: &Site) {
    for user in ["root", "anna"] {
        site.server.call(Method::PATCH, &format!("/v1/users/{user}"), "{}").expect(200);
    }
    let (root, _) = site.session(r#"{"user":"root"}"#);
    let token = root.split_once('=').unwrap().1;
    let body = json!({"token": token, "user": "anna", "reason": "ticket 17"}).to_string();
    let acting = site.server.call(Method::POST, "/v1/sessions/impersonate", &body).expect(201);
    let cookie = format!("cookie: {}", super::cookie(&acting.text_of("/token")));
    for names in ["X-Impersonated-By", "x-impersonated-by, X-User-Type", "cookie, X-Impersonated-By", "X-User, close"] {
        for lines in [
            format!("connection: {names}"),
            format!("connection: keep-alive, {names}\r\nkeep-alive: x"),
            format!("te: trailers\r\nconnection: te, {names}"),
        ] {
            let request = format!("GET /a HTTP/1.1\r\nhost: site.example\r\n{lines}\r\n{cookie}\r\n\r\n");
            let reply = site.send(&request);
            if let Some(seen) = reply.seen {
                assert_eq!(seen.header("x-user"), ["anna"], "{lines}: {seen:?}");
                assert_eq!(seen.header("x-impersonated-by"), ["root"], "{lines}: {seen:?}");
            }
        }
    }
}

fn s1_a_websocket_is_asked_for_as_well(site: &Site) {
    let (anna, _) = site.session(ANNA);
    let open = |cookie: &str| {
        let more = "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
        let connection = "connection: Upgrade, X-User, X-User-Type\r\nupgrade: websocket";
        site.send(&format!("GET /a HTTP/1.1\r\nhost: x\r\n{connection}\r\n{more}\r\n{cookie}x-user: forged\r\n\r\n"))
    };
    let reply = open(&format!("cookie: {anna}\r\n"));
    assert_eq!(reply.status, 101, "{reply:?}");
    let seen = reply.seen.unwrap();
    assert_eq!((seen.header("x-user"), seen.header("x-user-type")), (vec!["anna%40example.com"], vec!["staff"]));
    let reply = open("");
    assert!(reply.status == 401 && reply.seen.is_none(), "{reply:?}");
}

/// Requests within it would reach the application unasked.
fn s1_no_connection_leaves_http(site: &Site) {
    for protocol in ["h2c", "websocket, h2c", "h2c, websocket", "TLS/1.3"] {
        let upgrade = format!(
            "connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nupgrade: {protocol}"
        );
        let reply = site.send(&format!("GET /public/ HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n\r\n"));
        if let Some(seen) = reply.seen {
            let asked = seen.header("upgrade").concat().contains("h2c")
                && seen.header("connection").concat().contains("pgrade");
            assert!(!asked, "{protocol}: {seen:?}");
        }
    }
}

fn s1_an_ended_session_is_refused(site: &Site) {
    let (anna, id) = site.session(ANNA);
    let line = format!("cookie: {anna}");
    site.visit("/a", &[&line]).seen();
    site.end(&id).expect(200);
    for path in ["/a", "/staff/"] {
        let reply = site.visit(path, &[&line]);
        assert!(reply.status == 401 && reply.seen.is_none(), "{reply:?}");
    }
    let seen = site.visit("/public/", &[&line]).seen();
    assert_eq!(seen.header("x-user"), [""; 0]);
    assert_eq!(seen.header("x-session-ended"), ["signed_out"]);
}

fn s1_a_session_server_that_is_gone_lets_no_one_in(site: &Site) {
    let (anna, _) = site.session(ANNA);
    let line = format!("cookie: {anna}");
    site.visit("/a", &[&line]).seen();
    site.server.kill();
    for path in ["/a", "/staff/", "/public/"] {
        let reply: Reply = site.visit(path, &[&line]);
        assert!(reply.status >= 500 && reply.seen.is_none(), "{reply:?}");
    }
}

fn restrict_ip_a_user_comes_from_where_the_proxy_says(site: &Site) {
    for (user, network, status) in [("carl", site::VISITOR, 200), ("dora", "127.0.0.1", 403)] {
        let allowed = json!({"allowed_networks": [format!("{network}/32")]}).to_string();
        let (cookie, _) = site.session(&json!({"user": user}).to_string());
        site.server.call(Method::PATCH, &format!("/v1/users/{user}"), &allowed).expect(200);
        let cookie = format!("cookie: {cookie}");
        for name in ["x-forwarded-for", "X-Forwarded-For: 192.0.2.7\r\nx-forwarded-for", "forwarded", "x-real-ip"] {
            let claim =
                if name == "forwarded" { "forwarded: for=127.0.0.1".to_owned() } else { format!("{name}: 127.0.0.1") };
            assert_eq!(site.visit("/a", &[&cookie, &claim]).status, status, "{user} {claim}");
        }
    }
}

/// A name with each dash as it is or as an underscore.
fn spellings(name: &str) -> Vec<String> {
    let parts: Vec<_> = name.split('-').collect();
    let ways = 0..1_usize << (parts.len() - 1);
    let spelt = |way: usize| {
        let parts = parts.iter().enumerate();
        let separator = |at: usize| if at == 0 { "" } else { ["-", "_"][(way >> (at - 1)) & 1] };
        parts.fold(String::new(), |name, (at, part)| name + separator(at) + part)
    };
    ways.map(spelt).collect()
}

/// The paths that an application may take a path for: decoded or not, backslashes as slashes or not, path
/// parameters dropped or not, slashes merged, dots resolved.
fn readings(path: &str) -> Vec<String> {
    let path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
    let mut read: Vec<String> = vec![decoded(&path), path];
    read.extend(read.clone().iter().map(|path| path.replace('\\', "/")));
    let without_parameters = |path: &String| {
        let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        segments.collect::<Vec<_>>().join("/")
    };
    read.extend(read.clone().iter().map(without_parameters));
    read.extend(read.clone().iter().map(|path| resolved(path)));
    read
}

fn decoded(path: &str) -> String {
    let mut bytes = path.as_bytes().iter();
    let mut plain = Vec::new();
    while let Some(&byte) = bytes.next() {
        let digits = bytes.as_slice().get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(escaped) => {
                plain.push(escaped);
                bytes.nth(1);
            }
            None => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn resolved(path: &str) -> String {
    let mut kept = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let end = if path.ends_with(['/', '.']) && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}
