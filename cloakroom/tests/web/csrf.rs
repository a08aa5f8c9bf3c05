//! Requests that other sites make a browser send, and how ours are told from them.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cloakroom::{
    Error, Session, SignIn,
    audit::Event,
    sessions::RotatedToken,
    store::{AuditQuery, MemoryStore, Query},
    testing::Call,
};
use futures_util::{StreamExt, stream};
use http::{Method, Request, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    framework::{App, Csrf, Page, Router, any, get, guard, layer, send, send_parts, serve},
    world::{Browser, NAME, Reply, World, routes, spied, world, world_on},
};

const OURS: &str = "shop.example";

/// The world's application with the rules before it, and a handler that tells what it was sent.
fn guarded(world: &World, csrf: Csrf) -> App {
    let routes = routes().route("/change", any(|body: Bytes| async move { body })).route(
        "/token",
        get(|session: Session| async move { Ok::<_, Error>(session.csrf_token().await?.to_string()) }),
    );
    guard(routes, csrf).layer(layer(&world.sessions))
}

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn change(app: &App, cookie: Option<&str>, method: Method, headers: Headers<'_>, body: &str) -> Reply {
    let mut request = Request::builder().method(method).uri("/change");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, format!("{NAME}={cookie}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(app, request.body(Bytes::from(body.to_owned())).unwrap()).await
}

async fn post(browser: &Browser, headers: Headers<'_>, body: &str) -> Reply {
    change(&browser.app, browser.cookie.as_deref(), Method::POST, headers, body).await
}

fn refused(reply: &Reply) -> bool {
    let refused = reply.status == StatusCode::FORBIDDEN;
    assert!(refused || reply.status == StatusCode::OK, "{reply:?}");
    if refused {
        assert_eq!(reply.problem()["code"], "csrf_refused");
    }
    refused
}

/// Somebody signed in, and their token.
async fn visitor(world: &World, app: &App, user: &str) -> (Browser, String) {
    let mut browser = Browser { app: app.clone(), ..world.signed_in(user).await };
    let token = browser.text("/token").await;
    (browser, token)
}

#[tokio::test]
async fn f3_the_headers_decide_which_unsafe_requests_pass() {
    let world = world();
    let csrf = Csrf::new().trust_origin("https://app.example:8443").unwrap();
    let csrf = csrf.trust_origin("http://other.example").unwrap();
    let anna = Browser { app: guarded(&world, csrf), ..world.signed_in("anna").await };
    let matrix: &[(Option<&str>, Option<&str>, bool)] = &[
        // Sec-Fetch-Site, Origin, whether it passes.
        (Some("same-origin"), None, true),
        (Some("same-origin"), Some("https://shop.example"), true),
        (Some("same-origin"), Some("null"), true),
        (Some("none"), None, true),
        (Some("same-site"), None, false),
        (Some("same-site"), Some("https://www.shop.example"), false),
        (Some("cross-site"), None, false),
        (Some("cross-site"), Some("https://evil.example"), false),
        // Origin alone would say it is ours: after a redirect through another site it is not.
        (Some("cross-site"), Some("https://shop.example"), false),
        (Some("cross-site"), Some("https://app.example:8443"), true),
        (Some("cross-site"), Some("HTTPS://APP.example:8443"), true),
        (Some("cross-site"), Some("https://app.example"), false),
        (Some("cross-site"), Some("http://app.example:8443"), false),
        (Some("same-site"), Some("http://other.example:80"), true),
        (Some("Same-Origin"), None, false),
        (Some(""), None, false),
        (Some("something-new"), None, false),
        (None, Some("https://shop.example"), true),
        (None, Some("http://shop.example"), true),
        (None, Some("https://shop.example:443"), true),
        (None, Some("https://shop.example:8443"), false),
        (None, Some("https://evil.example"), false),
        (None, Some("https://shop.example.evil.example"), false),
        (None, Some("https://evil.example/shop.example"), false),
        (None, Some("https://shop.example@evil.example"), false),
        (None, Some("null"), false),
        (None, Some(""), false),
        (None, Some("http://other.example"), true),
        (None, None, false),
    ];
    for (site, origin, passes) in matrix {
        let mut headers = vec![("host", OURS)];
        headers.extend(site.map(|site| ("sec-fetch-site", site)));
        headers.extend(origin.map(|origin| ("origin", origin)));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, "WEIRD".parse().unwrap()] {
            let reply = change(&anna.app, anna.cookie.as_deref(), method.clone(), &headers, "").await;
            assert_eq!(!refused(&reply), *passes, "{method} {headers:?}");
        }
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
            let reply = change(&anna.app, anna.cookie.as_deref(), method.clone(), &headers, "").await;
            assert_eq!(reply.status, StatusCode::OK, "{method} {headers:?}");
        }
    }
}

#[tokio::test]
async fn f3_what_is_there_twice_or_unreadable_proves_nothing() {
    let world = world();
    let anna = Browser { app: guarded(&world, Csrf::new()), ..world.signed_in("anna").await };
    for headers in [
        &[("host", OURS), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")][..],
        &[("host", OURS), ("origin", "https://shop.example"), ("origin", "https://shop.example")],
        &[("host", OURS), ("host", "evil.example"), ("origin", "https://shop.example")],
        &[("host", OURS), ("origin", "https://evil.example"), ("x-forwarded-host", "evil.example")],
        &[("host", "shop.example:80:80"), ("origin", "http://shop.example")],
        &[("origin", "https://shop.example")],
    ] {
        assert!(refused(&post(&anna, headers, "").await), "{headers:?}");
    }
    // HTTP/2 names the host in the request's line.
    let request = Request::post("https://shop.example/change").header("origin", "https://shop.example");
    assert_eq!(send(&anna.app, request.body(Bytes::new()).unwrap()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn f1_a_websocket_from_another_site_is_refused() {
    let world = world();
    let anna = Browser { app: guarded(&world, Csrf::new()), ..world.signed_in("anna").await };
    let upgrade = [("host", OURS), ("connection", "upgrade"), ("upgrade", "websocket")];
    for (site, passes) in [("same-origin", true), ("cross-site", false)] {
        let headers = [&upgrade[..], &[("sec-fetch-site", site)]].concat();
        let reply = change(&anna.app, anna.cookie.as_deref(), Method::GET, &headers, "").await;
        assert_eq!(!refused(&reply), passes);
    }
}

#[tokio::test]
async fn f1_get_csrf_token_lets_a_request_pass_in_a_header_or_a_form() {
    let world = world();
    for csrf in [Csrf::new(), Csrf::new().require_token()] {
        let (anna, token) = visitor(&world, &guarded(&world, csrf), "anna").await;
        let form = ("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
        assert!(refused(&post(&anna, &[], "").await));
        assert!(!refused(&post(&anna, &[("x-csrf-token", &token)], "").await));
        // Even where the browser says that another site's page sent it: that page was given the token.
        let foreign = [("sec-fetch-site", "cross-site"), ("x-csrf-token", &token)];
        assert!(!refused(&post(&anna, &foreign, "").await));
        for body in [
            format!("csrf_token={token}"),
            format!("csrf_token={token}&by=1"),
            format!("by=1&csrf_token={token}&note={}", "x".repeat(200_000)),
        ] {
            let reply = post(&anna, &[form], &body).await;
            assert!(!refused(&reply));
            assert_eq!(reply.body, body, "the handler sees the whole form");
        }
        let late = format!("note={}&csrf_token={token}", "x".repeat(70_000));
        assert!(refused(&post(&anna, &[form], &late).await), "looked for in the first 64 KiB");
        assert!(refused(&post(&anna, &[], &format!("csrf_token={token}")).await), "not a form");
        assert!(refused(&post(&anna, &[form], &format!("a=csrf_token={token}")).await));
        let two = [("x-csrf-token", &*token), ("x-csrf-token", &token)];
        assert!(refused(&post(&anna, &two, "").await));
        let cookie = anna.cookie.as_deref();
        let query = Request::post(format!("/change?csrf_token={token}"));
        let query = query.header(header::COOKIE, format!("{NAME}={}", cookie.unwrap()));
        assert!(refused(&send(&anna.app, query.body(Bytes::new()).unwrap()).await), "URLs are logged");
    }
}

#[tokio::test]
async fn f1_a_form_that_arrives_in_pieces_or_breaks_off_is_read_to_its_end() {
    let world = world();
    let (anna, token) = visitor(&world, &guarded(&world, Csrf::new()), "anna").await;
    let post_parts = async |parts: Vec<Result<String, &'static str>>| {
        let request = Request::post("/change")
            .header(header::COOKIE, format!("{NAME}={}", anna.cookie.as_deref().unwrap()))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let parts = parts.into_iter().map(|part| part.map(Bytes::from)).collect();
        send_parts(&anna.app, request.body(parts).unwrap()).await
    };
    let text = format!("by=1&csrf_token={token}&note=umbrella");
    let reply = post_parts(text.chars().map(|letter| Ok(letter.to_string())).collect()).await;
    assert_eq!((reply.status, reply.body), (StatusCode::OK, text));
    let reply = post_parts(vec![Ok(format!("csrf_token={token}")), Err("cut")]).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "the token may have gone on");
    let reply = post_parts(vec![Ok(format!("csrf_token={token}&")), Err("cut")]).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "the handler meets the error");
}

#[tokio::test]
async fn f1_a_form_sent_to_a_real_server_reaches_its_handler_whole() {
    let world = world();
    let (anna, token) = visitor(&world, &guarded(&world, Csrf::new()), "anna").await;
    let server = serve(anna.app.clone()).await;
    let form = format!("csrf_token={token}&note={}", "x".repeat(200_000));
    let head = format!(
        "POST /change HTTP/1.1\r\nhost: {OURS}\r\ncookie: {NAME}={}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\n",
        anna.cookie.as_deref().unwrap()
    );
    let of_known_length = format!("{head}content-length: {}\r\n\r\n{form}", form.len());
    let in_chunks = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{form}\r\n0\r\n\r\n", form.len());
    for request in [of_known_length, in_chunks] {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(body == form, "{} bytes of {}", body.len(), form.len());
    }
}

#[tokio::test]
async fn f1_without_sessions_around_it_nothing_passes_that_needs_a_token() {
    let routes = Router::new().route("/change", any(|body: Bytes| async move { body }));
    let app = App::from(guard(routes, Csrf::new()));
    let own = change(&app, None, Method::POST, &[("sec-fetch-site", "same-origin")], "").await;
    assert_eq!(own.status, StatusCode::OK);
    let foreign = change(&app, None, Method::POST, &[("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(foreign.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(foreign.problem()["code"], "internal");
}

#[tokio::test]
async fn f1_the_strict_mode_believes_no_browser() {
    let world = world();
    let csrf = Csrf::new().require_token().trust_origin("https://app.example").unwrap();
    let anna = Browser { app: guarded(&world, csrf), ..world.signed_in("anna").await };
    for headers in [
        &[("sec-fetch-site", "same-origin")][..],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://app.example")],
        &[("host", OURS), ("origin", "https://shop.example")],
    ] {
        assert!(refused(&post(&anna, headers, "").await), "{headers:?}");
    }
}

#[tokio::test]
async fn f2_a_token_of_another_session_is_refused_even_of_the_same_user() {
    let world = world();
    let app = guarded(&world, Csrf::new());
    let (anna, token) = visitor(&world, &app, "anna").await;
    let (anna_s_phone, _) = visitor(&world, &app, "anna").await;
    let (ben, _) = visitor(&world, &app, "ben").await;
    for other in [anna_s_phone, ben, Browser { cookie: None, ..anna.clone() }] {
        let reply = post(&other, &[("x-csrf-token", &token)], "").await;
        assert!(refused(&reply));
        assert!(reply.problem()["detail"].as_str().unwrap().contains("Load the page again"));
    }
    assert!(!refused(&post(&anna, &[("x-csrf-token", &token)], "").await));
    let mut flipped = token.into_bytes();
    flipped[85] = if flipped[85] == b'A' { b'Q' } else { b'A' };
    assert!(refused(&post(&anna, &[("x-csrf-token", str::from_utf8(&flipped).unwrap())], "").await));
}

#[tokio::test]
async fn f2_generate_csrf_token_every_sign_in_makes_the_old_ones_worthless_and_rotations_keep_them() {
    let world = world();
    let mut browser = Browser { app: guarded(&world, Csrf::new()), cookie: None };
    let before = browser.text("/token").await;
    assert!(browser.cookie.is_some(), "a visitor gets a session for their token");
    assert!(!refused(&post(&browser, &[("x-csrf-token", &before)], "").await));
    for _ in 0..2 {
        browser.text("/sign-in?user=anna").await;
        assert!(refused(&post(&browser, &[("x-csrf-token", &before)], "").await));
    }
    let (one, two) = (browser.text("/token").await, browser.text("/token").await);
    assert_ne!(one, two, "masked anew");
    let RotatedToken::Rotated { token: rotated, .. } = world.sessions.rotate(&browser.token()).await.unwrap() else {
        panic!("nobody else rotates")
    };
    browser.cookie = Some(rotated.reveal());
    for token in [&one, &two] {
        assert!(!refused(&post(&browser, &[("x-csrf-token", token)], "").await));
    }
    browser.text("/sign-out").await;
    assert!(refused(&post(&browser, &[("x-csrf-token", &one)], "").await));
}

#[tokio::test]
async fn f2_record_mac_keys_make_the_secret_and_earlier_ones_still_count() {
    let store = Arc::new(MemoryStore::new().unwrap());
    let world =
        |ring: &[u8]| world_on(store.clone(), |builder| builder.record_mac_keys(ring.iter().map(|byte| [*byte; 32])));
    let (old, new, other) = (world(&[1]), world(&[2, 1]), world(&[3, 2, 1]));
    let started = old.sessions.start(SignIn::new("anna")).await.unwrap();
    let token = async |world: &World| {
        let session = Session::resume(&world.sessions, &started.token).await.unwrap();
        session.csrf_token().await.unwrap().to_string()
    };
    let plain = Session::resume(&new.sessions, &started.token).await.unwrap();
    assert!(plain.is_csrf_token(&token(&old).await) && plain.is_csrf_token(&token(&new).await));
    assert!(!plain.is_csrf_token(&token(&other).await), "what a reader of the database lacks");
}

#[tokio::test]
async fn o1_f1_a_refusal_is_audited_where_there_is_a_session() {
    let (world, spy) = spied();
    let (anna, token) = visitor(&world, &guarded(&world, Csrf::new()), "anna").await;
    let foreign: &[_] = &[("sec-fetch-site", "cross-site")];
    for headers in [foreign, &[], &[("x-csrf-token", "made up")], &[("x-csrf-token", &token)]] {
        post(&anna, headers, "").await;
    }
    let audited = async || {
        let log = world.sessions.audit_log().page(&AuditQuery::default(), None, 100).await.unwrap().items;
        let refused = log.into_iter().map(|logged| logged.entry).filter(|entry| entry.event == Event::Refused);
        refused.map(|entry| (entry.session, entry.note.unwrap().to_string())).collect::<Vec<_>>()
    };
    let id = anna.token().id();
    let expected =
        ["it comes from another site", "nothing shows where it comes from", "the CSRF token is not this session's"];
    assert_eq!(audited().await, expected.map(|why| (id, format!("a request was refused: {why}"))));
    // Nobody's refusal has no place there, and one that cannot be written is a refusal all the same.
    assert!(refused(&post(&Browser { cookie: None, ..anna.clone() }, foreign, "").await));
    spy.fail_next(Call::Log);
    assert!(refused(&post(&anna, foreign, "").await));
    assert_eq!(audited().await.len(), 3);
}

#[tokio::test]
async fn i9_what_passes_without_a_token_costs_no_call_of_the_store() {
    let (world, spy) = spied();
    let anna = Browser { app: guarded(&world, Csrf::new()), ..world.signed_in("anna").await };
    let before = spy.counts().total();
    assert!(!refused(&post(&anna, &[("sec-fetch-site", "same-origin")], "").await));
    assert_eq!(spy.counts().total(), before);
    let stranger = Browser { cookie: None, ..anna };
    assert!(refused(&post(&stranger, &[], "").await));
    assert_eq!(spy.counts().total(), before, "nobody's refusal asks the store");
}

#[tokio::test]
async fn i13_a_token_that_cannot_be_checked_is_an_error_not_a_forgery() {
    let (world, spy) = spied();
    let (anna, token) = visitor(&world, &guarded(&world, Csrf::new()), "anna").await;
    spy.fail_next(Call::Read);
    let reply = post(&anna, &[("x-csrf-token", &token)], "").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn get_csrf_token_parallel_requests_of_one_page_get_one_session_and_valid_tokens() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    session.set("cart", "umbrella").unwrap();
    let tokens: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let session = session.clone();
                async move { session.csrf_token().await.unwrap().to_string() }
            })
        })
        .collect();
    for token in tokens {
        assert!(session.is_csrf_token(&token.await.unwrap()));
    }
    assert_eq!(session.get::<String>("cart").unwrap().as_deref(), Some("umbrella"));
    let all = world.sessions.find(&Query::default(), None, 10).await.unwrap();
    assert_eq!(all.items.len(), 1);
}

#[tokio::test]
async fn get_csrf_token_after_the_head_is_an_error_for_a_visitor_without_a_session() {
    let world = world();
    let (out, result) = tokio::sync::oneshot::channel();
    let out = Arc::new(Mutex::new(Some(out)));
    let app = Router::new().route(
        "/",
        get(move |session: Session| {
            let out = out.lock().unwrap().take().unwrap();
            let parts = stream::once(async move {
                out.send(session.csrf_token().await).unwrap();
                Ok(Bytes::from("sent"))
            });
            async { Page { length: None, parts: parts.boxed() } }
        }),
    );
    let mut browser = Browser { app: app.layer(layer(&world.sessions)), cookie: None };
    assert_eq!(browser.text("/").await, "sent");
    assert!(matches!(result.await.unwrap(), Err(Error::HeadSent)));
}
