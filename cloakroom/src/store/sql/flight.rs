//! Transactions on their way: which of them travel together, and who is told what.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use super::{
    fault::{Fault, Kind, Severity},
    loads::Read,
    pool::{CALL_TIMEOUT, Engine, Lease, Pool},
};
use crate::{
    data::entry_size,
    error::{Error, Result},
    store::{
        BoxFuture,
        batcher::{Carrier, Departure, Piece, Work},
        slots::{Committed, Expect, Outcome, Slot, Transaction, Write},
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
    type Reader: Read<Engine = Self::Engine>;

    fn pool(&self) -> &Arc<Pool<Self::Engine>>;

    /// Reads what became of sessions.
    fn reader(&self) -> &Self::Reader;

    /// A statement for what happens often and was not sent before. What it finds otherwise than relied on it leaves.
    fn plain(&self, transaction: &Transaction) -> Option<<Self::Engine as Engine>::Statement>;

    /// Whether it may be in [`plain_together`](Self::plain_together): a change of one session's data.
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
                        self.send_alone(Some(lease), Left { piece: only, may_be_plain: true }).await;
                    }
                }
                Ok(lease) => self.send_together(lease, pieces).await,
            }
        })
    }
}

type Pieces<C> = Vec<Piece<Flight<<C as Commit>::Engine>>>;

/// What has no answer yet, and whether a plain statement may still carry it out.
struct Left<E: Engine> {
    piece: Piece<Flight<E>>,
    may_be_plain: bool,
}

impl<E: Engine> Left<E> {
    fn tried(piece: Piece<Flight<E>>) -> Self {
        Self { piece, may_be_plain: false }
    }
}

/// Keys, and all that has any of them.
type Group<E> = (BTreeSet<u64>, Vec<Left<E>>);

/// What travels together, by the statements that carry it: changes of data in waves, of which none has two of one session,
/// and all else.
struct Sorted<E: Engine> {
    waves: Vec<Vec<Piece<Flight<E>>>>,
    others: Vec<Piece<Flight<E>>>,
}

impl<C: Commit> Commits<C> {
    fn sort(&self, pieces: Pieces<C>) -> Sorted<C::Engine> {
        let may_be_plain =
            |piece: &Piece<Flight<C::Engine>>| !piece.work().again && self.0.may_be_together(&piece.work().transaction);
        let others = pieces.iter().filter(|piece| !may_be_plain(piece));
        let keys_of_others: HashSet<u64> = others.flat_map(|piece| piece.work().keys()).collect();
        let mut sorted = Sorted { waves: Vec::new(), others: Vec::new() };
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for piece in pieces {
            let key = piece.work().keys().next().filter(|key| may_be_plain(&piece) && !keys_of_others.contains(key));
            let Some(key) = key else {
                sorted.others.push(piece);
                continue;
            };
            let wave = counts.entry(key).and_modify(|count| *count += 1).or_default();
            if *wave == sorted.waves.len() {
                sorted.waves.push(Vec::new());
            }
            sorted.waves[*wave].push(piece);
        }
        sorted
    }

    /// Sends changes of data in plain statements, those of one session one after the other, and the rest in another one.
    async fn send_together(self: &Arc<Self>, lease: Lease<C::Engine>, pieces: Pieces<C>) {
        let Sorted { waves, others } = self.sort(pieces);
        let mut lease = Some(lease);
        let others = self.send_batch(&mut lease, others, false).await;
        self.send_each(others.into_iter().map(Left::tried).collect());
        let mut left = Vec::new();
        let mut committed: HashMap<u64, Vec<Arc<Transaction>>> = HashMap::new();
        let mut delayed = HashSet::new();
        for wave in waves {
            let (mut sent, mut names) = (Vec::new(), Vec::new());
            for piece in wave {
                let (key, transaction) = (piece.work().keys().next().unwrap_or_default(), &piece.work().transaction);
                let before = committed.get(&key).map_or(&[][..], Vec::as_slice);
                if delayed.contains(&key) {
                    left.push(Left { piece, may_be_plain: true });
                } else if before.iter().any(|before| is_undone_by(transaction, before)) {
                    // That need not be asked.
                    left.push(Left { piece, may_be_plain: true });
                } else {
                    names.push((key, Arc::clone(transaction)));
                    sent.push(piece);
                }
            }
            let unanswered = self.send_batch(&mut lease, sent, true).await;
            // What follows one that has no answer waits for it.
            delayed.extend(unanswered.iter().flat_map(|piece| piece.work().keys()));
            left.extend(unanswered.into_iter().map(Left::tried));
            for (key, transaction) in names.into_iter().filter(|(key, _)| !delayed.contains(key)) {
                committed.entry(key).or_default().push(transaction);
            }
        }
        let transactions: Vec<_> = left.iter().map(|left| Arc::clone(&left.piece.work().transaction)).collect();
        let told = self.tell(&mut lease, &transactions).await;
        drop(lease);
        let mut rest = Vec::new();
        for (left, outcome) in left.into_iter().zip(told) {
            match outcome {
                Some(outcome) => left.piece.answer(Ok(outcome)),
                None => rest.push(left),
            }
        }
        self.send_each(rest);
    }

    /// Answers with those that it could not answer: another transaction holds them up, they are not as relied on, or one of
    /// them is to blame that nothing was changed.
    async fn send_batch(&self, lease: &mut Option<Lease<C::Engine>>, pieces: Pieces<C>, are_plain: bool) -> Pieces<C> {
        if pieces.is_empty() {
            return pieces;
        }
        let sent_again = pieces.iter().any(|piece| piece.work().again);
        let all: Vec<_> = pieces.iter().map(|piece| &piece.work().transaction).collect();
        let plain = || match &all[..] {
            [only] => self.0.plain(only).unwrap_or_else(|| self.0.plain_together(&all)),
            _ => self.0.plain_together(&all),
        };
        let ran = self.0.pool().run(lease.take(), |again| {
            if are_plain && !again { plain() } else { self.0.whole(&all, false, again || sent_again) }
        });
        let answer = match ran.await {
            Ok((answer, kept)) => {
                *lease = Some(kept);
                answer
            }
            Err(fault) if fault.is_of_the_connection() => {
                fail(pieces, &fault);
                return Vec::new();
            }
            Err(_) => return pieces,
        };
        let mut left = Vec::new();
        match self.0.states(&all, &answer) {
            Ok(states) => {
                for (piece, state) in pieces.into_iter().zip(states) {
                    match state {
                        State::Answered(answer) => piece.answer(answer),
                        State::Left => left.push(piece),
                    }
                }
            }
            Err(error) => {
                let message = error.to_string();
                for piece in pieces {
                    piece.answer(Err(Error::Store { message: message.clone(), source: None }));
                }
            }
        }
        left
    }

    /// Sends pieces once more, each by itself, and those with a key in common one after the other.
    fn send_each(self: &Arc<Self>, pieces: Vec<Left<C::Engine>>) {
        let mut groups: Vec<Group<C::Engine>> = Vec::new();
        for left in pieces {
            let mut keys: BTreeSet<_> = left.piece.work().keys().collect();
            let mut together = Vec::new();
            for (others, mut group) in
                groups.extract_if(.., |(others, _)| !others.is_disjoint(&keys)).collect::<Vec<_>>()
            {
                keys.extend(others);
                together.append(&mut group);
            }
            together.push(left);
            groups.push((keys, together));
        }
        for (_, group) in groups {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                for left in group {
                    this.send_alone(None, left).await;
                }
            });
        }
    }

    /// Sends one, and waits for what others hold. Where a plain statement finds something else than was relied on, a look at
    /// the session says what, and where that does not, the whole statement.
    async fn send_alone(&self, mut lease: Option<Lease<C::Engine>>, left: Left<C::Engine>) {
        let Left { piece, may_be_plain } = left;
        let Flight { transaction, again: sent_again, .. } = piece.work();
        let (transaction, sent_again) = (Arc::clone(transaction), *sent_again);
        if may_be_plain && !sent_again && self.0.plain(&transaction).is_some() {
            let ran = self.0.pool().run(lease.take(), |again| {
                let plain = if again { None } else { self.0.plain(&transaction) };
                plain.unwrap_or_else(|| self.0.whole(&[&transaction], true, true))
            });
            match ran.await {
                Ok((answer, kept)) => {
                    lease = Some(kept);
                    let answer = match self.0.states(&[&transaction], &answer).map(|mut states| states.pop()) {
                        Ok(Some(State::Answered(answer))) => Some(answer),
                        Err(error) => Some(Err(error)),
                        // What names a user shows nothing.
                        Ok(_) if transaction.shown().is_none() => Some(Ok(Outcome::Conflict(None))),
                        Ok(_) => {
                            let told = self.tell(&mut lease, &[Arc::clone(&transaction)]).await.pop();
                            told.flatten().map(Ok)
                        }
                    };
                    if let Some(answer) = answer {
                        // What its caller does next finds the connection at rest.
                        drop(lease);
                        return piece.answer(answer);
                    }
                }
                // Something was in its way, and the whole one says what.
                Err(Fault::Server { severity: Severity::Refused | Severity::Undone, .. }) => {}
                Err(fault) => return piece.answer(Err(fault.into_error::<C::Engine>(Kind::Write))),
            }
        }
        let ran = self.0.pool().run(lease, |again| self.0.whole(&[&transaction], true, again || sent_again)).await;
        let answer = match ran {
            Ok((answer, _)) => match self.0.states(&[&transaction], &answer).map(|mut states| states.pop()) {
                Ok(Some(State::Answered(answer))) => answer,
                Err(error) => Err(error),
                Ok(_) => {
                    let message = format!("{} gave no answer to a transaction", C::Engine::NAME);
                    Err(Error::Store { message, source: None })
                }
            },
            Err(fault) => Err(fault.into_error::<C::Engine>(Kind::Write)),
        };
        piece.answer(answer);
    }

    /// What became of transactions that plain statements did not carry out, as far as one look at their sessions tells.
    async fn tell(
        &self,
        lease: &mut Option<Lease<C::Engine>>,
        transactions: &[Arc<Transaction>],
    ) -> Vec<Option<Outcome>> {
        let about: Vec<_> = transactions.iter().map(|transaction| transaction.shown()).collect();
        let ids: Vec<_> = about.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut found = HashMap::new();
        if !ids.is_empty()
            && let Ok((answer, kept)) = self.0.pool().run(lease.take(), |_| self.0.reader().statement(&ids)).await
        {
            *lease = Some(kept);
            found = self.0.reader().slots(&ids, &answer).unwrap_or_default();
        }
        let told = |(transaction, id): (&Arc<Transaction>, Option<SessionId>)| {
            told_by(transaction, id.and_then(|id| found.get(&id)?.as_ref().ok())?)
        };
        transactions.iter().zip(about).map(told).collect()
    }
}

/// What became of a change, an ending or a head write that a plain statement did not carry out, if the slot that was found
/// after it tells: an earlier try did it, or something is not as it relied on. Whether a slot that is not there was there, or
/// the store is another one, it does not tell.
pub(super) fn told_by(transaction: &Transaction, found: &Slot) -> Option<Outcome> {
    let [Write::Data { .. } | Write::End(_) | Write::Head(_)] = transaction.writes[..] else { return None };
    let Slot::Open(record) = found else { return Some(Outcome::Conflict(Some(found.clone()))) };
    if matches!(transaction.writes[..], [Write::Data { .. }]) && record.recent_changes.contains(transaction.id) {
        return Some(Outcome::Committed(vec![Committed::Record(Arc::clone(record))]));
    }
    let is_so = transaction.relies_on.iter().all(|expect| expect.is_so_of(record, transaction) == Some(true));
    (!is_so).then(|| Outcome::Conflict(Some(found.clone())))
}

/// Whether a transaction relies on a value that another one, which is committed, changed to something else.
fn is_undone_by(transaction: &Transaction, before: &Transaction) -> bool {
    let change = |id: &SessionId| {
        before.writes.iter().find_map(|write| match write {
            Write::Data { id: changed, change, .. } if changed == id => Some(change),
            _ => None,
        })
    };
    transaction.relies_on.iter().any(|expect| match expect {
        Expect::Value(id, key, value) => change(id).is_some_and(|change| change.contradicts(key, value.as_ref())),
        _ => false,
    })
}

fn fail<E: Engine>(pieces: Vec<Piece<Flight<E>>>, fault: &Fault) {
    for piece in pieces {
        piece.answer(Err(fault.clone().into_error::<E>(Kind::Write)));
    }
}
