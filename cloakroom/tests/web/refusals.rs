//! What is not believed, who is refused, and how that suits who asks.

use std::{
    env,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use cloakroom::{Error, Found, Fresh, Session, SessionId, SignedIn, Token, testing::Call, web::Refused};
use http::{Method, Request, StatusCode, header};

use super::{
    framework::{App, Csrf, Router, any, get, guard, layer, plain_answer, send},
    world::{Browser, NAME, spied, world},
};

#[tokio::test]
async fn t2_a_token_says_nothing_about_its_user() {
    let world = world();
    let token = world.signed_in("anna@example.com").await.token().reveal();
    let decoded = base64_decode(&token);
    assert_eq!(decoded.len(), 50);
    assert!(!decoded.windows(4).any(|window| window == b"anna"));
}

fn base64_decode(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = text.bytes().flat_map(|byte| {
        let value = ALPHABET.bytes().position(|letter| letter == byte).unwrap();
        (0..6).rev().map(move |bit| (value >> bit) & 1 == 1)
    });
    let bits: Vec<bool> = bits.collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | u8::from(*bit))).collect()
}

#[tokio::test]
async fn t3_a_chosen_token_is_never_adopted() {
    let world = world();
    let id = SessionId::generate(cloakroom::store::Partition::random().unwrap()).unwrap();
    let chosen = Token::generate(id).unwrap();
    let mut browser = Browser { app: world.app.clone(), cookie: Some(chosen.reveal()) };
    browser.text("/set?key=a&value=1").await;
    assert_ne!(browser.token().id(), id);
    assert!(matches!(world.sessions.get(id).await.unwrap(), Found::Unknown));
}

#[tokio::test]
async fn t5_no_token_with_a_flipped_bit_opens_the_session() {
    let world = world();
    let good = world.signed_in("anna").await.cookie.unwrap();
    for position in 0..good.len() {
        for bit in 0..7 {
            let mut bytes = good.clone().into_bytes();
            bytes[position] ^= 1 << bit;
            let Ok(cookie) = http::HeaderValue::from_bytes(&[NAME.as_bytes(), b"=", &bytes].concat()) else { continue };
            let request = Request::get("/who").header(header::COOKIE, cookie).body(Bytes::new()).unwrap();
            assert_eq!(send(&world.app, request).await.body, "nobody");
        }
    }
}

#[tokio::test]
async fn t6_the_cookie_is_the_only_carrier() {
    let world = world();
    let token = world.signed_in("anna").await.cookie.unwrap();
    let requests = [
        Request::get(format!("/who?{NAME}={token}&sid={token}&token={token}")),
        Request::get("/who").header(header::AUTHORIZATION, format!("Bearer {token}")),
        Request::get("/who").header(NAME, &token),
        Request::get("/who").header("x-session", &token),
        Request::get("/who").header(header::SET_COOKIE, format!("{NAME}={token}")),
    ];
    for request in requests {
        let request = request.body(Bytes::from(format!("{NAME}={token}"))).unwrap();
        assert_eq!(send(&world.app, request).await.body, "nobody");
    }
}

#[tokio::test]
async fn t8_an_id_with_a_wrong_secret_opens_nothing_and_ends_nothing() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    let guessed = Token::generate(browser.token().id()).unwrap();
    let mut stranger = Browser { app: world.app.clone(), cookie: Some(guessed.reveal()) };
    assert_eq!(stranger.text("/who").await, "nobody");
    assert_eq!(browser.text("/who").await, "anna");
    // Nor is a stranger told how a session ended.
    browser.text("/sign-out").await;
    let mut stranger = Browser { app: world.app.clone(), cookie: Some(guessed.reveal()) };
    assert_eq!(stranger.text("/why").await, "-");
}

const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
const NAVIGATE: (&str, &str) = ("sec-fetch-mode", "navigate");

#[tokio::test]
async fn a_page_or_form_is_led_to_the_sign_in_page_and_a_script_is_told_401() {
    let world = world();
    let app = Router::new()
        .route("/account", any(|user: SignedIn| async move { user.user().to_owned() }))
        .route("/vault", any(|user: Fresh<600>| async move { user.user().to_owned() }))
        .layer(layer(&world.sessions).sign_in_page("/sign-in?a=1"));
    let stale = world.signed_in("anna").await.cookie.unwrap();
    world.clock.advance(Duration::from_mins(11));
    let referer = |url: &'static str| [HTML, NAVIGATE, ("referer", url)];
    let led = |next: &'static str| Some(next);
    let no_next = led("");
    for (method, headers, expected) in [
        (Method::GET, &[HTML, NAVIGATE][..], led("&next=/account%3Ftab%3D2")),
        (Method::HEAD, &[HTML, NAVIGATE], led("&next=/account%3Ftab%3D2")),
        // Over http, browsers say no more than that.
        (Method::GET, &[HTML], led("&next=/account%3Ftab%3D2")),
        (Method::GET, &[("accept", "application/xhtml+xml; q=0.9")], led("&next=/account%3Ftab%3D2")),
        (Method::GET, &[("sec-fetch-mode", "cors"), ("accept", "*/*")], None),
        (Method::GET, &[("sec-fetch-mode", "cors"), HTML], None),
        (Method::GET, &[("sec-fetch-mode", "cors"), ("accept", "text/event-stream")], None),
        (Method::GET, &[("accept", "text/event-stream")], None),
        (Method::GET, &[("accept", "application/json")], None),
        (Method::GET, &[("sec-fetch-mode", "websocket"), ("upgrade", "websocket")], None),
        (Method::GET, &[HTML, ("x-requested-with", "XMLHttpRequest")], None),
        (Method::GET, &[NAVIGATE, ("accept", "application/json")], None),
        (Method::GET, &[("accept", "*/*")], None),
        (Method::GET, &[], None),
        (Method::POST, &referer("https://shop.example/form?a=1"), led("&next=/form%3Fa%3D1")),
        (Method::POST, &referer("https://SHOP.example/"), led("&next=/")),
        (Method::POST, &referer("https://evil.example/form"), no_next),
        (Method::POST, &referer("https://shop.example//evil.example"), no_next),
        (Method::POST, &referer("https://shop.example.evil.example/"), no_next),
        (Method::POST, &referer("about:blank"), no_next),
        (Method::POST, &[HTML, NAVIGATE], no_next),
        (Method::POST, &[("sec-fetch-mode", "cors"), ("accept", "*/*")], None),
        (Method::DELETE, &[("accept", "application/json")], None),
    ] {
        let request = |path: &str| {
            let request = Request::builder().method(&method).uri(path).header(header::HOST, "shop.example");
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        let reply = send(&app, request("/account?tab=2").body(Bytes::new()).unwrap()).await;
        let stale = request("/vault?tab=2").header(header::COOKIE, format!("{NAME}={stale}"));
        let again = send(&app, stale.body(Bytes::new()).unwrap()).await;
        let Some(next) = expected else {
            assert_eq!(
                (reply.status, again.status),
                (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
                "{headers:?}"
            );
            assert_eq!(
                (&reply.problem()["code"], &again.problem()["code"]),
                (&"not_signed_in".into(), &"reauthentication_required".into())
            );
            continue;
        };
        assert_eq!((reply.status, again.status), (StatusCode::SEE_OTHER, StatusCode::SEE_OTHER), "{headers:?}");
        assert_eq!(reply.header("location"), Some(&*format!("/sign-in?a=1{next}")), "{method} {headers:?}");
        let next = next.replace("/account", "/vault");
        assert_eq!(again.header("location"), Some(&*format!("/sign-in?a=1{next}&max_age=600")), "{method} {headers:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn the_application_answers_refusals_in_its_own_words() {
    let (world, spy) = spied();
    let routes = Router::new()
        .route("/session", any(|_: Session| async { "session" }))
        .route("/account", any(|_: SignedIn| async { "account" }))
        .route("/vault", any(|_: Fresh<600>| async { "vault" }));
    let own = layer(&world.sessions).sign_in_page("/sign-in").on_refusal(|refused, _request| {
        let words = match refused {
            Refused::NotSignedIn { ended: Some(ended), .. } => format!("ended: {}", ended.reason.code()),
            Refused::NotSignedIn { ended: None, several } => format!("not signed in, several: {several}"),
            Refused::NotFresh { max_age } => format!("not within {max_age:?}"),
            Refused::Forged { advice } => format!("forged: {advice}"),
            Refused::NotLoaded(Error::Unavailable { .. }) => "not loaded".to_owned(),
            // Left as it would be.
            _ => return None,
        };
        Some(plain_answer(refused.status().as_u16(), words))
    });
    let app = guard(routes, Csrf::new()).layer(own);
    let mut anna = Browser { app: app.clone(), ..world.signed_in("anna").await };
    let mut visitor = Browser { app: app.clone(), cookie: None };
    let reply = visitor.get("/account").await;
    assert_eq!((reply.status.as_u16(), &*reply.body), (401, "not signed in, several: false"));
    world.clock.advance(Duration::from_mins(11));
    let reply = anna.get("/vault").await;
    assert_eq!((reply.status.as_u16(), &*reply.body), (401, "not within 600s"));
    let foreign = Request::post("/session").header("sec-fetch-site", "cross-site").body(Bytes::new()).unwrap();
    let reply = send(&app, foreign).await;
    assert_eq!(reply.status.as_u16(), 403);
    assert!(reply.body.starts_with("forged: This request changes something"), "{}", reply.body);
    for path in ["/session", "/account"] {
        spy.fail_next(Call::Read);
        let reply = anna.get(path).await;
        assert_eq!((reply.status.as_u16(), &*reply.body), (503, "not loaded"), "{path}");
    }
    anna.clone().text("/session").await;
    world.sessions.end_all_of("anna", vec![], &cloakroom::Reason::RevokedByAdmin.into()).await.unwrap();
    assert_eq!(anna.get("/account").await.body, "ended: revoked_by_admin");

    // What is left alone is as without it.
    let left = Router::new().route("/account", get(|_: SignedIn| async { "account" }));
    let left = left.layer(layer(&world.sessions).sign_in_page("/sign-in").on_refusal(|_, _| None));
    assert_eq!(
        Browser { app: left, cookie: None }.get("/account").await.header("location"),
        Some("/sign-in?next=/account")
    );
}

const FORGOTTEN: &str = "CLOAKROOM_TEST_FORGOTTEN_LAYER";

/// Plays itself once more in a process of its own, in which nothing listens to the log.
#[tokio::test]
async fn a_forgotten_layer_says_so_in_the_answer_and_on_standard_error() {
    let told = ["no session", "around it: add ."];
    if env::var_os(FORGOTTEN).is_some() {
        let app = App::from(Router::new().route("/", get(|_: Session| async { "never" })));
        let reply = send(&app, Request::get("/").body(Bytes::new()).unwrap()).await;
        assert_eq!((reply.status, &reply.problem()["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &"internal".into()));
        let detail = reply.problem()["detail"].as_str().unwrap().to_owned();
        assert!(told.iter().all(|part| detail.contains(part)), "{detail}");
        return;
    }
    let name = format!(
        "{}::a_forgotten_layer_says_so_in_the_answer_and_on_standard_error",
        module_path!().split_once("::").unwrap().1
    );
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--exact", &name, "--nocapture"]).env(FORGOTTEN, "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let played = again.output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success() && said.contains("1 passed"), "{said}{complained}");
    let told =
        complained.lines().any(|line| line.starts_with("cloakroom: ") && told.iter().all(|part| line.contains(part)));
    assert!(told, "{complained}");
}
