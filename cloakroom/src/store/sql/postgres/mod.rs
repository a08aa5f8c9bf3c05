//! Sessions in PostgreSQL.

mod examine;

use std::{fmt::Write, sync::Arc};

use sqlx::{
    Arguments, AssertSqlSafe, Connection, Error as SqlError, PgConnection, PgPool, Postgres as Driver, Row,
    error::{BoxDynError, DatabaseError},
    postgres::{PgArguments, PgRow},
};

use super::remote::{Address, Arg, Dialect, Namespace, Opened, Severity, SqlStore, if_there, numbered};
use crate::{
    PartitionKey, Result, Timestamp,
    store::{Finding, Schema, sql::checks::hex},
};

/// Sessions in a PostgreSQL database, version 13 or newer, shared by any number of nodes.
///
/// Every call is one stored function, so one round trip and one transaction: limits are exact whichever nodes people sign in
/// through, and nothing waits in a circle. Changes that arrive together travel together: one statement, one transaction, each
/// with its own answer. Values are rows of their own, so a change writes the keys it names. The
/// functions and tables are made when the store is first opened, by one node while the others wait, in a schema called
/// `cloakroom` unless told otherwise; names carry the version, so that nodes of two versions can run side by side.
///
/// What was answered survives the end of this process, of the server and of its machine, as PostgreSQL's settings have
/// it: with `fsync` and `synchronous_commit` on, as they are unless somebody changed them, also a power failure; with
/// `synchronous_commit = off` the last moments before a crash of the server are lost, each call whole or not at all.
///
/// A call that gets no connection within 2 s is [`Unavailable`](crate::Error::Unavailable); one that gets no answer
/// within 5 s is too, or, if it writes, [`OutcomeUnknown`](crate::Error::OutcomeUnknown). Where a connection breaks, the
/// call is repeated on another. Nothing is kept on a connection beside prepared statements, so PgBouncer should be able to
/// stand in between in transaction mode where it knows those (1.21 or newer); no test has run there.
///
/// The audit log shows an entry once every transaction that was under way on the server when it was written is over.
/// A transaction of somebody else's that stays open for hours delays it as long; nothing is lost.
pub type PostgresStore = SqlStore<Postgres>;

impl PostgresStore {
    /// Opens `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with connections of its own. Beside the driver's parameters
    /// (`sslmode`, `sslrootcert`, …) an address takes `schema` (`cloakroom`; a to z, 0 to 9 and _) and
    /// `max_connections` (10).
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`](crate::Error::StoreUrl) if the address cannot be used;
    /// [`Error::Unavailable`](crate::Error::Unavailable) if the server cannot be reached;
    /// [`Error::Store`](crate::Error::Store) if it is too old, refuses us, or holds sessions of a newer version.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_address(Address::parse(url, "schema")?).await
    }

    /// Which version the tables have.
    pub(in crate::store) async fn schema(url: &str) -> Result<Schema> {
        Self::schema_at(Address::parse(url, "schema")?).await
    }

    /// Uses the application's own pool, and the schema `cloakroom`. The pool decides how long to wait for a connection. After
    /// each call it asks the server whether the connection is still alive, and before each call unless
    /// `test_before_acquire(false)` is set, which spares a round trip.
    ///
    /// Errors as [`open`](Self::open).
    pub async fn from_pool(pool: PgPool) -> Result<Self> {
        Self::open_pool(pool, Namespace::default()).await
    }

    /// As [`from_pool`](Self::from_pool), in another schema: a to z, 0 to 9 and _.
    pub async fn from_pool_in(pool: PgPool, schema: &str) -> Result<Self> {
        Self::open_pool(pool, Namespace::new(schema)?).await
    }
}

/// The dialect of PostgreSQL.
#[derive(Debug)]
pub struct Postgres;

/// What makes version `n` of the schema out of the one before.
const MIGRATIONS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// The oldest version with 64-bit transaction numbers, as the server writes it.
const OLDEST: i32 = 130_000;

impl Dialect for Postgres {
    type Db = Driver;

    const NAME: &'static str = "PostgreSQL";

    fn statement(namespace: &Namespace, routine: &str, args: &[Arg]) -> String {
        let places: Vec<_> = (1..=places(args)).map(|place| format!("${place}")).collect();
        format!("SELECT * FROM \"{namespace}\".{}({})", numbered(routine), places.join(", "))
    }

    async fn run(connection: &mut PgConnection, statement: Arc<str>, args: &[Arg]) -> Result<Vec<PgRow>, SqlError> {
        sqlx::query_with(AssertSqlSafe(statement), bind(args)?).fetch_all(connection).await
    }

    fn prepare(namespace: &Namespace, statement: &str) -> String {
        let mut prepared = String::with_capacity(statement.len() * 2);
        let mut place = 0;
        for character in statement.chars() {
            match character {
                '~' => write!(prepared, "\"{namespace}\"."),
                '?' => {
                    place += 1;
                    write!(prepared, "${place}")
                }
                other => prepared.write_char(other),
            }
            .expect("a string takes everything");
        }
        prepared
    }

    const BEGIN_READ: &'static [&'static str] = &["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"];
    const BEGIN_WRITE: &'static [&'static str] = &["BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"];

    const SESSION_COLUMNS: &'static [(&'static str, &'static str)] =
        &[("logged_in", "pg_current_xact_id()::text::bigint")];

    const KEEP_DISABLED: &'static str = "ON CONFLICT DO NOTHING";
    const KEEP_LATER_FENCE: &'static str = "ON CONFLICT (user_id) DO UPDATE SET \
        ended_before = greatest(user_fence.ended_before, excluded.ended_before)";

    async fn command(connection: &mut PgConnection, command: &'static str) -> Result<(), SqlError> {
        sqlx::raw_sql(command).execute(connection).await.map(drop)
    }

    const LATEST: usize = MIGRATIONS.len();

    async fn find_version(connection: &mut PgConnection, namespace: &Namespace) -> Result<usize, SqlError> {
        version(connection, namespace).await
    }

    async fn open(connection: &mut PgConnection, namespace: &Namespace) -> Result<Opened, SqlError> {
        let server: i32 = sqlx::query("SELECT current_setting('server_version_num')::int")
            .fetch_one(&mut *connection)
            .await?
            .try_get(0)?;
        if server < OLDEST {
            let (server, oldest) = (server / 10_000, OLDEST / 10_000);
            return Ok(Opened::Unusable(format!(
                "PostgreSQL {server} is too old: {oldest} is the oldest that will do"
            )));
        }
        let mut version = version(connection, namespace).await?;
        if version < MIGRATIONS.len() {
            version = migrate(connection, namespace).await?;
        }
        if version > MIGRATIONS.len() {
            return Ok(Opened::Unusable(format!(
                "schema {namespace} is of version {version}, and this program knows none beyond {}: use a newer program",
                MIGRATIONS.len()
            )));
        }
        let opened =
            sqlx::query(AssertSqlSafe(Self::statement(namespace, "open", &[]))).fetch_optional(connection).await?;
        let key: Option<Vec<u8>> = opened.map(|row| row.try_get(0)).transpose()?;
        Ok(match key.and_then(|key| key.try_into().ok()) {
            Some(key) => Opened::Ready(PartitionKey::from_bytes(key)),
            None => {
                Opened::Unusable(format!("schema {namespace} has lost its partition key: restore it from a backup"))
            }
        })
    }

    fn table(namespace: &Namespace, name: &str) -> String {
        format!("\"{namespace}\".{name}")
    }

    fn literal(bytes: &[u8]) -> String {
        format!("'\\x{}'::bytea", hex(bytes))
    }

    async fn execute(connection: &mut PgConnection, statement: String) -> Result<u64, SqlError> {
        Ok(sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?.rows_affected())
    }

    async fn examine(
        connection: &mut PgConnection,
        namespace: &Namespace,
        max_connections: u32,
        repair: bool,
    ) -> Result<Vec<Finding>, SqlError> {
        examine::examine(connection, namespace, max_connections, repair).await
    }

    fn severity(code: &str, _number: Option<u16>) -> Severity {
        match code {
            // Shut down, crashed or starting; broken connections.
            "57P01" | "57P02" | "57P03" | "57P05" => Severity::Disconnected,
            code if code.starts_with("08") => Severity::Disconnected,
            "40P01" | "40001" => Severity::Undone,
            // Read-only standby, lock and statement timeouts.
            "25006" | "55P03" | "57014" => Severity::Unavailable,
            // No disk, memory or connections.
            code if code.starts_with("53") => Severity::Unavailable,
            _ => Severity::Broken,
        }
    }

    fn number(_error: &dyn DatabaseError) -> Option<u16> {
        None
    }

    fn int(row: &PgRow, column: &str) -> Result<Option<i64>, SqlError> {
        if_there(row.try_get_unchecked(column))
    }

    fn text(row: &PgRow, column: &str) -> Result<Option<Arc<str>>, SqlError> {
        Ok(if_there::<String>(row.try_get_unchecked(column))?.map(Into::into))
    }

    fn bytes(row: &PgRow, column: &str) -> Result<Option<Vec<u8>>, SqlError> {
        if_there(row.try_get_unchecked(column))
    }

    fn bool(row: &PgRow, column: &str) -> Result<Option<bool>, SqlError> {
        if_there(row.try_get_unchecked(column))
    }
}

/// How many parameters these are.
fn places(args: &[Arg]) -> usize {
    let places = args.iter().map(|arg| match arg {
        Arg::Entries(_) => 2,
        Arg::Touches(_) => 3,
        Arg::Calls(calls) => {
            let counts = calls[0].iter().filter(|arg| matches!(arg, Arg::Texts(_) | Arg::Entries(_))).count();
            places(&calls[0]) + counts
        }
        _ => 1,
    });
    places.sum()
}

fn bind(args: &[Arg]) -> Result<PgArguments, SqlError> {
    let mut bound = PgArguments::default();
    for arg in args {
        match arg {
            Arg::Int(number) => bound.add(number),
            Arg::Bool(is_so) => bound.add(is_so),
            Arg::Text(text) => bound.add(text.as_deref()),
            Arg::Bytes(bytes) => bound.add(bytes.as_deref()),
            Arg::Texts(texts) => bound.add(texts.iter().map(|text| &**text).collect::<Vec<&str>>()),
            Arg::ByteLists(lists) => bound.add(lists),
            Arg::Entries(entries) => {
                let keys: Vec<_> = entries.iter().map(|(key, _)| &**key).collect();
                let values: Vec<_> = entries.iter().map(|(_, value)| value.as_deref()).collect();
                bound.add(keys).and_then(|()| bound.add(values))
            }
            Arg::Touches(touches) => {
                let ids: Vec<_> = touches.iter().map(|touch| touch.id.as_bytes().as_slice()).collect();
                let seen_at: Vec<_> = touches.iter().map(|touch| touch.seen_at.as_millis()).collect();
                let grace_ends: Vec<_> =
                    touches.iter().map(|touch| touch.grace_ends.map(Timestamp::as_millis)).collect();
                bound.add(ids).and_then(|()| bound.add(seen_at)).and_then(|()| bound.add(grace_ends))
            }
            Arg::Calls(calls) => (0..calls[0].len()).try_for_each(|place| bind_column(&mut bound, calls, place)),
        }
        .map_err(SqlError::Encode)?;
    }
    Ok(bound)
}

/// The arguments that several calls have in one place, as an array. Lists are joined: how long each is follows them.
fn bind_column(bound: &mut PgArguments, calls: &[Arc<[Arg]>], place: usize) -> Result<(), BoxDynError> {
    fn all<'a, T>(calls: &'a [Arc<[Arg]>], place: usize, take: impl Fn(&'a Arg) -> Option<T>) -> Vec<T> {
        calls.iter().filter_map(|args| take(&args[place])).collect()
    }
    macro_rules! all {
        ($kind:ident, $value:ident => $taken:expr) => {
            all(calls, place, |arg| if let Arg::$kind($value) = arg { Some($taken) } else { None })
        };
    }
    match &calls[0][place] {
        Arg::Int(_) => bound.add(all!(Int, number => *number)),
        Arg::Bool(_) => bound.add(all!(Bool, is_so => *is_so)),
        Arg::Text(_) => bound.add(all!(Text, text => text.as_deref())),
        Arg::Bytes(_) => bound.add(all!(Bytes, bytes => bytes.as_deref())),
        Arg::Texts(_) => {
            let lists = all!(Texts, texts => texts);
            bound.add(lists.iter().flat_map(|texts| texts.iter()).map(|text| &**text).collect::<Vec<&str>>())?;
            bound.add(lists.iter().map(|texts| count(texts)).collect::<Vec<i64>>())
        }
        Arg::Entries(_) => {
            let lists = all!(Entries, entries => entries);
            let entries = || lists.iter().flat_map(|entries| entries.iter());
            bound.add(entries().map(|(key, _)| &**key).collect::<Vec<&str>>())?;
            bound.add(entries().map(|(_, value)| value.as_deref()).collect::<Vec<Option<&str>>>())?;
            bound.add(lists.iter().map(|entries| count(entries)).collect::<Vec<i64>>())
        }
        Arg::ByteLists(_) | Arg::Touches(_) | Arg::Calls(_) => Err("no routine takes lists of these".into()),
    }
}

fn count<T>(items: &[T]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

/// Which version of the schema is there; 0 if none.
async fn version(connection: &mut PgConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    // Not to_regclass: within a transaction it may remember that there was nothing.
    let meta = "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                WHERE nspname = $1 AND relname = 'meta')";
    let is_there: bool = sqlx::query(meta).bind(namespace.as_str()).fetch_one(&mut *connection).await?.try_get(0)?;
    if !is_there {
        return Ok(0);
    }
    let select =
        format!("SELECT convert_from(value, 'UTF8')::int FROM \"{namespace}\".meta WHERE name = 'schema_version'");
    let version: Option<i32> =
        sqlx::query(AssertSqlSafe(select)).fetch_optional(connection).await?.map(|row| row.try_get(0)).transpose()?;
    Ok(version.and_then(|version| usize::try_from(version).ok()).unwrap_or(0))
}

/// Brings the schema up to date in one transaction, while other nodes wait; says which version it has then.
async fn migrate(connection: &mut PgConnection, namespace: &Namespace) -> Result<usize, SqlError> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('cloakroom schema ' || $1, 0))")
        .bind(namespace.as_str())
        .execute(&mut *transaction)
        .await?;
    let found = version(&mut transaction, namespace).await?;
    if found >= MIGRATIONS.len() {
        return Ok(found);
    }
    // To make a schema takes a right that using one does not.
    let has_schema: bool = sqlx::query("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(namespace.as_str())
        .fetch_one(&mut *transaction)
        .await?
        .try_get(0)?;
    if !has_schema {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA \"{namespace}\""))).execute(&mut *transaction).await?;
    }
    for migration in &MIGRATIONS[found..] {
        let migration = migration.replace('~', &format!("\"{namespace}\"."));
        sqlx::raw_sql(AssertSqlSafe(migration)).execute(&mut *transaction).await?;
    }
    let key = PartitionKey::generate().map_err(|error| SqlError::Encode(error.into()))?;
    let entry = format!(
        "INSERT INTO \"{namespace}\".meta (name, value) VALUES ('partition_key', $1), ('schema_version', $2) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE meta.name = 'schema_version'"
    );
    sqlx::query(AssertSqlSafe(entry))
        .bind(key.as_bytes().as_slice())
        .bind(MIGRATIONS.len().to_string().into_bytes())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(MIGRATIONS.len())
}
