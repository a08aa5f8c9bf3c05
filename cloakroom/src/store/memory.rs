//! Sessions in this process's memory.
//!
//! One mutex for each group of partitions, and under it everything that must change together: the records, the
//! tombstones, the users' sessions and fences, the expiry index. All sessions of a user are in one shard, so limits
//! and the ending of all of them take one lock.

mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    AuditEntry, Change, Digest, Ended, Ending, Event, Partition, PartitionKey, Reason, Record, Result, SessionId,
    SessionInfo, Timestamp,
    change::Applied,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Examine, Fence, Finding, Gone,
        LastSignIn, Limit, Loaded, Locked, Locks, Logged, Page, Put, PutUser, Query, Reap, Reaped, Refusal, Rotated,
        Rotation, Store, StoredUser, Tombstone, Touch, Updated, WhenFull, Which, transfer::AdoptableKey,
    },
};

/// Sessions in this process's memory: the fastest store, and the reference for all others. Everything is gone when the
/// process ends.
///
/// Reading and writing cost the same however many sessions there are. The audit log keeps the latest 100,000 entries.
pub struct MemoryStore {
    key: AdoptableKey,
    shards: Box<[Mutex<Shard>]>,
    log: Mutex<Log>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Result<Self> {
        let shards = (0..Partition::GROUPS).map(|_| Mutex::default()).collect();
        Ok(Self { key: AdoptableKey::new(PartitionKey::generate()?), shards, log: Mutex::default() })
    }

    fn shard(&self, id: SessionId) -> MutexGuard<'_, Shard> {
        self.shard_at(id.partition().group())
    }

    fn shard_at(&self, group: u16) -> MutexGuard<'_, Shard> {
        // A panic while a shard is locked would be a bug of ours, between steps that cannot fail: go on.
        self.shards[usize::from(group)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_of(&self, user: &str) -> MutexGuard<'_, Shard> {
        self.shard_at(self.key.partition_of(user).group())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.log().push(entry.clone());
            Ok(())
        })
    }

    fn enable_user<'a>(&'a self, user: &'a str, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.shard_at(self.key.partition_of(user).group()).enable(user);
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
                    let shard = self.shard_at(self.key.partition_of(user).group());
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
        Box::pin(async move { self.log().read(query, after, limit) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async { Ok(None) })
    }
}

impl Directory for MemoryStore {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        Box::pin(async move { Ok(self.shard_of(user).directory.get(user).cloned()) })
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { Ok(self.shard_of(&put.user).put_user(put)) })
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        Box::pin(async move { self.users_after(after, limit) })
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
        let home = info.id.partition().group();
        let replaced = create.replaces.map(|id| (id, id.partition().group()));

        // Two shards are always locked in the same order.
        let mut elsewhere = None;
        if let Some((_, group)) = replaced.filter(|(_, group)| *group < home) {
            elsewhere = Some(self.shard_at(group));
        }
        let mut shard = self.shard_at(home);
        if let Some((_, group)) = replaced.filter(|(_, group)| *group > home) {
            elsewhere = Some(self.shard_at(group));
        }

        if shard.live.contains_key(&info.id) || shard.ended.contains_key(&info.id) {
            return Created::Created { ended: Vec::new() };
        }
        let earlier_try = create.record.idempotency.and_then(|key| shard.idempotency.get(key.as_bytes()).copied());
        let uncounted: Vec<_> = create.replaces.into_iter().chain(earlier_try).collect();
        let evicted = match shard.admit(info, create.limit, &uncounted, now) {
            Ok(evicted) => evicted,
            Err(refusal) => {
                self.log().push(create.refused(refusal, now));
                return Created::Refused(refusal);
            }
        };

        let mut log = self.log();
        let replace = Ending { reason: Reason::Replaced, by: create.by.clone(), note: None };
        let evict = Ending { reason: Reason::SignedInElsewhere, ..replace.clone() };
        let mut ended = Vec::new();
        let ends = uncounted.iter().map(|id| (id, &replace)).chain(evicted.iter().map(|id| (id, &evict)));
        for (id, ending) in ends {
            let shard =
                if id.partition().group() == home { &mut shard } else { elsewhere.as_mut().unwrap_or(&mut shard) };
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
                self.log().push(AuditEntry::about(&record.info, Event::Changed, now));
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
        let before = shard.live[&id].secrets.rotations;
        let (rotated, record) = shard.modify(id, |record| rotation.apply_to(&mut record.secrets, now));
        if !rotated {
            return Rotated::Superseded(record);
        }
        if record.secrets.rotations == before {
            return Rotated::Rotated(record);
        }
        self.log().push(AuditEntry { by: rotation.by.clone(), ..AuditEntry::about(&record.info, Event::Rotated, now) });
        Rotated::Rotated(record)
    }

    fn end_one(&self, id: SessionId, ending: &Ending, now: Timestamp) -> EndAnswer {
        let mut shard = self.shard(id);
        shard.end(id, ending, now, &mut self.log())
    }

    fn end_of_user(
        &self,
        user: &Arc<str>,
        except: &[SessionId],
        fence: Fence,
        ending: &Ending,
        now: Timestamp,
    ) -> Vec<EndAnswer> {
        let mut shard = self.shard_at(self.key.partition_of(user).group());
        let mut log = self.log();
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
        for group in after.map_or(0, |id| id.partition().group())..Partition::GROUPS {
            let shard = self.shard_at(group);
            let mut found: Vec<_> = shard
                .live
                .values()
                .filter(|record| after.is_none_or(|after| group > after.partition().group() || record.info.id > after))
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

    /// By group, then by name.
    fn users_after(&self, after: Option<&Cursor>, limit: usize) -> Result<Page<StoredUser>> {
        let after = after.map(Cursor::name).transpose()?;
        let first = after.as_deref().map_or(0, |after| self.key.partition_of(after).group());
        let mut items: Vec<StoredUser> = Vec::new();
        for group in first..Partition::GROUPS {
            let behind = after.as_deref().filter(|_| group == first).map_or(Bound::Unbounded, Bound::Excluded);
            let shard = self.shard_at(group);
            for (_, user) in shard.directory.range::<str, _>((behind, Bound::Unbounded)) {
                if items.len() == limit {
                    let next = items.last().map(|last| Cursor::behind(&last.user));
                    return Ok(Page { items, next });
                }
                items.push(user.clone());
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
        for group in 0..Partition::GROUPS {
            loop {
                let before = reaped.ended.len();
                let batch = BATCH.min(reap.limit - before);
                let forget = BATCH.min(reap.limit - forgotten);
                let (full, old) = {
                    let mut shard = self.shard_at(group);
                    let full = shard.reap(now, batch, &mut self.log(), &mut reaped.ended);
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
        while old_entries < reap.limit && self.log().forget(reap.audit_before, BATCH) == BATCH {
            old_entries += BATCH;
            tokio::task::yield_now().await;
        }
        reaped.more = old_entries >= reap.limit;
        reaped
    }
}

#[derive(Default)]
struct Shard {
    live: HashMap<SessionId, Arc<Record>, BuildHasherDefault<IdHasher>>,
    expiry: BTreeSet<(Timestamp, SessionId)>,
    users: HashMap<Arc<str>, User>,
    idempotency: HashMap<[u8; Digest::LEN], SessionId>,
    ended: HashMap<SessionId, Arc<Tombstone>, BuildHasherDefault<IdHasher>>,
    ended_at: BTreeSet<(Timestamp, SessionId)>,
    fences: VecDeque<(Timestamp, Arc<str>)>,
    directory: BTreeMap<Arc<str>, StoredUser>,
}

#[derive(Default)]
struct User {
    /// By start, oldest first.
    sessions: BTreeSet<(Timestamp, SessionId)>,
    disabled: bool,
    ended_before: Option<Timestamp>,
}

impl Shard {
    fn load(&self, id: SessionId, now: Timestamp) -> Loaded {
        match self.live.get(&id) {
            Some(record) => match record.info.expired(now) {
                None => Loaded::Live(Arc::clone(record)),
                Some(ended) => Loaded::Ended(Arc::new(Tombstone { ended, secrets: record.secrets.clone() })),
            },
            None => self.ended.get(&id).map_or(Loaded::Unknown, |tombstone| Loaded::Ended(Arc::clone(tombstone))),
        }
    }

    fn living(&self, id: SessionId, now: Timestamp) -> Result<&Arc<Record>, Gone> {
        match self.live.get(&id) {
            Some(record) => record.info.expired(now).map_or(Ok(record), |ended| Err(Gone::Ended(ended))),
            None => Err(self.ended.get(&id).map_or(Gone::Unknown, |tombstone| Gone::Ended(tombstone.ended.clone()))),
        }
    }

    /// Changes a record that is there, and keeps its place in the expiry index right.
    fn modify<T>(&mut self, id: SessionId, change: impl FnOnce(&mut Record) -> T) -> (T, Arc<Record>) {
        let record = self.live.get_mut(&id).expect("the caller found it under the same lock");
        let before = record.info.expires_at();
        let answer = change(Arc::make_mut(record));
        let after = record.info.expires_at();
        if before != after {
            before.map(|at| self.expiry.remove(&(at, id)));
            self.expiry.extend(after.map(|at| (at, id)));
        }
        (answer, Arc::clone(record))
    }

    fn touch(&mut self, touch: &Touch, now: Timestamp) -> bool {
        let Ok(record) = self.living(touch.id, now) else { return false };
        if touch.seen_at > record.info.last_seen_at || touch.grace_ends.is_some() {
            self.modify(touch.id, |record| {
                record.info.last_seen_at = record.info.last_seen_at.max(touch.seen_at);
                touch.grace_ends.map(|end| record.secrets.confirm(end))
            });
        }
        true
    }

    fn admit(
        &self,
        info: &SessionInfo,
        limit: Option<Limit>,
        uncounted: &[SessionId],
        now: Timestamp,
    ) -> Result<Vec<SessionId>, Refusal> {
        let Some(user) = info.user.as_ref().and_then(|user| self.users.get(user)) else { return Ok(Vec::new()) };
        if user.disabled {
            return Err(Refusal::UserDisabled);
        }
        if user.ended_before.is_some_and(|ended| info.fenced_at() < ended) {
            return Err(Refusal::EndedMeanwhile);
        }
        let limit = limit.filter(|_| info.impersonated_by.is_none());
        let Some(Limit { max, when_full }) = limit else { return Ok(Vec::new()) };
        let room_for = max as usize;
        let mut living: Vec<_> = user
            .sessions
            .iter()
            .filter(|(_, id)| !uncounted.contains(id))
            .map(|(_, id)| &self.live[id].info)
            .filter(|info| info.impersonated_by.is_none() && info.expiry(now).is_none())
            .map(|info| (info.last_seen_at, info.created_at, info.id))
            .collect();
        if living.len() < room_for {
            return Ok(Vec::new());
        }
        if when_full == WhenFull::Refuse {
            return Err(Refusal::LimitReached { max });
        }
        living.sort_unstable();
        let surplus = (living.len() + 1).saturating_sub(room_for.max(1));
        Ok(living.into_iter().take(surplus).map(|(_, _, id)| id).collect())
    }

    fn put_user(&mut self, put: &PutUser) -> bool {
        match put.decide(self.directory.get(&put.user)) {
            Put::Refuse => return false,
            Put::Leave => {}
            Put::Keep(user) => drop(self.directory.insert(Arc::clone(&put.user), user)),
            Put::Delete => drop(self.directory.remove(&put.user)),
        }
        true
    }

    fn note_sign_in(&mut self, info: &SessionInfo) {
        if let Some((user, sign_in)) = LastSignIn::of(info)
            && let Some(stored) = self.directory.get_mut(user)
        {
            stored.last_sign_in = LastSignIn::latest(stored.last_sign_in, Some(sign_in));
        }
    }

    fn insert(&mut self, record: Record) {
        let info = &record.info;
        self.expiry.extend(info.expires_at().map(|at| (at, info.id)));
        if let Some(user) = &info.user {
            self.users.entry(Arc::clone(user)).or_default().sessions.insert((info.created_at, info.id));
        }
        self.idempotency.extend(record.idempotency.map(|key| (*key.as_bytes(), info.id)));
        self.live.insert(info.id, Arc::new(record));
    }

    fn end(&mut self, id: SessionId, ending: &Ending, now: Timestamp, log: &mut Log) -> EndAnswer {
        let Some(record) = self.live.get(&id) else {
            let tombstone = self.ended.get(&id);
            return tombstone
                .map_or(EndAnswer::Unknown(id), |tombstone| EndAnswer::EndedBefore(tombstone.ended.clone()));
        };
        if let Some(expired) = record.info.expired(now) {
            self.bury(expired.clone(), log);
            return EndAnswer::EndedBefore(expired);
        }
        let ended = ending.of(id, record.info.user.clone(), now);
        self.bury(ended.clone(), log);
        EndAnswer::EndedNow(ended)
    }

    /// Takes a record that is there out of everything and leaves a tombstone and an audit entry.
    fn bury(&mut self, ended: Ended, log: &mut Log) {
        let Some(record) = self.remove(ended.id) else { return };
        log.push(AuditEntry::ended(&record.info, &ended));
        self.insert_tombstone(Tombstone { ended, secrets: record.secrets.clone() });
    }

    fn insert_tombstone(&mut self, tombstone: Tombstone) {
        let id = tombstone.ended.id;
        self.ended_at.insert((tombstone.ended.at, id));
        self.ended.insert(id, Arc::new(tombstone));
    }

    /// Takes a record out of everything.
    fn remove(&mut self, id: SessionId) -> Option<Arc<Record>> {
        let record = self.live.remove(&id)?;
        let info = &record.info;
        info.expires_at().map(|at| self.expiry.remove(&(at, id)));
        if let Some(name) = &info.user
            && let Some(user) = self.users.get_mut(name)
        {
            user.sessions.remove(&(info.created_at, id));
            self.drop_idle_user(name);
        }
        if let Some(key) = record.idempotency
            && self.idempotency.get(key.as_bytes()) == Some(&id)
        {
            self.idempotency.remove(key.as_bytes());
        }
        Some(record)
    }

    fn ids_of(&self, user: &str) -> impl DoubleEndedIterator<Item = SessionId> {
        self.users.get(user).into_iter().flat_map(|user| user.sessions.iter().map(|(_, id)| *id))
    }

    fn set_fence(&mut self, name: &Arc<str>, fence: Fence, now: Timestamp) {
        let user = self.users.entry(Arc::clone(name)).or_default();
        user.disabled |= fence == Fence::Disabled;
        user.ended_before = user.ended_before.max(Some(now));
        self.fences.push_back((now, Arc::clone(name)));
    }

    fn enable(&mut self, name: &str) {
        if let Some(user) = self.users.get_mut(name) {
            user.disabled = false;
            self.drop_idle_user(name);
        }
    }

    fn drop_idle_user(&mut self, name: &str) {
        if self
            .users
            .get(name)
            .is_some_and(|user| user.sessions.is_empty() && !user.disabled && user.ended_before.is_none())
        {
            self.users.remove(name);
        }
    }

    fn find_of_user(
        &self,
        user: &str,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let after = after.map(place_in_user).transpose()?;
        let sessions = self.users.get(user).into_iter().flat_map(|user| user.sessions.iter().rev());
        let mut found = sessions
            .filter(|place| after.is_none_or(|after| **place < after))
            .map(|(_, id)| &self.live[id].info)
            .filter(|info| info.expiry(now).is_none() && query.matches(info));
        let items: Vec<_> = found.by_ref().take(limit).cloned().collect();
        let next = items.last().filter(|_| found.next().is_some());
        let next = next.map(|last| Cursor::new(format!("{}.{}", last.created_at.as_millis(), last.id)));
        Ok(Page { items, next })
    }

    /// Ends at most `batch` expired sessions; says whether there may be more.
    fn reap(&mut self, now: Timestamp, batch: usize, log: &mut Log, ended: &mut Vec<Ended>) -> bool {
        for _ in 0..batch {
            let Some((_, id)) = self.expiry.first().filter(|(at, _)| *at <= now) else { return false };
            let Some(expired) = self.live[id].info.expired(now) else { return false };
            self.bury(expired.clone(), log);
            ended.push(expired);
        }
        true
    }

    /// Forgets at most `batch` tombstones and every old fence; says how many tombstones.
    fn forget(&mut self, before: Timestamp, batch: usize) -> usize {
        while let Some((_, name)) = self.fences.pop_front_if(|(at, _)| *at <= before) {
            if let Some(user) = self.users.get_mut(&name) {
                user.ended_before.take_if(|at| *at <= before);
                self.drop_idle_user(&name);
            }
        }
        let old: Vec<_> = self.ended_at.iter().take_while(|(at, _)| *at <= before).take(batch).copied().collect();
        for place in &old {
            self.ended_at.remove(place);
            self.ended.remove(&place.1);
        }
        old.len()
    }
}

fn place_in_user(cursor: &Cursor) -> Result<(Timestamp, SessionId)> {
    let (millis, id) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
    let millis = millis.parse().map_err(|_| Cursor::invalid())?;
    Ok((Timestamp::from_millis(millis), id.parse().map_err(|_| Cursor::invalid())?))
}

/// The latest audit entries, numbered from the first one ever.
#[derive(Default)]
struct Log {
    entries: VecDeque<AuditEntry>,
    forgotten: usize,
}

impl Log {
    const KEPT: usize = 100_000;

    fn push(&mut self, entry: AuditEntry) {
        if self.entries.len() == Self::KEPT {
            self.entries.pop_front();
            self.forgotten += 1;
        }
        self.entries.push_back(entry);
    }

    /// Forgets at most `batch` old entries; says how many.
    fn forget(&mut self, before: Timestamp, batch: usize) -> usize {
        let old = self.entries.iter().take(batch).take_while(|entry| entry.at <= before).count();
        self.entries.drain(..old);
        self.forgotten += old;
        old
    }

    fn read(&self, query: &AuditQuery, after: Option<&Cursor>, limit: usize) -> Result<Page<Logged>> {
        let start: usize = after.map(Cursor::parse).transpose()?.unwrap_or(0);
        let mut matching = (self.forgotten + 1..)
            .zip(&self.entries)
            .skip(start.saturating_sub(self.forgotten))
            .filter(|(_, entry)| query.matches(entry))
            .map(|(number, entry)| Logged { cursor: Cursor::new(number.to_string()), entry: entry.clone() });
        let items: Vec<_> = matching.by_ref().take(limit).collect();
        let next = items.last().filter(|_| matching.next().is_some()).map(|last| last.cursor.clone());
        Ok(Page { items, next })
    }
}

/// Session ids are random already, and the stored ones are ours: eight of their bytes are the hash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(tail) = bytes.last_chunk() {
            self.0 = u64::from_ne_bytes(*tail);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
