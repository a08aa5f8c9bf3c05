//! Sessions in MariaDB.

mod commit;
mod engine;
mod examine;
mod health;
mod locked;
mod open;
mod reads;
mod rows;
mod text;
mod transact;

use std::{
    collections::BTreeSet,
    fmt,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use sqlx::{MySqlPool, mysql::MySqlConnectOptions};

use self::{
    commit::Sender,
    engine::Server,
    open::MIGRATIONS,
    reads::Reader,
    text::{bytes, ids, lives},
};
use super::{
    address::{Address, Namespace},
    fault::Kind,
    flight::{Commits, Flight},
    loads::{Load, Loads},
    pool::{CALL_TIMEOUT, Pool},
    rows::{id, now, number},
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

/// Sessions in a MariaDB database, version 10.6 or newer, shared by any number of nodes. Not in MySQL, which is refused: no
/// test has run there.
///
/// A session is one row: its head, its values as one text, when it was last seen. Reading a session is one prepared statement;
/// changing its values is one round trip in which the server merges them key by key; everything else locks what it works on,
/// reads it, and writes what was decided, in two round trips and one transaction: limits are exact whichever nodes people
/// sign in through, and nothing waits in a circle. Requests that arrive together travel together. There is no stored
/// routine: the account needs the right to create tables when the store is first opened, and afterwards to select, insert,
/// update and delete. The tables are made by one node while the others wait, in the database that the address names, with
/// names that begin with `cloakroom_` unless told otherwise.
///
/// What was answered survives the end of this process and of the server, as InnoDB's settings have it: with
/// `innodb_flush_log_at_trx_commit = 1`, which it is unless somebody changed it, also a power failure; with 2 or 0 the last
/// second before a crash of the machine (2) or of the server (0) may be lost, each call whole or not at all.
///
/// A call that gets no answer within 5 s, waiting for a connection included, is [`Unavailable`](crate::Error::Unavailable), or,
/// if it writes and was sent, [`OutcomeUnknown`](crate::Error::OutcomeUnknown). Where a connection breaks or does not answer for 2 s,
/// the call is repeated on another. Connections are at most so many as the address says, are closed after half an hour,
/// and at once when they are in a state that does not heal, such as that to a server which became a replica.
///
/// `max_allowed_packet` must be 256 KiB or more on the server, and four times the largest session. Names of users have at
/// most 1,024 bytes.
pub struct MysqlStore {
    pool: Arc<Pool<Server>>,
    key: Arc<AdoptableKey>,
    commits: Batcher<Flight<Server>>,
    loads: Batcher<Load<Server>>,
    /// What the last write failed of, if it was the server's fault.
    ailment: Mutex<Option<String>>,
}

impl MysqlStore {
    /// Opens `mysql://USER:PASSWORD@HOST:PORT/DATABASE` or `mariadb://…`, with connections of its own. Beside the driver's
    /// parameters (`ssl-mode`, `ssl-ca`, …) an address takes `prefix` (`cloakroom`; a to z, 0 to 9 and _) and
    /// `max_connections` (10).
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`] if the address cannot be used; [`Error::Unavailable`] if the server cannot be reached;
    /// [`Error::Store`] if it is MySQL, too old, refuses us, holds sessions of a newer version, or has a setting that cannot
    /// be worked with: a binary log in `STATEMENT` format, a `max_allowed_packet` that is too small.
    pub async fn open(url: &str) -> Result<Self> {
        let Address { options, namespace, max_connections } = address(url)?;
        Self::start(Pool::own(Server::at(options, namespace), max_connections as usize)).await
    }

    /// Which version the tables have.
    pub(in crate::store) async fn schema(url: &str) -> Result<Schema> {
        let Address { options, namespace, .. } = address(url)?;
        let version = |version| u32::try_from(version).unwrap_or(u32::MAX);
        let found = open::find_version(&Arc::new(Pool::own(Server::at(options, namespace), 1))).await?;
        Ok(Schema { found: (found > 0).then(|| version(found)), latest: version(MIGRATIONS.len()) })
    }

    /// Uses the application's own pool, and names that begin with `cloakroom_`. The pool decides how long to wait for a
    /// connection, and about its settings: those that would lose changes are refused by name. Spare a round trip with
    /// `test_before_acquire(false)`.
    ///
    /// Errors as [`open`](Self::open).
    pub async fn from_pool(pool: MySqlPool) -> Result<Self> {
        Self::start(Pool::lent(Server::lent(Namespace::default()), pool)).await
    }

    /// As [`from_pool`](Self::from_pool), with another prefix: a to z, 0 to 9 and _.
    pub async fn from_pool_in(pool: MySqlPool, prefix: &str) -> Result<Self> {
        Self::start(Pool::lent(Server::lent(Namespace::new(prefix)?), pool)).await
    }

    async fn start(pool: Pool<Server>) -> Result<Self> {
        let pool = Arc::new(pool);
        let key = Arc::new(AdoptableKey::new(open::open(&pool).await?));
        let reader = Reader::new(&pool);
        let sender = Sender { pool: Arc::clone(&pool), key: Arc::clone(&key), reader: reader.clone() };
        // A slot keeps the ids of twice as many changes as one batch may have of a session, so that all of them are
        // recognised when the answer is lost and they are sent again.
        // However many bytes a batch has, it is written in packets that are as large as may be.
        let limits = Limits { batches: pool.max().clamp(1, 4), pieces: 128, bytes: 256 * 1024, of_one_key: 8 };
        Ok(Self {
            key,
            commits: Batcher::new(Arc::new(Commits(sender)), limits),
            loads: Batcher::new(Arc::new(Loads(reader)), limits),
            pool,
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

    /// Locks the rows, says which of them live, and moves those on.
    async fn touch_all(&self, touches: &[SeenAt], at: Timestamp) -> Result<Vec<bool>> {
        if touches.is_empty() {
            return Ok(Vec::new());
        }
        let (begin, name, lives) = (self.pool.engine().begin(), &self.pool.engine().namespace, lives(now(at)));
        let mut living = BTreeSet::new();
        for touches in touches.chunks(512) {
            let all = ids(touches.iter().map(|touch| touch.id));
            let mut text = format!(
                "{begin}SELECT id,{lives} FROM {name}_slot FORCE INDEX(PRIMARY) WHERE id IN ({all}) ORDER BY id FOR UPDATE;"
            );
            for SeenAt { id, at } in touches {
                let (id, at) = (text::id(*id), at.as_millis());
                write!(text, "UPDATE {name}_slot SET seen={at} WHERE id={id} AND seen<{at} AND {lives};")
                    .expect("a string takes everything");
            }
            text.push_str("COMMIT");
            for row in &self.text(Kind::Write, text.into()).await?.rows {
                if number(row, 1)? == 1 {
                    living.insert(id(row, 0)?);
                }
            }
        }
        Ok(touches.iter().map(|touch| living.contains(&touch.id)).collect())
    }

    /// Looks first, and where there is nothing old that is all.
    async fn forget_some(&self, Forget { ended_before, audit_before, limit }: &Forget) -> Result<bool> {
        let name = &self.pool.engine().namespace;
        let (ended, logged) = (now(*ended_before), now(*audit_before));
        let look = format!(
            "SELECT id,NULL,NULL FROM {name}_slot FORCE INDEX(slot_by_end) WHERE ended_at<={ended} ORDER BY ended_at \
             LIMIT {limit};\
             SELECT NULL,seq,at FROM {name}_audit WHERE (SELECT at FROM {name}_audit ORDER BY seq LIMIT 1)<={logged} \
             ORDER BY seq LIMIT {limit}"
        );
        let (mut slots, mut entries, mut last) = (Vec::new(), 0, None);
        let mut is_old = true;
        for row in &self.text(Kind::Read, look.into()).await?.rows {
            if super::rows::SqlRow::int(row, 1)?.is_none() {
                slots.push(id(row, 0)?);
            } else {
                // The oldest, up to the first that stays.
                is_old = is_old && number(row, 2)? <= logged;
                if is_old {
                    entries += 1;
                    last = Some(number(row, 1)?);
                }
            }
        }
        let count = slots.len();
        let mut forget = Vec::new();
        if !slots.is_empty() {
            forget.push(format!("DELETE FROM {name}_slot WHERE id IN ({}) AND ended_at<={ended}", ids(slots)));
        }
        forget.extend(last.map(|last| format!("DELETE FROM {name}_audit WHERE seq<={last}")));
        if !forget.is_empty() {
            self.text(Kind::Write, forget.join(";").into()).await?;
        }
        Ok(count >= *limit || entries >= *limit)
    }

    /// Callers that commit share the old key until they are done; later ones find the new one.
    async fn take_over_key(&self, key: &PartitionKey) -> Result<()> {
        if !self.key.differs_from(key)? {
            return Ok(());
        }
        let (begin, name) = (self.pool.engine().begin(), &self.pool.engine().namespace);
        let (old, new) = (bytes(self.key.as_bytes()), bytes(key.as_bytes()));
        let adopt = format!(
            "{begin}SELECT name INTO @held FROM {name}_meta WHERE name='partition_key' AND value={old} FOR UPDATE;\
             UPDATE {name}_meta SET value={new} WHERE name='partition_key' AND value={old} \
             AND NOT EXISTS (SELECT 1 FROM {name}_slot) AND NOT EXISTS (SELECT 1 FROM {name}_account);\
             SELECT 1 FROM {name}_meta WHERE name='partition_key' AND value={new};COMMIT"
        );
        let adopted = self.text(Kind::Write, adopt.into()).await?;
        adopted.rows.first().ok_or_else(holds_others)?;
        self.key.adopt(key);
        Ok(())
    }
}

fn address(url: &str) -> Result<Address<MySqlConnectOptions>> {
    Address::parse(url, "MariaDB", "prefix")
}

impl Store for MysqlStore {
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

impl fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MysqlStore({})", self.pool.engine().namespace)
    }
}
