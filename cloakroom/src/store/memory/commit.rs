//! Transactions.

use std::{sync::Arc, time::Duration};

use super::{
    MemoryStore,
    held::{Held, Name, first_of},
    shard_number,
};
use crate::{
    error::{Error, Result},
    record::{RecentChanges, Record},
    store::slots::{Ask, Committed, DataChange, Expect, Found, Outcome, Slot, Transaction, Write},
    token::SessionId,
};

impl MemoryStore {
    pub(super) fn read_now(&self, asks: &[Ask]) -> Vec<Found> {
        let Some(mut held) = Held::lock(self, asks.iter().map(Name::from), None) else { return Vec::new() };
        let find = |ask: &Ask| match ask {
            Ask::Session(id) | Ask::Head(id) => Found::Session(held.of(*id).slot(*id)),
            Ask::User(user) => Found::User(held.of_user(user).user(user).cloned()),
            Ask::HeadsOf(user, limit) => Found::Heads(held.of_user(user).heads_of(user, *limit)),
            Ask::Try(partition, key) => Found::Try(held.of(first_of(*partition)).earlier_try(*partition, *key)),
        };
        asks.iter().map(find).collect()
    }

    pub(super) fn commit_now(&self, transaction: &Transaction, again: bool) -> Result<Outcome> {
        let Transaction { id, now, relies_on, writes, log } = transaction;
        let names = relies_on.iter().map(Name::from).chain(writes.iter().map(Name::from));
        // A new session lies where its user's are.
        let user = writes.first().and_then(|write| match write {
            Write::Create(record) => Some((&**record.info.user.as_ref()?, record.info.id)),
            _ => None,
        });
        let Some(mut held) = Held::lock(self, names, user) else {
            self.tell(transaction, again);
            return Ok(Outcome::Committed(Vec::new()));
        };
        if let Some(first) = writes.first() {
            if is_done(&mut held, *id, first, again) {
                return Ok(Outcome::Committed(answers(&mut held, writes)));
            }
            if again && is_forgotten(&mut held, first) {
                return Err(Error::OutcomeUnknown { after: Duration::ZERO });
            }
        }
        let holds = relies_on.iter().all(|expect| holds(&mut held, expect, *now, writes))
            && writes.iter().all(|write| is_possible(&mut held, write))
            && apply(&mut held, transaction);
        if !holds {
            return Ok(Outcome::Conflict(transaction.only_session().and_then(|id| held.of(id).slot(id))));
        }
        if !log.is_empty() {
            self.tell(transaction, again);
        }
        Ok(Outcome::Committed(answers(&mut held, writes)))
    }

    /// Writes into the log, while the shards of the sessions are locked: so the entries of a session are in order.
    fn tell(&self, transaction: &Transaction, again: bool) {
        for entry in &transaction.log {
            self.log.writer(shard_number(entry.entry.session.partition())).push(entry.clone(), again);
        }
    }
}

/// Whether it is an earlier try's work.
fn is_done(held: &mut Held<'_>, id: u64, first: &Write, again: bool) -> bool {
    match first {
        Write::Data { id: session, .. } => {
            held.of(*session).open(*session).is_some_and(|record| record.recent_changes.contains(id))
        }
        _ if !again => false,
        Write::Create(record) => held.of(record.info.id).slot(record.info.id).is_some(),
        Write::Head(record) => {
            held.of(record.info.id).open(record.info.id).is_some_and(|there| there.revision == record.revision)
        }
        Write::End(ended) => {
            matches!(held.of(ended.id).slot(ended.id), Some(Slot::Ended(slot)) if slot.transaction == id)
        }
        Write::User(user, slot) => {
            let there = held.of_user(user).user(user).map(|slot| slot.revision);
            there == slot.as_ref().map(|slot| slot.revision)
        }
        Write::Import(_) | Write::Due(..) | Write::SignedIn(..) => false,
    }
}

/// Whether so many changes came meanwhile that nobody can tell.
fn is_forgotten(held: &mut Held<'_>, first: &Write) -> bool {
    let Write::Data { id, known: Some(known), .. } = first else { return false };
    let kept = u64::try_from(RecentChanges::KEPT).unwrap_or(u64::MAX);
    held.of(*id).open(*id).is_some_and(|record| record.info.version > known.version.saturating_add(kept))
}

fn holds(held: &mut Held<'_>, expect: &Expect, now: crate::clock::Timestamp, writes: &[Write]) -> bool {
    match expect {
        Expect::Live(id) => held.of(*id).open(*id).is_some_and(|record| record.info.expiry(now).is_none()),
        Expect::Head(id, revision) => held.of(*id).open(*id).is_some_and(|record| record.revision == *revision),
        Expect::Version(id, version) => held.of(*id).open(*id).is_some_and(|record| record.info.version == *version),
        Expect::Value(id, key, value) => held
            .of(*id)
            .open(*id)
            .is_some_and(|record| record.data.get(key) == value.as_ref().map(crate::data::Json::as_ref)),
        Expect::DataAtMost(id, most) => match change_of(writes, *id) {
            // The first write notices itself, before anything else is written.
            Some((0, _)) => true,
            Some((_, change)) => held.of(*id).open(*id).is_some_and(|record| {
                let DataChange { remove_all, remove, set } = change;
                record.data.clone().change(*remove_all, remove, set, *most).is_ok()
            }),
            None => held.of(*id).open(*id).is_some(),
        },
        Expect::NotSeenSince(id, seen) => {
            held.of(*id).open(*id).is_some_and(|record| record.info.last_seen_at <= *seen)
        }
        Expect::Empty(id) => held.of(*id).slot(*id).is_none(),
        Expect::User(user, revision) => held.of_user(user).user(user).map_or(0, |slot| slot.revision) == *revision,
        Expect::Count(user, count) => held.of_user(user).count(user, now) == *count,
        Expect::Try(partition, key, found) => held.of(first_of(*partition)).earlier_try(*partition, *key) == *found,
    }
}

fn is_possible(held: &mut Held<'_>, write: &Write) -> bool {
    match write {
        Write::Create(record) => held.of(record.info.id).slot(record.info.id).is_none(),
        Write::Head(record) => held.of(record.info.id).open(record.info.id).is_some(),
        Write::Data { id, .. } | Write::Due(id, _) => held.of(*id).open(*id).is_some(),
        Write::End(ended) => held.of(ended.id).open(ended.id).is_some(),
        Write::Import(_) | Write::User(..) | Write::SignedIn(..) => true,
    }
}

/// Nothing is done, and the answer is no, where the first write would make data too large. What else could go wrong was
/// looked at.
fn apply(held: &mut Held<'_>, transaction: &Transaction) -> bool {
    for (place, write) in transaction.writes.iter().enumerate() {
        match write {
            Write::Create(record) => held.of(record.info.id).insert(Arc::clone(record)),
            Write::Head(record) => held.of(record.info.id).put_head(record),
            Write::Data { id, change, known: _ } => {
                let most = if place == 0 { most_of(transaction, *id) } else { usize::MAX };
                if !held.of(*id).change_data(*id, change, most, transaction.id) {
                    return false;
                }
            }
            Write::End(ended) => held.of(ended.id).end(ended, transaction.id),
            Write::Import(slot) => held.of(slot.id()).put(slot),
            Write::Due(id, at) => held.of(*id).set_due(*id, *at),
            Write::User(user, slot) => held.of_user(user).put_user(user, slot.as_ref()),
            Write::SignedIn(user, sign_in) => held.of_user(user).note_sign_in(user, *sign_in),
        }
    }
    true
}

fn answers(held: &mut Held<'_>, writes: &[Write]) -> Vec<Committed> {
    let answer = |write: &Write| match write {
        Write::Data { id, .. } => answer(held, *id),
        Write::Create(_)
        | Write::Head(_)
        | Write::End(_)
        | Write::Import(_)
        | Write::Due(..)
        | Write::User(..)
        | Write::SignedIn(..) => Committed::Done,
    };
    writes.iter().map(answer).collect()
}

fn answer(held: &mut Held<'_>, id: SessionId) -> Committed {
    held.of(id).open(id).map_or(Committed::Done, |record: &Arc<Record>| Committed::Record(Arc::clone(record)))
}

fn change_of(writes: &[Write], session: SessionId) -> Option<(usize, &DataChange)> {
    writes.iter().enumerate().find_map(|(place, write)| match write {
        Write::Data { id, change, .. } if *id == session => Some((place, change)),
        _ => None,
    })
}

fn most_of(transaction: &Transaction, session: SessionId) -> usize {
    let most = transaction.relies_on.iter().find_map(|expect| match expect {
        Expect::DataAtMost(id, most) if *id == session => Some(*most),
        _ => None,
    });
    most.unwrap_or(usize::MAX)
}

impl<'a> From<&'a Expect> for Name<'a> {
    fn from(expect: &'a Expect) -> Self {
        match expect {
            Expect::Live(id)
            | Expect::Head(id, _)
            | Expect::Version(id, _)
            | Expect::Value(id, ..)
            | Expect::DataAtMost(id, _)
            | Expect::NotSeenSince(id, _)
            | Expect::Empty(id) => Self::Session(*id),
            Expect::User(user, _) | Expect::Count(user, _) => Self::User(user),
            Expect::Try(partition, ..) => Self::Session(first_of(*partition)),
        }
    }
}

impl<'a> From<&'a Write> for Name<'a> {
    fn from(write: &'a Write) -> Self {
        match write {
            Write::Create(record) | Write::Head(record) => Self::Session(record.info.id),
            Write::Data { id, .. } | Write::Due(id, _) => Self::Session(*id),
            Write::End(ended) => Self::Session(ended.id),
            Write::Import(slot) => Self::Session(slot.id()),
            Write::User(user, _) | Write::SignedIn(user, _) => Self::User(user),
        }
    }
}
