//! What one request did to a record, and how it is applied.
//!
//! A [`Change`] names keys, never whole records, so two changes to different keys cannot lose each other. It also
//! carries the values it relied on: if one of them is different by now, nothing is applied and the answer holds the fresh
//! record, on which the caller decides anew.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::Timestamp,
    data::{Json, entry_size},
    record::{Record, SessionInfo},
};

/// What one request did to a record.
///
/// Applied in this order: `remove_all`, `remove`, `set`, fields. A store applies all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Random. The record keeps the latest few: a retry that finds its own id has succeeded already.
    pub id: u64,
    /// Whether every key that is there when the change is applied goes first.
    pub remove_all: bool,
    /// Keys that go.
    pub remove: BTreeSet<Arc<str>>,
    /// Keys that get a value.
    pub set: BTreeMap<Arc<str>, Json>,
    /// What else changes.
    pub fields: Fields,
    /// Values the change relied on; `None` for a key that was absent.
    pub relied_on: BTreeMap<Arc<str>, Option<Json>>,
    /// The version the change relied on, if it did.
    pub if_version: Option<u64>,
    /// The number of the lease it is written under, if its writer holds the session's lock.
    pub lease: Option<u64>,
    /// How large the data may be afterwards: bytes of all keys and values. A record that is over it already may shrink.
    pub max_data_bytes: usize,
    /// The record it was decided from, if the caller keeps it. Where that is all that is to be known, a store behind a network
    /// need not answer with the whole session. A store that shares its records changes in place what nobody keeps.
    pub known: Option<Arc<Record>>,
}

/// Fields of a session that can change while it lives. `None` leaves a field alone; the inner `None` empties it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The person's name.
    pub full_name: Option<Option<Arc<str>>>,
    /// What kind of user. A privilege change: it is audited.
    pub user_type: Option<Option<Arc<str>>>,
    /// How long the session may go unused.
    pub idle_timeout: Option<Option<Duration>>,
    /// When the session ends whatever happens.
    pub ends_at: Option<Option<Timestamp>>,
}

impl Fields {
    /// Whether the audit log tells of this change: of privileges and lifetimes it does, of a name it does not.
    pub fn are_audited(&self) -> bool {
        let Self { full_name: _, user_type, idle_timeout, ends_at } = self;
        user_type.is_some() || idle_timeout.is_some() || ends_at.is_some()
    }

    pub(crate) fn apply_to(&self, info: &mut SessionInfo) {
        let Self { full_name, user_type, idle_timeout, ends_at } = self;
        replace(&mut info.full_name, full_name.as_ref());
        replace(&mut info.user_type, user_type.as_ref());
        replace(&mut info.idle_timeout, idle_timeout.as_ref());
        replace(&mut info.ends_at, ends_at.as_ref());
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in the record.
    Now,
    /// It was in the record already: an earlier try had succeeded.
    Before,
    /// A value or the version it relied on is different. Nothing was applied.
    Conflict,
    /// Its writer no longer holds the session's lock. Nothing was applied.
    LeaseLost,
    /// The data would be larger than allowed. Nothing was applied.
    TooLarge {
        /// How large it would be.
        size: usize,
    },
}

impl Change {
    /// A change of nothing yet.
    pub fn new(max_data_bytes: usize) -> Self {
        Self {
            id: random_id(),
            remove_all: false,
            remove: BTreeSet::new(),
            set: BTreeMap::new(),
            fields: Fields::default(),
            relied_on: BTreeMap::new(),
            if_version: None,
            lease: None,
            max_data_bytes,
            known: None,
        }
    }

    /// Sets `key` to `value`, whatever the change said of it before.
    pub fn set(&mut self, key: impl Into<Arc<str>>, value: Json) {
        let key = key.into();
        self.remove.remove(&key);
        self.set.insert(key, value);
    }

    /// Removes `key`, whatever the change said of it before.
    pub fn remove(&mut self, key: impl Into<Arc<str>>) {
        let key = key.into();
        self.set.remove(&key);
        if !self.remove_all {
            self.remove.insert(key);
        }
    }

    /// Removes every key.
    pub fn remove_all(&mut self) {
        self.set.clear();
        self.remove.clear();
        self.remove_all = true;
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        !self.remove_all && self.remove.is_empty() && self.set.is_empty() && self.fields == Fields::default()
    }

    /// Whether it relies on something that others may change meanwhile.
    pub fn can_conflict(&self) -> bool {
        !self.relied_on.is_empty() || self.if_version.is_some()
    }

    /// The largest value it sets: the one to name when the data becomes too large.
    pub fn largest_key(&self) -> Option<&Arc<str>> {
        self.set.iter().max_by_key(|(key, value)| entry_size(key, value.as_str())).map(|(key, _)| key)
    }

    /// Applies it to `record`, all or nothing. This is the rule every store follows; those that hold records in this
    /// process call it.
    ///
    /// Deadlines are the caller's business: an expired record is not changed.
    pub fn apply_to(&self, record: &mut Record, now: Timestamp) -> Applied {
        if record.recent_changes.contains(self.id) {
            return Applied::Before;
        }
        if self.lease.is_some_and(|number| !record.lease.permits(number, now)) {
            return Applied::LeaseLost;
        }
        let current = self.if_version.is_none_or(|version| version == record.info.version);
        if !current
            || self.relied_on.iter().any(|(key, value)| record.data.get(key) != value.as_ref().map(Json::as_ref))
        {
            return Applied::Conflict;
        }
        if let Err(size) = record.data.change(self.remove_all, &self.remove, &self.set, self.max_data_bytes) {
            return Applied::TooLarge { size };
        }
        self.fields.apply_to(&mut record.info);
        record.info.version += 1;
        record.recent_changes.push(self.id);
        Applied::Now
    }
}

fn replace<T: Clone>(field: &mut T, change: Option<&T>) {
    if let Some(value) = change {
        field.clone_from(value);
    }
}

thread_local!(static NEXT: Cell<u64> = Cell::new(random_start()));

/// Ids must differ between the few changes a record remembers, on all nodes: a random start for each thread, and a
/// bijective mix of a counter from there.
pub(crate) fn random_id() -> u64 {
    // SplitMix64's step and finaliser.
    let mut z = NEXT.with(|next| next.replace(next.get().wrapping_add(0x9E37_79B9_7F4A_7C15)));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Has this thread's ids follow from a seed, for simulations that must happen again as they did.
#[cfg(feature = "testing")]
pub(crate) fn seed_random_ids(seed: u64) {
    NEXT.with(|next| next.set(seed));
}

fn random_start() -> u64 {
    let mut start = [0; 8];
    match getrandom::fill(&mut start) {
        Ok(()) => u64::from_ne_bytes(start),
        Err(_) => RandomState::new().hash_one(std::process::id()),
    }
}
