//! The slots of one group of partitions, and everything that changes together with them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{table::Table, users::Users};
use crate::{
    clock::Timestamp,
    data::Data,
    ended::Ended,
    record::{RecentChanges, Record},
    store::{
        LastSignIn,
        slots::{DataChange, EndedSlot, SeenAt, Slot, UserSlot},
    },
    token::{Digest, Partition, SessionId},
};

/// What requests that only read look at lies on one cache line with its lock; the rest does not.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) open: Table<Arc<Record>>,
    pub(super) beside: Box<Beside>,
}

#[derive(Default)]
pub(super) struct Beside {
    pub(super) ended: Table<Arc<EndedSlot>>,
    ended_at: BTreeSet<(Timestamp, SessionId)>,
    pub(super) due: BTreeSet<(Timestamp, SessionId)>,
    due_at: Table<Timestamp>,
    tries: HashMap<(Partition, [u8; Digest::LEN]), SessionId>,
    pub(super) sessions: Users,
    pub(super) users: BTreeMap<Arc<str>, UserSlot>,
    pub(super) due_users: BTreeSet<(Timestamp, Arc<str>)>,
}

impl Shard {
    pub(super) fn open(&self, id: SessionId) -> Option<&Arc<Record>> {
        self.open.get(id)
    }

    pub(super) fn slot(&self, id: SessionId) -> Option<Slot> {
        match self.open.get(id) {
            Some(record) => Some(Slot::Open(Arc::clone(record))),
            None => self.beside.ended.get(id).map(|slot| Slot::Ended(Arc::clone(slot))),
        }
    }

    /// Open slots of a user, newest first.
    pub(super) fn heads_of(&self, user: &str, limit: usize) -> Vec<Arc<Record>> {
        let places = self.beside.sessions.of(user).rev();
        places.filter_map(|(_, id)| self.open.get(*id)).take(limit).cloned().collect()
    }

    pub(super) fn count(&self, user: &str, now: Timestamp) -> usize {
        let places = self.beside.sessions.of(user);
        let infos = places.filter_map(|(_, id)| self.open.get(*id)).map(|record| &record.info);
        infos.filter(|info| info.impersonator().is_none() && info.expiry(now).is_none()).count()
    }

    pub(super) fn earlier_try(&self, partition: Partition, key: Digest) -> Option<SessionId> {
        self.beside.tries.get(&(partition, *key.as_bytes())).copied()
    }

    pub(super) fn touch(&mut self, touch: SeenAt, now: Timestamp) -> bool {
        let Some(record) = self.open.get_mut(touch.id).filter(|record| record.info.expiry(now).is_none()) else {
            return false;
        };
        if touch.at > record.info.last_seen_at {
            Arc::make_mut(record).info.last_seen_at = touch.at;
        }
        true
    }

    /// Changes the data of an open slot, unless they would be larger than `most` and than before.
    pub(super) fn change_data(&mut self, id: SessionId, change: &DataChange, most: usize, transaction: u64) -> bool {
        let Some(record) = self.open.get_mut(id) else { return false };
        let record = Arc::make_mut(record);
        let DataChange { remove_all, remove, set } = change;
        if record.data.change(*remove_all, remove, set, most).is_err() {
            return false;
        }
        record.info.version += 1;
        record.recent_changes.push(transaction);
        true
    }

    pub(super) fn put_head(&mut self, head: &Record) {
        let id = head.info.id;
        let Some(old) = self.remove(id) else { return };
        let mut new = Record { data: old.data.clone(), recent_changes: old.recent_changes.clone(), ..head.clone() };
        new.info.version = old.info.version;
        new.info.last_seen_at = old.info.last_seen_at;
        self.insert(Arc::new(new));
    }

    pub(super) fn insert(&mut self, record: Arc<Record>) {
        let info = &record.info;
        if let Some(user) = &info.user {
            self.beside.sessions.add(user, (info.created_at, info.id));
        }
        if let Some(key) = record.idempotency {
            self.beside.tries.insert((info.id.partition(), *key.as_bytes()), info.id);
        }
        self.set_due(info.id, record.due_at());
        self.open.insert(info.id, record);
    }

    pub(super) fn set_due(&mut self, id: SessionId, at: Option<Timestamp>) {
        if let Some(before) = self.beside.due_at.remove(id) {
            self.beside.due.remove(&(before, id));
        }
        if let Some(at) = at {
            self.beside.due.insert((at, id));
            self.beside.due_at.insert(id, at);
        }
    }

    /// Takes an open slot out of everything.
    fn remove(&mut self, id: SessionId) -> Option<Arc<Record>> {
        let record = self.open.remove(id)?;
        self.set_due(id, None);
        let info = &record.info;
        if let Some(user) = &info.user {
            self.beside.sessions.remove(user, &(info.created_at, id));
        }
        if let Some(key) = record.idempotency {
            let key = (id.partition(), *key.as_bytes());
            if self.beside.tries.get(&key) == Some(&id) {
                self.beside.tries.remove(&key);
            }
        }
        Some(record)
    }

    pub(super) fn end(&mut self, ended: &Ended, transaction: u64) {
        let Some(mut record) = self.remove(ended.id) else { return };
        let head = Arc::make_mut(&mut record);
        head.data = Data::new();
        head.recent_changes = RecentChanges::default();
        self.insert_ended(EndedSlot { record, ended: ended.clone(), transaction }.into());
    }

    fn insert_ended(&mut self, slot: Arc<EndedSlot>) {
        let id = slot.ended.id;
        self.beside.ended_at.insert((slot.ended.at, id));
        self.beside.ended.insert(id, slot);
    }

    /// Puts a slot in the place of whatever is there.
    pub(super) fn put(&mut self, slot: &Slot) {
        let id = slot.id();
        self.remove(id);
        if let Some(old) = self.beside.ended.remove(id) {
            self.beside.ended_at.remove(&(old.ended.at, id));
        }
        match slot {
            Slot::Open(record) => self.insert(Arc::clone(record)),
            Slot::Ended(slot) => self.insert_ended(Arc::clone(slot)),
        }
    }

    pub(super) fn user(&self, name: &str) -> Option<&UserSlot> {
        self.beside.users.get(name)
    }

    pub(super) fn put_user(&mut self, name: &Arc<str>, slot: Option<&UserSlot>) {
        let before = self.beside.users.remove(name);
        if let Some(at) = before.as_ref().and_then(|slot| slot.due_at) {
            self.beside.due_users.remove(&(at, Arc::clone(name)));
        }
        let Some(slot) = slot else { return };
        let known = before.and_then(|slot| slot.last_sign_in);
        let last_sign_in = slot.last_sign_in.and_then(|new| LastSignIn::latest(known, Some(new)));
        self.beside.due_users.extend(slot.due_at.map(|at| (at, Arc::clone(name))));
        self.beside.users.insert(Arc::clone(name), UserSlot { last_sign_in, ..slot.clone() });
    }

    pub(super) fn note_sign_in(&mut self, name: &str, sign_in: LastSignIn) {
        if let Some(slot) = self.beside.users.get_mut(name) {
            slot.last_sign_in = LastSignIn::latest(slot.last_sign_in, Some(sign_in));
        }
    }

    /// Forgets at most so many ended slots; says how many.
    pub(super) fn forget(&mut self, before: Timestamp, most: usize) -> usize {
        let old = self.beside.ended_at.iter().take_while(|(at, _)| *at <= before).take(most);
        let old: Vec<_> = old.copied().collect();
        for place in &old {
            self.beside.ended_at.remove(place);
            self.beside.ended.remove(place.1);
        }
        old.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.beside.ended.is_empty() && self.beside.users.is_empty()
    }
}
