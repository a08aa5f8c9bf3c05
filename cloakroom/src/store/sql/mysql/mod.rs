//! Sessions in MariaDB.

mod examine;

use std::{fmt::Write, sync::Arc};

use sqlx::{
    Arguments, AssertSqlSafe, Connection, Error as SqlError, MySql as Driver, MySqlConnection, MySqlPool, Row,
    error::DatabaseError,
    mysql::{MySqlArguments, MySqlDatabaseError, MySqlRow},
};

use super::remote::{Address, Arg, Dialect, Namespace, Opened, Severity, SqlStore, if_there, numbered};
use crate::{
    PartitionKey, Result,
    store::{Finding, Schema, sql::checks::hex},
};

/// Sessions in a MariaDB database, version 10.6 or newer, shared by any number of nodes. Not in MySQL, which is refused: no
/// test has run there.
///
/// Every call is one stored procedure, so one round trip and one transaction: limits are exact whichever nodes people sign
/// in through, and nothing waits in a circle. Changes that arrive together travel together: one statement, one transaction,
/// each with its own answer. Values are rows of their own, so a change writes the keys it names. The
/// procedures and tables are made when the store is first opened, by one node while the others wait, in the database that
/// the address names, with names that begin with `cloakroom_` unless told otherwise; names carry the version, so that
/// nodes of two versions can run side by side. The account needs the rights to create tables and routines and to execute
/// them.
///
/// What was answered survives the end of this process and of the server, as InnoDB's settings have it: with
/// `innodb_flush_log_at_trx_commit = 1`, which it is unless somebody changed it, also a power failure; with 2 or 0 the last
/// second before a crash of the machine (2) or of the server (0) may be lost, each call whole or not at all.
///
/// A call that gets no connection within 2 s is [`Unavailable`](crate::Error::Unavailable); one that gets no answer
/// within 5 s is too, or, if it writes, [`OutcomeUnknown`](crate::Error::OutcomeUnknown). Where a connection breaks, the
/// call is repeated on another.
///
/// Users and keys have at most 1,024 bytes each.
pub type MysqlStore = SqlStore<MariaDb>;

impl MysqlStore {
    /// Opens `mysql://USER:PASSWORD@HOST:PORT/DATABASE` or `mariadb://…`, with connections of its own. Beside the driver's
    /// parameters (`ssl-mode`, `ssl-ca`, …) an address takes `prefix` (`cloakroom`; a to z, 0 to 9 and _) and
    /// `max_connections` (10).
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`](crate::Error::StoreUrl) if the address cannot be used;
    /// [`Error::Unavailable`](crate::Error::Unavailable) if the server cannot be reached;
    /// [`Error::Store`](crate::Error::Store) if it is MySQL, too old, refuses us, or holds sessions of a newer version.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_address(Address::parse(url, "MariaDB", "prefix")?).await
    }

    /// Which version the tables have.
    pub(in crate::store) async fn schema(url: &str) -> Result<Schema> {
        Self::schema_at(Address::parse(url, "MariaDB", "prefix")?).await
    }

    /// Uses the application's own pool, and names that begin with `cloakroom_`. The pool decides how long to wait for a
    /// connection. After each call it asks the server whether the connection is still alive, and before each call unless
    /// `test_before_acquire(false)` is set, which spares a round trip.
    ///
    /// Errors as [`open`](Self::open).
    pub async fn from_pool(pool: MySqlPool) -> Result<Self> {
        Self::open_pool(pool, Namespace::default()).await
    }

    /// As [`from_pool`](Self::from_pool), with another prefix: a to z, 0 to 9 and _.
    pub async fn from_pool_in(pool: MySqlPool, prefix: &str) -> Result<Self> {
        Self::open_pool(pool, Namespace::new(prefix)?).await
    }
}

/// The dialect of MariaDB.
#[derive(Debug)]
pub struct MariaDb;

/// What makes version `n` of the schema out of the one before. Its statements commit one by one, so each can be run again
/// after a crash in their middle.
const MIGRATIONS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// The oldest version that skips locked rows and reads JSON as a table.
const OLDEST: (u32, u32) = (10, 6);

/// Routines keep the mode they were made in: what does not fit shall be an error, whatever the server thinks.
const STRICT: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'";

/// How long a node waits for another that makes the tables.
const PATIENCE_SECONDS: i64 = 25;

impl Dialect for MariaDb {
    type Db = Driver;

    const NAME: &'static str = "MariaDB";

    fn statement(namespace: &Namespace, routine: &str, args: &[Arg]) -> String {
        let places = vec!["?"; args.len()].join(", ");
        format!("CALL {namespace}_{}({places})", numbered(routine))
    }

    async fn run(
        connection: &mut MySqlConnection,
        statement: Arc<str>,
        args: &[Arg],
    ) -> Result<Vec<MySqlRow>, SqlError> {
        sqlx::query_with(AssertSqlSafe(statement), bind(args)?).fetch_all(connection).await
    }

    fn prepare(namespace: &Namespace, statement: &str) -> String {
        statement.replace('~', &format!("{namespace}_"))
    }

    const BEGIN_READ: &'static [&'static str] =
        &["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION READ ONLY"];
    const BEGIN_WRITE: &'static [&'static str] =
        &["SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION READ WRITE"];

    const SESSION_COLUMNS: &'static [(&'static str, &'static str)] = &[];

    const KEEP_DISABLED: &'static str = "ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)";
    const KEEP_LATER_FENCE: &'static str =
        "ON DUPLICATE KEY UPDATE ended_before = GREATEST(ended_before, VALUES(ended_before))";

    async fn command(connection: &mut MySqlConnection, command: &'static str) -> Result<(), SqlError> {
        sqlx::raw_sql(command).execute(connection).await.map(drop)
    }

    const LATEST: usize = MIGRATIONS.len();

    async fn find_version(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<usize, SqlError> {
        version(connection, namespace).await
    }

    async fn open(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<Opened, SqlError> {
        let row = sqlx::query("SELECT CAST(VERSION() AS BINARY), CAST(DATABASE() AS BINARY)")
            .fetch_one(&mut *connection)
            .await?;
        let server: Option<Vec<u8>> = row.try_get_unchecked(0)?;
        let server = String::from_utf8_lossy(&server.unwrap_or_default()).into_owned();
        if let Some(problem) = unusable_server(&server) {
            return Ok(Opened::Unusable(problem));
        }
        if row.try_get_unchecked::<Option<Vec<u8>>, _>(1)?.is_none() {
            return Ok(Opened::Unusable("the address names no database: mysql://USER:PASSWORD@HOST/DATABASE".into()));
        }
        let mut version = version(connection, namespace).await?;
        if version < MIGRATIONS.len() {
            version = migrate(connection, namespace).await?;
        }
        if version > MIGRATIONS.len() {
            return Ok(Opened::Unusable(format!(
                "the tables {namespace}_… are of version {version}, and this program knows none beyond {}: use a newer program",
                MIGRATIONS.len()
            )));
        }
        let key = meta(connection, namespace, "partition_key").await?;
        Ok(match key.and_then(|key| key.try_into().ok()) {
            Some(key) => Opened::Ready(PartitionKey::from_bytes(key)),
            None => Opened::Unusable(format!(
                "the table {namespace}_meta has lost its partition key: restore it from a backup"
            )),
        })
    }

    fn table(namespace: &Namespace, name: &str) -> String {
        format!("{namespace}_{name}")
    }

    fn literal(bytes: &[u8]) -> String {
        format!("X'{}'", hex(bytes))
    }

    async fn execute(connection: &mut MySqlConnection, statement: String) -> Result<u64, SqlError> {
        Ok(sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?.rows_affected())
    }

    async fn examine(
        connection: &mut MySqlConnection,
        namespace: &Namespace,
        max_connections: u32,
        repair: bool,
    ) -> Result<Vec<Finding>, SqlError> {
        examine::examine(connection, namespace, max_connections, repair).await
    }

    fn severity(_code: &str, number: Option<u16>) -> Severity {
        match number {
            // Shutting down, connection killed.
            Some(1053 | 1927 | 1080 | 1152..=1161 | 4031) => Severity::Disconnected,
            // Deadlock.
            Some(1213) => Severity::Undone,
            // Too many connections, no disk, no memory, read-only, lock and statement timeouts.
            Some(1040 | 1203 | 1226 | 1021 | 1114 | 1037 | 1038 | 1041 | 1290 | 1836 | 1205 | 1317 | 1969) => {
                Severity::Unavailable
            }
            _ => Severity::Broken,
        }
    }

    fn number(error: &dyn DatabaseError) -> Option<u16> {
        error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
    }

    fn int(row: &MySqlRow, column: &str) -> Result<Option<i64>, SqlError> {
        if_there(row.try_get_unchecked(column))
    }

    fn text(row: &MySqlRow, column: &str) -> Result<Option<Arc<str>>, SqlError> {
        let text = Self::bytes(row, column)?.map(String::from_utf8).transpose();
        Ok(text.map_err(|error| SqlError::Decode(error.into()))?.map(Into::into))
    }

    fn bytes(row: &MySqlRow, column: &str) -> Result<Option<Vec<u8>>, SqlError> {
        if_there(row.try_get_unchecked(column))
    }

    fn bool(row: &MySqlRow, column: &str) -> Result<Option<bool>, SqlError> {
        if_there(row.try_get_unchecked(column))
    }
}

/// Why a server of this version will not do.
fn unusable_server(version: &str) -> Option<String> {
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

fn bind(args: &[Arg]) -> Result<MySqlArguments, SqlError> {
    let mut bound = MySqlArguments::default();
    for arg in args {
        match arg {
            Arg::Int(number) => bound.add(number),
            Arg::Bool(is_so) => bound.add(is_so),
            Arg::Text(text) => bound.add(text.as_deref().map(str::as_bytes)),
            Arg::Bytes(bytes) => bound.add(bytes.as_deref()),
            Arg::Texts(_) | Arg::ByteLists(_) | Arg::Entries(_) | Arg::Touches(_) => bound.add(json_of(arg)),
            Arg::Calls(calls) => bound.add(list(calls, |json, args| json.push_str(&list(args, push_json)))),
        }
        .map_err(SqlError::Encode)?;
    }
    Ok(bound)
}

/// A list, as it travels.
fn json_of(arg: &Arg) -> String {
    match arg {
        Arg::Texts(texts) => list(texts, |json, text| push_hex(json, text.as_bytes())),
        Arg::ByteLists(lists) => list(lists, |json, bytes| push_hex(json, bytes)),
        Arg::Entries(entries) => list(entries, |json, (key, value)| {
            json.push('[');
            push_hex(json, key.as_bytes());
            json.push(',');
            // A value is never empty, so an empty one stands for none.
            push_hex(json, value.as_deref().unwrap_or_default().as_bytes());
            json.push(']');
        }),
        Arg::Touches(touches) => list(touches, |json, touch| {
            json.push('[');
            push_hex(json, touch.id.as_bytes());
            let grace_ends = touch.grace_ends.map_or_else(|| "null".to_owned(), |end| end.as_millis().to_string());
            write!(json, ",{},{grace_ends}]", touch.seen_at.as_millis()).expect("a string takes everything");
        }),
        Arg::Int(_) | Arg::Bool(_) | Arg::Text(_) | Arg::Bytes(_) | Arg::Calls(_) => String::from("[]"),
    }
}

/// An argument of one of several calls. A list among them is a text that holds a list, for a column takes no more.
fn push_json(json: &mut String, arg: &Arg) {
    match arg {
        Arg::Int(Some(number)) => write!(json, "{number}").expect("a string takes everything"),
        Arg::Bool(is_so) => json.push(if *is_so { '1' } else { '0' }),
        Arg::Text(Some(text)) => push_hex(json, text.as_bytes()),
        Arg::Bytes(Some(bytes)) => push_hex(json, bytes),
        Arg::Int(None) | Arg::Text(None) | Arg::Bytes(None) => json.push_str("null"),
        Arg::Texts(_) | Arg::ByteLists(_) | Arg::Entries(_) | Arg::Touches(_) | Arg::Calls(_) => {
            json.push('"');
            json.push_str(&json_of(arg).replace('"', "\\\""));
            json.push('"');
        }
    }
}

/// A JSON array.
fn list<T>(items: &[T], mut push: impl FnMut(&mut String, &T)) -> String {
    let mut json = String::from("[");
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            json.push(',');
        }
        push(&mut json, item);
    }
    json.push(']');
    json
}

/// Bytes as a JSON string of hexadecimal digits, as the server's `HEX` writes them.
fn push_hex(json: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    json.push('"');
    for byte in bytes {
        json.push(DIGITS[usize::from(byte >> 4)]);
        json.push(DIGITS[usize::from(byte & 15)]);
    }
    json.push('"');
}

async fn meta(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
    name: &'static str,
) -> Result<Option<Vec<u8>>, SqlError> {
    let select = format!("SELECT value FROM {namespace}_meta WHERE name = ?");
    let row = sqlx::query(AssertSqlSafe(select)).bind(name.as_bytes()).fetch_optional(connection).await?;
    row.map(|row| row.try_get_unchecked(0)).transpose()
}

/// Which version of the tables is there; 0 if none.
async fn version(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    let there = sqlx::query(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = CONCAT(?, '_meta')",
    )
    .bind(namespace.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    if there.is_none() {
        return Ok(0);
    }
    let version = meta(connection, namespace, "schema_version").await?;
    Ok(version.and_then(|version| String::from_utf8(version).ok()?.parse().ok()).unwrap_or(0))
}

/// Brings the tables up to date while other nodes wait; says which version they have then.
async fn migrate(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    // The lock belongs to the connection: where this breaks off, it goes with it.
    let lock = format!("cloakroom {namespace}");
    let got: Option<i64> = sqlx::query("SELECT GET_LOCK(CONCAT(DATABASE(), ' ', ?), ?)")
        .bind(&lock)
        .bind(PATIENCE_SECONDS)
        .fetch_one(&mut *connection)
        .await?
        .try_get_unchecked(0)?;
    if got != Some(1) {
        return Err(SqlError::PoolTimedOut);
    }
    let migrated = migrate_locked(connection, namespace).await;
    sqlx::query("DO RELEASE_LOCK(CONCAT(DATABASE(), ' ', ?))").bind(&lock).execute(&mut *connection).await?;
    migrated
}

async fn migrate_locked(connection: &mut MySqlConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    let found = version(connection, namespace).await?;
    if found >= MIGRATIONS.len() {
        return Ok(found);
    }
    sqlx::raw_sql("SET @cloakroom_mode = @@sql_mode").execute(&mut *connection).await?;
    sqlx::raw_sql(STRICT).execute(&mut *connection).await?;
    for migration in &MIGRATIONS[found..] {
        for statement in migration.split("\n%\n") {
            let statement = statement.replace('~', &format!("{namespace}_"));
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        }
    }
    sqlx::raw_sql("SET SESSION sql_mode = @cloakroom_mode").execute(&mut *connection).await?;
    let key = PartitionKey::generate().map_err(|error| SqlError::Encode(error.into()))?;
    let mut transaction = connection.begin().await?;
    let insert = format!("INSERT IGNORE INTO {namespace}_meta (name, value) VALUES ('partition_key', ?)");
    sqlx::query(AssertSqlSafe(insert)).bind(key.as_bytes().as_slice()).execute(&mut *transaction).await?;
    let insert = format!("REPLACE INTO {namespace}_meta (name, value) VALUES ('schema_version', ?)");
    let version = MIGRATIONS.len().to_string();
    sqlx::query(AssertSqlSafe(insert)).bind(version.as_bytes()).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(MIGRATIONS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mariadb_of_a_known_age_is_used() {
        for version in ["10.6.0-MariaDB", "10.11.19-MariaDB-0+deb12u1", "5.5.5-10.11.2-MariaDB-log", "11.4.2-MariaDB"] {
            assert_eq!(unusable_server(version), None, "{version}");
        }
        assert!(unusable_server("8.0.36").unwrap().contains("MySQL 8.0.36"));
        assert!(unusable_server("10.5.28-MariaDB").unwrap().contains("10.6"));
    }

    #[test]
    fn lists_are_json_of_hexadecimal_digits() {
        assert_eq!(list::<&str>(&[], |json, text| push_hex(json, text.as_bytes())), "[]");
        assert_eq!(list(&["a\"", ""], |json, text| push_hex(json, text.as_bytes())), r#"["6122",""]"#);
    }
}
