//! A store that counts its calls, and holds, fails or loses them on demand.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{
    clock::{Clock, Timestamp},
    error::{Error, Result},
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, Page, Store,
        forward::forward,
        slots::{Ask, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction, Write},
    },
    token::{PartitionKey, SessionId},
};

/// A store that counts what it is asked, and holds, fails or loses calls on demand.
///
/// Keep an `Arc` of it, and hand a clone to what is tested.
///
/// ```
/// use std::sync::Arc;
/// use cloakroom::{
///     SessionId,
///     store::{MemoryStore, Partition, Store, slots::Ask},
///     testing::{Call, SpyStore},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> cloakroom::Result<()> {
/// let spy = Arc::new(SpyStore::new(MemoryStore::new()?));
/// let store: Arc<dyn Store> = spy.clone();
/// let asks = [Ask::Session(SessionId::generate(Partition::random()?)?)];
///
/// store.read(&asks).await?;
/// assert_eq!(spy.counts().read, 1);
/// assert_eq!(spy.counts().total(), 1);
///
/// spy.fail_next(Call::Read);
/// assert!(store.read(&asks).await.unwrap_err().is_retryable());
/// assert!(store.read(&asks).await.is_ok());
/// # Ok(())
/// # }
/// ```
pub struct SpyStore<S> {
    store: S,
    peeks: bool,
    watch: Mutex<Watch>,
}

/// A call that goes to the store. Commits are told apart by what they write: the first that fits counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Store::read`].
    Read,
    /// A commit with a [`Write::Create`].
    Create,
    /// A commit with a [`Write::End`].
    End,
    /// A commit with a [`Write::Data`].
    Data,
    /// A commit with a [`Write::Head`]: a rotation, a lock.
    Head,
    /// A commit with a [`Write::User`].
    User,
    /// Any other commit, such as of an audit entry alone.
    Log,
    /// [`Store::touch`].
    Touch,
    /// [`Store::list`].
    List,
    /// [`Store::forget`].
    Forget,
    /// [`Store::audit`].
    Audit,
    /// [`Store::ping`].
    Ping,
}

impl Call {
    fn of(transactions: &[Transaction]) -> Self {
        let kind = |write: &Write| match write {
            Write::Create(_) => Self::Create,
            Write::End(_) => Self::End,
            Write::Data { .. } => Self::Data,
            Write::Head(_) => Self::Head,
            Write::User(..) => Self::User,
            Write::Import(_) | Write::Due(..) | Write::SignedIn(..) => Self::Log,
        };
        let kinds: Vec<_> = transactions.iter().flat_map(|transaction| transaction.writes.iter().map(kind)).collect();
        let telling = [Self::Create, Self::End, Self::Data, Self::Head, Self::User];
        telling.into_iter().find(|call| kinds.contains(call)).unwrap_or(Self::Log)
    }
}

/// How often each [call](Call) was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the call of its name")]
pub struct Counts {
    pub read: usize,
    pub create: usize,
    pub end: usize,
    pub data: usize,
    pub head: usize,
    pub user: usize,
    pub log: usize,
    pub touch: usize,
    pub list: usize,
    pub forget: usize,
    pub audit: usize,
    pub ping: usize,
    /// Answered or not, a peek is no round trip.
    pub peek: usize,
    /// Nor is an edit.
    pub edit: usize,
}

impl Counts {
    /// All round trips: every call but `peek` and `edit`.
    pub fn total(&self) -> usize {
        let Self { read, create, end, data, head, user, log, touch, list, forget, audit, ping, peek: _, edit: _ } =
            self;
        let commits = create + end + data + head + user + log;
        read + commits + touch + list + forget + audit + ping
    }

    fn of(&mut self, call: Call) -> &mut usize {
        match call {
            Call::Read => &mut self.read,
            Call::Create => &mut self.create,
            Call::End => &mut self.end,
            Call::Data => &mut self.data,
            Call::Head => &mut self.head,
            Call::User => &mut self.user,
            Call::Log => &mut self.log,
            Call::Touch => &mut self.touch,
            Call::List => &mut self.list,
            Call::Forget => &mut self.forget,
            Call::Audit => &mut self.audit,
            Call::Ping => &mut self.ping,
        }
    }
}

impl<S: Store> SpyStore<S> {
    /// Watches `store`.
    pub fn new(store: S) -> Self {
        Self { store, peeks: true, watch: Mutex::default() }
    }

    /// Lets `ping` say what this clock shows, as if the store were on a machine that has one.
    pub fn set_clock(&self, clock: impl Clock) {
        self.watch().clock = Some(Arc::new(clock));
    }

    /// Watches `store` and never answers a peek or an edit, as if the store were on another machine.
    pub fn remote(store: S) -> Self {
        Self { peeks: false, ..Self::new(store) }
    }

    /// The store that is watched. What is asked of it directly is not counted.
    pub fn watched(&self) -> &S {
        &self.store
    }

    /// How often each method was called since the last [`reset`](Self::reset).
    pub fn counts(&self) -> Counts {
        self.watch().counts
    }

    /// Counts from zero again.
    pub fn reset(&self) {
        self.watch().counts = Counts::default();
    }

    /// The next such call answers [`Error::Unavailable`] without reaching the store. Said twice, the next two do.
    pub fn fail_next(&self, call: Call) {
        self.fail_next_with(call, Error::unavailable("the test said so", "SpyStore::fail_next"));
    }

    /// The next such call answers this error without reaching the store.
    pub fn fail_next_with(&self, call: Call, error: Error) {
        self.plan(call, Plan::Fail(error));
    }

    /// The next such call is as any other: what is planned from now on is for those behind it.
    pub fn pass_next(&self, call: Call) {
        self.plan(call, Plan::Pass);
    }

    /// The next such call reaches the store, but its answer is lost: [`Error::OutcomeUnknown`].
    pub fn lose_next_answer(&self, call: Call) {
        self.plan(call, Plan::LoseAnswer);
    }

    /// The next such call stops before it reaches the store, until the gate is released or dropped.
    pub fn hold_next(&self, call: Call) -> Gate {
        let gate = Gate::default();
        self.plan(call, Plan::HoldCall(gate.door()));
        gate
    }

    /// The next such call reaches the store, and its answer stops until the gate is released or dropped.
    pub fn hold_next_answer(&self, call: Call) -> Gate {
        let gate = Gate::default();
        self.plan(call, Plan::HoldAnswer(gate.door()));
        gate
    }

    fn plan(&self, call: Call, plan: Plan) {
        self.watch().plans.push_back((call, plan));
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spy<'a, T, F>(&'a self, call: Call, ask: impl FnOnce(&'a S) -> F + Send + 'a) -> BoxFuture<'a, Result<T>>
    where
        T: Send + 'a,
        F: Future<Output = Result<T>> + Send + 'a,
    {
        Box::pin(async move {
            let plan = self.watch().next(call);
            match plan {
                None | Some(Plan::Pass) => ask(&self.store).await,
                Some(Plan::Fail(error)) => Err(error),
                Some(Plan::LoseAnswer) => {
                    ask(&self.store).await?;
                    Err(Error::OutcomeUnknown { after: Duration::ZERO })
                }
                Some(Plan::HoldCall(door)) => {
                    door.pass().await;
                    ask(&self.store).await
                }
                Some(Plan::HoldAnswer(door)) => {
                    let answer = ask(&self.store).await;
                    door.pass().await;
                    answer
                }
            }
        })
    }
}

impl<S: Store> fmt::Debug for SpyStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpyStore({:?})", self.store)
    }
}

/// Holds one call. Made by [`SpyStore::hold_next`] and [`SpyStore::hold_next_answer`]; dropping it releases the call.
#[derive(Debug)]
pub struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    /// Waits until the call stands at the gate.
    pub async fn reached(&self) {
        pass_once(&self.reached).await;
    }

    /// Lets the call go on.
    pub fn release(self) {}

    fn door(&self) -> Door {
        Door { reached: Arc::clone(&self.reached), open: Arc::clone(&self.open) }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open.add_permits(1);
    }
}

/// The call's side of a gate.
struct Door {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Door {
    async fn pass(&self) {
        self.reached.add_permits(1);
        pass_once(&self.open).await;
    }
}

async fn pass_once(semaphore: &Semaphore) {
    semaphore.acquire().await.expect("nobody closes it").forget();
}

#[derive(Default)]
struct Watch {
    counts: Counts,
    clock: Option<Arc<dyn Clock>>,
    plans: VecDeque<(Call, Plan)>,
}

enum Plan {
    Pass,
    Fail(Error),
    LoseAnswer,
    HoldCall(Door),
    HoldAnswer(Door),
}

impl Watch {
    /// Counts a call, and says what was planned for it.
    fn next(&mut self, call: Call) -> Option<Plan> {
        *self.counts.of(call) += 1;
        let planned = self.plans.iter().position(|(planned, _)| *planned == call)?;
        self.plans.remove(planned).map(|(_, plan)| plan)
    }
}

impl<S: Store> Store for SpyStore<S> {
    // Looking after a store and moving it are no request's work: they are neither counted nor held.
    forward!(Self::watched => partition_key spans_groups examine adopt_partition_key feed near);

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        self.spy(Call::Read, move |store| store.read(asks))
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        self.spy(Call::of(transactions), move |store| store.commit(transactions, again))
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        self.spy(Call::Touch, move |store| store.touch(touches, now))
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        self.spy(Call::List, move |store| store.list(what, after, limit))
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        self.spy(Call::Forget, move |store| store.forget(forget))
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        self.spy(Call::Audit, move |store| store.audit(query, after, limit))
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        let clock = self.watch().clock.clone();
        let answered = self.spy(Call::Ping, Store::ping);
        Box::pin(async move {
            let time = answered.await?;
            Ok(clock.map(|clock| clock.now()).or(time))
        })
    }

    fn peek(&self, id: SessionId) -> Option<Option<Slot>> {
        self.watch().counts.peek += 1;
        if self.peeks { self.store.peek(id) } else { None }
    }

    fn edits_in_place(&self) -> bool {
        self.peeks && self.store.edits_in_place()
    }

    fn edit(&self, id: SessionId, change: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        self.watch().counts.edit += 1;
        if self.peeks { self.store.edit(id, change) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::MemoryStore, testing::checks::fixtures, token::Partition};

    fn spy() -> Arc<SpyStore<MemoryStore>> {
        Arc::new(SpyStore::new(MemoryStore::new().unwrap()))
    }

    fn start() -> Transaction {
        let record = fixtures::Start::new(None, Partition::random().unwrap()).create.record;
        Transaction { id: 1, now: NOW, relies_on: vec![], writes: vec![Write::Create(Arc::new(record))], log: vec![] }
    }

    fn id_of(transaction: &Transaction) -> SessionId {
        match transaction.writes.as_slice() {
            [Write::Create(record)] => record.info.id,
            other => panic!("{other:?}"),
        }
    }

    async fn is_there(spy: &SpyStore<MemoryStore>, id: SessionId) -> bool {
        matches!(spy.read(&[Ask::Session(id)]).await.unwrap().as_slice(), [Found::Session(Some(_))])
    }

    const NOW: Timestamp = fixtures::NOW;

    #[tokio::test]
    async fn each_call_counts_under_its_name_and_a_peek_is_no_round_trip() {
        let spy = spy();
        let start = start();
        spy.commit(std::slice::from_ref(&start), false).await.unwrap();
        assert!(matches!(spy.peek(id_of(&start)), Some(Some(Slot::Open(_)))));
        spy.touch(&[], NOW).await.unwrap();
        spy.touch(&[], NOW).await.unwrap();
        assert_eq!(spy.counts(), Counts { create: 1, touch: 2, peek: 1, ..Counts::default() });
        assert_eq!(spy.counts().total(), 3);
        spy.reset();
        assert_eq!(spy.counts(), Counts::default());
    }

    #[tokio::test]
    async fn a_remote_store_answers_no_peek_and_no_edit() {
        let spy = SpyStore::remote(MemoryStore::new().unwrap());
        let start = start();
        spy.commit(std::slice::from_ref(&start), false).await.unwrap();
        assert_eq!(spy.peek(id_of(&start)), None);
        assert_eq!(spy.edit(id_of(&start), &mut |_| panic!("it is not here")), None);
    }

    #[tokio::test]
    async fn a_failed_call_does_not_reach_the_store_and_a_lost_answer_has() {
        let spy = spy();
        let (failed, lost) = ([start()], [start()]);
        spy.fail_next(Call::Create);
        spy.lose_next_answer(Call::Create);
        spy.fail_next_with(Call::Read, Error::UnknownSession);
        assert!(matches!(spy.commit(&failed, false).await, Err(Error::Unavailable { .. })));
        assert!(matches!(spy.commit(&lost, false).await, Err(Error::OutcomeUnknown { .. })));
        assert!(matches!(spy.read(&[]).await, Err(Error::UnknownSession)));
        assert!(!is_there(&spy, id_of(&failed[0])).await);
        assert!(is_there(&spy, id_of(&lost[0])).await);
    }

    #[tokio::test]
    async fn a_held_call_waits_before_the_store_and_a_held_answer_behind_it() {
        for (behind, hold) in [SpyStore::hold_next, SpyStore::hold_next_answer].into_iter().enumerate() {
            let (spy, start) = (spy(), [start()]);
            let id = id_of(&start[0]);
            let gate = hold(&spy, Call::Create);
            let creating = {
                let spy = Arc::clone(&spy);
                tokio::spawn(async move { spy.commit(&start, false).await })
            };
            gate.reached().await;
            assert!(!creating.is_finished());
            assert_eq!(is_there(&spy, id).await, behind == 1);
            gate.release();
            creating.await.unwrap().unwrap();
            assert!(is_there(&spy, id).await);
        }
    }
}
