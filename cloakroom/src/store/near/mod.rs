//! The near cache: sessions in this process's memory, as long as their backend is known to tell what changes.

mod cache;
mod shelf;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use self::cache::{Begun, Cache};
use super::{
    feed::{Feed, Listener, Pace, Ticks, Watched},
    forward::forward,
    slots::{Ask, Committed, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction, Write},
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::Record,
    store::{AuditQuery, BoxFuture, Cursor, Finding, Logged, Page, Store},
    token::{PartitionKey, SessionId},
};

/// How much the near cache keeps, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NearCache {
    /// About how much memory it takes at most, in bytes. Default 64 MiB.
    pub max_bytes: usize,
    /// How long its link to the backend may be silent: from then on nothing is served from memory until the link is proven
    /// alive again. This is how old a session may be where the link is cut. Default 2 seconds.
    pub silence: Duration,
    /// After how long a session is loaded anew whatever the backend says. This is how old one may be where the link is alive and
    /// lost a message. Default 10 seconds.
    pub max_age: Duration,
}

impl Default for NearCache {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, silence: Duration::from_secs(2), max_age: Duration::from_secs(10) }
    }
}

/// What the near cache has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NearFigures {
    /// Sessions that were served from memory.
    pub hits: u64,
    /// Loads.
    pub misses: u64,
    /// Callers who waited for another one's load.
    pub joined: u64,
    /// Changes that the backend told of.
    pub told: u64,
    /// Slots that are kept.
    pub slots: usize,
    /// About how much memory they take.
    pub bytes: usize,
}

/// A store of which sessions that are used lie in this process's memory, too.
///
/// A session is served from memory only while the backend is known to tell of every change: its link must have been proven
/// alive within [`silence`](NearCache::silence). What another node changes or ends is seen here as soon as the backend's message
/// arrives, and never later than that time after the link is cut. A lost link empties the cache.
///
/// What this process writes it reads back at once. Everything but the look at one session goes through.
pub struct NearStore {
    store: Arc<dyn Store>,
    feed: Arc<dyn Feed>,
    cache: Arc<Cache>,
}

impl NearStore {
    /// Near a store whose backend tells what changes; `None` where it does not.
    pub fn over(store: Arc<dyn Store>, settings: &NearCache) -> Option<Self> {
        Self::timed(store, settings, Ticks::default())
    }

    /// With another clock than this machine's.
    pub fn timed(store: Arc<dyn Store>, settings: &NearCache, ticks: Ticks) -> Option<Self> {
        let feed = store.feed(&Pace { silence: settings.silence, ticks: ticks.clone() })?;
        let cache = Arc::new(Cache::new(settings, ticks));
        feed.listen(Arc::clone(&cache) as Arc<dyn Listener>);
        Some(Self { store, feed, cache })
    }

    /// The session's slot, if it lies in memory and that is as good as looking: as old as the way of the backend's messages is
    /// long.
    #[inline]
    pub fn glance(&self, id: SessionId) -> Option<Option<Slot>> {
        self.cache.glance(id)
    }

    /// The session's slot as it is, or as another caller is finding it at this time.
    pub async fn recent(&self, id: SessionId) -> Result<Option<Slot>> {
        loop {
            match self.cache.begin(id, true) {
                Begun::Lead(load) => return self.look(load, id).await,
                Begun::Join(mut load) => match load.wait_for(Option::is_some).await.as_deref() {
                    Ok(Some(Ok(slot))) => return Ok(slot.clone()),
                    Ok(Some(Err(why))) => {
                        return Err(Error::Unavailable { message: why.to_string(), source: None });
                    }
                    // That caller gave up; another may have found it since.
                    Ok(None) | Err(_) => {
                        if let Some(slot) = self.glance(id) {
                            return Ok(slot);
                        }
                    }
                },
            }
        }
    }

    /// What it has done so far.
    pub fn figures(&self) -> NearFigures {
        self.cache.figures()
    }

    /// What the backend says changed.
    pub fn news(&self) -> &Arc<dyn Feed> {
        &self.feed
    }

    async fn look(&self, load: cache::Load<'_>, id: SessionId) -> Result<Option<Slot>> {
        match self.feed.look(id).await {
            Ok(looked) => {
                load.found(&looked);
                Ok(looked.slot)
            }
            Err(error) => {
                load.failed(&error.to_string());
                Err(error)
            }
        }
    }

    async fn commit_and_note(&self, transactions: &[Transaction], again: bool) -> Result<Vec<Outcome>> {
        let writing = self.cache.begin_write(written(transactions));
        let Watched { mut outcomes, channel } = self.feed.commit(transactions, again).await?;
        if let ([transaction], [Outcome::Committed(answers)], Some(channel)) =
            (transactions, outcomes.as_mut_slice(), channel)
            && let ([Write::Data { .. }], [answer]) = (transaction.writes.as_slice(), answers.as_mut_slice())
        {
            writing.changed(&channel, |before| {
                let record = after(before, transaction, answer)?;
                *answer = Committed::Record(Arc::clone(&record));
                Some(record)
            });
        }
        Ok(outcomes)
    }

    fn inner(&self) -> &dyn Store {
        &*self.store
    }
}

/// The sessions that transactions write.
fn written(transactions: &[Transaction]) -> Vec<SessionId> {
    let writes = transactions.iter().flat_map(|transaction| &transaction.writes);
    let mut ids: Vec<_> = writes.filter_map(Write::session).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The record that a change of data has left, from what was kept before it and what it was answered.
fn after(before: Option<&Arc<Record>>, transaction: &Transaction, answer: &Committed) -> Option<Arc<Record>> {
    let [Write::Data { change, known, .. }] = transaction.writes.as_slice() else { return None };
    let seen = match answer {
        Committed::Record(record) => return Some(Arc::clone(record)),
        Committed::AsKnown { seen } => *seen,
        Committed::Done => return None,
    };
    let known = (*known)?;
    let before = before.filter(|kept| kept.info.version == known.version && kept.revision == known.revision)?;
    let mut record = Record::clone(before);
    // The store has found that they are not too many.
    let _ = record.data.change(change.remove_all, &change.remove, &change.set, usize::MAX);
    record.info.version += 1;
    record.info.last_seen_at = record.info.last_seen_at.max(seen);
    record.recent_changes.push(transaction.id);
    Some(Arc::new(record))
}

impl fmt::Debug for NearStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NearStore").field(&self.store).finish()
    }
}

impl Store for NearStore {
    forward!(Self::inner => partition_key spans_groups list audit ping examine adopt_partition_key feed);

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        let [Ask::Session(id)] = asks else { return self.store.read(asks) };
        Box::pin(async move {
            // A look of its own: the caller relies on it to be no older than the call.
            match self.cache.begin(*id, false) {
                Begun::Lead(load) => Ok(vec![Found::Session(self.look(load, *id).await?)]),
                Begun::Join(_) => self.store.read(asks).await,
            }
        })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(self.commit_and_note(transactions, again))
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(async move {
            let there = self.store.touch(touches, now).await?;
            for (touch, _) in touches.iter().zip(&there).filter(|(_, there)| **there) {
                self.cache.touched(touch.id, touch.at);
            }
            Ok(there)
        })
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let more = self.store.forget(forget).await;
            self.cache.drop_ended();
            more
        })
    }

    fn peek(&self, _: SessionId) -> Option<Option<Slot>> {
        None
    }

    fn edits_in_place(&self) -> bool {
        false
    }

    fn edit(&self, _: SessionId, _: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        None
    }

    fn near(&self) -> Option<&NearStore> {
        Some(self)
    }
}
