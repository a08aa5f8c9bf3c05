//! The cookie: how it looks, and what is believed of one that comes in.

use std::time::Duration;

use bytes::Bytes;
use cloakroom::{
    Session, SignIn,
    web::{CookieConfig, SameSite, cookie::Presented},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::{
    framework::{Router, get, layer, send},
    world::{Browser, NAME, world, world_with},
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
fn t9_several_cookies_of_the_name_are_believed_only_if_they_agree() {
    let cookie = CookieConfig::new("s");
    let token = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let one = format!("s={token}");
    let twice = format!("{one}; other=1; {one}");
    let differing = format!("{one}; s=else");
    assert!(matches!(cookie.read(&cookies(&[&one])), Presented::Token(_)));
    assert!(matches!(cookie.read(&cookies(&[&twice])), Presented::Token(_)));
    assert!(matches!(cookie.read(&cookies(&[&differing])), Presented::Ambiguous));
    assert!(matches!(cookie.read(&cookies(&[&one, "s=else"])), Presented::Ambiguous));
    assert!(matches!(cookie.read(&cookies(&["s=x"])), Presented::Malformed));
    assert!(matches!(cookie.read(&cookies(&["S=x", "", "=", ";;", "s"])), Presented::Nothing));
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
