//! The simulated store: the plain model behind a network that delays, loses, repeats and answers late, as a seed says.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cloakroom::{
    Error, Record, Result, SessionId, Timestamp,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, PartitionKey, Store,
        feed::{Feed, Pace},
        slots::{Ask, Committed, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction, Write},
    },
};

use super::{bugs::Bug, history::History, model::Model};
use crate::common::random::Random;

/// How bad the network is, in percent of calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// A call never arrives, and its caller is told so.
    pub(super) lost: usize,
    /// The answer never arrives: the store sends the call again.
    pub(super) unanswered: usize,
    /// It does so in vain, and its caller is told that it cannot be known.
    pub(super) unknown: usize,
    /// A copy of the call arrives later once more.
    pub(super) repeated: usize,
    /// How long a way takes at most.
    pub(super) slowest: Duration,
}

impl Weather {
    pub(super) const FINE: Self =
        Self { lost: 0, unanswered: 0, unknown: 0, repeated: 0, slowest: Duration::from_millis(20) };

    pub(super) const ROUGH: Self =
        Self { lost: 3, unanswered: 6, unknown: 2, repeated: 4, slowest: Duration::from_millis(60) };
}

/// The one server.
pub(super) struct Server {
    key: PartitionKey,
    spans_groups: bool,
    pub(super) random: Random,
    weather: Mutex<Weather>,
    bug: Option<Bug>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) model: Model,
    /// What it was some time ago, for bugs that look at it.
    old: Model,
    pub(super) history: History,
}

impl Server {
    pub(super) fn new(seed: u64, weather: Weather, bug: Option<Bug>) -> Self {
        Self {
            key: PartitionKey::from_bytes([7; 32]),
            spans_groups: seed.is_multiple_of(2),
            random: Random::new(seed),
            weather: Mutex::new(weather),
            bug,
            state: Mutex::new(State { model: Model::default(), old: Model::default(), history: History::default() }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every call arrives and is answered.
    pub(super) fn heal(&self) {
        *self.weather.lock().unwrap() = Weather::FINE;
    }

    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap()
    }

    async fn way(&self) {
        let slowest = usize::try_from(self.weather().slowest.as_millis()).unwrap();
        tokio::time::sleep(self.random.millis(slowest)).await;
    }

    /// A call that changes nothing.
    async fn ask<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T> {
        self.way().await;
        if self.random.percent(self.weather().lost) {
            return Err(lost());
        }
        let answer = look(&self.state());
        self.way().await;
        Ok(answer)
    }

    fn apply(&self, transaction: &Transaction, again: bool) -> Result<Outcome> {
        let state = &mut *self.state();
        let (old, model) = (&mut state.old, &mut state.model);
        if self.random.percent(20) {
            *old = model.clone();
        }
        let before = model.clone();
        let outcome = match self.bug {
            Some(bug) => bug.commit(model, old, transaction, again, &self.random),
            None => commit(model, transaction, again),
        };
        state.history.look_at_commit(&before, &state.model, transaction);
        state.history.look(&state.model);
        outcome.ok_or(Error::OutcomeUnknown { after: Duration::from_secs(5) })
    }
}

/// As a store does it; `None` where it cannot be known whether an earlier try was applied.
pub(super) fn commit(model: &mut Model, transaction: &Transaction, again: bool) -> Option<Outcome> {
    if again && model.was_applied(transaction)? {
        let answer = |write: &Write| match write {
            // As it is now, which is after its own commit. Of a session that ended since, nothing is left to answer.
            Write::Data { id, .. } => match &model.slots[id].slot {
                Slot::Open(record) => Ok(Committed::Record(Arc::clone(record))),
                ended @ Slot::Ended(_) => Err(ended.clone()),
            },
            _ => Ok(Committed::Done),
        };
        let answers: Result<_, _> = transaction.writes.iter().map(answer).collect();
        return Some(answers.map_or_else(|ended| Outcome::Conflict(Some(ended)), Outcome::Committed));
    }
    Some(model.commit(transaction))
}

fn lost() -> Error {
    Error::Unavailable { message: "the simulated network lost the call".into(), source: None }
}

async fn commit_over(server: Arc<Server>, transactions: Vec<Transaction>, again: bool) -> Result<Vec<Outcome>> {
    let weather = server.weather();
    server.way().await;
    if server.random.percent(weather.lost) {
        return Err(lost());
    }
    let apply = |server: &Server, again| transactions.iter().map(|one| server.apply(one, again)).collect();
    let mut answer: Result<_> = apply(&server, again);
    while server.random.percent(weather.unanswered) {
        server.way().await;
        answer = apply(&server, true);
    }
    server.way().await;
    if server.random.percent(weather.repeated) {
        let (server, transactions) = (Arc::clone(&server), transactions.clone());
        tokio::spawn(async move {
            server.way().await;
            for one in &transactions {
                drop(server.apply(one, true));
            }
        });
    }
    if server.random.percent(weather.unknown) {
        return Err(Error::OutcomeUnknown { after: Duration::from_secs(5) });
    }
    answer
}

async fn touch_over(server: Arc<Server>, touches: Vec<SeenAt>, now: Timestamp) -> Result<Vec<bool>> {
    server.way().await;
    if server.random.percent(server.weather().lost) {
        return Err(lost());
    }
    let answers = {
        let state = &mut *server.state();
        let before = state.model.clone();
        let touch = |touch| match server.bug {
            Some(bug) => bug.touch(&mut state.model, touch, now),
            None => state.model.touch(touch, now),
        };
        let answers = touches.iter().map(touch).collect();
        state.history.look_at_touches(&before, &state.model, &touches, now);
        state.history.look(&state.model);
        answers
    };
    server.way().await;
    Ok(answers)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// A node's way to the server.
#[derive(Clone, Debug)]
pub(super) struct Client(pub(super) Arc<Server>);

impl Store for Client {
    fn partition_key(&self) -> &PartitionKey {
        &self.0.key
    }

    fn spans_groups(&self) -> bool {
        self.0.spans_groups
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(self.0.ask(|state| match self.0.bug {
            Some(bug) => asks.iter().map(|ask| bug.read(&state.model, &state.old, ask)).collect(),
            None => asks.iter().map(|ask| state.model.read(ask)).collect(),
        }))
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        // What was sent arrives, also where its caller goes away.
        let sent = tokio::spawn(commit_over(Arc::clone(&self.0), transactions.to_vec(), again));
        Box::pin(async move { sent.await.expect("the network does not panic") })
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        let sent = tokio::spawn(touch_over(Arc::clone(&self.0), touches.to_vec(), now));
        Box::pin(async move { sent.await.expect("the network does not panic") })
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        _after: Option<&'a Cursor>,
        _limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(self.0.ask(|state| {
            let items = match self.0.bug {
                Some(bug) => bug.list(&state.model, what),
                None => state.model.list(what),
            };
            Page { items, next: None }
        }))
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            self.0.way().await;
            self.0.state().model.forget(forget);
            Ok(false)
        })
    }

    fn audit<'a>(
        &'a self,
        _query: &'a AuditQuery,
        _after: Option<&'a Cursor>,
        _limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Box::pin(async { unreachable!("the history looks at the model's own log") })
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async { Ok(None) })
    }

    fn peek(&self, _id: SessionId) -> Option<Option<Slot>> {
        None
    }

    fn edits_in_place(&self) -> bool {
        false
    }

    fn edit(&self, _id: SessionId, _change: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        None
    }

    fn examine(&self, _now: Timestamp, _repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn adopt_partition_key<'a>(&'a self, _key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { unreachable!("no schedule copies") })
    }

    fn feed(&self, _: &Pace) -> Option<Arc<dyn Feed>> {
        None
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}
