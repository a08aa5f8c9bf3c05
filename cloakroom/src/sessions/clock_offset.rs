//! How far this node's clock is from the store's.
//!
//! Deadlines are decided by the clocks of the nodes, so these must agree. The store's clock is one that all nodes can
//! compare theirs with.

use std::{
    fmt,
    sync::{Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{Inner, Sessions, upkeep::upgrade};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    token::SessionId,
};

/// How far a node's clock is from its store's, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    ahead_millis: i64,
    error: Duration,
}

impl ClockOffset {
    /// A node whose clock is further off is not ready: 2 seconds.
    pub const MAX: Duration = Duration::from_secs(2);

    /// A store that was asked at `asked`, answered by `answered`, and said what its clock shows. It looked at its clock
    /// some time between, most likely half way.
    fn of(asked: Timestamp, answered: Timestamp, store: Timestamp) -> Self {
        let error = answered.since(asked) / 2;
        let half_way = asked.after(error);
        Self { ahead_millis: half_way.as_millis().saturating_sub(store.as_millis()), error }
    }

    /// By how many milliseconds the node's clock is ahead; negative if it is behind.
    pub fn ahead_millis(&self) -> i64 {
        self.ahead_millis
    }

    /// How far off that may be at most: half the time that the answer took.
    pub fn error(&self) -> Duration {
        self.error
    }

    /// Whether the clocks are certainly more than [`MAX`](Self::MAX) apart.
    pub fn is_too_large(&self) -> bool {
        Duration::from_millis(self.ahead_millis.unsigned_abs()) > Self::MAX.saturating_add(self.error)
    }

    /// By how much the node's clock is ahead at most.
    fn ahead_at_most(&self) -> Duration {
        let error = i64::try_from(self.error.as_millis()).unwrap_or(i64::MAX);
        Duration::from_millis(u64::try_from(self.ahead_millis.saturating_add(error)).unwrap_or(0))
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let apart = Duration::from_millis(self.ahead_millis.unsigned_abs());
        let side = if self.ahead_millis < 0 { "behind" } else { "ahead of" };
        write!(f, "{apart:?} {side} the store's, give or take {:?}", self.error)
    }
}

/// How often a node compares its clock with the store's: clocks drift by milliseconds in that time, and one that is set
/// wrong is noticed before the orchestrator's next but one look at whether the node is ready.
const INTERVAL: Duration = Duration::from_secs(30);

/// What was measured last.
#[derive(Debug, Default)]
pub(super) struct LastOffset(Mutex<Option<Measured>>);

#[derive(Clone, Copy, Debug)]
struct Measured {
    /// None where the store has no clock but this machine's.
    offset: Option<ClockOffset>,
    /// What the node's clock showed then, and the machine's monotonic one.
    at: (Timestamp, Instant),
}

impl Measured {
    /// Whether the node's clock was not set since.
    fn holds(&self, now: Timestamp) -> bool {
        let (at, instant) = self.at;
        let passed = i64::try_from(instant.elapsed().as_millis()).unwrap_or(i64::MAX);
        let shown = now.as_millis().saturating_sub(at.as_millis());
        self.offset.is_none() || Duration::from_millis(shown.abs_diff(passed)) <= ClockOffset::MAX / 2
    }
}

impl LastOffset {
    fn get(&self) -> Option<Measured> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what was there before.
    fn set(&self, measured: Measured) -> Option<ClockOffset> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(measured)?.offset
    }
}

impl Sessions {
    /// How far this node's clock is from the store's, as it was measured last. The upkeep measures it at the start and
    /// every 30 seconds, [`reap`](Self::reap) each time. None if it was not measured yet, or if the store has no clock but
    /// this machine's.
    pub fn clock_offset(&self) -> Option<ClockOffset> {
        self.0.clock_offset.get()?.offset
    }

    /// What the store's clock says. Where nothing is to be changed, one that can only be read will do.
    async fn look_at_store(&self) -> Result<Option<Timestamp>> {
        match self.store().ping().await {
            Err(_) if self.is_read_only() => {
                self.rules().load(SessionId::from_bytes([0; SessionId::LEN]), self.now()).await.map(|_| None)
            }
            pinged => pinged,
        }
    }

    /// Asks the store whether it can be used now, and measures how far this node's clock is from its own. A node whose clock
    /// is [too far off](ClockOffset::is_too_large) should be sent no requests: it ends sessions too early, or serves them
    /// too long. It refuses sign-ins: what other nodes count as living it takes
    /// for expired, so that no limit would hold.
    pub async fn measure_clock_offset(&self) -> Result<Option<ClockOffset>> {
        let asked = self.now();
        let store = self.store_read(self.look_at_store()).await?;
        let answered = self.now();
        let offset = store.map(|store| ClockOffset::of(asked, answered, store));
        let measured = Measured { offset, at: (answered, Instant::now()) };
        let was_too_large = self.0.clock_offset.set(measured).is_some_and(|offset| offset.is_too_large());
        match offset {
            Some(offset) if offset.is_too_large() && !was_too_large => {
                tracing::warn!("this machine's clock is {offset}: synchronise it; until then this node is not ready");
            }
            Some(offset) if was_too_large && !offset.is_too_large() => {
                tracing::info!("this machine's clock is {offset}: it is right again");
            }
            _ => {}
        }
        Ok(offset)
    }

    /// Refuses what must not be decided by a wrong clock. Costs nothing but the first time, and after the clock was set.
    pub(super) async fn check_clock(&self) -> Result<()> {
        if !self.0.clock_offset.get().is_some_and(|measured| measured.holds(self.now())) {
            self.measure_clock_offset().await?;
        }
        match self.clock_offset() {
            Some(offset) if offset.is_too_large() => Err(Error::Unavailable {
                message: format!(
                    "this machine's clock is {offset}: sign-ins are refused here until it is synchronised"
                ),
                source: None,
            }),
            _ => Ok(()),
        }
    }

    /// How long a reaper waits beyond a deadline, so that a node whose clock is ahead ends nothing that lives on others.
    pub(super) async fn wait_before_reaping(&self) -> Duration {
        if let Err(error) = self.measure_clock_offset().await {
            tracing::debug!(%error, "the clock could not be compared with the store's");
        }
        self.clock_offset().map_or(Duration::ZERO, |offset| offset.ahead_at_most())
    }
}

pub(super) async fn keep_measuring(service: Weak<Inner>) {
    let mut failing = false;
    while let Some(sessions) = upgrade(&service) {
        match sessions.measure_clock_offset().await {
            // There is no other clock.
            Ok(None) => return,
            Ok(Some(_)) => failing = false,
            Err(error) if failing => tracing::debug!(%error, "the store still cannot be asked for its time"),
            Err(error) => {
                tracing::warn!(%error, "the store cannot be asked for its time");
                failing = true;
            }
        }
        drop(sessions);
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn i5_half_the_round_trip_is_accounted_for() {
        let offset = ClockOffset::of(at(10_000), at(10_600), at(10_300));
        assert_eq!((offset.ahead_millis(), offset.error()), (0, Duration::from_millis(300)));
        let offset = ClockOffset::of(at(10_000), at(10_600), at(7_300));
        assert_eq!((offset.ahead_millis(), offset.ahead_at_most()), (3_000, Duration::from_millis(3_300)));
        let offset = ClockOffset::of(at(10_000), at(10_000), at(13_000));
        assert_eq!((offset.ahead_millis(), offset.ahead_at_most()), (-3_000, Duration::ZERO));
    }

    #[test]
    fn i5_more_than_two_seconds_are_too_many_if_they_are_certain() {
        for (answered, store, too_large) in [
            (10_000, 8_000, false),
            (10_000, 7_999, true),
            (10_000, 12_000, false),
            (10_000, 12_001, true),
            // Half a second to and fro may have gone one way.
            (11_000, 8_000, false),
            (11_000, 7_999, true),
        ] {
            assert_eq!(
                ClockOffset::of(at(10_000), at(answered), at(store)).is_too_large(),
                too_large,
                "{answered} {store}"
            );
        }
    }

    #[test]
    fn an_offset_is_told_in_words() {
        let text = ClockOffset::of(at(10_000), at(10_020), at(13_010)).to_string();
        assert_eq!(text, "3s behind the store's, give or take 10ms");
    }
}
