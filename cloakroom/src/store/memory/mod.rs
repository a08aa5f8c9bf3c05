//! Slots in this process's memory.
//!
//! One mutex for each shard of partitions, and under it everything that must change together: the slots, the users'
//! sessions, what is due. All that is of a user is in one shard, so a sign-in takes one lock.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    clock::Timestamp,
    error::Result,
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, Store,
        feed::{Feed, Pace},
        key::{AdoptableKey, holds_others},
        slots::{Ask, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction},
    },
    token::{Partition, PartitionKey, SessionId},
};

mod commit;
mod held;
mod list;
mod log;
mod shard;
mod table;
mod users;

use log::Log;
use shard::Shard;

/// Sessions in this process's memory: the fastest store, and the reference for all others. Everything is gone when the
/// process ends.
///
/// Reading and writing cost the same however many sessions there are. The audit log keeps the latest 100,000 entries.
pub struct MemoryStore {
    key: AdoptableKey,
    shards: Box<[Padded]>,
    log: Log,
}

/// How many shards there are. Enough that threads seldom meet in one, and so few that what every request looks at first
/// stays in the processor's cache: more of them made reading a million sessions slower.
const SHARDS: u16 = 256;

/// The number of the shard where a partition lives.
fn shard_number(partition: Partition) -> u16 {
    partition.group() % SHARDS
}

/// On a cache line of its own, so that threads in neighbouring shards do not wait for each other.
#[derive(Default)]
#[repr(align(64))]
struct Padded(Mutex<Shard>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Result<Self> {
        let shards = (0..SHARDS).map(|_| Padded::default()).collect();
        Ok(Self { key: AdoptableKey::new(PartitionKey::generate()?), shards, log: Log::new() })
    }

    fn shard(&self, id: SessionId) -> MutexGuard<'_, Shard> {
        self.shard_at(shard_number(id.partition()))
    }

    fn number_of(&self, user: &str) -> u16 {
        shard_number(self.key.partition_of(user))
    }

    fn shard_at(&self, number: u16) -> MutexGuard<'_, Shard> {
        // A panic while a shard is locked would be a bug of ours, between steps that cannot fail: go on.
        self.shards[usize::from(number)].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryStore")
    }
}

impl Store for MemoryStore {
    fn partition_key(&self) -> &PartitionKey {
        &self.key
    }

    fn spans_groups(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(async move { Ok(self.read_now(asks)) })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(async move { transactions.iter().map(|transaction| self.commit_now(transaction, again)).collect() })
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(async move { Ok(touches.iter().map(|touch| self.shard(touch.id).touch(*touch, now)).collect()) })
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(async move { self.list_now(what, after, limit) })
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.forget_in_turns(forget))
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Box::pin(async move { self.log.read(query, after, limit) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async { Ok(None) })
    }

    fn peek(&self, id: SessionId) -> Option<Option<Slot>> {
        Some(self.shard(id).slot(id))
    }

    fn edits_in_place(&self) -> bool {
        true
    }

    fn edit(&self, id: SessionId, change: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        let mut shard = self.shard(id);
        if let Some(record) = shard.open.get_mut(id) {
            change(record);
            return Some(Some(Slot::Open(Arc::clone(record))));
        }
        Some(shard.slot(id))
    }

    fn examine(&self, _now: Timestamp, _repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        let text = "Sessions live in this process's memory and go when it ends: there is nothing to check.";
        Box::pin(async move { Ok(vec![Finding::fine("memory", text)]) })
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if !self.key.differs_from(key)? {
                return Ok(());
            }
            let shards: Vec<_> = (0..SHARDS).map(|number| self.shard_at(number)).collect();
            if !shards.iter().all(|shard| shard.is_empty()) {
                return Err(holds_others());
            }
            self.key.adopt(key);
            Ok(())
        })
    }

    fn feed(&self, _: &Pace) -> Option<Arc<dyn Feed>> {
        None
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}

impl MemoryStore {
    async fn forget_in_turns(&self, forget: &Forget) -> Result<bool> {
        /// So many are forgotten under one lock; then others get their turn.
        const BATCH: usize = 64;
        let (mut slots, mut since_pause) = (0, 0);
        for number in 0..SHARDS {
            while slots < forget.limit {
                let batch = BATCH.min(forget.limit - slots);
                let forgotten = self.shard_at(number).forget(forget.ended_before, batch);
                slots += forgotten;
                since_pause += forgotten;
                if since_pause >= BATCH {
                    since_pause = 0;
                    tokio::task::yield_now().await;
                }
                if forgotten < batch {
                    break;
                }
            }
        }
        let mut entries = 0;
        for strip in 0..Log::STRIPS {
            while entries < forget.limit {
                let batch = BATCH.min(forget.limit - entries);
                let forgotten = self.log.forget(strip, forget.audit_before, batch);
                entries += forgotten;
                if forgotten < batch {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(slots >= forget.limit || entries >= forget.limit)
    }
}
