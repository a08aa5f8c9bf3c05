//! I5: a node whose clock is off knows it, and ends nothing early.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Error, Found, Impersonate, Limit, Sessions, SignIn, Timestamp,
    store::MemoryStore,
    testing::{Call, ManualClock, SpyStore},
};

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Two nodes on a store with a clock of its own.
struct Nodes {
    spy: Arc<SpyStore<MemoryStore>>,
    clock: ManualClock,
    right: Sessions,
    other_clock: ManualClock,
    other: Sessions,
}

fn nodes() -> Nodes {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    let [clock, other_clock] = [START; 2].map(ManualClock::new);
    spy.set_clock(clock.clone());
    let [right, other] = [&clock, &other_clock]
        .map(|clock| Sessions::builder(spy.clone()).clock(clock.clone()).without_upkeep().build().unwrap());
    Nodes { spy, clock, right, other_clock, other }
}

#[tokio::test]
async fn i5_a_node_whose_clock_is_ahead_ends_no_session_early() {
    let Nodes { clock, right, other_clock, other, .. } = nodes();
    let idle = Duration::from_mins(10);
    let token = right.start(SignIn::new("anna").idle_timeout(idle)).await.unwrap().token;
    for ahead in [Duration::from_millis(1_500), Duration::from_hours(3)] {
        other_clock.set(START.after(ahead));
        assert_eq!(other.reap().await.unwrap(), 0, "{ahead:?} ahead");
        assert_eq!(other.clock_offset().unwrap().ahead_millis(), i64::try_from(ahead.as_millis()).unwrap());
    }
    // Up to the last millisecond, and then it does.
    let almost = idle.checked_sub(Duration::from_millis(1)).unwrap();
    clock.advance(almost);
    other_clock.set(START.after(Duration::from_hours(3) + almost));
    assert_eq!(other.reap().await.unwrap(), 0);
    assert!(matches!(right.resume(&token).await.unwrap(), Found::Live(_)));
    clock.advance(idle + Duration::from_secs(1));
    other_clock.advance(idle + Duration::from_secs(1));
    assert_eq!(other.reap().await.unwrap(), 1);
}

#[tokio::test]
async fn i5_a_node_whose_clock_is_behind_reaps_by_its_own() {
    let Nodes { clock, right, other_clock, other, .. } = nodes();
    right.start(SignIn::new("anna").idle_timeout(Duration::from_mins(10))).await.unwrap();
    clock.advance(Duration::from_mins(11));
    assert_eq!(other.reap().await.unwrap(), 0);
    assert_eq!(other.clock_offset().unwrap().ahead_millis(), -660_000);
    other_clock.advance(Duration::from_mins(10));
    assert_eq!(other.reap().await.unwrap(), 1);
}

#[tokio::test]
async fn i5_over_two_seconds_are_too_many() {
    let Nodes { other_clock, other, .. } = nodes();
    assert_eq!(other.clock_offset(), None, "it was not measured yet");
    for (millis, too_large) in [(2_000, false), (2_001, true), (-2_000, false), (-2_001, true), (0, false)] {
        other_clock.set(Timestamp::from_millis(START.as_millis() + millis));
        let offset = other.measure_clock_offset().await.unwrap().unwrap();
        assert_eq!((offset.ahead_millis(), offset.is_too_large()), (millis, too_large));
        assert_eq!(other.clock_offset(), Some(offset));
    }
}

#[tokio::test]
async fn i5_a_store_without_a_clock_of_its_own_has_no_offset() {
    let sessions = Sessions::builder(Arc::new(MemoryStore::new().unwrap())).without_upkeep().build().unwrap();
    assert_eq!(sessions.measure_clock_offset().await.unwrap(), None);
    sessions.reap().await.unwrap();
    assert_eq!(sessions.clock_offset(), None);
}

#[tokio::test]
async fn i5_a_store_that_cannot_be_asked_leaves_what_was_measured() {
    let Nodes { spy, right, other_clock, other, .. } = nodes();
    right.start(SignIn::new("anna").idle_timeout(Duration::from_mins(10))).await.unwrap();
    other_clock.set(START.after(Duration::from_hours(1)));
    let measured = other.measure_clock_offset().await.unwrap();
    spy.fail_next(Call::Ping);
    other.measure_clock_offset().await.unwrap_err();
    spy.fail_next(Call::Ping);
    assert_eq!(other.reap().await.unwrap(), 0, "it still knows that it is ahead");
    assert_eq!(other.clock_offset(), measured);
}

#[tokio::test]
async fn r6_a_node_whose_clock_is_off_refuses_sign_ins() {
    for off in [Duration::from_hours(2), Duration::from_secs(3)] {
        for ahead in [true, false] {
            let Nodes { spy, right, other_clock, other, .. } = nodes();
            let sign_in = || SignIn::new("anna").limit(Limit::evict(1));
            let first = right.start(sign_in()).await.unwrap().token;
            let root = right.start(SignIn::new("root")).await.unwrap().token;
            other_clock.set(if ahead { START.after(off) } else { START.before(off) });
            // Though nothing measures but the sign-in itself.
            let error = other.start(sign_in()).await.unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
            assert!(error.to_string().contains("clock is"), "{error}");
            let acting = other.impersonate(&root, Impersonate::new("ben", "ticket 17")).await;
            assert!(acting.is_err(), "{acting:?}");
            assert!(matches!(right.resume(&first).await.unwrap(), Found::Live(_)));
            assert_eq!(right.list("anna").await.unwrap().len(), 1);
            // A visitor is no admission.
            other.start(SignIn::anonymous()).await.unwrap();

            // Once it is right, at once.
            other_clock.set(START);
            let next = other.start(sign_in()).await.unwrap();
            assert_eq!(next.ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [first.id()]);
            // A clock that is set between two measurements is noticed, and one that runs is not measured each time.
            spy.reset();
            other.start(sign_in()).await.unwrap();
            assert_eq!(spy.counts().ping, 0);
            other_clock.set(START.after(off));
            other.start(sign_in()).await.unwrap_err();
            assert_eq!(right.list("anna").await.unwrap().len(), 1);
        }
    }
}

#[tokio::test]
async fn r6_where_the_clock_cannot_be_compared_sign_ins_are_refused() {
    let Nodes { spy, other, .. } = nodes();
    spy.fail_next(Call::Ping);
    let error = other.start(SignIn::new("anna")).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    other.start(SignIn::new("anna")).await.unwrap();
}

/// What the log says, as one text.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn i5_the_log_tells_once_that_the_clock_is_off_and_once_that_it_is_right() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let Nodes { other_clock, other, .. } = nodes();
    for ahead in [0, 5, 6, 5, 0, 0, 5, 0] {
        other_clock.set(START.after(Duration::from_secs(ahead)));
        other.measure_clock_offset().await.unwrap();
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.matches("5s ahead of the store's, give or take 0ns: synchronise it").count(), 2, "{text}");
    assert_eq!(text.matches("it is right again").count(), 2, "{text}");
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[tokio::test(start_paused = true)]
async fn i5_the_upkeep_measures_at_the_start_and_every_thirty_seconds() {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    spy.set_clock(ManualClock::new(START));
    let clock = ManualClock::new(START.after(Duration::from_secs(3)));
    let sessions = Sessions::builder(spy.clone()).clock(clock.clone()).build().unwrap();
    let measured = async |ahead: i64| {
        while sessions.clock_offset().is_none_or(|offset| offset.ahead_millis() != ahead) {
            // Time is paused, and goes on when nobody has anything to do.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let begin = tokio::time::Instant::now();
    measured(3_000).await;
    assert!(begin.elapsed() < Duration::from_secs(1));
    clock.set(START);
    measured(0).await;
    assert!((29..=31).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    assert_eq!(spy.counts().ping, 2);
    sessions.shutdown().await;
}
