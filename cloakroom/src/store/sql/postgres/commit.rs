//! Transactions on their way: which of them travel together, and who is told what.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use sqlx::postgres::PgRow;

use super::{
    engine::Server,
    plain::Update,
    statement::Arg,
    texts::Texts,
    whole::{State, committed, conflict, states},
};
use crate::{
    Error, Result, SessionId,
    data::entry_size,
    store::{
        BoxFuture,
        batcher::{Carrier, Departure, Piece, Work},
        slots::{Expect, Outcome, Slot, Transaction, Write},
        sql::{
            fault::{Fault, Kind},
            pool::{CALL_TIMEOUT, Lease, Pool},
        },
        transfer::AdoptableKey,
    },
};

/// A transaction, and whether it was sent before.
pub(super) struct Flight {
    pub(super) transaction: Transaction,
    pub(super) again: bool,
}

impl Work for Flight {
    type Answer = Outcome;

    fn keys(&self) -> impl Iterator<Item = u64> {
        let sessions = self.transaction.sessions().map(|id| hash(id.as_bytes()));
        sessions.chain(self.transaction.users().map(hash)).collect::<BTreeSet<_>>().into_iter()
    }

    fn weight(&self) -> usize {
        let write = |write: &Write| match write {
            Write::Create(record) | Write::Head(record) | Write::Import(Slot::Open(record)) => record.data.size() + 512,
            Write::Data { change, .. } => change.set.iter().map(|(key, value)| entry_size(key, value.as_str())).sum(),
            Write::User(_, Some(slot)) => slot.text.len(),
            _ => 128,
        };
        64 + self.transaction.writes.iter().map(write).sum::<usize>()
    }

    fn late(after: Duration, was_sent: bool) -> Error {
        Fault::Slow { after, was_sent }.into_error::<Server>(Kind::Write)
    }
}

fn hash(name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Transaction {
    /// The sessions it names, some of them several times.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let relied_on = self.relies_on.iter().filter_map(session_of);
        let written = self.writes.iter().filter_map(|write| match write {
            Write::Create(record) | Write::Head(record) | Write::Import(Slot::Open(record)) => Some(record.info.id),
            Write::Import(Slot::Ended(ended)) => Some(ended.ended.id),
            Write::Data { id, .. } | Write::Due(id, _) => Some(*id),
            Write::End(ended) => Some(ended.id),
            Write::User(..) | Write::SignedIn(..) => None,
        });
        relied_on.chain(written).chain(self.log.iter().map(|logged| logged.entry.session))
    }

    /// The session that a conflict shows.
    pub(super) fn shown(&self) -> Option<SessionId> {
        let mut sessions = self.sessions();
        let first = sessions.next().filter(|_| self.users().next().is_none())?;
        sessions.all(|id| id == first).then_some(first)
    }

    /// The users it names, some of them several times.
    pub(super) fn users(&self) -> impl Iterator<Item = &str> {
        let relied_on = self.relies_on.iter().filter_map(|expect| match expect {
            Expect::User(user, _) | Expect::Count(user, _) => Some(&**user),
            _ => None,
        });
        let written = self.writes.iter().filter_map(|write| match write {
            Write::User(user, _) | Write::SignedIn(user, _) => Some(&**user),
            _ => None,
        });
        relied_on.chain(written)
    }
}

pub(super) fn session_of(expect: &Expect) -> Option<SessionId> {
    match expect {
        Expect::Live(id)
        | Expect::Head(id, _)
        | Expect::Version(id, _)
        | Expect::Value(id, ..)
        | Expect::DataAtMost(id, _)
        | Expect::NotSeenSince(id, _)
        | Expect::Empty(id) => Some(*id),
        Expect::User(..) | Expect::Count(..) | Expect::Try(..) => None,
    }
}

/// Sends transactions to one server.
pub(super) struct Commits {
    pub(super) pool: Arc<Pool<Server>>,
    pub(super) texts: Arc<Texts>,
    pub(super) key: Arc<AdoptableKey>,
}

impl Carrier<Flight> for Commits {
    fn carry(self: Arc<Self>, mut departure: Departure<Flight>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // What arrives while there is no connection comes along.
            let acquired = self.pool.acquire(CALL_TIMEOUT).await;
            let mut pieces = departure.take();
            match acquired {
                Err(fault) => fail(pieces, &fault),
                Ok(lease) if pieces.len() == 1 => {
                    if let Some(only) = pieces.pop() {
                        self.send_alone(Some(lease), only, true).await;
                    }
                }
                Ok(lease) => self.send_together(lease, pieces).await,
            }
        })
    }
}

impl Commits {
    /// Sends what can travel in one statement in one, and the rest in another.
    async fn send_together(self: &Arc<Self>, lease: Lease<Server>, pieces: Vec<Piece<Flight>>) {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        pieces.iter().flat_map(|piece| piece.work().keys()).for_each(|key| *counts.entry(key).or_default() += 1);
        let (updates, others): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|piece| {
            let flight = piece.work();
            !flight.again && Update::of(&flight.transaction).is_some() && flight.keys().all(|key| counts[&key] == 1)
        });
        let mut lease = Some(lease);
        for (pieces, are_updates) in [(updates, true), (others, false)] {
            if !pieces.is_empty() {
                lease = self.send_batch(lease, pieces, are_updates).await;
            }
        }
    }

    async fn send_batch(
        self: &Arc<Self>,
        lease: Option<Lease<Server>>,
        pieces: Vec<Piece<Flight>>,
        are_updates: bool,
    ) -> Option<Lease<Server>> {
        let sent_again = pieces.iter().any(|piece| piece.work().again);
        let ran = self.pool.run(lease, |again| {
            let all = pieces.iter().map(|piece| &piece.work().transaction);
            if are_updates && !again { self.update_many(all) } else { self.commit(all, false, again || sent_again) }
        });
        let (rows, lease) = match ran.await {
            Ok(ran) => ran,
            Err(fault) if fault.is_of_the_connection() => {
                fail(pieces, &fault);
                return None;
            }
            // Nothing was changed, and one of them may be to blame: each by itself.
            Err(_) => {
                self.send_each(pieces);
                return None;
            }
        };
        let mut states = match states(&rows) {
            Ok(states) => states,
            Err(error) => {
                let message = error.to_string();
                for piece in pieces {
                    piece.answer(Err(Error::Store { message: message.clone(), source: None }));
                }
                return Some(lease);
            }
        };
        let mut alone = Vec::new();
        for (n, piece) in (1..).zip(pieces) {
            // One that another transaction holds up, or that is not as relied on, is sent once more.
            if let Err(piece) = answer(piece, states.remove(&n)) {
                alone.push(piece);
            }
        }
        self.send_each(alone);
        Some(lease)
    }

    /// Sends pieces once more, each by itself, and those with a key in common one after the other.
    fn send_each(self: &Arc<Self>, pieces: Vec<Piece<Flight>>) {
        let mut groups: Vec<(BTreeSet<u64>, Vec<Piece<Flight>>)> = Vec::new();
        for piece in pieces {
            let mut keys: BTreeSet<_> = piece.work().keys().collect();
            let mut together = Vec::new();
            for (others, mut group) in
                groups.extract_if(.., |(others, _)| !others.is_disjoint(&keys)).collect::<Vec<_>>()
            {
                keys.extend(others);
                together.append(&mut group);
            }
            together.push(piece);
            groups.push((keys, together));
        }
        for (_, group) in groups {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                for piece in group {
                    this.send_alone(None, piece, false).await;
                }
            });
        }
    }

    /// Sends one, and waits for what others hold. Where a plain statement finds something else than was relied on, the
    /// function says what.
    async fn send_alone(&self, mut lease: Option<Lease<Server>>, piece: Piece<Flight>, may_be_plain: bool) {
        let flight = piece.work();
        let transaction = &flight.transaction;
        let commit = |again| self.commit([transaction].into_iter(), true, again || flight.again);
        let has_plain = may_be_plain && !flight.again && self.plain(transaction).is_some();
        for is_plain in [true, false].into_iter().filter(|is_plain| has_plain || !is_plain) {
            let ran = self.pool.run(lease.take(), |again| {
                let plain = if again || !is_plain { None } else { self.plain(transaction) };
                plain.unwrap_or_else(|| commit(again))
            });
            match ran.await {
                Ok((rows, _)) if !rows.is_empty() => {
                    let answered = match states(&rows) {
                        Ok(mut states) => answer(piece, states.remove(&1)),
                        Err(error) => {
                            piece.answer(Err(error));
                            Ok(())
                        }
                    };
                    if let Err(piece) = answered {
                        let message = "PostgreSQL gave no answer to a transaction".into();
                        piece.answer(Err(Error::Store { message, source: None }));
                    }
                    return;
                }
                // What names a user shows nothing.
                Ok(_) if is_plain && transaction.shown().is_none() => return piece.answer(Ok(Outcome::Conflict(None))),
                Ok((_, kept)) => lease = Some(kept),
                Err(fault) => return piece.answer(Err(fault.into_error::<Server>(Kind::Write))),
            }
        }
        let message = "PostgreSQL gave no answer to a transaction".into();
        piece.answer(Err(Error::Store { message, source: None }));
    }

    pub(super) fn key_arg(&self) -> Arg {
        Arg::Bytes(Some(self.key.as_bytes().to_vec()))
    }
}

/// Answers a piece, if its rows say what became of it.
fn answer(piece: Piece<Flight>, state: Option<(State, Vec<&PgRow>)>) -> Result<(), Piece<Flight>> {
    let answer = match state {
        Some((State::Done, rows)) => committed(&piece.work().transaction, &rows),
        Some((State::Conflict, rows)) => conflict(&rows),
        Some((State::Unknown, _)) => Err(Error::OutcomeUnknown { after: Duration::ZERO }),
        Some((State::Locked, _)) | None => return Err(piece),
    };
    piece.answer(answer);
    Ok(())
}

fn fail(pieces: Vec<Piece<Flight>>, fault: &Fault) {
    for piece in pieces {
        piece.answer(Err(fault.clone().into_error::<Server>(Kind::Write)));
    }
}
