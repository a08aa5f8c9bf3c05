//! Rotation: grace, races, and the reuse of a dead token.

use std::time::Duration;

use cloakroom::{Found, Reason, SignIn, Token, sessions::RotatedToken};

use super::world::{World, world};

async fn rotate(world: &World, token: &Token) -> Token {
    match world.sessions.rotate(token).await.unwrap() {
        RotatedToken::Rotated { token, .. } => token,
        RotatedToken::Superseded { .. } => panic!("nobody else rotates"),
    }
}

async fn is_live(world: &World, token: &Token) -> bool {
    matches!(world.sessions.resume(token).await.unwrap(), Found::Live(_))
}

#[tokio::test]
async fn l3_a_lost_answer_does_not_sign_anyone_out() {
    let world = world();
    let old = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let _lost = rotate(&world, &old).await;
    for _ in 0..5 {
        world.clock.advance(Duration::from_mins(10));
        assert!(is_live(&world, &old).await);
        world.sessions.flush().await.unwrap();
    }
    let next = rotate(&world, &old).await;
    assert!(is_live(&world, &next).await);
}

#[tokio::test]
async fn l3_reuse_after_the_grace_ends_the_session() {
    let world = world();
    let old = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let new = rotate(&world, &old).await;
    assert!(is_live(&world, &new).await, "presented: the grace starts");
    world.sessions.flush().await.unwrap();
    world.clock.advance(Duration::from_millis(29_999));
    assert!(is_live(&world, &old).await, "inside the grace");
    world.clock.advance(Duration::from_millis(1));
    let Found::Ended(ended) = world.sessions.resume(&old).await.unwrap() else { panic!("reuse ends it") };
    assert_eq!(ended.reason, Reason::TokenReuse);
    let Found::Ended(ended) = world.sessions.resume(&new).await.unwrap() else { panic!("for everybody") };
    assert_eq!(ended.reason, Reason::TokenReuse);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l4_of_fifty_parallel_rotations_one_wins_and_nobody_is_signed_out() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    browser.text("/set?key=a&value=1").await;
    let requests = (0..50).map(|_| {
        let mut browser = browser.clone();
        tokio::spawn(async move {
            browser.text("/rotate").await;
            (browser.cookie.clone(), browser.text("/me").await)
        })
    });
    let mut cookies = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        let (cookie, user) = request.await.unwrap();
        assert_eq!(user, "anna");
        cookies.push(cookie);
    }
    assert_eq!(cookies.iter().filter(|cookie| **cookie != browser.cookie).count(), 1, "one new token");
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 1);
}

#[tokio::test]
async fn i14_rotation_keeps_the_id_the_data_and_changes_in_flight() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    browser.text("/set?key=a&value=1").await;
    let mut slow = browser.clone();
    let id = browser.text("/id").await;
    browser.text("/rotate").await;
    slow.text("/set?key=b&value=2").await;
    assert_eq!(browser.text("/id").await, id);
    assert_eq!(browser.text("/get?key=a").await, "1");
    assert_eq!(browser.text("/get?key=b").await, "2");
}

#[tokio::test]
async fn rotating_a_dead_token_says_why_it_is_dead_to_its_holder_alone() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let stranger = Token::generate(token.id()).unwrap();
    let unknown = world.sessions.rotate(&stranger).await.unwrap_err();
    assert!(matches!(unknown, cloakroom::Error::UnknownSession));
    world.sessions.end(token.id(), &Reason::SignedOut.into()).await.unwrap();
    assert!(matches!(world.sessions.rotate(&token).await.unwrap_err(), cloakroom::Error::Ended(_)));
    let unknown = world.sessions.rotate(&stranger).await.unwrap_err();
    assert!(matches!(unknown, cloakroom::Error::UnknownSession));
}
