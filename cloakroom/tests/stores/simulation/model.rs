//! The plain model of a store: everything in one list, searched from one end to the other.
//!
//! It is written from the contract alone and shares no code with any store, so that a mistake would have to be made twice
//! to go unnoticed.

use std::{collections::BTreeMap, sync::Arc};

use cloakroom::{
    Data, Ended, Json, Record, SessionId, Timestamp,
    store::{
        LastSignIn,
        slots::{
            Ask, Committed, EndedSlot, Expect, Forget, Found, List, Listed, LogEntry, Outcome, SeenAt, Slot,
            Transaction, UserSlot, Write,
        },
    },
};

/// So many ids of changes a slot keeps.
const KEPT: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) slots: BTreeMap<SessionId, Kept>,
    pub(super) users: BTreeMap<String, UserSlot>,
    /// In the order of their commits.
    pub(super) log: Vec<LogEntry>,
}

#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) slot: Slot,
    changes: Vec<u64>,
    due: Option<Timestamp>,
}

impl Kept {
    pub(super) fn open(&self) -> Option<&Arc<Record>> {
        match &self.slot {
            Slot::Open(record) => Some(record),
            Slot::Ended(_) => None,
        }
    }

    pub(super) fn ended(&self) -> Option<&Ended> {
        match &self.slot {
            Slot::Open(_) => None,
            Slot::Ended(ended) => Some(&ended.ended),
        }
    }
}

pub(super) fn lives(record: &Record, now: Timestamp) -> bool {
    let info = &record.info;
    info.idle_timeout.is_none_or(|idle| now < info.last_seen_at.after(idle)) && info.ends_at.is_none_or(|end| now < end)
}

fn without_data(record: &Arc<Record>) -> Arc<Record> {
    let mut record = Record::clone(record);
    record.data = Data::new();
    Arc::new(record)
}

impl Model {
    fn open(&self, id: SessionId) -> Option<&Arc<Record>> {
        self.slots.get(&id).and_then(Kept::open)
    }

    /// Open sessions of a user, newest first.
    pub(super) fn of_user(&self, user: &str) -> Vec<&Arc<Record>> {
        let mut found: Vec<_> = self
            .slots
            .values()
            .filter_map(Kept::open)
            .filter(|record| record.info.user.as_deref() == Some(user))
            .collect();
        found.sort_by_key(|record| std::cmp::Reverse((record.info.created_at, record.info.id)));
        found
    }

    pub(super) fn count(&self, user: &str, now: Timestamp) -> usize {
        let own = |record: &&&Arc<Record>| record.info.impersonator().is_none() && lives(record, now);
        self.of_user(user).iter().filter(own).count()
    }

    pub(super) fn read(&self, ask: &Ask) -> Found {
        match ask {
            Ask::Session(id) => Found::Session(self.slots.get(id).map(|kept| kept.slot.clone())),
            Ask::Head(id) => Found::Session(self.slots.get(id).map(|kept| match &kept.slot {
                Slot::Open(record) => Slot::Open(without_data(record)),
                ended @ Slot::Ended(_) => ended.clone(),
            })),
            Ask::User(user) => Found::User(self.users.get(&**user).cloned()),
            Ask::HeadsOf(user, limit) => {
                Found::Heads(self.of_user(user).into_iter().take(*limit).map(without_data).collect())
            }
            Ask::Try(partition, digest) => Found::Try(self.started_with(*partition, digest)),
        }
    }

    fn started_with(
        &self,
        partition: cloakroom::store::Partition,
        digest: &cloakroom::store::Digest,
    ) -> Option<SessionId> {
        let mut open = self.slots.values().filter_map(Kept::open);
        let found =
            open.find(|record| record.info.id.partition() == partition && record.idempotency.as_ref() == Some(digest));
        found.map(|record| record.info.id)
    }

    pub(super) fn holds(&self, expect: &Expect, transaction: &Transaction) -> bool {
        let now = transaction.now;
        match expect {
            Expect::Live(id) => self.open(*id).is_some_and(|record| lives(record, now)),
            Expect::Head(id, revision) => self.open(*id).is_some_and(|record| record.revision == *revision),
            Expect::Version(id, version) => self.open(*id).is_some_and(|record| record.info.version == *version),
            Expect::Value(id, key, value) => {
                self.open(*id).is_some_and(|record| record.data.get(key) == value.as_ref().map(Json::as_ref))
            }
            Expect::DataAtMost(id, most) => self.open(*id).is_some_and(|before| {
                let change = transaction.writes.iter().find_map(|write| match write {
                    Write::Data { id: changed, change, .. } if changed == id => Some(change),
                    _ => None,
                });
                let after = change.map_or(before.data.size(), |change| merged(&before.data, change).size());
                after <= *most || after <= before.data.size()
            }),
            Expect::NotSeenSince(id, at) => self.open(*id).is_some_and(|record| record.info.last_seen_at <= *at),
            Expect::Empty(id) => !self.slots.contains_key(id),
            Expect::User(user, revision) => self.users.get(&**user).map_or(0, |slot| slot.revision) == *revision,
            Expect::Count(user, count) => self.count(user, now) == *count,
            Expect::Try(partition, digest, id) => self.started_with(*partition, digest) == *id,
        }
    }

    /// Whether a transaction that is sent again was applied before; `None` where nobody can tell.
    pub(super) fn was_applied(&self, transaction: &Transaction) -> Option<bool> {
        for write in &transaction.writes {
            return Some(match write {
                Write::Create(record) => self.slots.contains_key(&record.info.id),
                Write::Head(record) => match self.slots.get(&record.info.id).map(|kept| &kept.slot) {
                    Some(Slot::Open(there)) => there.revision == record.revision,
                    Some(Slot::Ended(ended)) => ended.record.revision == record.revision,
                    None => false,
                },
                Write::Data { id, known, .. } => {
                    let Some(kept) = self.slots.get(id) else { return Some(false) };
                    if kept.changes.contains(&transaction.id) {
                        return Some(true);
                    }
                    let Slot::Open(record) = &kept.slot else { return None };
                    let since = known.map_or(record.info.version, |known| record.info.version - known.version);
                    return (since < KEPT as u64).then_some(false);
                }
                Write::End(ended) => match self.slots.get(&ended.id).map(|kept| &kept.slot) {
                    Some(Slot::Ended(there)) => there.transaction == transaction.id,
                    _ => false,
                },
                Write::User(user, Some(slot)) => {
                    self.users.get(&**user).is_some_and(|there| there.revision == slot.revision)
                }
                Write::User(user, None) => !self.users.contains_key(&**user),
                Write::Import(_) | Write::Due(..) | Write::SignedIn(..) => continue,
            });
        }
        let logged = transaction.log.first().map(|entry| self.log.iter().any(|there| there.id == entry.id));
        Some(logged.unwrap_or(false))
    }

    /// Whether each write finds the slot it needs.
    fn fits(&self, write: &Write) -> bool {
        match write {
            Write::Create(record) => !self.slots.contains_key(&record.info.id),
            Write::Head(record) => self.open(record.info.id).is_some(),
            Write::Data { id, .. } | Write::Due(id, _) => self.open(*id).is_some(),
            Write::End(ended) => self.open(ended.id).is_some(),
            Write::Import(_) | Write::User(..) | Write::SignedIn(..) => true,
        }
    }

    pub(super) fn commit(&mut self, transaction: &Transaction) -> Outcome {
        let holds = transaction.relies_on.iter().all(|expect| self.holds(expect, transaction))
            && transaction.writes.iter().all(|write| self.fits(write));
        if !holds {
            return Outcome::Conflict(self.shown(transaction));
        }
        let answers = transaction.writes.iter().map(|write| self.write(write, transaction.id)).collect();
        self.log.extend(transaction.log.iter().cloned());
        Outcome::Committed(answers)
    }

    /// The slot that a conflict shows: of a transaction about one session and no user.
    pub(super) fn shown(&self, transaction: &Transaction) -> Option<Slot> {
        let mut ids = Vec::new();
        for expect in &transaction.relies_on {
            match expect {
                Expect::Live(id)
                | Expect::Head(id, _)
                | Expect::Version(id, _)
                | Expect::Value(id, ..)
                | Expect::DataAtMost(id, _)
                | Expect::NotSeenSince(id, _)
                | Expect::Empty(id) => ids.push(*id),
                Expect::User(..) | Expect::Count(..) | Expect::Try(..) => return None,
            }
        }
        for write in &transaction.writes {
            match write {
                Write::Create(record) | Write::Head(record) => ids.push(record.info.id),
                Write::Data { id, .. } | Write::Due(id, _) => ids.push(*id),
                Write::End(ended) => ids.push(ended.id),
                Write::Import(_) => {}
                Write::User(..) | Write::SignedIn(..) => return None,
            }
        }
        ids.dedup();
        let [id] = ids[..] else { return None };
        self.slots.get(&id).map(|kept| kept.slot.clone())
    }

    pub(super) fn write(&mut self, write: &Write, transaction: u64) -> Committed {
        match write {
            Write::Create(record) => {
                let kept = Kept { slot: Slot::Open(Arc::clone(record)), changes: Vec::new(), due: record.due_at() };
                self.slots.insert(record.info.id, kept);
            }
            Write::Head(new) => {
                let kept = self.slots.get_mut(&new.info.id).expect("it fits");
                let Slot::Open(there) = &mut kept.slot else { unreachable!("it fits") };
                let mut record = Record::clone(new);
                record.data = there.data.clone();
                record.info.version = there.info.version;
                record.info.last_seen_at = there.info.last_seen_at;
                kept.due = new.due_at();
                *there = Arc::new(record);
            }
            Write::Data { id, change, known } => {
                let kept = self.slots.get_mut(id).expect("it fits");
                kept.changes.push(transaction);
                if kept.changes.len() > KEPT {
                    kept.changes.remove(0);
                }
                let Slot::Open(there) = &mut kept.slot else { unreachable!("it fits") };
                let mut record = Record::clone(there);
                record.data = merged(&record.data, change);
                record.info.version += 1;
                *there = Arc::new(record);
                let as_known = known
                    .is_some_and(|known| known.version + 1 == there.info.version && known.revision == there.revision);
                return if as_known {
                    Committed::AsKnown { seen: there.info.last_seen_at }
                } else {
                    Committed::Record(Arc::clone(there))
                };
            }
            Write::End(ended) => {
                let kept = self.slots.get_mut(&ended.id).expect("it fits");
                let record = without_data(kept.open().expect("it fits"));
                kept.slot = Slot::Ended(Arc::new(EndedSlot { record, ended: ended.clone(), transaction }));
                kept.due = None;
            }
            Write::Import(slot) => {
                let (id, due) = match slot {
                    Slot::Open(record) => (record.info.id, record.due_at()),
                    Slot::Ended(ended) => (ended.ended.id, None),
                };
                self.slots.insert(id, Kept { slot: slot.clone(), changes: Vec::new(), due });
            }
            Write::Due(id, due) => self.slots.get_mut(id).expect("it fits").due = *due,
            Write::User(user, Some(slot)) => {
                let known = self.users.get(&**user).and_then(|there| there.last_sign_in);
                let mut slot = slot.clone();
                slot.last_sign_in = later(known, slot.last_sign_in);
                self.users.insert(user.to_string(), slot);
            }
            Write::User(user, None) => drop(self.users.remove(&**user)),
            Write::SignedIn(user, stamp) => {
                if let Some(slot) = self.users.get_mut(&**user) {
                    slot.last_sign_in = later(slot.last_sign_in, Some(*stamp));
                }
            }
        }
        Committed::Done
    }

    pub(super) fn touch(&mut self, touch: &SeenAt, now: Timestamp) -> bool {
        let Some(Kept { slot: Slot::Open(there), .. }) = self.slots.get_mut(&touch.id) else { return false };
        let lives = lives(there, now);
        if lives && touch.at > there.info.last_seen_at {
            let mut record = Record::clone(there);
            record.info.last_seen_at = touch.at;
            *there = Arc::new(record);
        }
        lives
    }

    pub(super) fn list(&self, what: &List) -> Vec<Listed> {
        let open = || self.slots.values().filter_map(|kept| Some((kept, kept.open()?)));
        let listed = |record: &Arc<Record>| Listed::Session(Slot::Open(without_data(record)));
        match what {
            List::Sessions(query, now) => {
                let matches = |record: &&Arc<Record>| lives(record, *now) && query.matches(&record.info);
                match &query.user {
                    Some(user) => self.of_user(user).into_iter().filter(matches).map(listed).collect(),
                    None => open().map(|(_, record)| record).filter(matches).map(listed).collect(),
                }
            }
            List::Due(now) => open()
                .filter(|(kept, _)| kept.due.is_some_and(|due| due <= *now))
                .map(|(_, record)| listed(record))
                .collect(),
            List::DueUsers(now) => {
                let due = |slot: &UserSlot| slot.due_at.is_some_and(|due| due <= *now);
                let users = self.users.iter().filter(|(_, slot)| due(slot));
                users.map(|(name, slot)| Listed::User(name.as_str().into(), slot.clone())).collect()
            }
            List::Users => {
                self.users.iter().map(|(name, slot)| Listed::User(name.as_str().into(), slot.clone())).collect()
            }
            List::Everything => self.slots.values().map(|kept| Listed::Session(kept.slot.clone())).collect(),
        }
    }

    pub(super) fn forget(&mut self, forget: &Forget) {
        self.slots.retain(|_, kept| kept.ended().is_none_or(|ended| ended.at > forget.ended_before));
        self.log.retain(|entry| entry.entry.at > forget.audit_before);
    }
}

fn later(known: Option<LastSignIn>, new: Option<LastSignIn>) -> Option<LastSignIn> {
    match (known, new) {
        (Some(known), Some(new)) if known.at > new.at => Some(known),
        (known, new) => new.or(known),
    }
}

fn merged(data: &Data, change: &cloakroom::store::slots::DataChange) -> Data {
    let mut values: BTreeMap<Arc<str>, Json> = data.iter().map(|(key, value)| (key.into(), value.to_json())).collect();
    if change.remove_all {
        values.clear();
    }
    for key in &change.remove {
        values.remove(key);
    }
    values.extend(change.set.clone());
    values.into_iter().collect()
}
