//! Opening a store: whether the server will do, and the tables.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, Error as SqlError, PgConnection, Row};
use tokio::time::timeout;

use super::{
    super::address::Namespace,
    engine::{Server, TELLTALE, foreign},
};
use crate::{
    error::{Error, Result},
    store::sql::{
        fault::{Fault, Kind},
        pool::{CALL_TIMEOUT, Pool},
    },
    token::PartitionKey,
};

/// What makes version `n` of the schema out of the one before.
pub(super) const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

/// The oldest version of the server, as it writes it.
const OLDEST: i32 = 130_000;

/// How long opening may take: another node may be making the tables.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// What opening found.
enum Opened {
    Ready(PartitionKey),
    /// The server or what it holds cannot be used; what is wrong, and what to do.
    Unusable(String),
}

/// Looks whether the server is one that will do, brings the schema up to date, and reads the partition key. Safe on any number
/// of nodes at once. In a task of its own: what was begun is finished.
pub(super) async fn open(pool: &Arc<Pool<Server>>) -> Result<PartitionKey> {
    let pool = Arc::clone(pool);
    let task = tokio::spawn(async move {
        let fault = |fault: Fault| fault.into_error::<Server>(Kind::Read);
        let mut lease = pool.acquire(CALL_TIMEOUT).await.map_err(fault)?;
        match timeout(OPEN_TIMEOUT, open_on(lease.take_over(), pool.engine())).await {
            Ok(Ok(Opened::Ready(key))) => {
                lease.rest();
                Ok(key)
            }
            Ok(Ok(Opened::Unusable(message))) => Err(Error::Store { message, source: None }),
            Ok(Err(error)) => Err(fault(Fault::of::<Server>(error, Duration::ZERO))),
            Err(_) => Err(fault(Fault::Slow { after: OPEN_TIMEOUT, was_sent: true })),
        }
    });
    task.await.unwrap_or_else(|stopped| Err(Error::store("opening the store stopped midway", stopped)))
}

/// Which version the schema has; 0 if there is none.
pub(super) async fn find_version(pool: &Arc<Pool<Server>>) -> Result<usize> {
    let fault = |fault: Fault| fault.into_error::<Server>(Kind::Read);
    let mut lease = pool.acquire(CALL_TIMEOUT).await.map_err(fault)?;
    match timeout(CALL_TIMEOUT, version(lease.take_over(), &pool.engine().namespace)).await {
        Ok(Ok(version)) => Ok(version),
        Ok(Err(error)) => Err(fault(Fault::of::<Server>(error, Duration::ZERO))),
        Err(_) => Err(fault(Fault::Slow { after: CALL_TIMEOUT, was_sent: true })),
    }
}

async fn open_on(connection: &mut PgConnection, server: &Server) -> Result<Opened, SqlError> {
    if let Some(problem) = unusable(connection, server).await? {
        return Ok(Opened::Unusable(problem));
    }
    let namespace = &server.namespace;
    let mut found = version(connection, namespace).await?;
    if found < MIGRATIONS.len() {
        found = migrate(connection, namespace).await?;
    }
    if found > MIGRATIONS.len() {
        return Ok(Opened::Unusable(format!(
            "schema {namespace} is of version {found}, and this program knows none beyond {}: use a newer program",
            MIGRATIONS.len()
        )));
    }
    // The log of a restored dump holds transaction numbers that are still to come: new entries go behind them.
    let select = format!(
        "SELECT partition_key, coalesce((SELECT max(place) FROM \"{namespace}\".audit) \
         >= log_base + txid_snapshot_xmax(txid_current_snapshot()), false) FROM \"{namespace}\".meta"
    );
    let row = sqlx::raw_sql(AssertSqlSafe(select)).fetch_optional(&mut *connection).await?;
    let Some(row) = row else {
        let problem = format!("schema {namespace} has lost its partition key: restore it from a backup");
        return Ok(Opened::Unusable(problem));
    };
    if row.try_get::<bool, _>(1)? {
        let raise = format!(
            "UPDATE \"{namespace}\".meta SET log_base = (SELECT max(place) FROM \"{namespace}\".audit) \
             WHERE log_base + txid_snapshot_xmax(txid_current_snapshot()) <= (SELECT max(place) FROM \"{namespace}\".audit)"
        );
        sqlx::raw_sql(AssertSqlSafe(raise)).execute(&mut *connection).await?;
    }
    let key: Vec<u8> = row.try_get(0)?;
    Ok(match key.try_into() {
        Ok(key) => Opened::Ready(PartitionKey::from_bytes(key)),
        Err(_) => Opened::Unusable(format!("schema {namespace} holds a partition key that is none: restore a backup")),
    })
}

/// Why the server cannot be used, by name, if it cannot; and whether a pooler stands in between.
async fn unusable(connection: &mut PgConnection, server: &Server) -> Result<Option<String>, SqlError> {
    let row = sqlx::raw_sql("SELECT version()").fetch_one(&mut *connection).await?;
    if let Some(problem) = foreign(row.try_get(0)?) {
        return Ok(Some(problem));
    }
    let select = format!(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), \
         current_setting('transaction_isolation'), current_setting('client_encoding'), current_setting('{}') = '{}'",
        TELLTALE.0, TELLTALE.1
    );
    let row = sqlx::raw_sql(AssertSqlSafe(select)).fetch_one(connection).await?;
    let version: i32 = row.try_get(0)?;
    if version < OLDEST {
        let (version, oldest) = (version / 10_000, OLDEST / 10_000);
        return Ok(Some(format!("PostgreSQL {version} is too old: {oldest} is the oldest that will do")));
    }
    for (column, setting) in [(1, "server_encoding"), (3, "client_encoding")] {
        let encoding: &str = row.try_get(column)?;
        if encoding != "UTF8" {
            return Ok(Some(format!(
                "{setting} is {encoding}, and not every text can be kept in it: use a database in UTF8 (CREATE DATABASE … \
                 ENCODING 'UTF8' TEMPLATE template0)"
            )));
        }
    }
    let isolation: &str = row.try_get(2)?;
    if server.is_lent() && isolation != "read committed" {
        return Ok(Some(format!(
            "the pool's transactions are {isolation}: limits would not be exact. Set default_transaction_isolation to \
             'read committed' for it"
        )));
    }
    if !server.is_lent() && !row.try_get::<bool, _>(4)? {
        // Something in between took our settings away.
        server.is_behind_a_pooler();
    }
    Ok(None)
}

/// Which version of the schema is there; 0 if none.
pub(super) async fn version(connection: &mut PgConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    // Not to_regclass: within a transaction it may remember that there was nothing.
    let meta = format!(
        "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
         JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'version' \
         WHERE nspname = '{namespace}' AND relname = 'meta')"
    );
    let is_there: bool = sqlx::raw_sql(AssertSqlSafe(meta)).fetch_one(&mut *connection).await?.try_get(0)?;
    if !is_there {
        return Ok(0);
    }
    let select = format!("SELECT version FROM \"{namespace}\".meta");
    let row = sqlx::raw_sql(AssertSqlSafe(select)).fetch_optional(connection).await?;
    let version: Option<i32> = row.map(|row| row.try_get(0)).transpose()?;
    Ok(version.and_then(|version| usize::try_from(version).ok()).unwrap_or(0))
}

/// Brings the schema up to date in one transaction, while other nodes wait; says which version it has then.
async fn migrate(connection: &mut PgConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    let mut transaction = connection.begin().await?;
    let lock = format!(
        "SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock(hashtextextended('cloakroom schema {namespace}', 0))"
    );
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
    let found = version(&mut transaction, namespace).await?;
    if found >= MIGRATIONS.len() {
        return Ok(found);
    }
    // To make a schema takes a right that using one does not.
    let schema = format!("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{namespace}')");
    let has_schema: bool = sqlx::raw_sql(AssertSqlSafe(schema)).fetch_one(&mut *transaction).await?.try_get(0)?;
    if !has_schema {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA \"{namespace}\""))).execute(&mut *transaction).await?;
    }
    for migration in &MIGRATIONS[found..] {
        let migration = migration.replace('~', &format!("\"{namespace}\"."));
        sqlx::raw_sql(AssertSqlSafe(migration)).execute(&mut *transaction).await?;
    }
    let latest = MIGRATIONS.len();
    let note = if found == 0 {
        let key = PartitionKey::generate().map_err(|error| SqlError::Encode(error.into()))?;
        let key = crate::store::sql::rows::hex(key.as_bytes());
        format!("INSERT INTO \"{namespace}\".meta VALUES ({latest}, decode('{key}', 'hex'), 0)")
    } else {
        format!("UPDATE \"{namespace}\".meta SET version = {latest}")
    };
    sqlx::raw_sql(AssertSqlSafe(note)).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(latest)
}
