//! Transactions on stores that decide in this process, inside a transaction or under a lock of their own: SQLite, the
//! directory of files, and MariaDB, whose rows are locked meanwhile. What they rely on is compared, then written, in the same step.

use std::sync::Arc;
#[cfg(any(feature = "file", feature = "sqlite"))]
use std::{future::poll_fn, task::Poll};

use crate::{
    clock::Timestamp,
    data::Data,
    record::{RecentChanges, Record},
    store::{
        LastSignIn,
        slots::{Committed, EndedSlot, Expect, LogEntry, Outcome, Slot, Transaction, UserSlot, Write},
    },
    token::{Digest, Partition, SessionId},
};

/// What is kept, inside one transaction: what was written is seen by what is read after it.
pub(super) trait Tables {
    type Fault;

    /// So many ids of latest changes are kept.
    const KEPT: usize = RecentChanges::KEPT;

    /// A session's slot; an open one with its data and the ids of its latest changes.
    fn slot(&self, id: SessionId) -> Result<Option<Slot>, Self::Fault>;
    fn user(&self, name: &str) -> Result<Option<UserSlot>, Self::Fault>;
    /// How many sessions of a user live and have no impersonator.
    fn count(&self, user: &str, now: Timestamp) -> Result<usize, Self::Fault>;
    fn started_with(&self, partition: Partition, key: &Digest) -> Result<Option<SessionId>, Self::Fault>;
    fn is_logged(&self, session: SessionId, entry: u64) -> Result<bool, Self::Fault>;

    /// Puts a slot in the place of whatever is there.
    fn put(&self, slot: &Slot) -> Result<(), Self::Fault>;
    /// Writes head and columns of an open slot.
    fn put_head(&self, record: &Record) -> Result<(), Self::Fault>;
    /// Writes data, version and latest changes of an open slot.
    fn put_data(&self, before: &Data, record: &Record) -> Result<(), Self::Fault>;
    fn put_due(&self, id: SessionId, due: Option<Timestamp>) -> Result<(), Self::Fault>;
    /// Puts or deletes a user's slot, as it is.
    fn put_user(&self, name: &str, slot: Option<&UserSlot>) -> Result<(), Self::Fault>;
    fn log(&self, entry: &LogEntry) -> Result<(), Self::Fault>;
}

/// What became of a transaction; `None` where nobody can tell whether an earlier try was applied.
pub(super) fn commit<T: Tables>(
    tables: &T,
    transaction: &Transaction,
    again: bool,
) -> Result<Option<Outcome>, T::Fault> {
    let mut seen = Seen { tables, slots: Vec::new() };
    match seen.was_applied(transaction, again)? {
        Applied::Yes => return seen.answer_again(transaction).map(Some),
        Applied::Perhaps => return Ok(None),
        Applied::No => {}
    }
    for expect in &transaction.relies_on {
        if !seen.holds(expect, transaction)? {
            return seen.conflict(transaction).map(Some);
        }
    }
    for write in &transaction.writes {
        if !seen.fits(write)? {
            return seen.conflict(transaction).map(Some);
        }
    }
    let mut answers = Vec::with_capacity(transaction.writes.len());
    for write in &transaction.writes {
        answers.push(seen.write(write, transaction.id)?);
    }
    // An answer shows the slot as it is after all writes.
    for (answer, write) in answers.iter_mut().zip(&transaction.writes) {
        if let (Committed::Record(record), Write::Data { id, .. }) = (answer, write)
            && let Some(Slot::Open(now)) = seen.slot(*id)?
        {
            *record = Arc::clone(now);
        }
    }
    for entry in &transaction.log {
        if !(again && tables.is_logged(entry.entry.session, entry.id)?) {
            tables.log(entry)?;
        }
    }
    Ok(Some(Outcome::Committed(answers)))
}

enum Applied {
    Yes,
    No,
    Perhaps,
}

/// Slots as they are inside the transaction, each read once.
struct Seen<'a, T> {
    tables: &'a T,
    slots: Vec<(SessionId, Option<Slot>)>,
}

impl<T: Tables> Seen<'_, T> {
    fn slot(&mut self, id: SessionId) -> Result<Option<&Slot>, T::Fault> {
        let known = self.slots.iter().position(|(known, _)| *known == id);
        let at = if let Some(at) = known {
            at
        } else {
            self.slots.push((id, self.tables.slot(id)?));
            self.slots.len() - 1
        };
        Ok(self.slots[at].1.as_ref())
    }

    fn open(&mut self, id: SessionId) -> Result<Option<&Arc<Record>>, T::Fault> {
        Ok(match self.slot(id)? {
            Some(Slot::Open(record)) => Some(record),
            Some(Slot::Ended(_)) | None => None,
        })
    }

    fn is_open(&mut self, id: SessionId, and: impl FnOnce(&Record) -> bool) -> Result<bool, T::Fault> {
        Ok(self.open(id)?.is_some_and(|record| and(record)))
    }

    fn replace(&mut self, id: SessionId, slot: Slot) {
        self.slots.retain(|(known, _)| *known != id);
        self.slots.push((id, Some(slot)));
    }

    fn was_applied(&mut self, transaction: &Transaction, again: bool) -> Result<Applied, T::Fault> {
        let is = |yes| if yes { Applied::Yes } else { Applied::No };
        Ok(match transaction.writes.first() {
            Some(Write::Data { id, known, .. }) => {
                let Some(record) = self.open(*id)? else { return Ok(Applied::No) };
                let kept = T::KEPT as u64;
                let since = known.map_or(0, |known| record.info.version.saturating_sub(known.version));
                match record.recent_changes.contains(transaction.id) {
                    true => Applied::Yes,
                    false if again && since > kept => Applied::Perhaps,
                    false => Applied::No,
                }
            }
            Some(_) if !again => Applied::No,
            Some(Write::Create(record)) => is(self.slot(record.info.id)?.is_some()),
            Some(Write::Head(new)) => is(self.is_open(new.info.id, |there| there.revision == new.revision)?),
            Some(Write::End(ended)) => {
                is(matches!(self.slot(ended.id)?, Some(Slot::Ended(there)) if there.transaction == transaction.id))
            }
            Some(Write::User(name, slot)) => {
                let there = self.tables.user(name)?.map(|slot| slot.revision);
                is(there == slot.as_ref().map(|slot| slot.revision))
            }
            Some(Write::Import(_) | Write::Due(..) | Write::SignedIn(..)) | None => Applied::No,
        })
    }

    fn answer_again(&mut self, transaction: &Transaction) -> Result<Outcome, T::Fault> {
        let mut answers = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            answers.push(match write {
                Write::Data { id, .. } => match self.open(*id)? {
                    Some(record) => Committed::Record(Arc::clone(record)),
                    None => return self.conflict(transaction),
                },
                _ => Committed::Done,
            });
        }
        Ok(Outcome::Committed(answers))
    }

    fn holds(&mut self, expect: &Expect, transaction: &Transaction) -> Result<bool, T::Fault> {
        match expect {
            Expect::Live(id)
            | Expect::Head(id, _)
            | Expect::Version(id, _)
            | Expect::Value(id, ..)
            | Expect::DataAtMost(id, _)
            | Expect::NotSeenSince(id, _) => {
                self.is_open(*id, |record| expect.is_so_of(record, transaction) == Some(true))
            }
            Expect::Empty(id) => Ok(self.slot(*id)?.is_none()),
            Expect::User(name, revision) => Ok(self.tables.user(name)?.map_or(0, |slot| slot.revision) == *revision),
            Expect::Count(name, count) => Ok(self.tables.count(name, transaction.now)? == *count),
            Expect::Try(partition, key, id) => Ok(self.tables.started_with(*partition, key)? == *id),
        }
    }

    /// Whether a write finds the slot it needs.
    fn fits(&mut self, write: &Write) -> Result<bool, T::Fault> {
        match write {
            Write::Create(record) => Ok(self.slot(record.info.id)?.is_none()),
            Write::Head(record) => self.is_open(record.info.id, |_| true),
            Write::Data { id, .. } | Write::Due(id, _) => self.is_open(*id, |_| true),
            Write::End(ended) => self.is_open(ended.id, |_| true),
            Write::Import(_) | Write::User(..) | Write::SignedIn(..) => Ok(true),
        }
    }

    fn write(&mut self, write: &Write, transaction: u64) -> Result<Committed, T::Fault> {
        match write {
            Write::Create(record) => self.put(record.info.id, Slot::Open(Arc::clone(record)))?,
            Write::Import(slot) => self.put(slot.id(), slot.clone())?,
            Write::Head(new) => {
                let id = new.info.id;
                let Some(there) = self.open(id)? else { return Ok(Committed::Done) };
                let mut record = Record {
                    data: there.data.clone(),
                    recent_changes: there.recent_changes.clone(),
                    ..Record::clone(new)
                };
                record.info.version = there.info.version;
                record.info.last_seen_at = there.info.last_seen_at;
                self.tables.put_head(&record)?;
                self.replace(id, Slot::Open(Arc::new(record)));
            }
            Write::Data { id, change, known } => {
                let Some(there) = self.open(*id)? else { return Ok(Committed::Done) };
                let is_known =
                    known.is_some_and(|known| (known.version, known.revision) == (there.info.version, there.revision));
                let (mut record, seen) = (Record::clone(there), there.info.last_seen_at);
                let before = record.data.clone();
                if let Some(data) = change.applied_to(&before, usize::MAX) {
                    record.data = data;
                }
                record.info.version += 1;
                record.recent_changes.push(transaction);
                self.tables.put_data(&before, &record)?;
                let record = Arc::new(record);
                self.replace(*id, Slot::Open(Arc::clone(&record)));
                return Ok(if is_known { Committed::AsKnown { seen } } else { Committed::Record(record) });
            }
            Write::End(ended) => {
                let Some(there) = self.open(ended.id)? else { return Ok(Committed::Done) };
                let record =
                    Record { data: Data::new(), recent_changes: RecentChanges::default(), ..Record::clone(there) };
                let slot = EndedSlot { record: Arc::new(record), ended: ended.clone(), transaction };
                self.put(ended.id, Slot::Ended(Arc::new(slot)))?;
            }
            Write::Due(id, due) => self.tables.put_due(*id, *due)?,
            Write::User(name, slot) => {
                let known = self.tables.user(name)?.and_then(|slot| slot.last_sign_in);
                let slot = slot.as_ref().map(|slot| {
                    let last_sign_in = slot.last_sign_in.and_then(|new| LastSignIn::latest(known, Some(new)));
                    UserSlot { last_sign_in, ..slot.clone() }
                });
                self.tables.put_user(name, slot.as_ref())?;
            }
            Write::SignedIn(name, stamp) => {
                if let Some(mut slot) = self.tables.user(name)? {
                    slot.last_sign_in = LastSignIn::latest(slot.last_sign_in, Some(*stamp));
                    self.tables.put_user(name, Some(&slot))?;
                }
            }
        }
        Ok(Committed::Done)
    }

    fn put(&mut self, id: SessionId, slot: Slot) -> Result<(), T::Fault> {
        self.tables.put(&slot)?;
        self.replace(id, slot);
        Ok(())
    }

    fn conflict(&mut self, transaction: &Transaction) -> Result<Outcome, T::Fault> {
        Ok(Outcome::Conflict(match transaction.only_session() {
            Some(id) => self.slot(id)?.cloned(),
            None => None,
        }))
    }
}

/// Whether a transaction takes no room on the disk for long: it ends sessions, or settles something about users.
#[cfg(any(feature = "file", feature = "sqlite"))]
pub(super) fn frees(transaction: &Transaction) -> bool {
    let of_endings =
        |write: &Write| matches!(write, Write::End(_) | Write::User(..) | Write::SignedIn(..) | Write::Due(..));
    !transaction.writes.is_empty() && transaction.writes.iter().all(of_endings)
}

/// Hands in all of them before it waits for the first: they share a transaction.
#[cfg(any(feature = "file", feature = "sqlite"))]
pub(super) async fn in_turn<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_over = true;
        for (future, done) in waiting.iter_mut().zip(&mut done) {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(answer) => *done = Some(answer),
                    Poll::Pending => is_over = false,
                }
            }
        }
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
