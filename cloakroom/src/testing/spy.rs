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
    AuditEntry, Change, Clock, Ending, Error, PartitionKey, Result, SessionId, SessionInfo, Timestamp,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Examine, Finding, Imported, Item, Loaded,
        Locked, Locks, Logged, Page, PutUser, Query, Reap, Reaped, RecordKeys, Rotated, Rotation, Sealable, Store,
        StoredUser, Touch, Transfer, Updated, Which,
    },
};

/// A store that counts what it is asked, and holds, fails or loses calls on demand.
///
/// Keep an `Arc` of it, and hand a clone to what is tested.
///
/// ```
/// use std::sync::Arc;
/// use cloakroom::{
///     Partition, SessionId, Timestamp,
///     store::{MemoryStore, Store},
///     testing::{Call, SpyStore},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> cloakroom::Result<()> {
/// let spy = Arc::new(SpyStore::new(MemoryStore::new()?));
/// let store: Arc<dyn Store> = spy.clone();
/// let id = SessionId::generate(Partition::random()?)?;
///
/// store.load(id, Timestamp::EPOCH).await?;
/// assert_eq!(spy.counts().load, 1);
/// assert_eq!(spy.counts().total(), 1);
///
/// spy.fail_next(Call::Load);
/// assert!(store.load(id, Timestamp::EPOCH).await.unwrap_err().is_retryable());
/// assert!(store.load(id, Timestamp::EPOCH).await.is_ok());
/// # Ok(())
/// # }
/// ```
pub struct SpyStore<S> {
    store: S,
    peeks: bool,
    watch: Mutex<Watch>,
}

/// A call that goes to the store: all of [`Store`] but `peek`, which goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Call {
    Create,
    Load,
    Update,
    Touch,
    Rotate,
    End,
    Log,
    EnableUser,
    Find,
    Reap,
    Audit,
    Ping,
    Lock,
    Renew,
    Unlock,
    User,
    PutUser,
    Users,
}

/// How often each method was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub struct Counts {
    pub create: usize,
    pub load: usize,
    pub update: usize,
    pub touch: usize,
    pub rotate: usize,
    pub end: usize,
    pub log: usize,
    pub enable_user: usize,
    pub find: usize,
    pub reap: usize,
    pub audit: usize,
    pub ping: usize,
    pub lock: usize,
    pub renew: usize,
    pub unlock: usize,
    pub user: usize,
    pub put_user: usize,
    pub users: usize,
    /// Answered or not, a peek is no round trip.
    pub peek: usize,
}

impl Counts {
    /// All round trips: every call but `peek`.
    pub fn total(&self) -> usize {
        let Self {
            create,
            load,
            update,
            touch,
            rotate,
            end,
            log,
            enable_user,
            find,
            reap,
            audit,
            ping,
            lock,
            renew,
            unlock,
            user,
            put_user,
            users,
            peek: _,
        } = self;
        let changes = create + update + touch + rotate + end + log + enable_user + reap + put_user;
        changes + load + find + audit + ping + lock + renew + unlock + user + users
    }

    fn of(&mut self, call: Call) -> &mut usize {
        match call {
            Call::Create => &mut self.create,
            Call::Load => &mut self.load,
            Call::Update => &mut self.update,
            Call::Touch => &mut self.touch,
            Call::Rotate => &mut self.rotate,
            Call::End => &mut self.end,
            Call::Log => &mut self.log,
            Call::EnableUser => &mut self.enable_user,
            Call::Find => &mut self.find,
            Call::Reap => &mut self.reap,
            Call::Audit => &mut self.audit,
            Call::Ping => &mut self.ping,
            Call::Lock => &mut self.lock,
            Call::Renew => &mut self.renew,
            Call::Unlock => &mut self.unlock,
            Call::User => &mut self.user,
            Call::PutUser => &mut self.put_user,
            Call::Users => &mut self.users,
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

    /// Watches `store` and never answers a peek, as if the store were on another machine.
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
                None => ask(&self.store).await,
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

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for SpyStore<S> {
    fn partition_key(&self) -> &PartitionKey {
        self.store.partition_key()
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        self.spy(Call::Create, move |store| store.create(create, now))
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        self.spy(Call::Load, move |store| store.load(id, now))
    }

    fn peek(&self, id: SessionId, now: Timestamp) -> Option<Loaded> {
        self.watch().counts.peek += 1;
        if self.peeks { self.store.peek(id, now) } else { None }
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        self.spy(Call::Update, move |store| store.update(id, change, now))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        self.spy(Call::Touch, move |store| store.touch(touches, now))
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        self.spy(Call::Rotate, move |store| store.rotate(id, rotation, now))
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        self.spy(Call::End, move |store| store.end(which, ending, now))
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        self.spy(Call::Log, move |store| store.log(entry, now))
    }

    fn enable_user<'a>(&'a self, user: &'a str, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        self.spy(Call::EnableUser, move |store| store.enable_user(user, now))
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        self.spy(Call::Find, move |store| store.find(query, after, limit, now))
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        self.spy(Call::Reap, move |store| store.reap(reap, now))
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
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Directory for SpyStore<S> {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        self.spy(Call::User, move |store| store.user(user))
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        self.spy(Call::PutUser, move |store| store.put_user(put))
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        self.spy(Call::Users, move |store| store.users(after, limit))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Locks for SpyStore<S> {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        self.spy(Call::Lock, move |store| store.lock(id, lease, now))
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        self.spy(Call::Renew, move |store| store.renew(id, number, lease, now))
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        self.spy(Call::Unlock, move |store| store.unlock(id, number, now))
    }
}

/// An operator's call and no request's: it is not counted.
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Examine for SpyStore<S> {
    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.store.examine(now, repair)
    }
}

/// Moving a store is no request's work: it is neither counted nor held.
impl<S: Store> Sealable for SpyStore<S> {
    /// An error: what it counts is what the store is asked, so the store within is to be sealed.
    fn sealed(self: Arc<Self>, _: &RecordKeys) -> Result<Arc<dyn Store>> {
        let problem = "it counts what a store is asked: seal the store within".into();
        Err(Error::InvalidArgument { what: "SpyStore", problem })
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Transfer for SpyStore<S> {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        self.store.export(after, limit)
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        self.store.import(items)
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        self.store.adopt_partition_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Partition, store::MemoryStore, testing::checks::fixtures};

    fn spy() -> Arc<SpyStore<MemoryStore>> {
        Arc::new(SpyStore::new(MemoryStore::new().unwrap()))
    }

    fn start() -> Create {
        fixtures::Start::new(None, Partition::random().unwrap()).create
    }

    const NOW: Timestamp = fixtures::NOW;

    #[tokio::test]
    async fn each_call_counts_under_its_name_and_a_peek_is_no_round_trip() {
        let spy = spy();
        let create = start();
        let id = create.record.info.id;
        spy.create(&create, NOW).await.unwrap();
        assert!(matches!(spy.peek(id, NOW), Some(Loaded::Live(_))));
        spy.touch(&[], NOW).await.unwrap();
        spy.touch(&[], NOW).await.unwrap();
        assert_eq!(spy.counts(), Counts { create: 1, touch: 2, peek: 1, ..Counts::default() });
        assert_eq!(spy.counts().total(), 3);
        spy.reset();
        assert_eq!(spy.counts(), Counts::default());
    }

    #[tokio::test]
    async fn a_remote_store_answers_no_peek() {
        let spy = SpyStore::remote(MemoryStore::new().unwrap());
        let create = start();
        spy.create(&create, NOW).await.unwrap();
        assert_eq!(spy.peek(create.record.info.id, NOW), None);
    }

    #[tokio::test]
    async fn a_failed_call_does_not_reach_the_store_and_a_lost_answer_has() {
        let spy = spy();
        let (failed, lost) = (start(), start());
        spy.fail_next(Call::Create);
        spy.lose_next_answer(Call::Create);
        spy.fail_next_with(Call::Load, Error::UnknownSession);
        assert!(matches!(spy.create(&failed, NOW).await, Err(Error::Unavailable { .. })));
        assert!(matches!(spy.create(&lost, NOW).await, Err(Error::OutcomeUnknown { .. })));
        assert!(matches!(spy.load(lost.record.info.id, NOW).await, Err(Error::UnknownSession)));
        assert!(matches!(spy.load(failed.record.info.id, NOW).await, Ok(Loaded::Unknown)));
        assert!(matches!(spy.load(lost.record.info.id, NOW).await, Ok(Loaded::Live(_))));
    }

    #[tokio::test]
    async fn a_held_call_waits_before_the_store_and_a_held_answer_behind_it() {
        for (behind, hold) in [SpyStore::hold_next, SpyStore::hold_next_answer].into_iter().enumerate() {
            let (spy, create) = (spy(), start());
            let id = create.record.info.id;
            let gate = hold(&spy, Call::Create);
            let creating = {
                let spy = Arc::clone(&spy);
                tokio::spawn(async move { spy.create(&create, NOW).await })
            };
            gate.reached().await;
            assert!(!creating.is_finished());
            assert_eq!(matches!(spy.load(id, NOW).await, Ok(Loaded::Live(_))), behind == 1);
            gate.release();
            creating.await.unwrap().unwrap();
            assert!(matches!(spy.load(id, NOW).await, Ok(Loaded::Live(_))));
        }
    }
}
