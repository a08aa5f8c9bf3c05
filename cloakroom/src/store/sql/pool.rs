//! Connections to a database server: few, kept for the next call, and thrown away once there is doubt about them.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{Connection as _, Database, Error as SqlError, error::DatabaseError, pool::PoolConnection};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::fault::{Fault, Kind, Severity};
use crate::error::{Error, Result};

pub(super) type Connection<E> = <<E as Engine>::Db as Database>::Connection;

/// How long a call may take, waiting for a connection included.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first try of a call may take: where a connection was silently dropped, a second one has time left.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call waits for the server to take a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long until a server that is short of connections is asked for one again.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);
/// How long a connection that is in doubt may take to show that it is alive.
const TEST_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection that nothing used for so long is in doubt.
const IDLE: Duration = Duration::from_secs(30);
/// So old a connection is closed: what became of it meanwhile (a role's settings, a server behind a balancer) heals.
const OLD: Duration = Duration::from_mins(30);

/// A kind of database server, and how one of them is reached.
pub(in crate::store) trait Engine: fmt::Debug + Send + Sync + 'static {
    /// The driver.
    type Db: Database;
    /// A statement with its values.
    type Statement: Send + Sync;
    /// What it is answered with.
    type Answer: Send;

    /// What it is called.
    const NAME: &'static str;

    /// Makes a connection that is ready for statements.
    fn connect(&self) -> impl Future<Output = Result<Connection<Self>, SqlError>> + Send
    where
        Self: Sized;

    /// Runs a statement to its very end.
    fn run(
        &self,
        connection: &mut Connection<Self>,
        statement: &Self::Statement,
    ) -> impl Future<Output = Result<Self::Answer, SqlError>> + Send
    where
        Self: Sized;

    /// What an error means.
    fn severity(error: &dyn DatabaseError) -> Severity;

    /// What an error says, for people.
    fn told(error: &dyn DatabaseError) -> String;
}

/// Connections to one server.
pub(in crate::store) struct Pool<E: Engine> {
    engine: E,
    source: Source<E>,
}

enum Source<E: Engine> {
    Own {
        state: Mutex<State<E>>,
        max: usize,
    },
    /// The application's: it decides how long to wait, and connections go back after each call.
    Lent(sqlx::Pool<E::Db>),
}

struct State<E: Engine> {
    idle: Vec<Idle<E>>,
    waiting: VecDeque<oneshot::Sender<Result<Lease<E>, Fault>>>,
    /// How many there are: idle, in use, and being made.
    open: usize,
    connecting: usize,
    /// What was idle before this is in doubt.
    doubted_until: Option<Instant>,
    /// What was made before this is of no use.
    condemned_until: Option<Instant>,
}

struct Idle<E: Engine> {
    connection: Connection<E>,
    born: Instant,
    since: Instant,
}

enum Held<E: Engine> {
    Own { connection: Connection<E>, born: Instant },
    Lent(PoolConnection<E::Db>),
}

/// A connection while a call uses it. One that is dropped in the middle of a statement is closed.
pub(in crate::store) struct Lease<E: Engine> {
    pool: Arc<Pool<E>>,
    held: Option<Held<E>>,
    at_rest: bool,
}

impl<E: Engine> Pool<E> {
    pub(super) fn own(engine: E, max: usize) -> Self {
        let state = State {
            idle: Vec::new(),
            waiting: VecDeque::new(),
            open: 0,
            connecting: 0,
            doubted_until: None,
            condemned_until: None,
        };
        Self { engine, source: Source::Own { state: Mutex::new(state), max } }
    }

    pub(super) fn lent(engine: E, pool: sqlx::Pool<E::Db>) -> Self {
        Self { engine, source: Source::Lent(pool) }
    }

    pub(super) fn engine(&self) -> &E {
        &self.engine
    }

    /// How many there can be.
    pub(super) fn max(&self) -> usize {
        match &self.source {
            Source::Own { max, .. } => *max,
            Source::Lent(pool) => pool.options().get_max_connections() as usize,
        }
    }

    /// Runs a statement in a task of its own: a caller that loses interest leaves no connection in the middle of an
    /// answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        kind: Kind,
        statement: impl Fn(bool) -> E::Statement + Send + Sync + 'static,
    ) -> Result<E::Answer> {
        let pool = Arc::clone(self);
        let task = tokio::spawn(async move {
            let ran = pool.run(None, statement).await;
            ran.map(|(answer, _)| answer).map_err(|fault| fault.into_error::<E>(kind))
        });
        task.await.unwrap_or_else(|stopped| Err(Error::store("a call to the store stopped midway", stopped)))
    }

    /// Runs a statement, on the connection that was borrowed for it if there is one, and answers with what it found and the
    /// connection. It is tried again on another one where a connection broke or did not answer; then it is made with `true`
    /// if an earlier try may have been carried out.
    pub(super) async fn run(
        self: &Arc<Self>,
        mut lease: Option<Lease<E>>,
        statement: impl Fn(bool) -> E::Statement,
    ) -> Result<(E::Answer, Lease<E>), Fault> {
        const TRIES: usize = 3;
        let started = Instant::now();
        let left = || CALL_TIMEOUT.saturating_sub(started.elapsed());
        let (mut was_sent, mut was_slow, mut was_stuck, mut tries) = (false, false, false, 0);
        loop {
            tries += 1;
            let mut lease = match lease.take() {
                Some(lease) => lease,
                None => match self.acquire(left()).await {
                    Ok(lease) => lease,
                    Err(fault) if was_sent => return Err(fault.after_sending(started.elapsed())),
                    Err(fault) => return Err(fault),
                },
            };
            let statement = statement(was_sent);
            let patience = if was_slow { left() } else { left().min(TRY_TIMEOUT) };
            let fault = match timeout(patience, lease.run(&statement)).await {
                Ok(Ok(answer)) => return Ok((answer, lease)),
                Ok(Err(error)) => Fault::of::<E>(error, started.elapsed()),
                Err(_) => Fault::Slow { after: started.elapsed(), was_sent: true },
            };
            // Within a lease that was cut short the connection is lost already.
            lease.at_rest = fault.leaves_connection();
            drop(lease);
            let may_work = match &fault {
                Fault::Slow { .. } => !mem::replace(&mut was_slow, true),
                Fault::Cut { .. } => true,
                Fault::Server { severity: Severity::Stuck, .. } => !mem::replace(&mut was_stuck, true),
                Fault::Server { severity, .. } => *severity == Severity::Undone,
                _ => false,
            };
            if matches!(fault, Fault::Slow { .. } | Fault::Cut { .. }) {
                was_sent = true;
                self.doubt();
            } else if matches!(fault, Fault::Server { severity: Severity::Stuck, .. }) {
                self.condemn();
            }
            if !may_work || tries == TRIES || left().is_zero() {
                return Err(if was_sent { fault.after_sending(started.elapsed()) } else { fault });
            }
        }
    }

    /// A connection that nothing else uses.
    pub(super) async fn acquire(self: &Arc<Self>, patience: Duration) -> Result<Lease<E>, Fault> {
        let started = Instant::now();
        let (state, max) = match &self.source {
            Source::Own { state, max } => (state, *max),
            Source::Lent(pool) => {
                return match timeout(patience, pool.acquire()).await {
                    Ok(Ok(connection)) => Ok(self.lease(Held::Lent(connection))),
                    Ok(Err(error)) => Err(Fault::connecting::<E>(error, started.elapsed())),
                    Err(_) => Err(Fault::Slow { after: started.elapsed(), was_sent: false }),
                };
            }
        };
        loop {
            let next = {
                let mut state = lock(state);
                if let Some((idle, is_doubted)) = state.take_idle() {
                    Ok((self.lease(Held::own(idle)), is_doubted))
                } else {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.push_back(sender);
                    self.connect_for_waiting(&mut state, max);
                    Err(receiver)
                }
            };
            match next {
                Ok((lease, false)) => return Ok(lease),
                Ok((mut lease, true)) => {
                    if lease.is_alive().await {
                        return Ok(lease);
                    }
                    // Its siblings have gone the same way.
                    lock(state).forget_doubted();
                }
                Err(receiver) => {
                    return match timeout(patience.saturating_sub(started.elapsed()), receiver).await {
                        Ok(Ok(lease)) => lease,
                        Ok(Err(_)) => Err(Fault::Closed),
                        Err(_) => Err(Fault::Slow { after: started.elapsed(), was_sent: false }),
                    };
                }
            }
        }
    }

    fn lease(self: &Arc<Self>, held: Held<E>) -> Lease<E> {
        Lease { pool: Arc::clone(self), held: Some(held), at_rest: true }
    }

    /// What is idle now must show that it is alive before it is used again.
    fn doubt(&self) {
        if let Source::Own { state, .. } = &self.source {
            lock(state).doubted_until = Some(Instant::now());
        }
    }

    /// What there is now is closed, as soon as it is idle.
    fn condemn(&self) {
        if let Source::Own { state, .. } = &self.source {
            let mut state = lock(state);
            state.condemned_until = Some(Instant::now());
            let before = state.idle.len();
            state.idle.clear();
            state.open -= before;
        }
    }

    /// Makes a connection for each that waits, as far as there may be more. One that was begun is finished: whatever becomes
    /// of the caller, the next one has it.
    fn connect_for_waiting(self: &Arc<Self>, state: &mut State<E>, max: usize) {
        while state.connecting < state.waiting.len() && state.open < max {
            state.open += 1;
            state.connecting += 1;
            tokio::spawn(Connecting { pool: Arc::clone(self), is_open: false }.go());
        }
    }

    fn give_back(self: &Arc<Self>, connection: Connection<E>, born: Instant) {
        let Source::Own { state, max } = &self.source else { return };
        let mut state = lock(state);
        if born.elapsed() >= OLD || state.condemned_until.is_some_and(|until| born <= until) {
            drop(connection);
            state.open -= 1;
            return self.connect_for_waiting(&mut state, *max);
        }
        let mut held = Held::Own { connection, born };
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(Ok(self.lease(held))) {
                Err(Ok(mut lease)) => held = lease.held.take().expect("it was just put in"),
                Ok(()) | Err(Err(_)) => return,
            }
        }
        if let Held::Own { connection, born } = held {
            state.idle.push(Idle { connection, born, since: Instant::now() });
        }
    }

    fn discard(self: &Arc<Self>) {
        if let Source::Own { state, max } = &self.source {
            let mut state = lock(state);
            state.open -= 1;
            if tokio::runtime::Handle::try_current().is_ok() {
                self.connect_for_waiting(&mut state, *max);
            }
        }
    }
}

impl<E: Engine> State<E> {
    /// The one used last, for it is the least likely to have gone stale; and whether it is in doubt.
    fn take_idle(&mut self) -> Option<(Idle<E>, bool)> {
        let idle = self.idle.pop()?;
        let is_doubted = idle.since.elapsed() >= IDLE || self.doubted_until.is_some_and(|until| idle.since <= until);
        Some((idle, is_doubted))
    }

    fn forget_doubted(&mut self) {
        let before = self.idle.len();
        let doubted_until = self.doubted_until;
        self.idle.retain(|idle| idle.since.elapsed() < IDLE && doubted_until.is_none_or(|until| idle.since > until));
        self.open -= before - self.idle.len();
    }
}

/// A connection in the making.
struct Connecting<E: Engine> {
    pool: Arc<Pool<E>>,
    is_open: bool,
}

impl<E: Engine> Connecting<E> {
    async fn go(mut self) {
        let Source::Own { state, .. } = &self.pool.source else { return };
        let born = Instant::now();
        match self.connect_patiently(state).await {
            Some(Ok(connection)) => {
                self.is_open = true;
                lock(state).connecting -= 1;
                self.pool.give_back(connection, born);
            }
            // All that wait would fare the same.
            Some(Err(fault)) => {
                let waiting = mem::take(&mut lock(state).waiting);
                for waiting in waiting {
                    // One that has gone away need not be told.
                    let _ = waiting.send(Err(fault.clone()));
                }
            }
            None => {}
        }
    }

    /// Asks again while the server is short of connections: others may leave. None once nothing waits for it any more.
    async fn connect_patiently(&self, state: &Mutex<State<E>>) -> Option<Result<Connection<E>, Fault>> {
        let started = Instant::now();
        loop {
            let error = match timeout(CONNECT_TIMEOUT, self.pool.engine.connect()).await {
                Ok(Ok(connection)) => return Some(Ok(connection)),
                Ok(Err(error)) => Fault::connecting::<E>(error, started.elapsed()),
                Err(_) => return Some(Err(Fault::Slow { after: started.elapsed(), was_sent: false })),
            };
            let is_short = matches!(error, Fault::Server { severity: Severity::Unavailable, .. });
            if !is_short || started.elapsed() + CONNECT_AGAIN >= CONNECT_TIMEOUT {
                return Some(Err(error));
            }
            if lock(state).waiting.iter().all(oneshot::Sender::is_closed) {
                return None;
            }
            sleep(CONNECT_AGAIN).await;
        }
    }
}

impl<E: Engine> Drop for Connecting<E> {
    fn drop(&mut self) {
        if let (Source::Own { state, .. }, false) = (&self.pool.source, self.is_open) {
            let mut state = lock(state);
            state.connecting -= 1;
            state.open -= 1;
        }
    }
}

impl<E: Engine> Lease<E> {
    pub(super) async fn run(&mut self, statement: &E::Statement) -> Result<E::Answer, SqlError> {
        self.at_rest = false;
        let pool = Arc::clone(&self.pool);
        let answer = pool.engine.run(self.connection(), statement).await?;
        self.at_rest = true;
        Ok(answer)
    }

    /// For what is more than a statement. Until it is [put to rest](Self::rest) it is closed when it is dropped.
    pub(super) fn take_over(&mut self) -> &mut Connection<E> {
        self.at_rest = false;
        self.connection()
    }

    /// Nothing is under way on it any more.
    pub(super) fn rest(&mut self) {
        self.at_rest = true;
    }

    async fn is_alive(&mut self) -> bool {
        self.at_rest = false;
        self.at_rest = matches!(timeout(TEST_TIMEOUT, self.connection().ping()).await, Ok(Ok(())));
        self.at_rest
    }

    fn connection(&mut self) -> &mut Connection<E> {
        match self.held.as_mut().expect("it is taken out when this is dropped") {
            Held::Own { connection, .. } => connection,
            Held::Lent(connection) => connection,
        }
    }
}

impl<E: Engine> Drop for Lease<E> {
    fn drop(&mut self) {
        match self.held.take() {
            Some(Held::Own { connection, born }) if self.at_rest => self.pool.give_back(connection, born),
            Some(Held::Own { connection, .. }) => {
                drop(connection);
                self.pool.discard();
            }
            Some(Held::Lent(connection)) if !self.at_rest => drop(connection.detach()),
            Some(Held::Lent(_)) | None => {}
        }
    }
}

impl<E: Engine> Held<E> {
    fn own(Idle { connection, born, .. }: Idle<E>) -> Self {
        Self::Own { connection, born }
    }
}

impl<E: Engine> fmt::Debug for Pool<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({}, {:?})", E::NAME, self.engine)
    }
}

fn lock<E: Engine>(state: &Mutex<State<E>>) -> MutexGuard<'_, State<E>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
