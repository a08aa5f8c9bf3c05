//! Who has a session now, counted: stores list sessions, and count none.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cloakroom::{Result, SessionInfo, Sessions, Timestamp, store::Query};

use super::single::Single;

/// The latest count.
#[derive(Debug, Default)]
pub(super) struct Living {
    count: Mutex<Counts>,
    counting: Single,
}

#[derive(Debug, Default)]
struct Counts {
    /// The last that came to its end.
    last: Option<Arc<Count>>,
    /// How many the one under way has seen.
    so_far: usize,
}

/// How many sessions there are, and of which kinds.
#[derive(Clone, Debug)]
pub(super) struct Count {
    /// When it began. It is exact for sessions that neither started nor ended meanwhile.
    pub(super) at: Timestamp,
    pub(super) took: Duration,
    pub(super) all: usize,
    pub(super) signed_in: usize,
    pub(super) impersonated: usize,
    pub(super) devices: Tally,
    pub(super) countries: Tally,
}

/// How often each of several texts came.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    counts: HashMap<Arc<str>, usize>,
    /// Without one.
    pub(super) unknown: usize,
}

impl Tally {
    /// Clients choose what they call themselves: more than so many different texts are not kept apart.
    const MOST: usize = 1_000;

    fn add(&mut self, text: Option<&Arc<str>>) {
        let Some(text) = text else {
            self.unknown += 1;
            return;
        };
        if let Some(count) = self.counts.get_mut(text) {
            *count += 1;
        } else if self.counts.len() < Self::MOST {
            self.counts.insert(Arc::clone(text), 1);
        } else {
            self.unknown += 1;
        }
    }

    /// The most frequent ones, those first.
    pub(super) fn most(&self, count: usize) -> Vec<(Arc<str>, usize)> {
        let mut all: Vec<_> = self.counts.iter().map(|(text, count)| (Arc::clone(text), *count)).collect();
        all.sort_by(|(one, of_one), (other, of_other)| of_other.cmp(of_one).then_with(|| one.cmp(other)));
        all.truncate(count);
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

const PORTION: usize = 4_096;
/// A count is not made again before this; and one that took long, not before many times as long.
const FRESH: Duration = Duration::from_secs(10);

impl Living {
    /// The latest count there is, made anew if it is old; and how many the one under way has seen, if it is not done in time.
    pub(super) async fn count(
        self: &Arc<Self>,
        sessions: &Sessions,
        within: Duration,
    ) -> (Option<Arc<Count>>, Option<usize>) {
        let last = self.counts().last.clone();
        if let Some(last) = last.filter(|last| sessions.now().since(last.at) < FRESH.max(last.took * 20)) {
            return (Some(last), None);
        }
        let (living, of) = (Arc::clone(self), sessions.clone());
        let work = async move {
            match living.count_all(&of).await {
                Ok(count) => living.counts().last = Some(Arc::new(count)),
                Err(error) => tracing::warn!(%error, "the console cannot count the sessions"),
            }
        };
        let is_done = self.counting.run(work, within).await;
        let counts = self.counts();
        (counts.last.clone(), (!is_done).then_some(counts.so_far))
    }

    async fn count_all(&self, sessions: &Sessions) -> Result<Count> {
        let begun = Instant::now();
        let mut count = Count {
            at: sessions.now(),
            took: Duration::ZERO,
            all: 0,
            signed_in: 0,
            impersonated: 0,
            devices: Tally::default(),
            countries: Tally::default(),
        };
        let mut after = None;
        loop {
            let page = sessions.find(&Query::default(), after.as_ref(), PORTION).await?;
            page.items.iter().for_each(|info| count.add(info));
            self.counts().so_far = count.all;
            after = page.next;
            if after.is_none() {
                count.took = begun.elapsed();
                return Ok(count);
            }
            tokio::task::yield_now().await;
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn add(&mut self, info: &SessionInfo) {
        self.all += 1;
        self.signed_in += usize::from(info.user.is_some());
        self.impersonated += usize::from(info.impersonator().is_some());
        self.devices.add(info.client.device.as_ref());
        self.countries.add(info.client.country.as_ref());
    }
}
