//! The cookie: how it looks, and what is believed of one that comes in.

use std::time::Duration;

use bytes::Bytes;
use cloakroom::{
    Found, Reason, Session, SessionId, SignIn, Token,
    audit::Event,
    sessions::RotatedToken,
    store::{AuditQuery, Partition},
    web::{CookieConfig, SameSite, cookie::Presented},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use super::{
    framework::{App, Router, get, layer, send},
    world::{Browser, NAME, Reply, World, spied, world, world_with},
};

fn cookies(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::COOKIE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn attributes(set_cookie: &str) -> Vec<&str> {
    set_cookie.split("; ").skip(1).collect()
}

#[tokio::test]
async fn c1_c2_c5_c6_the_default_cookie_is_as_closed_as_cookies_get() {
    let reply = world().browser().get("/sign-in?user=anna").await;
    let set_cookie = reply.set_cookie().unwrap();
    assert!(set_cookie.starts_with("__Host-session="), "{set_cookie}");
    assert_eq!(attributes(set_cookie), ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"]);
}

#[test]
fn c2_the_host_prefix_allows_no_domain_and_no_other_path() {
    for wrong in [
        CookieConfig::default().domain("example.com"),
        CookieConfig::default().path("/shop"),
        CookieConfig::default().path_header(HeaderName::from_static("x-mount")),
        CookieConfig::default().secure(false),
        CookieConfig::new("__HOST-session").domain("example.com"),
        CookieConfig::new("__Secure-session").secure(false),
    ] {
        wrong.check().unwrap_err();
    }
    CookieConfig::new("__Secure-session").domain("example.com").path("/shop").check().unwrap();
}

#[test]
fn c3_the_http_prefixes_keep_their_promises() {
    CookieConfig::new("__Http-session").domain("example.com").check().unwrap();
    CookieConfig::new("__Host-Http-session").check().unwrap();
    CookieConfig::new("__Http-session").http_only(false).check().unwrap_err();
    CookieConfig::new("__Host-Http-session").domain("example.com").check().unwrap_err();
    CookieConfig::new("__Host-Http-session").http_only(false).check().unwrap_err();
}

#[tokio::test]
async fn c4_the_name_is_compared_exactly() {
    let world = world();
    let token = world.signed_in("anna").await.token().reveal();
    for name in ["__HOST-session", "__host-session", "session", "__Host-session2", "X__Host-session"] {
        let request = Request::get("/who").header(header::COOKIE, format!("{name}={token}"));
        let reply = send(&world.app, request.body(Bytes::new()).unwrap()).await;
        assert_eq!(reply.body, "nobody", "{name}");
    }
}

#[tokio::test]
async fn c5_the_token_is_in_no_body_and_no_other_header() {
    let world = world();
    let mut browser = world.browser();
    for path in ["/set?key=a&value=1", "/sign-in?user=anna", "/rotate", "/me", "/id", "/sign-out"] {
        let reply = browser.get(path).await;
        let tokens = [reply.set_cookie().map(str::to_owned), browser.cookie.clone()];
        for token in tokens.into_iter().flatten() {
            let secret = &token[token.len().min(24)..];
            assert!(secret.is_empty() || !reply.body.contains(secret), "{path}");
            let elsewhere = reply.headers.iter().filter(|(name, _)| *name != header::SET_COOKIE);
            assert!(elsewhere.into_iter().all(|(_, value)| !value.to_str().unwrap().contains(&token)), "{path}");
        }
    }
}

#[test]
fn c6_same_site_none_needs_secure_and_consent() {
    CookieConfig::default().same_site(SameSite::None).check().unwrap_err();
    CookieConfig::new("session").same_site(SameSite::None).allow_cross_site().secure(false).check().unwrap_err();
    let consented = CookieConfig::default().same_site(SameSite::None).allow_cross_site();
    consented.check().unwrap();
    assert!(consented.delete(None).contains("SameSite=None"));
    assert!(CookieConfig::default().same_site(SameSite::Strict).delete(None).contains("SameSite=Strict"));
}

#[test]
fn c7_partitioned_needs_secure_and_is_repeated_when_deleting() {
    CookieConfig::new("session").secure(false).partitioned(true).check().unwrap_err();
    assert!(CookieConfig::default().partitioned(true).delete(None).ends_with("; Partitioned"));
}

#[test]
fn c8_name_and_value_fit_into_4096_bytes() {
    CookieConfig::new("n".repeat(4096 - 67)).check().unwrap();
    CookieConfig::new("n".repeat(4096 - 66)).check().unwrap_err();
}

#[tokio::test]
async fn c9_max_age_is_400_days_at_most() {
    let world = world_with(|builder| {
        let lifetimes = cloakroom::Lifetimes { remember_absolute: None, ..cloakroom::Lifetimes::default() };
        builder.lifetimes(lifetimes)
    });
    let started = world.sessions.start(SignIn::new("anna").remember(true)).await.unwrap();
    let set = world.sessions.cookie().set(&started.token, &started.record.info, world.sessions.now(), None);
    assert!(set.contains(&format!("; Max-Age={};", 400 * 24 * 3600)), "{set}");
}

#[test]
fn c10_control_characters_semicolons_and_empty_names_are_refused() {
    for byte in 0..=255_u8 {
        let character = char::from(byte);
        let allowed = character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character);
        assert_eq!(CookieConfig::new(format!("a{character}b")).check().is_ok(), allowed, "{character:?}");
        if character.is_control() || character == ';' || !character.is_ascii() {
            CookieConfig::new("a").path(format!("/{character}")).check().unwrap_err();
            CookieConfig::new("a").domain(format!("a{character}b")).check().unwrap_err();
        }
    }
    CookieConfig::new("").check().unwrap_err();
    CookieConfig::new("a").path("shop").check().unwrap_err();
    CookieConfig::new("a").domain("").check().unwrap_err();
}

#[tokio::test]
async fn c11_no_cache_keeps_a_response_that_sets_the_cookie() {
    let world = world();
    let app = Router::new().route(
        "/page",
        get(|session: Session| async move {
            session.set("a", "1").unwrap();
            [(header::CACHE_CONTROL, "public, max-age=3600")]
        }),
    );
    let mut browser = Browser { app: app.layer(layer(&world.sessions)), cookie: None };
    assert_eq!(browser.get("/page").await.header("cache-control"), Some("no-store"));
    // Without a cookie to set, the application's word stands.
    assert_eq!(browser.get("/page").await.header("cache-control"), Some("public, max-age=3600"));
}

#[tokio::test]
async fn name_path_domain_secure_httponly_and_persistent_are_settings() {
    let world = world_with(|builder| {
        let cookie = CookieConfig::new("sid").path("/shop").domain("example.com").persistent(true);
        builder.cookie(cookie.secure(false).http_only(false).same_site(SameSite::Strict))
    });
    let reply = world.browser().get("/sign-in?user=anna").await;
    let set_cookie = reply.set_cookie().unwrap();
    assert!(set_cookie.starts_with("sid="));
    let expected = ["Path=/shop", "Domain=example.com", "Max-Age=86400", "SameSite=Strict"];
    assert_eq!(attributes(set_cookie), expected);
}

#[tokio::test]
async fn path_header_holds_where_the_application_is_mounted() {
    let header = HeaderName::from_static("x-script-name");
    let world = world_with(|builder| builder.cookie(CookieConfig::new("sid").path_header(header)));
    for (mounted, path) in [("/shop", "Path=/shop"), ("shop", "Path=/"), ("/a;Domain=evil", "Path=/"), ("", "Path=/")] {
        let request = Request::get("/sign-in?user=anna").header("x-script-name", mounted);
        let reply = send(&world.app, request.body(Bytes::new()).unwrap()).await;
        assert_eq!(attributes(reply.set_cookie().unwrap())[0], path);
    }
}

#[tokio::test]
async fn timeout_a_remembered_cookie_lasts_as_long_as_its_session() {
    let world = world();
    let app = Router::new().route(
        "/remember",
        get(|session: Session| async move { session.sign_in(SignIn::new("anna").remember(true)).await.map(drop) }),
    );
    let mut browser = Browser { app: app.layer(layer(&world.sessions)), cookie: None };
    let reply = browser.get("/remember").await;
    assert!(reply.set_cookie().unwrap().contains("Max-Age=2592000"), "30 days: {reply:?}");
}

#[test]
fn t9_cookies_of_one_value_count_as_one_and_differing_ones_are_told_apart() {
    let cookie = CookieConfig::new("s");
    let tokens: Vec<_> = (0..6).map(|_| fresh_token().reveal()).collect();
    let one = format!("s={}", tokens[0]);
    let several = |lines: &[&str]| match cookie.read(&cookies(lines)) {
        Presented::Several(found) => found.iter().map(Token::reveal).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(cookie.read(&cookies(&[&one])), Presented::Token(_)));
    assert!(matches!(cookie.read(&cookies(&[&format!("{one}; other=1; {one}"), &one])), Presented::Token(_)));
    assert!(matches!(cookie.read(&cookies(&["s=x", "s=y; s="])), Presented::Malformed));
    assert!(matches!(cookie.read(&cookies(&["S=x", "", "=", ";;", "s"])), Presented::Nothing));
    for lines in [&[&*format!("{one}; s=else")][..], &["s=else", &one], &["s=", &format!("s=else; {one}; {one}")]] {
        assert_eq!(several(lines), tokens[..1], "{lines:?}");
    }
    let all: Vec<_> = tokens.iter().map(|token| format!("s={token}")).collect();
    assert_eq!(several(&[&all.join("; ")]), tokens[..Presented::MOST]);
    let lines: Vec<_> = all.iter().chain(&all).map(String::as_str).collect();
    assert_eq!(several(&lines), tokens[..Presented::MOST]);
}

#[test]
fn t9_strays_are_deleted_wherever_the_host_may_have_cookies() {
    let places = |cookie: &CookieConfig, host, path| {
        let strays = cookie.delete_strays(host, path, None);
        assert!(strays.len() <= 24 && strays.iter().all(|stray| stray.contains("; Max-Age=0")), "{strays:?}");
        let place = |stray: &String| {
            let attribute =
                |name: &str| stray.split("; ").find_map(|part| part.strip_prefix(name)).unwrap_or("-").to_owned();
            format!("{}{}", attribute("Domain="), attribute("Path="))
        };
        strays.iter().map(place).collect::<Vec<_>>()
    };
    let secure = CookieConfig::new("__Secure-s").domain("example.com");
    let deleted = places(&secure, Some("shop.example.com:8443"), "/a/b/c?next=/d");
    for place in ["-/", "shop.example.com/", "-/a", "example.com/a", "shop.example.com/a/b"] {
        assert!(deleted.iter().any(|deleted| deleted == place), "{place}: {deleted:?}");
    }
    assert!(!deleted.iter().any(|deleted| deleted.starts_with("com")), "{deleted:?}");
    // The one of the settings is set or deleted beside these; its partitioned twin belongs to them.
    assert_eq!(deleted.iter().filter(|deleted| *deleted == "example.com/").count(), 1);
    assert!(secure.delete_strays(None, "/", None).last().unwrap().ends_with("; Partitioned"));
    // Browsers take the name for a promise: there are no others.
    assert_eq!(places(&CookieConfig::default(), Some("shop.example.com"), "/a"), ["-/"]);
    for host in
        ["localhost:3000", "192.0.2.7", "[2001:db8::1]:80", "", "a;Domain=evil.example", "evil\r\n.example", ".."]
    {
        let deleted = places(&CookieConfig::new("s").secure(false), Some(host), "/");
        assert!(deleted.iter().all(|deleted| deleted.starts_with('-')), "{host:?}: {deleted:?}");
    }
}

fn fresh_token() -> Token {
    Token::generate(SessionId::generate(Partition::random().unwrap()).unwrap()).unwrap()
}

/// A request with these session cookies, in the order of the header.
async fn with_cookies(app: &App, path: &str, values: &[&str]) -> Reply {
    let pairs: Vec<_> = values.iter().map(|value| format!("sid={value}")).collect();
    let request = Request::get(path).header(header::HOST, "shop.example.com").header(header::COOKIE, pairs.join("; "));
    send(app, request.body(Bytes::new()).unwrap()).await
}

fn set_cookies(reply: &Reply) -> Vec<&str> {
    reply.headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect()
}

/// As with `--cookie-domain`: the browser may hold cookies of several domains.
fn shared_domain() -> World {
    world_with(|builder| builder.cookie(CookieConfig::new("sid").domain("example.com")))
}

#[tokio::test]
async fn t9_beside_stale_cookies_the_living_session_is_believed_and_sign_out_ends_it() {
    let world = shared_domain();
    let ended = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.sessions.end(ended.id(), &Reason::SignedOut.into()).await.unwrap();
    for stale in [ended.reveal(), fresh_token().reveal(), "garbage".into()] {
        let living = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
        let (stale, token) = (stale.as_str(), living.reveal());
        for values in [[stale, &token], [&token, stale]] {
            let reply = with_cookies(&world.app, "/me", &values).await;
            assert_eq!((reply.body.as_str(), set_cookies(&reply).len()), ("anna", 0), "{reply:?}");
        }
        let reply = with_cookies(&world.app, "/sign-out", &[stale, &token]).await;
        let deleted = set_cookies(&reply);
        assert!(
            deleted.iter().all(|cookie| cookie.starts_with("sid=; ") && cookie.contains("Max-Age=0")),
            "{deleted:?}"
        );
        for domain in ["Domain=example.com", "Domain=shop.example.com", "Path=/; Max-Age=0"] {
            assert!(deleted.iter().any(|cookie| cookie.contains(domain)), "{domain}: {deleted:?}");
        }
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(matches!(world.sessions.resume(&living).await.unwrap(), Found::Ended(_)));
        let query = AuditQuery { session: Some(living.id()), user: None };
        let log = world.sessions.audit_log().page(&query, None, 10).await.unwrap().items;
        let note = log.last().unwrap().entry.note.clone();
        assert_eq!(note.as_deref(), Some("the browser held several session cookies"));
    }
}

#[tokio::test]
async fn t9_of_several_living_sessions_none_is_believed_and_signing_in_or_out_ends_them() {
    let world = shared_domain();
    for leave in ["/sign-out", "/sign-in?user=ben"] {
        let [own, planted] = ["anna", "mallory"].map(SignIn::new);
        let own = world.sessions.start(own).await.unwrap().token;
        let planted = world.sessions.start(planted).await.unwrap().token;
        let values = [own.reveal(), planted.reveal()];
        let values = [values[0].as_str(), values[1].as_str()];
        let reply = with_cookies(&world.app, "/who", &values).await;
        assert_eq!((reply.body.as_str(), set_cookies(&reply).len()), ("nobody", 0), "{reply:?}");
        let refused = with_cookies(&world.app, "/me", &values).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        let detail = refused.problem()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("several sessions"), "{detail}");
        for token in [&own, &planted] {
            let query = AuditQuery { session: Some(token.id()), user: None };
            let log = world.sessions.audit_log().page(&query, None, 10).await.unwrap().items;
            let entry = &log.last().unwrap().entry;
            assert_eq!(entry.event, Event::Refused);
            assert!(entry.note.as_deref().unwrap().contains("several living sessions"), "{entry:?}");
            assert!(
                matches!(world.sessions.get(token.id()).await.unwrap(), Found::Live(_)),
                "it is refused, not ended"
            );
        }

        let reply = with_cookies(&world.app, leave, &values).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(set_cookies(&reply).len() > 1, "{reply:?}");
        for token in [&own, &planted] {
            assert!(matches!(world.sessions.get(token.id()).await.unwrap(), Found::Ended(_)), "{leave}");
        }
        // Even where the browser keeps the others, the new session is believed.
        if let Some(cookie) =
            set_cookies(&reply).last().unwrap().strip_prefix("sid=").filter(|rest| !rest.starts_with(';'))
        {
            let token = cookie.split(';').next().unwrap();
            assert_eq!(with_cookies(&world.app, "/me", &[values[0], token, values[1]]).await.body, "ben");
        }
    }
}

#[tokio::test]
async fn t9_an_old_token_of_a_session_beside_its_new_one_is_no_theft() {
    let world = shared_domain();
    let old = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let mut new = old.clone();
    for _ in 0..2 {
        let RotatedToken::Rotated { token, .. } = world.sessions.rotate(&new).await.unwrap() else {
            panic!("no other")
        };
        new = token;
        world.sessions.resume(&new).await.unwrap();
        world.sessions.flush().await.unwrap();
        world.clock.advance(Duration::from_mins(5));
    }
    for values in [[old.reveal(), new.reveal()], [new.reveal(), old.reveal()]] {
        assert_eq!(with_cookies(&world.app, "/me", &[&values[0], &values[1]]).await.body, "anna");
    }
    // Alone it is.
    let reply = with_cookies(&world.app, "/why", &[&old.reveal()]).await;
    assert_eq!(reply.body, "token_reuse");
}

#[tokio::test]
async fn t9_where_none_of_the_cookies_opens_a_session_the_last_reason_is_told() {
    let world = shared_domain();
    let mut tokens = Vec::new();
    for reason in [Reason::SignedOut, Reason::RevokedByAdmin, Reason::UserDisabled] {
        let token = world.sessions.start(SignIn::anonymous()).await.unwrap().token;
        world.sessions.end(token.id(), &reason.into()).await.unwrap();
        world.clock.advance(Duration::from_mins(1));
        tokens.push(token.reveal());
    }
    tokens.rotate_left(1);
    let values: Vec<_> = tokens.iter().map(String::as_str).collect();
    let reply = with_cookies(&world.app, "/why", &values).await;
    assert_eq!(reply.body, "user_disabled");
    assert!(set_cookies(&reply).iter().any(|cookie| cookie.contains("Domain=shop.example.com")), "{reply:?}");
}

#[tokio::test]
async fn t9_a_request_has_few_cookies_looked_up_however_many_it_brings() {
    let (world, spy) = spied();
    let app = world.app;
    let tokens: Vec<_> = (0..60).map(|_| format!("{NAME}={}", fresh_token().reveal())).collect();
    let request = Request::get("/who").header(header::COOKIE, tokens.join("; ")).body(Bytes::new()).unwrap();
    assert_eq!(send(&app, request).await.body, "nobody");
    assert!(
        spy.counts().read <= 2 * Presented::MOST && spy.counts().total() == spy.counts().read,
        "{:?}",
        spy.counts()
    );
}

#[tokio::test]
async fn t4_malformed_and_oversized_tokens_mean_no_session() {
    let world = world();
    let good = world.signed_in("anna").await.cookie.unwrap();
    for bad in [
        "x".repeat(8192),
        format!("{good}x"),
        good[1..].to_owned(),
        "\u{e9}".repeat(33),
        good.replace('A', "\t"),
        "\"".into(),
    ] {
        let Ok(value) = HeaderValue::from_bytes(format!("{NAME}={bad}").as_bytes()) else { continue };
        let request = Request::get("/who").header(header::COOKIE, value);
        let reply = send(&world.app, request.body(Bytes::new()).unwrap()).await;
        if bad != good {
            assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, "nobody"), "{bad:?}");
        }
    }
}

#[tokio::test]
async fn x5_a_cookie_that_the_browser_should_have_dropped_opens_nothing() {
    let world = world();
    let app = Router::new().route(
        "/remember",
        get(|session: Session| async move { session.sign_in(SignIn::new("anna").remember(true)).await.map(drop) }),
    );
    let mut browser = Browser { app: app.layer(layer(&world.sessions)), cookie: None };
    browser.get("/remember").await;
    browser.app = world.app.clone();
    // Every nine days keeps the idle deadline away; the absolute end stays.
    for _ in 0..3 {
        world.clock.advance(Duration::from_hours(9 * 24));
        assert_eq!(browser.text("/who").await, "anna");
        world.sessions.flush().await.unwrap();
    }
    world.clock.advance(Duration::from_hours(3 * 24));
    assert_eq!(browser.clone().text("/who").await, "nobody");
    assert_eq!(browser.text("/why").await, "absolute_timeout");
}
