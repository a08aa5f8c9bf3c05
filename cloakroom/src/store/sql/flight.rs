//! Transactions on their way: which of them travel together, and who is told what.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use super::{
    fault::{Fault, Kind, Severity},
    pool::{CALL_TIMEOUT, Engine, Lease, Pool},
};
use crate::{
    data::entry_size,
    error::{Error, Result},
    store::{
        BoxFuture,
        batcher::{Carrier, Departure, Piece, Work},
        slots::{Expect, Outcome, Slot, Transaction, Write},
    },
    token::{Digest, Partition, PartitionKey, SessionId},
};

/// A transaction, and whether it was sent before.
pub(super) struct Flight<E> {
    transaction: Arc<Transaction>,
    again: bool,
    engine: PhantomData<fn() -> E>,
}

impl<E> Flight<E> {
    pub(super) fn new(transaction: &Transaction, again: bool) -> Self {
        Self { transaction: Arc::new(transaction.clone()), again, engine: PhantomData }
    }
}

impl<E: Engine> Work for Flight<E> {
    type Answer = Outcome;

    fn keys(&self) -> impl Iterator<Item = u64> {
        let sessions = self.transaction.sessions().map(|id| hash(id.as_bytes()));
        sessions.chain(self.transaction.users().map(hash)).collect::<BTreeSet<_>>().into_iter()
    }

    fn weight(&self) -> usize {
        self.transaction.weight()
    }

    fn late(after: Duration, was_sent: bool) -> Error {
        Fault::Slow { after, was_sent }.into_error::<E>(Kind::Write)
    }
}

fn hash(name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Transaction {
    /// How many bytes it has, about, but rather too many than too few.
    pub(super) fn weight(&self) -> usize {
        let write = |write: &Write| match write {
            Write::Create(record) | Write::Head(record) | Write::Import(Slot::Open(record)) => {
                record.data.size() + 1024
            }
            Write::Data { change, .. } => {
                let set = change.set.iter().map(|(key, value)| entry_size(key, value.as_str()) + 2);
                set.sum::<usize>() + change.remove.iter().map(|key| key.len() + 2).sum::<usize>()
            }
            Write::User(_, Some(slot)) => slot.text.len(),
            _ => 128,
        };
        let relied_on = self.relies_on.iter().map(|expect| match expect {
            Expect::Value(_, key, value) => key.len() + value.as_ref().map_or(0, |value| value.as_str().len()),
            _ => 64,
        });
        let users = self.users().map(|user| user.len());
        256 + relied_on.chain(users).chain(self.writes.iter().map(write)).sum::<usize>() + 512 * self.log.len()
    }

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
    pub(super) fn users(&self) -> impl Iterator<Item = &Arc<str>> {
        let relied_on = self.relies_on.iter().filter_map(|expect| match expect {
            Expect::User(user, _) | Expect::Count(user, _) => Some(user),
            _ => None,
        });
        let written = self.writes.iter().filter_map(|write| match write {
            Write::User(user, _) | Write::SignedIn(user, _) => Some(user),
            _ => None,
        });
        relied_on.chain(written)
    }

    /// The numbers of the locks that its users and idempotency keys have.
    pub(super) fn locks(&self, key: &PartitionKey) -> BTreeSet<i64> {
        let tries = self.relies_on.iter().filter_map(|expect| match expect {
            Expect::Try(partition, digest, _) => Some(try_lock(key, *partition, digest)),
            _ => None,
        });
        self.users().map(|user| user_lock(key, user)).chain(tries).collect()
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

/// The lock of a user's slot and of the count of their sessions.
pub(super) fn user_lock(key: &PartitionKey, user: &str) -> i64 {
    number_of(&key.keyed_digest(&[b"lock of user ".as_slice(), user.as_bytes()].concat()))
}

fn try_lock(key: &PartitionKey, partition: Partition, digest: &Digest) -> i64 {
    number_of(&key.keyed_digest(&[b"lock of try ".as_slice(), &partition.to_bytes()[..], digest.as_bytes()].concat()))
}

fn number_of(digest: &Digest) -> i64 {
    i64::from_be_bytes(*digest.as_bytes().first_chunk().expect("a digest is longer"))
}

/// What became of a transaction in a statement.
pub(super) enum State {
    /// Its caller can be answered.
    Answered(Result<Outcome>),
    /// Nothing was done: another transaction holds what it needs, or the statement could not tell why something is not as
    /// relied on. It is sent once more, whole and by itself.
    Left,
}

/// How the transactions of one server are written down and answered.
pub(super) trait Commit: Send + Sync + Sized + 'static {
    type Engine: Engine;

    fn pool(&self) -> &Arc<Pool<Self::Engine>>;

    /// A statement for what happens often and was not sent before. What it finds otherwise than relied on it leaves.
    fn plain(&self, transaction: &Transaction) -> Option<<Self::Engine as Engine>::Statement>;

    /// Whether it may be in [`plain_together`](Self::plain_together).
    fn may_be_together(&self, transaction: &Transaction) -> bool;

    /// As [`plain`](Self::plain), for several of different sessions.
    fn plain_together(&self, all: &[&Arc<Transaction>]) -> <Self::Engine as Engine>::Statement;

    /// A statement for transactions of any kind. Those that `wait` are left by none, others where another transaction holds
    /// what they need.
    fn whole(&self, all: &[&Arc<Transaction>], wait: bool, again: bool) -> <Self::Engine as Engine>::Statement;

    /// What became of each.
    fn states(&self, all: &[&Arc<Transaction>], answer: &<Self::Engine as Engine>::Answer) -> Result<Vec<State>>;
}

/// Sends transactions to one server.
pub(super) struct Commits<C>(pub(super) C);

impl<C: Commit> Carrier<Flight<C::Engine>> for Commits<C> {
    fn carry(self: Arc<Self>, mut departure: Departure<Flight<C::Engine>>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // What arrives while there is no connection comes along.
            let acquired = self.0.pool().acquire(CALL_TIMEOUT).await;
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

type Pieces<C> = Vec<Piece<Flight<<C as Commit>::Engine>>>;

impl<C: Commit> Commits<C> {
    /// Sends what can travel in one plain statement in one, and the rest in another.
    async fn send_together(self: &Arc<Self>, lease: Lease<C::Engine>, pieces: Pieces<C>) {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        pieces.iter().flat_map(|piece| piece.work().keys()).for_each(|key| *counts.entry(key).or_default() += 1);
        let (plain, others): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|piece| {
            let flight = piece.work();
            !flight.again && self.0.may_be_together(&flight.transaction) && flight.keys().all(|key| counts[&key] == 1)
        });
        let mut lease = Some(lease);
        for (pieces, are_plain) in [(plain, true), (others, false)] {
            if !pieces.is_empty() {
                lease = self.send_batch(lease, pieces, are_plain).await;
            }
        }
    }

    async fn send_batch(
        self: &Arc<Self>,
        lease: Option<Lease<C::Engine>>,
        pieces: Pieces<C>,
        are_plain: bool,
    ) -> Option<Lease<C::Engine>> {
        let sent_again = pieces.iter().any(|piece| piece.work().again);
        let all: Vec<_> = pieces.iter().map(|piece| &piece.work().transaction).collect();
        let ran = self.0.pool().run(lease, |again| {
            if are_plain && !again {
                self.0.plain_together(&all)
            } else {
                self.0.whole(&all, false, again || sent_again)
            }
        });
        let (answer, lease) = match ran.await {
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
        match self.0.states(&all, &answer) {
            Ok(states) => {
                let mut left = Vec::new();
                for (piece, state) in pieces.into_iter().zip(states) {
                    match state {
                        State::Answered(answer) => piece.answer(answer),
                        State::Left => left.push(piece),
                    }
                }
                self.send_each(left);
            }
            Err(error) => {
                let message = error.to_string();
                for piece in pieces {
                    piece.answer(Err(Error::Store { message: message.clone(), source: None }));
                }
            }
        }
        Some(lease)
    }

    /// Sends pieces once more, each by itself, and those with a key in common one after the other.
    fn send_each(self: &Arc<Self>, pieces: Pieces<C>) {
        let mut groups: Vec<(BTreeSet<u64>, Pieces<C>)> = Vec::new();
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

    /// Sends one, and waits for what others hold.
    async fn send_alone(
        &self,
        mut lease: Option<Lease<C::Engine>>,
        piece: Piece<Flight<C::Engine>>,
        may_be_plain: bool,
    ) {
        let Flight { transaction, again: sent_again, .. } = piece.work();
        let (transaction, sent_again) = (Arc::clone(transaction), *sent_again);
        let has_plain = may_be_plain && !sent_again && self.0.plain(&transaction).is_some();
        for is_plain in [true, false].into_iter().filter(|is_plain| has_plain || !is_plain) {
            let ran = self.0.pool().run(lease.take(), |again| {
                let plain = if again || !is_plain { None } else { self.0.plain(&transaction) };
                plain.unwrap_or_else(|| self.0.whole(&[&transaction], true, again || sent_again))
            });
            match ran.await {
                Ok((answer, kept)) => match self.0.states(&[&transaction], &answer).map(|mut states| states.pop()) {
                    Ok(Some(State::Answered(answer))) => return piece.answer(answer),
                    Err(error) => return piece.answer(Err(error)),
                    // What names a user shows nothing.
                    Ok(_) if is_plain && transaction.shown().is_none() => {
                        return piece.answer(Ok(Outcome::Conflict(None)));
                    }
                    Ok(_) => lease = Some(kept),
                },
                // Something was in its way, and the whole one says what.
                Err(Fault::Server { severity: Severity::Refused | Severity::Undone, .. }) if is_plain => {}
                Err(fault) => return piece.answer(Err(fault.into_error::<C::Engine>(Kind::Write))),
            }
        }
        let message = format!("{} gave no answer to a transaction", C::Engine::NAME);
        piece.answer(Err(Error::Store { message, source: None }));
    }
}

fn fail<E: Engine>(pieces: Vec<Piece<Flight<E>>>, fault: &Fault) {
    for piece in pieces {
        piece.answer(Err(fault.clone().into_error::<E>(Kind::Write)));
    }
}
