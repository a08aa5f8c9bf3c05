//! What is not believed, and what happens when the store fails.

use bytes::Bytes;
use cloakroom::{Found, SessionId, Token};
use http::{Request, header};

use super::{
    framework::send,
    world::{Browser, NAME, world},
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
    let id = SessionId::generate(cloakroom::Partition::random().unwrap()).unwrap();
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
