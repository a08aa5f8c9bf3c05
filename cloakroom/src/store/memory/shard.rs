//! The sessions of one group of partitions, and everything that changes together with them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::{log::Writer, table::Table, users::Users};
use crate::{
    AuditEntry, Digest, Ended, Ending, Record, Result, SessionId, SessionInfo, Timestamp,
    store::{
        Cursor, EndAnswer, Fence, Gone, Limit, Loaded, Page, Query, Refusal, StoredUser, Tombstone, Touch, WhenFull,
    },
};

/// What requests that only read look at lies on one cache line with its lock; the rest does not.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) live: Table<Arc<Record>>,
    pub(super) beside: Box<Beside>,
}

#[derive(Default)]
pub(super) struct Beside {
    pub(super) ended: Table<Arc<Tombstone>>,
    pub(super) directory: BTreeMap<Arc<str>, StoredUser>,
    pub(super) idempotency: HashMap<[u8; Digest::LEN], SessionId>,
    expiry: BTreeSet<(Timestamp, SessionId)>,
    ended_at: BTreeSet<(Timestamp, SessionId)>,
    pub(super) users: Users,
    pub(super) fences: VecDeque<(Timestamp, Arc<str>)>,
}

impl Shard {
    pub(super) fn load(&self, id: SessionId, now: Timestamp) -> Loaded {
        match self.live.get(id) {
            Some(record) => match record.info.expired(now) {
                None => Loaded::Live(Arc::clone(record)),
                Some(ended) => Loaded::Ended(Arc::new(Tombstone { ended, secrets: record.secrets.clone() })),
            },
            None => self.beside.ended.get(id).map_or(Loaded::Unknown, |tombstone| Loaded::Ended(Arc::clone(tombstone))),
        }
    }

    pub(super) fn living(&self, id: SessionId, now: Timestamp) -> Result<&Arc<Record>, Gone> {
        match self.live.get(id) {
            Some(record) => record.info.expired(now).map_or(Ok(record), |ended| Err(Gone::Ended(ended))),
            None => {
                Err(self.beside.ended.get(id).map_or(Gone::Unknown, |tombstone| Gone::Ended(tombstone.ended.clone())))
            }
        }
    }

    /// Changes a record that is there, and keeps its place in the expiry index right.
    pub(super) fn modify<T>(&mut self, id: SessionId, change: impl FnOnce(&mut Record) -> T) -> (T, Arc<Record>) {
        let record = self.live.get_mut(id).expect("the caller found it under the same lock");
        let before = record.info.expires_at();
        let answer = change(Arc::make_mut(record));
        let after = record.info.expires_at();
        if before != after {
            before.map(|at| self.beside.expiry.remove(&(at, id)));
            self.beside.expiry.extend(after.map(|at| (at, id)));
        }
        (answer, Arc::clone(record))
    }

    pub(super) fn touch(&mut self, touch: &Touch, now: Timestamp) -> bool {
        let Ok(record) = self.living(touch.id, now) else { return false };
        if touch.seen_at > record.info.last_seen_at || touch.grace_ends.is_some() {
            self.modify(touch.id, |record| {
                record.info.last_seen_at = record.info.last_seen_at.max(touch.seen_at);
                touch.grace_ends.map(|end| record.secrets.confirm(end))
            });
        }
        true
    }

    pub(super) fn admit(
        &self,
        info: &SessionInfo,
        limit: Option<Limit>,
        uncounted: &[SessionId],
        now: Timestamp,
    ) -> Result<Vec<SessionId>, Refusal> {
        let Some(user) = info.user.as_ref().and_then(|user| self.beside.users.get(user)) else { return Ok(Vec::new()) };
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
            .sessions()
            .filter(|(_, id)| !uncounted.contains(id))
            .filter_map(|(_, id)| self.info(*id))
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

    pub(super) fn insert(&mut self, record: Record) {
        let info = &record.info;
        self.beside.expiry.extend(info.expires_at().map(|at| (at, info.id)));
        if let Some(user) = &info.user {
            self.beside.users.add_session(user, (info.created_at, info.id));
        }
        self.beside.idempotency.extend(record.idempotency.map(|key| (*key.as_bytes(), info.id)));
        self.live.insert(info.id, Arc::new(record));
    }

    pub(super) fn end(&mut self, id: SessionId, ending: &Ending, now: Timestamp, log: &mut Writer<'_>) -> EndAnswer {
        let Some(record) = self.live.get(id) else {
            let tombstone = self.beside.ended.get(id);
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
    fn bury(&mut self, ended: Ended, log: &mut Writer<'_>) {
        let Some(record) = self.remove(ended.id) else { return };
        log.push(AuditEntry::ended(&record.info, &ended));
        self.insert_tombstone(Tombstone { ended, secrets: record.secrets.clone() });
    }

    pub(super) fn insert_tombstone(&mut self, tombstone: Tombstone) {
        let id = tombstone.ended.id;
        self.beside.ended_at.insert((tombstone.ended.at, id));
        self.beside.ended.insert(id, Arc::new(tombstone));
    }

    /// Takes a record out of everything.
    pub(super) fn remove(&mut self, id: SessionId) -> Option<Arc<Record>> {
        let record = self.live.remove(id)?;
        let info = &record.info;
        info.expires_at().map(|at| self.beside.expiry.remove(&(at, id)));
        if let Some(user) = &info.user {
            self.beside.users.remove_session(user, &(info.created_at, id));
        }
        if let Some(key) = record.idempotency
            && self.beside.idempotency.get(key.as_bytes()) == Some(&id)
        {
            self.beside.idempotency.remove(key.as_bytes());
        }
        Some(record)
    }

    pub(super) fn ids_of(&self, user: &str) -> impl DoubleEndedIterator<Item = SessionId> {
        self.beside.users.sessions_of(user).map(|(_, id)| *id)
    }

    pub(super) fn set_fence(&mut self, name: &Arc<str>, fence: Fence, now: Timestamp) {
        let user = self.beside.users.get_or_add(name);
        user.disabled |= fence == Fence::Disabled;
        user.ended_before = user.ended_before.max(Some(now));
        self.beside.fences.push_back((now, Arc::clone(name)));
    }

    pub(super) fn enable(&mut self, name: &str) {
        self.beside.users.change(name, |user| user.disabled = false);
    }

    fn info(&self, id: SessionId) -> Option<&SessionInfo> {
        self.live.get(id).map(|record| &record.info)
    }

    pub(super) fn find_of_user(
        &self,
        user: &str,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let after = after.map(place_in_user).transpose()?;
        let sessions = self.beside.users.sessions_of(user).rev();
        let mut found = sessions
            .filter(|place| after.is_none_or(|after| **place < after))
            .filter_map(|(_, id)| self.info(*id))
            .filter(|info| info.expiry(now).is_none() && query.matches(info));
        let items: Vec<_> = found.by_ref().take(limit).cloned().collect();
        let next = items.last().filter(|_| found.next().is_some());
        let next = next.map(|last| Cursor::new(format!("{}.{}", last.created_at.as_millis(), last.id)));
        Ok(Page { items, next })
    }

    /// Ends at most `batch` expired sessions; says whether there may be more.
    pub(super) fn reap(&mut self, now: Timestamp, batch: usize, log: &mut Writer<'_>, ended: &mut Vec<Ended>) -> bool {
        for _ in 0..batch {
            let due = self.beside.expiry.first().filter(|(at, _)| *at <= now);
            let info = due.and_then(|(_, id)| self.info(*id));
            let Some(expired) = info.and_then(|info| info.expired(now)) else { return false };
            self.bury(expired.clone(), log);
            ended.push(expired);
        }
        true
    }

    /// Forgets at most `batch` tombstones and every old fence; says how many tombstones.
    pub(super) fn forget(&mut self, before: Timestamp, batch: usize) -> usize {
        while let Some((_, name)) = self.beside.fences.pop_front_if(|(at, _)| *at <= before) {
            self.beside.users.change(&name, |user| user.ended_before = user.ended_before.filter(|at| *at > before));
        }
        let old: Vec<_> =
            self.beside.ended_at.iter().take_while(|(at, _)| *at <= before).take(batch).copied().collect();
        for place in &old {
            self.beside.ended_at.remove(place);
            self.beside.ended.remove(place.1);
        }
        old.len()
    }
}

fn place_in_user(cursor: &Cursor) -> Result<(Timestamp, SessionId)> {
    let (millis, id) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
    let millis = millis.parse().map_err(|_| Cursor::invalid())?;
    Ok((Timestamp::from_millis(millis), id.parse().map_err(|_| Cursor::invalid())?))
}
