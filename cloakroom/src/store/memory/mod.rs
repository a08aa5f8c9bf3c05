//! Sessions in this process's memory.
//!
//! One mutex for each shard of partitions, and under it everything that must change together: the records, the
//! tombstones, the users' sessions and fences, the expiry index. All sessions of a user are in one shard, so limits
//! and the ending of all of them take one lock.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    AuditEntry, Change, Ending, Event, Partition, PartitionKey, Reason, Result, SessionId, SessionInfo, Timestamp,
    change::Applied,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, EndAnswer, Examine, Fence, Finding, Loaded, Locked, Locks,
        Logged, Page, Query, Reap, Reaped, Rotated, Rotation, Store, Touch, Updated, Which, transfer::AdoptableKey,
    },
};

mod directory;
mod log;
mod shard;
mod table;
mod transfer;
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

    fn shard_of(&self, user: &str) -> MutexGuard<'_, Shard> {
        self.shard_at(shard_number(self.key.partition_of(user)))
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

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        Box::pin(async move { Ok(self.create_now(create, now)) })
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(async move { Ok(self.shard(id).load(id, now)) })
    }

    fn peek(&self, id: SessionId, now: Timestamp) -> Option<Loaded> {
        Some(self.shard(id).load(id, now))
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        Box::pin(async move { Ok(self.update_now(id, change, now)) })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(async move { Ok(touches.iter().map(|touch| self.shard(touch.id).touch(touch, now)).collect()) })
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        Box::pin(async move { Ok(self.rotate_now(id, rotation, now)) })
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        Box::pin(async move {
            Ok(match which {
                Which::Ids(ids) => ids.iter().map(|id| self.end_one(*id, ending, now)).collect(),
                Which::OfUser { user, except, fence } => self.end_of_user(user, except, *fence, ending, now),
            })
        })
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.log.writer(shard_number(entry.session.partition())).push(entry.clone());
            Ok(())
        })
    }

    fn enable_user<'a>(&'a self, user: &'a str, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.shard_at(shard_number(self.key.partition_of(user))).enable(user);
            Ok(())
        })
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        Box::pin(async move {
            match &query.user {
                Some(user) => {
                    let shard = self.shard_at(shard_number(self.key.partition_of(user)));
                    shard.find_of_user(user, query, after, limit, now)
                }
                None => self.find_anywhere(query, after, limit, now),
            }
        })
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        Box::pin(async move { Ok(self.reap_now(reap, now).await) })
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
}

impl Examine for MemoryStore {
    fn examine(&self, _now: Timestamp, _repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        let text = "Sessions live in this process's memory and go when it ends: there is nothing to check.";
        Box::pin(async move { Ok(vec![Finding::fine("memory", text)]) })
    }
}

impl Locks for MemoryStore {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        Box::pin(async move {
            let mut shard = self.shard(id);
            if let Err(gone) = shard.living(id, now) {
                return Ok(Locked::Gone(gone));
            }
            let (taken, record) = shard.modify(id, |record| record.lease.take(lease, now));
            Ok(if taken { Locked::Granted(record) } else { Locked::Held { until: record.lease.until } })
        })
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let mut shard = self.shard(id);
            let lives = shard.living(id, now).is_ok();
            Ok(lives && shard.modify(id, |record| record.lease.renew(number, lease, now)).0)
        })
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let mut shard = self.shard(id);
            let lives = shard.living(id, now).is_ok();
            Ok(lives && shard.modify(id, |record| record.lease.release(number, now)).0)
        })
    }
}

impl MemoryStore {
    fn create_now(&self, create: &Create, now: Timestamp) -> Created {
        let info = &create.record.info;
        let home = shard_number(info.id.partition());
        let replaced = create.replaces.map(|id| (id, shard_number(id.partition())));

        // Two shards are always locked in the same order.
        let mut elsewhere = None;
        if let Some((_, number)) = replaced.filter(|(_, number)| *number < home) {
            elsewhere = Some(self.shard_at(number));
        }
        let mut shard = self.shard_at(home);
        if let Some((_, number)) = replaced.filter(|(_, number)| *number > home) {
            elsewhere = Some(self.shard_at(number));
        }

        if shard.live.contains(info.id) || shard.beside.ended.contains(info.id) {
            return Created::Created { ended: Vec::new() };
        }
        let earlier_try =
            create.record.idempotency.and_then(|key| shard.beside.idempotency.get(key.as_bytes()).copied());
        let uncounted: Vec<_> = create.replaces.into_iter().chain(earlier_try).collect();
        let evicted = match shard.admit(info, create.limit, &uncounted, now) {
            Ok(evicted) => evicted,
            Err(refusal) => {
                self.log.writer(home).push(create.refused(refusal, now));
                return Created::Refused(refusal);
            }
        };

        let mut log = self.log.writer(home);
        let replace = Ending { reason: Reason::Replaced, by: create.by.clone(), note: None };
        let evict = Ending { reason: Reason::SignedInElsewhere, ..replace.clone() };
        let mut ended = Vec::new();
        let ends = uncounted.iter().map(|id| (id, &replace)).chain(evicted.iter().map(|id| (id, &evict)));
        for (id, ending) in ends {
            let shard = if shard_number(id.partition()) == home {
                &mut shard
            } else {
                elsewhere.as_mut().unwrap_or(&mut shard)
            };
            if let EndAnswer::EndedNow(now_ended) = shard.end(*id, ending, now, &mut log) {
                ended.push(now_ended);
            }
        }
        log.push(create.started(now));
        shard.note_sign_in(info);
        shard.insert(create.record.clone());
        Created::Created { ended }
    }

    fn update_now(&self, id: SessionId, change: &Change, now: Timestamp) -> Updated {
        let mut shard = self.shard(id);
        if let Err(gone) = shard.living(id, now) {
            return Updated::Gone(gone);
        }
        let (applied, record) = shard.modify(id, |record| change.apply_to(record, now));
        match applied {
            Applied::Now if change.fields.are_audited() => {
                self.log.writer(shard_number(id.partition())).push(AuditEntry::about(
                    &record.info,
                    Event::Changed,
                    now,
                ));
                Updated::Applied(record)
            }
            Applied::Now | Applied::Before => Updated::Applied(record),
            Applied::Conflict => Updated::Conflict(record),
            Applied::LeaseLost => Updated::LeaseLost,
            Applied::TooLarge { size } => Updated::TooLarge(size),
        }
    }

    fn rotate_now(&self, id: SessionId, rotation: &Rotation, now: Timestamp) -> Rotated {
        let mut shard = self.shard(id);
        if let Err(gone) = shard.living(id, now) {
            return Rotated::Gone(gone);
        }
        let ((rotated, before), record) = shard.modify(id, |record| {
            let before = record.secrets.rotations;
            (rotation.apply_to(&mut record.secrets, now), before)
        });
        if !rotated {
            return Rotated::Superseded(record);
        }
        if record.secrets.rotations == before {
            return Rotated::Rotated(record);
        }
        self.log
            .writer(shard_number(id.partition()))
            .push(AuditEntry { by: rotation.by.clone(), ..AuditEntry::about(&record.info, Event::Rotated, now) });
        Rotated::Rotated(record)
    }

    fn end_one(&self, id: SessionId, ending: &Ending, now: Timestamp) -> EndAnswer {
        let mut shard = self.shard(id);
        shard.end(id, ending, now, &mut self.log.writer(shard_number(id.partition())))
    }

    fn end_of_user(
        &self,
        user: &Arc<str>,
        except: &[SessionId],
        fence: Fence,
        ending: &Ending,
        now: Timestamp,
    ) -> Vec<EndAnswer> {
        let number = shard_number(self.key.partition_of(user));
        let mut shard = self.shard_at(number);
        let mut log = self.log.writer(number);
        shard.set_fence(user, fence, now);
        let ids: Vec<_> = shard.ids_of(user).rev().filter(|id| !except.contains(id)).collect();
        let answers = ids.into_iter().map(|id| shard.end(id, ending, now, &mut log));
        answers.filter(|answer| matches!(answer, EndAnswer::EndedNow(_))).collect()
    }

    fn find_anywhere(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let after: Option<SessionId> = after.map(Cursor::parse).transpose()?;
        let mut items: Vec<SessionInfo> = Vec::new();
        for number in after.map_or(0, |id| shard_number(id.partition()))..SHARDS {
            let shard = self.shard_at(number);
            let mut found: Vec<_> = shard
                .live
                .values()
                .filter(|record| {
                    after.is_none_or(|after| number > shard_number(after.partition()) || record.info.id > after)
                })
                .filter(|record| record.info.expiry(now).is_none() && query.matches(&record.info))
                .collect();
            found.sort_unstable_by_key(|record| record.info.id);
            for record in found {
                if items.len() == limit {
                    let next = items.last().map(|last| Cursor::new(last.id.to_string()));
                    return Ok(Page { items, next });
                }
                items.push(record.info.clone());
            }
        }
        Ok(Page { items, next: None })
    }

    async fn reap_now(&self, reap: &Reap, now: Timestamp) -> Reaped {
        /// So many sessions end under one lock; then others get their turn.
        const BATCH: usize = 64;
        let mut reaped = Reaped { ended: Vec::new(), more: false };
        let mut forgotten = 0;
        let mut since_pause = 0;
        for number in 0..SHARDS {
            loop {
                let before = reaped.ended.len();
                let batch = BATCH.min(reap.limit - before);
                let forget = BATCH.min(reap.limit - forgotten);
                let (full, old) = {
                    let mut shard = self.shard_at(number);
                    let full = shard.reap(now, batch, &mut self.log.writer(number), &mut reaped.ended);
                    (full, shard.forget(reap.tombstones_before, forget))
                };
                forgotten += old;
                if reaped.ended.len() == reap.limit || forgotten == reap.limit {
                    reaped.more = true;
                    return reaped;
                }
                since_pause += reaped.ended.len() - before + old;
                if since_pause >= BATCH {
                    since_pause = 0;
                    tokio::task::yield_now().await;
                }
                if !full && old < forget {
                    break;
                }
            }
        }
        let mut old_entries = 0;
        for strip in 0..Log::STRIPS {
            while old_entries < reap.limit && self.log.forget(strip, reap.audit_before, BATCH) == BATCH {
                old_entries += BATCH;
                tokio::task::yield_now().await;
            }
        }
        reaped.more = old_entries >= reap.limit;
        reaped
    }
}
