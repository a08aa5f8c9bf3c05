//! What transactions work on while its rows are locked: read before, and written down for the server as it is decided.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use sqlx::mysql::MySqlRow;

use super::text::{
    Assigned, assignments, bytes, entry_values, head_columns, id, literal, names_and_values, or_null, rows as list,
    slot_columns,
};
use crate::{
    clock::Timestamp,
    data::Data,
    error::Result,
    record::Record,
    store::{
        embedded::Tables,
        packed,
        slots::{KEPT_IDS, LogEntry, Slot, UserSlot},
        sql::{
            address::Namespace,
            rows::{self, SqlRow, number, recent_column},
        },
    },
    token::{Digest, Partition, SessionId},
};

/// What a row tells of, in its first column.
pub(super) mod kind {
    pub(in super::super) const KEY: i64 = 0;
    pub(in super::super) const LOCK: i64 = 1;
    pub(in super::super) const SLOT: i64 = 2;
    pub(in super::super) const THERE: i64 = 3;
    pub(in super::super) const USER: i64 = 4;
    pub(in super::super) const COUNT: i64 = 5;
    pub(in super::super) const TRY: i64 = 6;
    pub(in super::super) const LOGGED: i64 = 7;
}

/// Something else in this batch has changed what was read, so it must be read anew.
pub(super) struct Stale;

/// Slots that are locked, and what else was read after the locks.
pub(super) struct Locked<'a> {
    namespace: &'a Namespace,
    found: Found,
    slots: RefCell<HashMap<SessionId, Slot>>,
    users: RefCell<BTreeMap<Arc<str>, UserSlot>>,
    /// Users whose sessions or idempotency keys changed in this batch.
    changed: RefCell<HashSet<Vec<u8>>>,
    statements: RefCell<Vec<String>>,
    log: RefCell<Vec<String>>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Found {
    pub(super) partition_key: Option<Vec<u8>>,
    pub(super) locks: BTreeSet<i64>,
    /// Slots that are there, whether they could be locked or not.
    pub(super) there: HashSet<SessionId>,
    slots: HashMap<SessionId, Slot>,
    /// Sessions of which more changes than that they end.
    pub(super) changed: HashSet<SessionId>,
    users: BTreeMap<Arc<str>, UserSlot>,
    /// By place among what was asked.
    counts: HashMap<i64, i64>,
    tries: HashMap<i64, SessionId>,
    logged: HashSet<(SessionId, u64)>,
    pub(super) asked_counts: Vec<(Arc<str>, Timestamp)>,
    pub(super) asked_tries: Vec<(Partition, Digest)>,
}

impl Found {
    pub(super) fn add(&mut self, row: &MySqlRow) -> Result<()> {
        match number(row, 0)? {
            kind::KEY => self.partition_key = row.bytes(1)?,
            kind::LOCK => drop(self.locks.insert(number(row, 1)?)),
            kind::SLOT => {
                let id = rows::id(row, 1)?;
                let slot = rows::slot(row, 2, id);
                // It can end though it cannot be read.
                let slot =
                    if self.changed.contains(&id) { slot } else { slot.or_else(|_| rows::bare_slot(row, 2, id)) };
                self.slots.insert(id, slot?);
            }
            kind::THERE => drop(self.there.insert(rows::id(row, 1)?)),
            kind::USER => drop(self.users.insert(row.text(10)?.unwrap_or_default().into(), rows::user(row, 2)?)),
            kind::COUNT => drop(self.counts.insert(number(row, 1)?, number(row, 2)?)),
            kind::TRY => drop(self.tries.insert(number(row, 1)?, rows::id(row, 2)?)),
            _ => drop(self.logged.insert((rows::id(row, 1)?, number(row, 2)?.cast_unsigned()))),
        }
        Ok(())
    }

    pub(super) fn holds(&self, id: SessionId) -> bool {
        self.slots.contains_key(&id) || !self.there.contains(&id)
    }

    pub(super) fn lock(mut self, namespace: &Namespace) -> Locked<'_> {
        let (slots, users) = (std::mem::take(&mut self.slots), std::mem::take(&mut self.users));
        Locked {
            namespace,
            found: self,
            slots: slots.into(),
            users: users.into(),
            changed: RefCell::default(),
            statements: RefCell::default(),
            log: RefCell::default(),
        }
    }
}

impl Locked<'_> {
    /// The statements that write what was decided; those on the audit log come last.
    pub(super) fn statements(self) -> Vec<String> {
        let (name, log) = (self.namespace, self.log.into_inner());
        let mut statements = self.statements.into_inner();
        if !log.is_empty() {
            statements.push(format!("SELECT name FROM {name}_meta WHERE name='gate' LOCK IN SHARE MODE"));
            statements.extend(log);
        }
        statements
    }

    /// The length of the longest statement so far.
    pub(super) fn longest(&self) -> usize {
        let (statements, log) = (self.statements.borrow(), self.log.borrow());
        statements.iter().chain(&*log).map(String::len).max().unwrap_or_default()
    }

    /// How many bytes of data these sessions have.
    pub(super) fn size_of(&self, sessions: impl Iterator<Item = SessionId>) -> usize {
        let slots = self.slots.borrow();
        let size = |id| match slots.get(&id) {
            Some(Slot::Open(record)) => record.data.size(),
            Some(Slot::Ended(_)) | None => 0,
        };
        sessions.map(size).sum()
    }

    fn write(&self, statement: String) {
        self.statements.borrow_mut().push(statement);
    }

    fn update(&self, of: SessionId, assigned: &Assigned) {
        self.write(format!("UPDATE {}_slot SET {} WHERE id={}", self.namespace, assignments(assigned), id(of)));
    }

    /// The slot is another one, and so are the lists that it stands in.
    fn replace(&self, slot: &Slot) {
        let record = |slot: &Slot| match slot {
            Slot::Open(record) => Arc::clone(record),
            Slot::Ended(ended) => Arc::clone(&ended.record),
        };
        let before = self.slots.borrow_mut().insert(slot.id(), slot.clone());
        for record in before.iter().chain([slot]).map(record) {
            let user = record.info.user.as_ref().map(|user| user.as_bytes().to_vec());
            let key = record.idempotency.as_ref().map(|digest| digest.as_bytes().to_vec());
            self.changed.borrow_mut().extend(user.into_iter().chain(key));
        }
    }

    fn unchanged(&self, name: &[u8]) -> Result<(), Stale> {
        if self.changed.borrow().contains(name) { Err(Stale) } else { Ok(()) }
    }
}

impl Tables for Locked<'_> {
    type Fault = Stale;

    const KEPT: usize = KEPT_IDS;

    fn slot(&self, id: SessionId) -> Result<Option<Slot>, Stale> {
        Ok(self.slots.borrow().get(&id).cloned())
    }

    fn user(&self, name: &str) -> Result<Option<UserSlot>, Stale> {
        Ok(self.users.borrow().get(name).cloned())
    }

    fn count(&self, user: &str, now: Timestamp) -> Result<usize, Stale> {
        self.unchanged(user.as_bytes())?;
        let place = self.found.asked_counts.iter().position(|(name, at)| &**name == user && *at == now);
        let place = place.and_then(|place| i64::try_from(place).ok()).ok_or(Stale)?;
        let count = self.found.counts.get(&place).copied().unwrap_or_default();
        usize::try_from(count).map_err(|_| Stale)
    }

    fn started_with(&self, partition: Partition, key: &Digest) -> Result<Option<SessionId>, Stale> {
        self.unchanged(key.as_bytes())?;
        let place = self.found.asked_tries.iter().position(|asked| *asked == (partition, *key));
        let place = place.and_then(|place| i64::try_from(place).ok()).ok_or(Stale)?;
        Ok(self.found.tries.get(&place).copied())
    }

    fn is_logged(&self, session: SessionId, entry: u64) -> Result<bool, Stale> {
        Ok(self.found.logged.contains(&(session, entry)))
    }

    fn put(&self, slot: &Slot) -> Result<(), Stale> {
        let mut columns = slot_columns(slot);
        if self.slots.borrow().contains_key(&slot.id()) {
            self.update(slot.id(), &columns);
        } else {
            columns.push(("id", id(slot.id())));
            let (names, values) = names_and_values(&columns);
            self.write(format!("INSERT INTO {}_slot {names} VALUES ({values})", self.namespace));
        }
        self.replace(slot);
        Ok(())
    }

    fn put_head(&self, record: &Record) -> Result<(), Stale> {
        self.update(record.info.id, &head_columns(record));
        self.replace(&Slot::Open(Arc::new(record.clone())));
        Ok(())
    }

    fn put_data(&self, _before: &Data, record: &Record) -> Result<(), Stale> {
        let (info, data) = (&record.info, packed::stored(&record.data));
        let columns = vec![
            ("version", info.version.cast_signed().to_string()),
            ("recent", bytes(&recent_column(&record.recent_changes, info.version))),
            ("data", literal(&data)),
        ];
        self.update(info.id, &columns);
        self.slots.borrow_mut().insert(info.id, Slot::Open(Arc::new(record.clone())));
        Ok(())
    }

    fn put_due(&self, id: SessionId, due: Option<Timestamp>) -> Result<(), Stale> {
        self.update(id, &vec![("due_at", or_null(due.map(Timestamp::as_millis)))]);
        Ok(())
    }

    fn put_user(&self, name: &str, slot: Option<&UserSlot>) -> Result<(), Stale> {
        let (namespace, user) = (self.namespace, literal(name.as_bytes()));
        let Some(slot) = slot else {
            self.write(format!("DELETE FROM {namespace}_account WHERE user_id={user}"));
            self.users.borrow_mut().remove(name);
            return Ok(());
        };
        let ip = slot.last_sign_in.and_then(|last| last.ip).map(|ip| literal(ip.to_string().as_bytes()));
        let columns = vec![
            ("revision", slot.revision.cast_signed().to_string()),
            ("due_at", or_null(slot.due_at.map(Timestamp::as_millis))),
            ("signed_in_at", or_null(slot.last_sign_in.map(|last| last.at.as_millis()))),
            ("signed_in_from", or_null(ip)),
            ("settled", literal(slot.text.as_bytes())),
        ];
        if self.users.borrow().contains_key(name) {
            self.write(format!("UPDATE {namespace}_account SET {} WHERE user_id={user}", assignments(&columns)));
        } else {
            let (names, values) = names_and_values(&[columns, vec![("user_id", user)]].concat());
            self.write(format!("INSERT INTO {namespace}_account {names} VALUES ({values})"));
        }
        self.users.borrow_mut().insert(name.into(), slot.clone());
        Ok(())
    }

    fn log(&self, entry: &LogEntry) -> Result<(), Stale> {
        let row = list([entry_values(entry)].into_iter());
        let insert = format!("INSERT INTO {}_audit (id,at,session,user_id,entry) VALUES {row}", self.namespace);
        self.log.borrow_mut().push(insert);
        Ok(())
    }
}
