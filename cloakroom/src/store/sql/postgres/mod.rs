//! Sessions in PostgreSQL.

mod commit;
mod engine;
mod examine;
mod open;
mod plain;
mod reads;
mod rows;
mod statement;
mod texts;
mod whole;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use sqlx::{AssertSqlSafe, PgPool, postgres::PgConnectOptions};

use self::{
    commit::Sender,
    engine::Server,
    open::MIGRATIONS,
    reads::Reader,
    statement::{Arg, Statement},
    texts::Texts,
};
use super::{
    address::{Address, Namespace},
    fault::{Fault, Kind},
    flight::{Commits, Flight},
    loads::{Load, Loads},
    pool::{CALL_TIMEOUT, Pool},
    rows::{id, now, number, replaced},
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, Schema, Store,
        batcher::{Batcher, Limits},
        feed::{Feed, Pace},
        key::{AdoptableKey, holds_others},
        packed,
        slots::{Ask, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction},
    },
    token::{PartitionKey, SessionId},
};

/// Sessions in a PostgreSQL database, version 13 or newer, shared by any number of nodes.
///
/// A session is one row: its head, its values as one JSON object, when it was last seen. What requests do most (reading,
/// changing values, starting, ending) are plain prepared statements, everything else is one function; each is one round trip
/// and one transaction. Requests that arrive together travel together: one statement, each with its own answer. The tables
/// are made when the store is first opened, by one node while the others wait, in a schema called `cloakroom`
/// unless told otherwise; names of functions carry the version, so that nodes of two versions can run side by side.
///
/// What was answered survives the end of this process, of the server and of its machine, as PostgreSQL's settings have
/// it: with `fsync` and `synchronous_commit` on, as they come, also a power failure; with
/// `synchronous_commit = off` the last moments before a crash of the server are lost, each call whole or not at all.
///
/// A call that gets no answer within 5 s, waiting for a connection included, is [`Unavailable`](crate::Error::Unavailable), or,
/// if it writes and was sent, [`OutcomeUnknown`](crate::Error::OutcomeUnknown). Where a connection breaks or does not answer for 2 s,
/// the call is repeated on another. Connections are at most so many as the address says, are closed after half an hour,
/// and at once when they are in a state that does not heal, such as that to a server which became a standby.
///
/// PgBouncer may stand in between, as it comes and in every mode: it is recognised by what it refuses or takes away, and then
/// statements are sent in one piece with their values instead of being prepared, which costs the server more.
///
/// The audit log shows an entry once the transactions that were writing to the log when it was written are over: those of
/// this library, which are short.
pub struct PostgresStore {
    pool: Arc<Pool<Server>>,
    texts: Arc<Texts>,
    key: Arc<AdoptableKey>,
    commits: Batcher<Flight<Server>>,
    loads: Batcher<Load<Server>>,
    /// What the last write failed of, if it was the server's fault.
    ailment: Mutex<Option<String>>,
}

impl PostgresStore {
    /// Opens `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with connections of its own. Beside the driver's parameters
    /// (`sslmode`, `sslrootcert`, …) an address takes `schema` (`cloakroom`; a to z, 0 to 9 and _) and
    /// `max_connections` (10).
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`] if the address cannot be used; [`Error::Unavailable`] if the server cannot be reached;
    /// [`Error::Store`] if it is too old, no PostgreSQL, not in UTF-8, refuses us, or holds sessions of a newer version.
    pub async fn open(url: &str) -> Result<Self> {
        let Address { options, namespace, max_connections } = address(url)?;
        let texts = Texts::of(&namespace);
        Self::start(Pool::own(Server::at(options, namespace), max_connections as usize), texts).await
    }

    /// Which version the tables have.
    pub(in crate::store) async fn schema(url: &str) -> Result<Schema> {
        let Address { options, namespace, .. } = address(url)?;
        let version = |version| u32::try_from(version).unwrap_or(u32::MAX);
        let found = open::find_version(&Arc::new(Pool::own(Server::at(options, namespace), 1))).await?;
        Ok(Schema { found: (found > 0).then(|| version(found)), latest: version(MIGRATIONS.len()) })
    }

    /// Uses the application's own pool, and the schema `cloakroom`. The pool decides how long to wait for a connection, and
    /// about its settings: set `plan_cache_mode` to `force_generic_plan` on its connections, and spare a round trip with
    /// `test_before_acquire(false)`.
    ///
    /// Errors as [`open`](Self::open).
    pub async fn from_pool(pool: PgPool) -> Result<Self> {
        Self::lent(pool, Namespace::default()).await
    }

    /// As [`from_pool`](Self::from_pool), in another schema: a to z, 0 to 9 and _.
    pub async fn from_pool_in(pool: PgPool, schema: &str) -> Result<Self> {
        Self::lent(pool, Namespace::new(schema)?).await
    }

    async fn lent(pool: PgPool, namespace: Namespace) -> Result<Self> {
        let texts = Texts::of(&namespace);
        Self::start(Pool::lent(Server::lent(namespace), pool), texts).await
    }

    async fn start(pool: Pool<Server>, texts: Texts) -> Result<Self> {
        let (pool, texts) = (Arc::new(pool), Arc::new(texts));
        let key = Arc::new(AdoptableKey::new(open::open(&pool).await?));
        let reader = Reader { pool: Arc::clone(&pool), texts: Arc::clone(&texts) };
        let sender = Sender {
            pool: Arc::clone(&pool),
            texts: Arc::clone(&texts),
            key: Arc::clone(&key),
            reader: reader.clone(),
        };
        // A slot keeps the ids of twice as many changes as one batch may have of a session, so that all of them are
        // recognised when the answer is lost and they are sent again.
        let limits = Limits { batches: pool.max().clamp(1, 4), pieces: 128, bytes: 256 * 1024, of_one_key: 8 };
        Ok(Self {
            pool,
            texts,
            key,
            commits: Batcher::new(Arc::new(Commits(sender)), limits),
            loads: Batcher::new(Arc::new(Loads(reader)), limits),
            ailment: Mutex::default(),
        })
    }

    async fn commit_all(&self, transactions: &[Transaction], again: bool) -> Result<Vec<Outcome>> {
        transactions.iter().try_for_each(packed::check)?;
        let flights = transactions.iter().map(|transaction| Flight::new(transaction, again));
        let answers = self.commits.submit(flights, CALL_TIMEOUT).await;
        let outcomes: Result<Vec<_>> = answers.into_iter().collect();
        let ailment = match &outcomes {
            Err(Error::Unavailable { message, source: Some(_) }) => Some(message.clone()),
            _ => None,
        };
        *self.ailment.lock().unwrap_or_else(PoisonError::into_inner) = ailment;
        outcomes
    }

    async fn touch_all(&self, touches: &[SeenAt], at: Timestamp) -> Result<Vec<bool>> {
        let rows = match touches {
            [] => return Ok(Vec::new()),
            [SeenAt { id, at: seen }] => {
                let args = vec![Arg::id(*id), Arg::Int(Some(seen.as_millis())), Arg::Int(Some(now(at)))];
                self.run(Kind::Write, &self.texts.touch, args).await?
            }
            many => {
                let args = vec![
                    Arg::ids(many.iter().map(|touch| touch.id)),
                    Arg::Ints(many.iter().map(|touch| Some(touch.at.as_millis())).collect()),
                    Arg::Int(Some(now(at))),
                ];
                self.run(Kind::Write, &self.texts.touch_many, args).await?
            }
        };
        let living = rows.iter().map(|row| id(row, 0)).collect::<Result<BTreeSet<_>>>()?;
        Ok(touches.iter().map(|touch| living.contains(&touch.id)).collect())
    }

    async fn forget_some(&self, forget: &Forget) -> Result<bool> {
        let args = vec![
            Arg::Int(Some(now(forget.ended_before))),
            Arg::Int(Some(now(forget.audit_before))),
            Arg::count(forget.limit),
        ];
        let rows = self.run(Kind::Write, &self.texts.forget, args).await?;
        rows.first().map_or(Ok(false), |row| rows::get(row, 0))
    }

    /// What can lock a row can write; whether there is room to write in, the last write tells.
    async fn look_whether_it_can_be_written(&self) -> Result<Option<Timestamp>> {
        let rows = self.run(Kind::Read, &self.texts.ping, vec![self.key_arg()]).await?;
        let Some(row) = rows.first() else { return Err(replaced()) };
        let clock = Timestamp::from_millis(number(row, 0)?);
        let ailment = self.ailment.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if ailment.is_some() {
            self.write_and_take_back().await?;
            *self.ailment.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(Some(clock))
    }

    /// Writes a page of nothing, which needs room on the disk, and takes it back.
    async fn write_and_take_back(&self) -> Result<()> {
        let fault = |fault: Fault| fault.into_error::<Server>(Kind::Read);
        let mut lease = self.pool.acquire(CALL_TIMEOUT).await.map_err(fault)?;
        let text = self.texts.own(
            "BEGIN; INSERT INTO ~audit (place, id, at, session, entry) SELECT -n, n, n, '', repeat(md5(n::text), 60) \
             FROM generate_series(1, 8) AS n; ROLLBACK",
        );
        let wrote = sqlx::raw_sql(AssertSqlSafe(text)).execute(lease.take_over()).await;
        match wrote {
            Ok(_) => {
                lease.rest();
                Ok(())
            }
            Err(error) => Err(fault(Fault::of::<Server>(error, std::time::Duration::ZERO))),
        }
    }

    async fn take_over_key(&self, key: &PartitionKey) -> Result<()> {
        if !self.key.differs_from(key)? {
            return Ok(());
        }
        let fault = |fault: Fault| fault.into_error::<Server>(Kind::Write);
        let mut lease = self.pool.acquire(CALL_TIMEOUT).await.map_err(fault)?;
        let adopt = Statement {
            text: Arc::clone(&self.texts.adopt),
            args: vec![self.key_arg(), Arg::Bytes(Some(key.as_bytes().to_vec()))],
        };
        let adopted = sqlx::raw_sql(AssertSqlSafe(adopt.in_one_piece())).fetch_optional(lease.take_over()).await;
        let adopted = adopted.map_err(|error| fault(Fault::of::<Server>(error, std::time::Duration::ZERO)))?;
        lease.rest();
        adopted.ok_or_else(holds_others)?;
        self.key.adopt(key);
        Ok(())
    }

    fn key_arg(&self) -> Arg {
        Arg::Bytes(Some(self.key.as_bytes().to_vec()))
    }
}

fn address(url: &str) -> Result<Address<PgConnectOptions>> {
    Address::parse(url, "PostgreSQL", "schema")
}

impl Store for PostgresStore {
    fn partition_key(&self) -> &PartitionKey {
        &self.key
    }

    fn spans_groups(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(self.look_at(asks))
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(self.commit_all(transactions, again))
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(self.touch_all(touches, now))
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(self.list_page(what, after, limit))
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.forget_some(forget))
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Box::pin(self.audit_page(query, after, limit))
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(self.look_whether_it_can_be_written())
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

    fn examine(&self, _now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(examine::examine(&self.pool, repair))
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.take_over_key(key))
    }

    fn feed(&self, _: &Pace) -> Option<Arc<dyn Feed>> {
        None
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({})", self.pool.engine().namespace)
    }
}
