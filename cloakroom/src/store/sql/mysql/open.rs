//! Opening a store: whether the server will do, and the tables.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, Error as SqlError, MySqlConnection, Row};
use tokio::time::timeout;

use super::{
    super::address::Namespace,
    engine::{SMALLEST_PACKET, Server},
};
use crate::{
    error::{Error, Result},
    store::sql::{
        fault::{Fault, Kind},
        pool::{CALL_TIMEOUT, Pool},
    },
    token::PartitionKey,
};

/// What makes version `n` of the tables out of the one before. Its statements commit one by one, so each can be run again
/// after a crash in their middle.
pub(super) const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

/// The oldest version that skips locked rows.
const OLDEST: (u32, u32) = (10, 6);

/// How long opening may take: another node may be making the tables.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node waits for another that makes the tables.
const PATIENCE_SECONDS: i64 = 25;

/// What opening found.
enum Opened {
    Ready(PartitionKey),
    /// The server or what it holds cannot be used; what is wrong, and what to do.
    Unusable(String),
}

/// Looks whether the server is one that will do, brings the tables up to date, and reads the partition key. Safe on any number
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

/// Which version the tables have; 0 if there are none.
pub(super) async fn find_version(pool: &Arc<Pool<Server>>) -> Result<usize> {
    let fault = |fault: Fault| fault.into_error::<Server>(Kind::Read);
    let mut lease = pool.acquire(CALL_TIMEOUT).await.map_err(fault)?;
    match timeout(CALL_TIMEOUT, version(lease.take_over(), &pool.engine().namespace)).await {
        Ok(Ok(version)) => Ok(version),
        Ok(Err(error)) => Err(fault(Fault::of::<Server>(error, Duration::ZERO))),
        Err(_) => Err(fault(Fault::Slow { after: CALL_TIMEOUT, was_sent: true })),
    }
}

async fn open_on(connection: &mut MySqlConnection, server: &Server) -> Result<Opened, SqlError> {
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
            "the tables {namespace}_… are of version {found}, and this program knows none beyond {}: use a newer program",
            MIGRATIONS.len()
        )));
    }
    let key = meta(connection, namespace, "partition_key").await?;
    Ok(match key.and_then(|key| key.try_into().ok()) {
        Some(key) => Opened::Ready(PartitionKey::from_bytes(key)),
        None => {
            Opened::Unusable(format!("the table {namespace}_meta has lost its partition key: restore it from a backup"))
        }
    })
}

/// Why the server cannot be used, by name, if it cannot; and how large packets may be.
async fn unusable(connection: &mut MySqlConnection, server: &Server) -> Result<Option<String>, SqlError> {
    let row = sqlx::raw_sql("SELECT CAST(VERSION() AS BINARY)").fetch_one(&mut *connection).await?;
    let version: Vec<u8> = row.try_get_unchecked(0)?;
    if let Some(problem) = unusable_version(&String::from_utf8_lossy(&version)) {
        return Ok(Some(problem));
    }
    let row = sqlx::raw_sql(
        "SELECT CAST(DATABASE() AS BINARY), @@max_allowed_packet, @@log_bin, CAST(@@binlog_format AS BINARY), \
         CAST(@@sql_mode AS BINARY), CAST(CONCAT_WS(' ', IF(@@autocommit, NULL, 'autocommit = 1'), \
         IF(@@completion_type = 'NO_CHAIN', NULL, 'completion_type = NO_CHAIN'), \
         IF(@@sql_safe_updates, 'sql_safe_updates = 0', NULL), \
         IF(@@sql_select_limit < 18446744073709551615, 'sql_select_limit = DEFAULT', NULL), \
         IF(@@default_regex_flags = '', NULL, 'default_regex_flags = \"\"'), \
         IF(@@character_set_client = 'utf8mb4', NULL, 'character_set_client = utf8mb4')) AS BINARY)",
    )
    .fetch_one(connection)
    .await?;
    let text = |column: usize| {
        let text: Option<Vec<u8>> = row.try_get_unchecked(column)?;
        Ok::<_, SqlError>(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    };
    if text(0)?.is_none() {
        return Ok(Some("the address names no database: mysql://USER:PASSWORD@HOST/DATABASE".into()));
    }
    let packet = usize::try_from(row.try_get_unchecked::<i64, _>(1)?).unwrap_or(usize::MAX);
    if packet < SMALLEST_PACKET {
        return Ok(Some(format!(
            "max_allowed_packet is {packet} bytes, and {SMALLEST_PACKET} are the fewest that will do: raise it on the server \
             (it is 16M unless set otherwise)"
        )));
    }
    server.set_packet(packet);
    if row.try_get_unchecked::<i64, _>(2)? == 1 && text(3)?.as_deref() == Some("STATEMENT") {
        return Ok(Some(binlog_problem()));
    }
    if server.is_lent() {
        let mode = text(4)?.unwrap_or_default();
        let wrong = text(5)?.unwrap_or_default();
        if !wrong.is_empty() {
            return Ok(Some(format!("the pool's connections have settings that lose changes: set {wrong} on them")));
        }
        if mode.contains("ORACLE") || mode.contains("EMPTY_STRING_IS_NULL") || !mode.contains("STRICT_") {
            return Ok(Some(format!(
                "the pool's connections have sql_mode {mode:?}: it must have STRICT_ALL_TABLES, and neither ORACLE nor \
                 EMPTY_STRING_IS_NULL"
            )));
        }
    }
    Ok(None)
}

/// A setting that only the server's operator can change.
pub(super) fn binlog_problem() -> String {
    "binlog_format is STATEMENT, and in such a binary log nothing of ours can be written: set it to ROW or MIXED".into()
}

/// Why a server of this version will not do.
fn unusable_version(version: &str) -> Option<String> {
    if !version.contains("MariaDB") {
        return Some(format!("the server is MySQL {version}: use MariaDB, no test of ours has run on MySQL"));
    }
    // Some versions begin with 5.5.5- for the sake of old replicas.
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut numbers = version.split(['.', '-']).map_while(|number| number.parse().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < OLDEST)
        .then(|| format!("MariaDB {version} is too old: {}.{} is the oldest that will do", OLDEST.0, OLDEST.1))
}

async fn meta(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
    name: &'static str,
) -> Result<Option<Vec<u8>>, SqlError> {
    let select = format!("SELECT value FROM {namespace}_meta WHERE name = '{name}'");
    let row = sqlx::raw_sql(AssertSqlSafe(select)).fetch_optional(connection).await?;
    row.map(|row| row.try_get_unchecked(0)).transpose()
}

/// Which version of the tables is there; 0 if none.
async fn version(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    let there = format!(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{namespace}_meta'"
    );
    if sqlx::raw_sql(AssertSqlSafe(there)).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(0);
    }
    let version = meta(connection, namespace, "schema_version").await?;
    Ok(version.and_then(|version| String::from_utf8(version).ok()?.parse().ok()).unwrap_or(0))
}

/// Brings the tables up to date while other nodes wait; says which version they have then.
async fn migrate(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    // The lock belongs to the connection: where this breaks off, it goes with it.
    let lock = format!("CONCAT(DATABASE(), ' cloakroom {namespace}')");
    let get = format!("SELECT GET_LOCK({lock}, {PATIENCE_SECONDS})");
    let wait = format!("SET max_statement_time = {}", PATIENCE_SECONDS + 5);
    sqlx::raw_sql(AssertSqlSafe(wait)).execute(&mut *connection).await?;
    let got: Option<i64> = sqlx::raw_sql(AssertSqlSafe(get)).fetch_one(&mut *connection).await?.try_get_unchecked(0)?;
    if got != Some(1) {
        return Err(SqlError::PoolTimedOut);
    }
    let migrated = migrate_locked(connection, namespace).await;
    let release = format!("DO RELEASE_LOCK({lock}); SET max_statement_time = 10");
    sqlx::raw_sql(AssertSqlSafe(release)).execute(&mut *connection).await?;
    migrated
}

async fn migrate_locked(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    let found = version(connection, namespace).await?;
    if found >= MIGRATIONS.len() {
        return Ok(found);
    }
    for statement in MIGRATIONS[found..].iter().flat_map(|migration| migration.split("\n%\n")) {
        let statement = statement.replace('~', &format!("{namespace}_"));
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    let key = PartitionKey::generate().map_err(|error| SqlError::Encode(error.into()))?;
    let mut transaction = connection.begin().await?;
    let note = format!(
        "INSERT IGNORE INTO {namespace}_meta (name, value) VALUES ('partition_key', {}); \
         REPLACE INTO {namespace}_meta (name, value) VALUES ('schema_version', '{}')",
        super::text::bytes(key.as_bytes()),
        MIGRATIONS.len()
    );
    sqlx::raw_sql(AssertSqlSafe(note)).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(MIGRATIONS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mariadb_of_a_known_age_is_used() {
        for version in ["10.6.0-MariaDB", "10.11.19-MariaDB-0+deb12u1", "5.5.5-10.11.2-MariaDB-log", "11.4.2-MariaDB"] {
            assert_eq!(unusable_version(version), None, "{version}");
        }
        assert!(unusable_version("8.0.36").unwrap().contains("MySQL 8.0.36"));
        assert!(unusable_version("10.5.28-MariaDB").unwrap().contains("10.6"));
    }
}
