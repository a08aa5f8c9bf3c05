//! I13: when the store fails, nobody is signed out and nothing is overwritten.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Error, Found, Session, Sessions, SignIn, Timestamp, Token,
    store::MemoryStore,
    testing::{Call, ManualClock, SpyStore},
};
use http::StatusCode;

use super::world::spied;

#[tokio::test]
async fn i13_a_failed_load_is_an_error_and_nobody_is_signed_out() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    for path in ["/get?key=a", "/me", "/who", "/set?key=a&value=1", "/sign-in?user=ben", "/sign-out", "/count-now"] {
        spy.fail_next(Call::Read);
        let reply = browser.get(path).await;
        assert_eq!((reply.status, reply.set_cookie()), (StatusCode::SERVICE_UNAVAILABLE, None), "{path}");
        assert!(reply.header("retry-after").is_some());
        assert_eq!(reply.problem()["code"], "store_unavailable");
    }
    assert_eq!(browser.text("/me").await, "anna");
    assert_eq!(browser.text("/get?key=a").await, "-");
}

#[tokio::test]
async fn i13_a_failed_write_answers_503_and_leaves_what_was_there() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    browser.text("/set?key=a&value=1").await;
    spy.fail_next(Call::Data);
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
    spy.lose_next_answer(Call::Data);
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
    let gate = spy.hold_next_answer(Call::Data);
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

/// Sessions that were used 58 minutes after they started; without their touches they end two minutes later.
async fn used(sessions: &Sessions, clock: &ManualClock, count: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    for n in 0..count {
        tokens.push(sessions.start(SignIn::new(format!("user {n}"))).await.unwrap().token);
    }
    clock.advance(Duration::from_mins(58));
    for token in &tokens {
        sessions.resume(token).await.unwrap();
    }
    tokens
}

/// The store alone knows of them: another process goes on.
async fn all_live_on(spy: Arc<SpyStore<MemoryStore>>, clock: &ManualClock, tokens: &[Token]) {
    clock.advance(Duration::from_mins(59));
    let other = Sessions::builder(spy).clock(clock.clone()).without_upkeep().build().unwrap();
    for token in tokens {
        assert!(matches!(other.resume(token).await.unwrap(), Found::Live(_)));
    }
}

#[tokio::test]
async fn i6_a_flush_or_reap_that_is_dropped_under_way_loses_no_touch() {
    for by_reaping in [false, true] {
        let (world, spy) = spied();
        // Two batches: the first is under way when the future is dropped.
        let tokens = used(&world.sessions, &world.clock, 600).await;
        let gate = spy.hold_next(Call::Touch);
        let sessions = world.sessions.clone();
        let dropped =
            tokio::spawn(
                async move { if by_reaping { sessions.reap().await.map(drop) } else { sessions.flush().await } },
            );
        gate.reached().await;
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        world.sessions.shutdown().await;
        all_live_on(spy, &world.clock, &tokens).await;
    }
}

#[tokio::test]
async fn i6_what_is_touched_while_others_are_written_is_written_next() {
    let (world, spy) = spied();
    let tokens = used(&world.sessions, &world.clock, 1).await;
    let gate = spy.hold_next(Call::Touch);
    let sessions = world.sessions.clone();
    let first = tokio::spawn(async move { sessions.flush().await });
    gate.reached().await;
    // The store has not heard of the first yet: a minute more is all there is.
    world.clock.advance(Duration::from_secs(90));
    world.sessions.resume(&tokens[0]).await.unwrap();
    gate.release();
    first.await.unwrap().unwrap();
    world.sessions.flush().await.unwrap();
    assert_eq!(spy.counts().touch, 2);
    all_live_on(Arc::clone(&spy), &world.clock, &tokens).await;
    world.sessions.flush().await.unwrap();
    assert_eq!(spy.counts().touch, 2, "nothing waits any more");
}

#[tokio::test(start_paused = true)]
async fn i6_a_shutdown_while_touches_are_written_loses_none() {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    let clock = ManualClock::new(Timestamp::from_millis(1_800_000_000_000));
    let sessions = Sessions::builder(spy.clone()).clock(clock.clone()).build().unwrap();
    let tokens = used(&sessions, &clock, 1520).await;
    // The service's own task writes them, a second after the first came.
    let gate = spy.hold_next(Call::Touch);
    gate.reached().await;
    // The store comes back during the shutdown.
    spy.fail_next(Call::Touch);
    sessions.shutdown().await;
    drop(gate);
    all_live_on(spy, &clock, &tokens).await;
}

#[tokio::test(start_paused = true)]
async fn i6_touches_that_could_not_be_written_are_tried_again_without_another() {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    let clock = ManualClock::new(Timestamp::from_millis(1_800_000_000_000));
    let sessions = Sessions::builder(spy.clone()).clock(clock.clone()).build().unwrap();
    for _ in 0..3 {
        spy.fail_next(Call::Touch);
    }
    let gate = spy.hold_next_answer(Call::Touch);
    let tokens = used(&sessions, &clock, 2).await;
    gate.reached().await;
    assert_eq!(spy.counts().touch, 4);
    drop(gate);
    all_live_on(spy, &clock, &tokens).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_given_up_on_in_time() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    let gate = spy.hold_next(Call::Read);
    assert_eq!(browser.get("/me").await.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(gate);
    let _gate = spy.hold_next(Call::Data);
    let reply = browser.get("/set?key=a&value=1").await;
    assert_eq!((reply.status, reply.set_cookie()), (StatusCode::SERVICE_UNAVAILABLE, None));
    assert_eq!(browser.text("/me").await, "anna");
}
