//! Connections, and what becomes of a call when one breaks.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Database, Error as SqlError, Pool,
    pool::{PoolConnection, PoolOptions},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{Answers, Arg, Dialect, Namespace, Opened, Severity};
use crate::{Error, PartitionKey, Result, store::BoxFuture};

type Rows<D> = Vec<<<D as Dialect>::Db as Database>::Row>;
pub(super) type Options<D> = <<<D as Dialect>::Db as Database>::Connection as Connection>::Options;

/// How long a call may take, waiting for a connection included.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for the server to take a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long until a server that is short of connections is asked for one again.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);
/// How long opening may take: another node may be making the tables.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transaction that moves many sessions may take.
const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(1);

/// Whether repeating a call that was cut off leaves its outcome unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Several statements that belong together.
pub(super) struct Transaction<'c, D: Dialect> {
    connection: &'c mut PoolConnection<D::Db>,
    namespace: &'c Namespace,
    /// Why it cannot go on. The connection is closed then, which undoes what was done.
    lost: Option<SqlError>,
}

impl<D: Dialect> Transaction<'_, D> {
    /// Runs one statement, in which `~` stands for what our tables begin with and `?` for one of `args`.
    pub(super) async fn run(&mut self, statement: &str, args: &[Arg]) -> Result<Answers<D>> {
        let statement: Arc<str> = D::prepare(self.namespace, statement).into();
        let rows = D::run(self.connection, statement, args).await;
        rows.map(Answers::new).map_err(|error| self.lose(error))
    }

    async fn whole<T>(
        &mut self,
        access: Access,
        work: &(impl for<'t, 'c> Fn(&'t mut Transaction<'c, D>) -> BoxFuture<'t, Result<T>> + Send + Sync),
    ) -> Result<T> {
        let begin = if access == Access::Read { D::BEGIN_READ } else { D::BEGIN_WRITE };
        for command in begin {
            self.command(command).await?;
        }
        let outcome = work(self).await;
        if self.lost.is_none() {
            self.command(if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        }
        outcome
    }

    async fn command(&mut self, command: &'static str) -> Result<()> {
        D::command(self.connection, command).await.map_err(|error| self.lose(error))
    }

    /// The error is told by whoever runs the transaction.
    fn lose(&mut self, error: SqlError) -> Error {
        self.lost = Some(error);
        Error::Store { message: format!("a transaction in {} failed", D::NAME), source: None }
    }
}

/// Connections to one server, and where in it the sessions are.
pub(super) struct Connections<D: Dialect> {
    pool: Pool<D::Db>,
    /// Connections of our own wait here for their next call: the pool would ask the server after each call whether it
    /// is still there. Connections of the application go back into its pool.
    shelf: Option<Shelf<D>>,
    max: usize,
    namespace: Namespace,
}

struct Shelf<D: Dialect> {
    idle: Mutex<Vec<PoolConnection<D::Db>>>,
    returned: Notify,
    turns: Arc<Semaphore>,
}

/// A connection while a call uses it.
pub(super) struct Borrowed<D: Dialect> {
    connection: PoolConnection<D::Db>,
    turn: Option<OwnedSemaphorePermit>,
}

impl<D: Dialect> Connections<D> {
    pub(super) fn own(options: Options<D>, namespace: Namespace, max: u32) -> Self {
        let pool = PoolOptions::new()
            .max_connections(max)
            .acquire_timeout(CONNECT_TIMEOUT)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options);
        let max = max as usize;
        let turns = Arc::new(Semaphore::new(max));
        Self { pool, shelf: Some(Shelf { idle: Mutex::default(), returned: Notify::new(), turns }), max, namespace }
    }

    pub(super) fn shared(pool: Pool<D::Db>, namespace: Namespace) -> Self {
        let max = pool.options().get_max_connections() as usize;
        Self { pool, shelf: None, max, namespace }
    }

    /// How many there can be.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Brings the schema up to date and reads the partition key.
    pub(super) async fn open(self: Arc<Self>) -> Result<PartitionKey> {
        let task = tokio::spawn(async move {
            let mut borrowed = self.borrow(false).await.map_err(|fault| fault.into_error::<D>(Kind::Read))?;
            match timeout(OPEN_TIMEOUT, D::open(&mut borrowed.connection, &self.namespace)).await {
                Ok(Ok(Opened::Ready(key))) => {
                    self.give_back(borrowed);
                    Ok(key)
                }
                Ok(Ok(Opened::Unusable(message))) => Err(Error::Store { message, source: None }),
                Ok(Err(error)) => Err(Fault::of::<D>(error, Duration::ZERO).into_error::<D>(Kind::Read)),
                Err(_) => Err(Fault::Slow { after: OPEN_TIMEOUT, was_sent: false }.into_error::<D>(Kind::Read)),
            }
        });
        task.await.unwrap_or_else(|stopped| Err(Error::store("opening the store stopped midway", stopped)))
    }

    /// Which version the schema has; 0 if there is none.
    pub(super) async fn version(&self) -> Result<usize> {
        let mut borrowed = self.borrow(false).await.map_err(|fault| fault.into_error::<D>(Kind::Read))?;
        match timeout(CALL_TIMEOUT, D::find_version(&mut borrowed.connection, &self.namespace)).await {
            Ok(Ok(version)) => Ok(version),
            Ok(Err(error)) => Err(Fault::of::<D>(error, Duration::ZERO).into_error::<D>(Kind::Read)),
            Err(_) => Err(Fault::Slow { after: CALL_TIMEOUT, was_sent: false }.into_error::<D>(Kind::Read)),
        }
    }

    /// Calls a routine. In a task of its own: a caller that loses interest tears nothing, and leaves no connection in the
    /// middle of an answer.
    pub(super) async fn call(this: &Arc<Self>, kind: Kind, routine: &'static str, args: Vec<Arg>) -> Result<Rows<D>> {
        let this = Arc::clone(this);
        let task =
            tokio::spawn(
                async move { this.run(None, routine, &args).await.map_err(|fault| fault.into_error::<D>(kind)) },
            );
        task.await.unwrap_or_else(|stopped| Err(Error::store("a call to the store stopped midway", stopped)))
    }

    /// Calls a routine, on the connection that was borrowed for it if there is one. Every call may be repeated: see what the
    /// contract says of retries.
    pub(super) async fn run(
        &self,
        mut borrowed: Option<Borrowed<D>>,
        routine: &'static str,
        args: &[Arg],
    ) -> Result<Rows<D>, Fault> {
        const TRIES: usize = 3;
        let statement: Arc<str> = D::statement(&self.namespace, routine, args).into();
        let started = Instant::now();
        let mut was_sent = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut borrowed = match borrowed.take() {
                Some(borrowed) => borrowed,
                None => match self.borrow(tries > 1).await {
                    Ok(borrowed) => borrowed,
                    Err(fault) if was_sent => return Err(fault.after_sending(started.elapsed())),
                    Err(fault) => return Err(fault),
                },
            };
            let left = CALL_TIMEOUT.saturating_sub(started.elapsed());
            let error = match timeout(left, D::run(&mut borrowed.connection, Arc::clone(&statement), args)).await {
                Ok(Ok(rows)) => {
                    self.give_back(borrowed);
                    return Ok(rows);
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    borrowed.discard();
                    return Err(Fault::Slow { after: started.elapsed(), was_sent: true });
                }
            };
            let fault = Fault::of::<D>(error, started.elapsed());
            match fault {
                Fault::Cut { .. } => {
                    was_sent = true;
                    borrowed.discard();
                }
                _ => self.give_back(borrowed),
            }
            let may_work = matches!(fault, Fault::Cut { .. } | Fault::Undone { .. });
            if !may_work || tries == TRIES || started.elapsed() >= CALL_TIMEOUT {
                return Err(if was_sent { fault.after_sending(started.elapsed()) } else { fault });
            }
        }
    }

    /// Runs `work` in one transaction, again if the server undid it or the connection broke: it must be harmless when
    /// repeated. In a task of its own, as [`call`](Self::call).
    pub(super) async fn transaction<T: Send + 'static>(
        this: &Arc<Self>,
        access: Access,
        work: impl for<'t, 'c> Fn(&'t mut Transaction<'c, D>) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    ) -> Result<T> {
        const TRIES: usize = 3;
        let this = Arc::clone(this);
        let task = tokio::spawn(async move {
            let mut tries = 0;
            loop {
                tries += 1;
                let started = Instant::now();
                let mut borrowed = this.borrow(tries > 1).await.map_err(|fault| fault.into_error::<D>(Kind::Read))?;
                let mut transaction =
                    Transaction { connection: &mut borrowed.connection, namespace: &this.namespace, lost: None };
                let outcome = timeout(TRANSACTION_TIMEOUT, transaction.whole(access, &work)).await;
                let lost = transaction.lost.take();
                let fault = match (outcome, lost) {
                    (Ok(outcome), None) => {
                        this.give_back(borrowed);
                        return outcome;
                    }
                    (Ok(_), Some(error)) => Fault::of::<D>(error, started.elapsed()),
                    (Err(_), _) => Fault::Slow { after: started.elapsed(), was_sent: true },
                };
                borrowed.discard();
                if tries == TRIES || !matches!(fault, Fault::Cut { .. } | Fault::Undone { .. }) {
                    let kind = if access == Access::Read { Kind::Read } else { Kind::Write };
                    return Err(fault.into_error::<D>(kind));
                }
            }
        });
        task.await.unwrap_or_else(|stopped| Err(Error::store("a transaction stopped midway", stopped)))
    }

    /// A connection that nobody else uses; `tested` if it must be alive for sure.
    pub(super) async fn borrow(&self, tested: bool) -> Result<Borrowed<D>, Fault> {
        let started = Instant::now();
        let out_of_time = || Fault::Slow { after: started.elapsed(), was_sent: false };
        let turn = match &self.shelf {
            Some(shelf) => {
                let turn = timeout(CALL_TIMEOUT, Arc::clone(&shelf.turns).acquire_owned()).await;
                Some(turn.map_err(|_| out_of_time())?.map_err(|_| Fault::Closed)?)
            }
            None => None,
        };
        loop {
            let (mut connection, is_new) = match self.shelf.as_ref().and_then(Shelf::take) {
                Some(connection) => (connection, false),
                None => match timeout(CONNECT_TIMEOUT, self.connect()).await {
                    Ok(Ok(connected)) => connected,
                    Ok(Err(error)) => return Err(Fault::connecting::<D>(error, started.elapsed())),
                    Err(_) => return Err(out_of_time()),
                },
            };
            if !tested || is_new || matches!(timeout(CONNECT_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
                return Ok(Borrowed { connection, turn });
            }
            drop(connection.detach());
            if started.elapsed() >= CONNECT_TIMEOUT {
                return Err(out_of_time());
            }
        }
    }

    /// A connection, and whether it is certainly new. Where the server takes no more of them, one that another call has
    /// done with.
    async fn connect(&self) -> Result<(PoolConnection<D::Db>, bool), SqlError> {
        let Some(shelf) = &self.shelf else { return Ok((self.pool.acquire().await?, false)) };
        tokio::select! {
            connection = self.connect_patiently() => Ok((connection?, true)),
            connection = shelf.next() => Ok((connection, false)),
        }
    }

    /// A new connection, asked for again while the server is short of them: others may leave.
    async fn connect_patiently(&self) -> Result<PoolConnection<D::Db>, SqlError> {
        let started = Instant::now();
        loop {
            let error = match self.pool.acquire().await {
                Err(SqlError::Database(error)) => error,
                answer => return answer,
            };
            let severity = D::severity(error.code().as_deref().unwrap_or_default(), D::number(&*error));
            if severity != Severity::Unavailable || started.elapsed() + CONNECT_AGAIN >= CONNECT_TIMEOUT {
                return Err(SqlError::Database(error));
            }
            sleep(CONNECT_AGAIN).await;
        }
    }

    pub(super) fn give_back(&self, borrowed: Borrowed<D>) {
        let Borrowed { connection, turn } = borrowed;
        if let Some(shelf) = &self.shelf {
            shelf.lock().push(connection);
            shelf.returned.notify_one();
        }
        drop(turn);
    }
}

impl<D: Dialect> Shelf<D> {
    /// The one used last: it is the least likely to have gone stale.
    fn take(&self) -> Option<PoolConnection<D::Db>> {
        self.lock().pop()
    }

    /// The next one that is given back.
    async fn next(&self) -> PoolConnection<D::Db> {
        loop {
            self.returned.notified().await;
            if let Some(connection) = self.take() {
                return connection;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PoolConnection<D::Db>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Dialect> Borrowed<D> {
    pub(super) fn connection(&mut self) -> &mut <D::Db as Database>::Connection {
        &mut self.connection
    }

    /// Closes it at once, whatever the server thinks of that.
    pub(super) fn discard(self) {
        drop(self.connection.detach());
    }
}

impl<D: Dialect> fmt::Debug for Connections<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({}, {})", D::NAME, self.namespace)
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// No answer in time; where the call had been sent, it may have been carried out.
    Slow { after: Duration, was_sent: bool },
    /// The connection broke while the call was under way.
    Cut { source: SqlError, after: Duration },
    /// There was no connection to be had.
    Unreachable { source: SqlError },
    /// The server undid the call for the sake of others.
    Undone { source: SqlError },
    /// The server is short of something.
    Unavailable { source: SqlError },
    /// The server or what it holds is wrong.
    Broken { source: SqlError },
    /// The application closed its pool.
    Closed,
}

impl Fault {
    pub(super) fn of<D: Dialect>(error: SqlError, after: Duration) -> Self {
        match &error {
            SqlError::Io(_) | SqlError::Protocol(_) | SqlError::Tls(_) | SqlError::WorkerCrashed => {
                Self::Cut { source: error, after }
            }
            SqlError::PoolClosed => Self::Closed,
            SqlError::Database(database) => {
                match D::severity(database.code().as_deref().unwrap_or_default(), D::number(&**database)) {
                    Severity::Disconnected => Self::Cut { source: error, after },
                    Severity::Undone => Self::Undone { source: error },
                    Severity::Unavailable => Self::Unavailable { source: error },
                    Severity::Broken => Self::Broken { source: error },
                }
            }
            _ => Self::Broken { source: error },
        }
    }

    /// What went wrong before anything was sent.
    fn connecting<D: Dialect>(error: SqlError, after: Duration) -> Self {
        match Self::of::<D>(error, after) {
            Self::Cut { source, .. } | Self::Broken { source: source @ SqlError::PoolTimedOut } => {
                Self::Unreachable { source }
            }
            fault => fault,
        }
    }

    /// The fault of a later try, when an earlier one may have been carried out.
    fn after_sending(self, after: Duration) -> Self {
        match self {
            Self::Slow { .. } => Self::Slow { after, was_sent: true },
            Self::Unreachable { source } => Self::Cut { source, after },
            fault => fault,
        }
    }

    /// Whether it says nothing of what was called.
    pub(super) fn is_of_the_connection(&self) -> bool {
        matches!(self, Self::Slow { .. } | Self::Cut { .. } | Self::Unreachable { .. } | Self::Closed)
    }

    /// The same, for somebody else whom it concerns.
    pub(super) fn copy(&self) -> Self {
        let copied = |source: &SqlError| SqlError::Protocol(source.to_string());
        match self {
            Self::Slow { after, was_sent } => Self::Slow { after: *after, was_sent: *was_sent },
            Self::Cut { source, after } => Self::Cut { source: copied(source), after: *after },
            Self::Unreachable { source } => Self::Unreachable { source: copied(source) },
            Self::Undone { source } => Self::Undone { source: copied(source) },
            Self::Unavailable { source } => Self::Unavailable { source: copied(source) },
            Self::Broken { source } => Self::Broken { source: copied(source) },
            Self::Closed => Self::Closed,
        }
    }

    pub(super) fn into_error<D: Dialect>(self, kind: Kind) -> Error {
        let name = D::NAME;
        match self {
            Self::Slow { after, was_sent: true } | Self::Cut { after, .. } if kind == Kind::Write => {
                Error::OutcomeUnknown { after }
            }
            Self::Slow { after, .. } => {
                Error::Unavailable { message: format!("{name} did not answer within {after:?}"), source: None }
            }
            Self::Cut { source, .. } => Error::unavailable(format_args!("the connection to {name} broke"), source),
            Self::Unreachable { source } => Error::unavailable(
                format!(
                    "no connection to {name} ({}): see that it runs, is reachable, and has connections to spare",
                    root(&source)
                ),
                source,
            ),
            Self::Undone { source } => {
                Error::unavailable(format_args!("{name} undid the call for the sake of others"), source)
            }
            Self::Unavailable { source } => Error::unavailable(format_args!("{name} cannot serve it now"), source),
            Self::Broken { source } => Error::store(format!("{name} refused a call: {}", root(&source)), source),
            Self::Closed => {
                Error::Unavailable { message: format!("the pool of connections to {name} was closed"), source: None }
            }
        }
    }
}

/// The innermost reason, for people.
fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}
