//! All connections together: how many there are, and which goes when there are too many.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::connection::{Activity, Phase};

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Crowd {
    max: usize,
    here: Mutex<Here>,
    cut: [AtomicU64; Cut::ALL.len()],
}

#[derive(Debug, Default)]
struct Here {
    connections: HashMap<u64, Arc<Activity>>,
    last: u64,
}

/// Why the server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// No request came for long.
    Idle,
    /// The head of a request did not arrive in time.
    Head,
    /// The client did not read its answer.
    Unread,
    /// It waited while there were too many, or came when all were at work.
    Full,
}

impl Cut {
    pub(crate) const ALL: [Self; 4] = [Self::Idle, Self::Head, Self::Unread, Self::Full];

    /// The name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Unread => "unread",
            Self::Full => "full",
        }
    }
}

/// One connection's place among the others, until it is dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    pub(super) activity: Arc<Activity>,
}

impl Crowd {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, here: Mutex::default(), cut: Default::default() })
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().connections.len()
    }

    /// How many were closed for this reason.
    pub(crate) fn cut(&self, why: Cut) -> u64 {
        self.cut[why as usize].load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, why: Cut) {
        self.cut[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Lets a connection in, where need be for one that waits; `None` if all are at work.
    pub(super) fn enter(this: &Arc<Self>) -> Option<Place> {
        let mut here = this.lock();
        if here.connections.len() >= this.max && this.close_some(&mut here) == 0 {
            this.note(Cut::Full);
            return None;
        }
        here.last += 1;
        let (number, activity) = (here.last, Arc::new(Activity::new()));
        here.connections.insert(number, Arc::clone(&activity));
        Some(Place { crowd: Arc::clone(this), number, activity })
    }

    /// Closes some that wait, the longest first.
    pub(super) fn close_waiting(&self) {
        self.close_some(&mut self.lock());
    }

    /// Several at once, so that a flood of connections does not have all of them looked at for each.
    fn close_some(&self, here: &mut Here) -> usize {
        let waiting = here.connections.iter().filter_map(|(number, activity)| {
            let (phase, since) = activity.now();
            (phase != Phase::Busy).then_some((since, *number))
        });
        let mut waiting: Vec<_> = waiting.collect();
        let count = (self.max / 128).clamp(1, 64).min(waiting.len());
        if count == 0 {
            return 0;
        }
        waiting.select_nth_unstable(count - 1);
        for (_, number) in &waiting[..count] {
            if let Some(activity) = here.connections.remove(number) {
                self.note(Cut::Full);
                activity.close();
            }
        }
        if self.cut(Cut::Full).is_multiple_of(1024) || self.cut(Cut::Full) <= count as u64 {
            tracing::warn!(max = self.max, "there are too many connections: those that waited longest are closed");
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn note(&self, why: Cut) {
        self.crowd.note(why);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_waiting_goes_for_a_new_one_and_none_that_works() {
        let crowd = Crowd::new(3);
        let [first, second, third] = std::array::from_fn(|_| Crowd::enter(&crowd).unwrap());
        first.activity.waits_since(2);
        second.activity.waits_since(1);
        third.activity.works();
        let fourth = Crowd::enter(&crowd).unwrap();
        second.activity.closed().await;
        assert_eq!(crowd.count(), 3);
        drop(second);
        assert_eq!(crowd.count(), 3, "its place was taken already");
        first.activity.works();
        fourth.activity.works();
        assert!(Crowd::enter(&crowd).is_none());
        drop(first);
        assert!(Crowd::enter(&crowd).is_some());
        assert_eq!(crowd.cut(Cut::Full), 2);
    }
}
