//! I13: when the store fails, nobody is signed out and nothing is overwritten.

use std::time::Duration;

use cloakroom::{Error, Found, Session, SignIn, testing::Call};
use http::StatusCode;

use super::world::spied;

#[tokio::test]
async fn i13_a_failed_load_is_an_error_and_nobody_is_signed_out() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    for path in ["/get?key=a", "/me", "/who", "/set?key=a&value=1", "/sign-in?user=ben", "/sign-out", "/count-now"] {
        spy.fail_next(Call::Load);
        let reply = browser.get(path).await;
        assert_eq!((reply.status, reply.set_cookie()), (StatusCode::SERVICE_UNAVAILABLE, None), "{path}");
        assert!(reply.header("retry-after").is_some());
        assert_eq!(reply.problem()["code"], "sessions_unavailable");
    }
    assert_eq!(browser.text("/me").await, "anna");
    assert_eq!(browser.text("/get?key=a").await, "-");
}

#[tokio::test]
async fn i13_a_failed_write_answers_503_and_leaves_what_was_there() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    browser.text("/set?key=a&value=1").await;
    spy.fail_next(Call::Update);
    let reply = browser.get("/set?key=a&value=2").await;
    assert_eq!((reply.status, reply.set_cookie()), (StatusCode::SERVICE_UNAVAILABLE, None));
    assert_eq!(browser.text("/get?key=a").await, "1");
}

#[tokio::test]
async fn i13_a_failed_sign_in_leaves_the_visitor_as_they_were() {
    let (world, spy) = spied();
    let mut browser = world.browser();
    browser.text("/set?key=cart&value=umbrella").await;
    spy.fail_next(Call::Create);
    assert_eq!(browser.get("/sign-in?user=anna").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.text("/get?key=cart").await, "umbrella");
    spy.fail_next(Call::End);
    assert_eq!(browser.get("/sign-out").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.text("/get?key=cart").await, "umbrella");
}

#[tokio::test]
async fn i1_a_change_whose_answer_was_lost_counts_once() {
    let (world, spy) = spied();
    let session = Session::anonymous(&world.sessions);
    session.sign_in(SignIn::new("anna")).await.unwrap();
    session.modify("count", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
    spy.lose_next_answer(Call::Update);
    assert!(matches!(session.commit().await, Err(Error::OutcomeUnknown { .. })));
    // More was asked before it is tried again.
    session.modify("count", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
    session.commit().await.unwrap();
    assert_eq!(session.get::<u32>("count").unwrap(), Some(2));
    let Found::Live(record) = world.sessions.get(session.id().unwrap()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data.get("count").unwrap().as_str(), "2");
}

#[tokio::test]
async fn i1_a_commit_that_was_dropped_under_way_counts_once() {
    let (world, spy) = spied();
    let session = Session::anonymous(&world.sessions);
    session.sign_in(SignIn::new("anna")).await.unwrap();
    session.modify("count", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
    let gate = spy.hold_next_answer(Call::Update);
    let dropped = tokio::spawn({
        let session = session.clone();
        async move { session.commit().await }
    });
    gate.reached().await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    session.commit().await.unwrap();
    assert_eq!(session.get::<u32>("count").unwrap(), Some(1));
}

#[tokio::test]
async fn i6_touches_that_could_not_be_written_are_kept() {
    let (world, spy) = spied();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(Duration::from_mins(59));
    world.sessions.resume(&token).await.unwrap();
    spy.fail_next(Call::Touch);
    world.sessions.flush().await.unwrap_err();
    world.sessions.flush().await.unwrap();
    world.clock.advance(Duration::from_mins(59));
    assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_given_up_on_in_time() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    let gate = spy.hold_next(Call::Load);
    assert_eq!(browser.get("/me").await.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(gate);
    let _gate = spy.hold_next(Call::Update);
    let reply = browser.get("/set?key=a&value=1").await;
    assert_eq!((reply.status, reply.set_cookie()), (StatusCode::SERVICE_UNAVAILABLE, None));
    assert_eq!(browser.text("/me").await, "anna");
}
