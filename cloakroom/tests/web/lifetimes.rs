//! How long sessions live.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Assurance, Error, Found, Lifetimes, Reason, SignIn, Timestamp, Token, Visitor,
    store::MemoryStore,
    testing::{Call, SpyStore},
};

use super::world::{World, world, world_on, world_with};

const MINUTE: Duration = Duration::from_mins(1);
const FLUSH_DELAY: Duration = Duration::from_secs(1);

async fn reason(world: &World, token: &Token) -> Option<Reason> {
    match world.sessions.resume(Visitor::new(token).touch(false)).await.unwrap() {
        Found::Ended(ended) => Some(ended.reason),
        Found::Live(_) => None,
        Found::Unknown => panic!("it is known"),
    }
}

#[tokio::test]
async fn x1_an_unused_session_ends_at_its_idle_timeout_to_the_millisecond() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(Duration::from_millis(60 * 60 * 1000 - 1));
    assert_eq!(reason(&world, &token).await, None);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(reason(&world, &token).await, Some(Reason::IdleTimeout));
}

#[tokio::test]
async fn x1_use_resets_the_idle_timeout_never_past_the_limit_and_at_most_a_throttle_early() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let mut last_use = world.sessions.now();
    // Uses at odd intervals, some within the throttle of a minute, written when the upkeep would.
    for seconds in [59, 30, 1, 3000, 45, 45, 45, 20, 2, 3540] {
        world.clock.advance(Duration::from_secs(seconds));
        assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)));
        last_use = world.sessions.now();
        world.clock.advance(FLUSH_DELAY);
        world.sessions.flush().await.unwrap();
    }
    let limit = last_use.after(60 * MINUTE);
    let earliest = limit.before(MINUTE + FLUSH_DELAY);
    world.clock.set(earliest.before(Duration::from_millis(1)));
    assert_eq!(reason(&world, &token).await, None, "never earlier than the throttle");
    world.clock.set(limit);
    assert_eq!(reason(&world, &token).await, Some(Reason::IdleTimeout), "never later than the limit");
}

#[tokio::test]
async fn i6_touches_are_throttled_and_do_not_change_the_version() {
    let world = world();
    let started = world.sessions.start(SignIn::new("anna")).await.unwrap();
    for _ in 0..10 {
        world.clock.advance(Duration::from_secs(5));
        world.sessions.resume(&started.token).await.unwrap();
    }
    world.sessions.flush().await.unwrap();
    let Found::Live(record) = world.sessions.get(started.token.id()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.info.last_seen_at, started.record.info.last_seen_at, "within the throttle");
    world.clock.advance(MINUTE);
    world.sessions.resume(&started.token).await.unwrap();
    world.sessions.flush().await.unwrap();
    let Found::Live(record) = world.sessions.get(started.token.id()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.info.last_seen_at, world.sessions.now());
    assert_eq!(record.info.version, 0);
}

#[tokio::test]
async fn x2_use_does_not_move_the_absolute_end() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    for _ in 0..47 {
        world.clock.advance(30 * MINUTE);
        assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)));
        world.sessions.flush().await.unwrap();
    }
    world.clock.advance(30 * MINUTE);
    assert_eq!(reason(&world, &token).await, Some(Reason::AbsoluteTimeout));
}

#[tokio::test]
async fn resume_tells_unknown_expired_and_ended_apart() {
    let world = world();
    let start = async || world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let (expiring, ended, living) = (start().await, start().await, start().await);
    world.sessions.end(ended.id(), &Reason::RevokedByAdmin.into()).await.unwrap();
    for _ in 0..2 {
        world.clock.advance(30 * MINUTE);
        world.sessions.resume(&living).await.unwrap();
        world.sessions.flush().await.unwrap();
    }
    let resume = async |token| world.sessions.resume(token).await.unwrap();
    assert!(matches!(resume(&living).await, Found::Live(record) if record.info.id == living.id()));
    assert_eq!(reason(&world, &expiring).await, Some(Reason::IdleTimeout));
    assert_eq!(reason(&world, &ended).await, Some(Reason::RevokedByAdmin));
    assert!(
        matches!(resume(&Token::generate(living.id()).unwrap()).await, Found::Unknown),
        "the id alone opens nothing"
    );
    world.sessions.reap().await.unwrap();
    assert_eq!(reason(&world, &expiring).await, Some(Reason::IdleTimeout), "once reaped as before");
}

#[tokio::test]
async fn x4_signing_in_again_resets_both_timers_and_nothing_else_does() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    let first_end = world.sessions.list("anna").await.unwrap()[0].ends_at;
    world.clock.advance(50 * MINUTE);
    browser.text("/rotate").await;
    browser.text("/set?key=a&value=1").await;
    assert_eq!(world.sessions.list("anna").await.unwrap()[0].ends_at, first_end);
    browser.text("/sign-in?user=anna").await;
    let now = world.sessions.now();
    let session = &world.sessions.list("anna").await.unwrap()[0];
    assert_eq!(session.ends_at, Some(now.after(Duration::from_hours(24))));
    assert_eq!((session.last_seen_at, session.authenticated_at()), (now, Some(now)));
    assert_eq!(browser.text("/get?key=a").await, "1", "the same user keeps their data");
}

#[tokio::test]
async fn x3_a_preset_holds_for_every_sign_in() {
    let world = world_with(|builder| builder.lifetimes(Lifetimes::nist(Assurance::Aal3)));
    let now = world.sessions.now();
    let session = world.sessions.start(SignIn::new("anna").remember(true)).await.unwrap().record;
    assert_eq!(session.info.idle_timeout, Some(15 * MINUTE));
    assert_eq!(session.info.ends_at, Some(now.after(Duration::from_hours(12))));
    let longer = SignIn::new("anna").idle_timeout(16 * MINUTE);
    assert!(world.sessions.start(longer).await.unwrap_err().to_string().contains("00:15:00"));
}

#[tokio::test]
async fn session_end_and_timeout_are_settings_of_each_sign_in() {
    let world = world();
    let now = world.sessions.now();
    let end = now.after(10 * MINUTE);
    let token = world.sessions.start(SignIn::new("anna").idle_timeout(20 * MINUTE).ends_at(end)).await.unwrap().token;
    world.clock.set(end);
    assert_eq!(reason(&world, &token).await, Some(Reason::AbsoluteTimeout));
    let past = SignIn::new("anna").ends_at(end);
    assert!(world.sessions.start(past).await.unwrap_err().to_string().contains("has passed already"));
}

#[tokio::test]
async fn a_visitor_s_session_has_no_absolute_end() {
    let world = world();
    let session = world.sessions.start(SignIn::anonymous()).await.unwrap().record;
    assert_eq!(session.info.ends_at, None);
    assert_eq!(session.info.idle_timeout, Some(60 * MINUTE));
}

#[tokio::test]
async fn clear_expired_sessions_ends_them_with_their_reason_and_audits_each() {
    let world = world();
    let expired = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(61 * MINUTE);
    let living = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    assert_eq!(world.sessions.reap().await.unwrap(), 1);
    assert_eq!(world.sessions.reap().await.unwrap(), 0);
    assert_eq!(reason(&world, &expired).await, Some(Reason::IdleTimeout));
    assert_eq!(Reason::IdleTimeout.text(), "Session Expired");
    assert_eq!(reason(&world, &living).await, None);
    let query = cloakroom::store::AuditQuery { session: Some(expired.id()), ..Default::default() };
    let log = world.sessions.audit_log().page(&query, None, 10).await.unwrap().items;
    assert_eq!(log.last().unwrap().entry.reason, Some(Reason::IdleTimeout));
}

#[tokio::test]
async fn clean_up_flushes_uses_before_it_reaps() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(59 * MINUTE);
    world.sessions.resume(&token).await.unwrap();
    world.clock.advance(2 * MINUTE);
    // Its use was noted but not written when its old deadline came.
    assert_eq!(
        world.sessions.reap().await.unwrap(),
        1,
        "a touch that is written late cannot revive an expired session"
    );
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(59 * MINUTE);
    world.sessions.resume(&token).await.unwrap();
    assert_eq!(world.sessions.reap().await.unwrap(), 0);
    world.clock.advance(2 * MINUTE);
    assert_eq!(reason(&world, &token).await, None);
}

#[tokio::test]
async fn the_reason_is_remembered_for_a_day() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.sessions.end(token.id(), &Reason::SignedOut.into()).await.unwrap();
    world.clock.advance(Duration::from_millis(24 * 60 * 60 * 1000 - 1));
    world.sessions.reap().await.unwrap();
    assert_eq!(reason(&world, &token).await, Some(Reason::SignedOut));
    world.clock.advance(Duration::from_millis(1));
    world.sessions.reap().await.unwrap();
    assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Unknown));
}

#[tokio::test]
async fn a_clock_that_jumps_moves_nothing_backwards() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let start = world.sessions.now();
    world.clock.advance(30 * MINUTE);
    world.sessions.resume(&token).await.unwrap();
    world.sessions.flush().await.unwrap();
    world.clock.set(start.before(Duration::from_hours(5)));
    assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)));
    world.sessions.flush().await.unwrap();
    let Found::Live(record) = world.sessions.get(token.id()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.info.last_seen_at, start.after(30 * MINUTE));
    // A jump far ahead expires it, as its deadline says; what was reaped meanwhile stays ended when the clock is back.
    world.clock.advance(Duration::from_hours(12));
    world.sessions.reap().await.unwrap();
    world.clock.set(start);
    assert_eq!(reason(&world, &token).await, Some(Reason::IdleTimeout));
}

#[tokio::test(start_paused = true)]
async fn clean_freq_and_clean_interrupt_the_reaper_runs_by_itself_until_it_is_stopped() {
    let clock = cloakroom::testing::ManualClock::new(Timestamp::from_millis(1_800_000_000_000));
    let store = Arc::new(MemoryStore::new().unwrap());
    let builder = cloakroom::Sessions::builder(store).clock(clock.clone());
    let sessions = builder.reap_interval(5 * MINUTE).build().unwrap();
    let first = sessions.start(SignIn::new("anna")).await.unwrap().token;
    clock.advance(61 * MINUTE);
    tokio::time::sleep(6 * MINUTE).await;
    let query = cloakroom::store::AuditQuery { session: Some(first.id()), ..Default::default() };
    assert_eq!(sessions.audit_log().page(&query, None, 10).await.unwrap().items.len(), 2, "started, ended");

    sessions.shutdown().await;
    let second = sessions.start(SignIn::new("anna")).await.unwrap().token;
    clock.advance(61 * MINUTE);
    tokio::time::sleep(60 * MINUTE).await;
    let query = cloakroom::store::AuditQuery { session: Some(second.id()), ..Default::default() };
    assert_eq!(sessions.audit_log().page(&query, None, 10).await.unwrap().items.len(), 1, "nobody reaped it");
}

#[tokio::test]
async fn x7_a_session_is_of_no_higher_level_than_its_authentication() {
    let world = world();
    let proved = |level| SignIn::new("anna").methods("pwd otp").authenticated_level(level);
    for (sign_in, expected) in [
        (SignIn::new("anna"), None),
        (proved(Assurance::Aal2), Some(Assurance::Aal2)),
        (proved(Assurance::Aal2).level(Assurance::Aal2), Some(Assurance::Aal2)),
        (proved(Assurance::Aal3).level(Assurance::Aal1), Some(Assurance::Aal1)),
    ] {
        let started = world.sessions.start(sign_in).await.unwrap();
        let Found::Live(record) = world.sessions.get(started.token.id()).await.unwrap() else { panic!("it lives") };
        assert_eq!(record.info.level(), expected);
    }
    for (start, hint) in [
        (proved(Assurance::Aal1).level(Assurance::Aal2), "ask the person to prove more"),
        (SignIn::new("anna").level(Assurance::Aal1), "say which it had"),
        (SignIn::anonymous().authenticated_level(Assurance::Aal1), "nobody is signed in"),
        (SignIn::anonymous().authenticated_level(Assurance::Aal1).level(Assurance::Aal1), "nobody is signed in"),
    ] {
        let error = world.sessions.start(start).await.unwrap_err();
        assert!(matches!(&error, Error::InvalidArgument { what: "level", .. }), "{error:?}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn methods_are_names_with_a_space_between_them() {
    let world = world();
    for methods in ["pwd", "pwd otp", "hwk user", "x-ours"] {
        let started = world.sessions.start(SignIn::new("anna").methods(methods)).await.unwrap();
        assert_eq!(started.record.info.methods(), Some(methods));
    }
    for methods in ["", " ", "pwd  otp", " pwd", "pwd\totp", "пароль", &"x".repeat(300)] {
        let error = world.sessions.start(SignIn::new("anna").methods(methods)).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { what: "methods", .. }), "{methods:?}: {error}");
    }
}

/// On a store behind a network, with this idle timeout.
fn spied_with_idle(idle: Duration) -> (World, Arc<SpyStore<MemoryStore>>) {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    let lifetimes = Lifetimes { idle, ..Lifetimes::default() };
    (world_on(spy.clone(), |builder| builder.lifetimes(lifetimes)), spy)
}

#[tokio::test]
async fn x1_a_use_in_the_last_moment_before_the_deadline_counts() {
    for (idle, used) in [(10_000, 9_500), (10_000, 9_999), (1_000, 990), (1_000, 50), (3_600_000, 3_599_999)] {
        let (world, spy) = spied_with_idle(Duration::from_millis(idle));
        let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
        let mut counted = 0;
        for _ in 0..5 {
            world.clock.advance(Duration::from_millis(used));
            // Nothing flushes: what must be written before the deadline is written with the request.
            assert!(
                matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)),
                "idle {idle}, after {used}"
            );
            counted += 1;
            assert_eq!(spy.counts().touch, counted);
        }
        world.clock.advance(Duration::from_millis(idle));
        assert_eq!(reason(&world, &token).await, Some(Reason::IdleTimeout));
    }
}

#[tokio::test]
async fn x1_uses_with_time_left_are_written_together() {
    let (world, spy) = spied_with_idle(Duration::from_secs(10));
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(Duration::from_secs(8));
    world.sessions.resume(&token).await.unwrap();
    assert_eq!(spy.counts().touch, 0, "two flushes are left");
    world.clock.advance(FLUSH_DELAY);
    world.sessions.flush().await.unwrap();
    world.clock.advance(Duration::from_secs(8));
    assert_eq!(reason(&world, &token).await, None);
}

#[tokio::test]
async fn x1_a_use_that_could_not_be_written_in_time_counts_where_it_was_seen() {
    let (world, spy) = spied_with_idle(Duration::from_secs(10));
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(Duration::from_millis(9_500));
    spy.fail_next(Call::Touch);
    assert!(
        matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)),
        "the store hiccups, the request does not"
    );
    world.clock.advance(Duration::from_secs(1));
    let Found::Live(record) = world.sessions.get(token.id()).await.unwrap() else { panic!("it was used") };
    assert_eq!(record.info.last_seen_at, world.sessions.now().before(Duration::from_secs(1)));
    world.clock.advance(Duration::from_secs(9));
    assert_eq!(reason(&world, &token).await, Some(Reason::IdleTimeout), "and no longer than that");
}
