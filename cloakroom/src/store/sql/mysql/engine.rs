//! How a MariaDB server is reached and spoken to, and what its errors mean.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use sqlx::{
    Arguments, AssertSqlSafe, Connection as _, Error as SqlError, MySql as Driver, MySqlConnection,
    error::DatabaseError,
    mysql::{MySqlArguments, MySqlConnectOptions, MySqlDatabaseError, MySqlRow},
};

use super::{super::address::Namespace, transact::Transact};
use crate::{
    error::Error,
    store::sql::{fault::Severity, flight::State, pool::Engine},
    token::SessionId,
};

/// One MariaDB server.
pub(super) struct Server {
    pub(super) namespace: Namespace,
    /// None where connections are the application's.
    options: Option<MySqlConnectOptions>,
    /// So many bytes a packet may have.
    max_allowed_packet: AtomicUsize,
}

/// What is sent.
pub(super) enum Statement {
    /// A prepared statement, in which each `?` stands for a value.
    Prepared {
        text: Arc<str>,
        args: Vec<Arg>,
    },
    /// A prepared statement that changes a row and [notes](LAST_SEEN) when it was last seen, and what is sent where there is
    /// no such row.
    Change {
        text: Arc<str>,
        args: Vec<Arg>,
        otherwise: Arc<str>,
    },
    /// Statements with their values in them.
    Text(Arc<str>),
    Transact(Transact),
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Arg {
    Int(i64),
    Bytes(Vec<u8>),
}

/// What is answered: all rows of all results, and what became of transactions.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<MySqlRow>,
    /// What a [change](Statement::Change) noted, if it found its row.
    pub(super) noted: Option<i64>,
    /// Taken out once.
    pub(super) states: std::sync::Mutex<Vec<State>>,
}

/// An assignment that changes nothing, and puts the value into the answer to a statement that has no rows.
pub(super) const LAST_SEEN: &str = "seen=LAST_INSERT_ID(seen)";

impl Arg {
    pub(super) fn id(id: SessionId) -> Self {
        Self::Bytes(id.as_bytes().to_vec())
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

/// What the account, the server's configuration or its `init_connect` may have set otherwise.
const SETTINGS: [(&str, &str); 14] = [
    ("sql_mode", "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"),
    ("autocommit", "1"),
    ("completion_type", "'NO_CHAIN'"),
    ("sql_safe_updates", "0"),
    ("sql_big_selects", "1"),
    ("sql_select_limit", "18446744073709551615"),
    ("sql_auto_is_null", "0"),
    ("sql_quote_show_create", "1"),
    ("default_regex_flags", "''"),
    ("in_predicate_conversion_threshold", "0"),
    ("lock_wait_timeout", "5"),
    ("innodb_lock_wait_timeout", "5"),
    // Longer than any call of ours waits.
    ("max_statement_time", "10"),
    ("wait_timeout", "28800"),
];

/// Under it a locking read sees what it waited for.
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE";

impl Server {
    pub(super) fn at(options: MySqlConnectOptions, namespace: Namespace) -> Self {
        Self { namespace, options: Some(options), max_allowed_packet: AtomicUsize::new(SMALLEST_PACKET) }
    }

    /// On connections of the application's.
    pub(super) fn lent(namespace: Namespace) -> Self {
        Self { namespace, options: None, max_allowed_packet: AtomicUsize::new(SMALLEST_PACKET) }
    }

    pub(super) fn is_lent(&self) -> bool {
        self.options.is_none()
    }

    /// Begins a transaction. On connections of the application's settings stay as they are.
    pub(super) fn begin(&self) -> &'static str {
        if self.is_lent() {
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;START TRANSACTION READ WRITE;"
        } else {
            "START TRANSACTION READ WRITE;"
        }
    }

    pub(super) fn set_packet(&self, bytes: usize) {
        self.max_allowed_packet.store(bytes, Ordering::Relaxed);
    }

    /// So many bytes a statement may have. What is stored by one can be read in a packet, with all that stands beside it.
    pub(super) fn packet(&self) -> usize {
        self.max_allowed_packet.load(Ordering::Relaxed).saturating_sub(16 * 1024).max(1024)
    }

    pub(super) fn too_large(&self, bytes: usize) -> Error {
        let allowed = self.max_allowed_packet.load(Ordering::Relaxed);
        let message = format!(
            "a session is too large for MariaDB: it takes a packet of {bytes} bytes, and max_allowed_packet is {allowed}. Raise \
             it on the server, or lower the largest size of a session's data"
        );
        Error::Store { message, source: None }
    }
}

/// Twice the largest session's data, as values are written down, and again as much.
pub(super) const SMALLEST_PACKET: usize = 256 * 1024;

impl Engine for Server {
    type Db = Driver;
    type Statement = Statement;
    type Answer = Answer;

    const NAME: &'static str = "MariaDB";

    async fn connect(&self) -> Result<MySqlConnection, SqlError> {
        let options = self.options.clone().unwrap_or_default();
        let mut connection = MySqlConnection::connect_with(&options).await?;
        let settings = SETTINGS.map(|(name, value)| format!("{name}={value}")).join(",");
        let set = format!("SET {settings};{ISOLATION}");
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut connection).await?;
        Ok(connection)
    }

    async fn run(&self, connection: &mut MySqlConnection, statement: &Statement) -> Result<Answer, SqlError> {
        let ran = match statement {
            Statement::Prepared { text, args } => {
                let query = sqlx::query_with(AssertSqlSafe(Arc::clone(text)), bind(args)?);
                return Ok(Answer { rows: query.fetch_all(connection).await?, ..Answer::default() });
            }
            Statement::Change { text, args, otherwise } => {
                let query = sqlx::query_with(AssertSqlSafe(Arc::clone(text)), bind(args)?);
                let changed = query.execute(&mut *connection).await?;
                if changed.rows_affected() > 0 {
                    return Ok(Answer { noted: Some(changed.last_insert_id().cast_signed()), ..Answer::default() });
                }
                rows(connection, otherwise).await
            }
            Statement::Text(text) => rows(connection, text).await,
            Statement::Transact(transact) => {
                let states = transact.run(self, connection).await;
                states.map(|states| Answer { states: states.into(), ..Answer::default() })
            }
        };
        if let Err(SqlError::Database(_) | SqlError::Decode(_)) = &ran {
            // What an error broke off in its middle is open still, and holds its locks.
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
        }
        ran
    }

    fn severity(error: &dyn DatabaseError) -> Severity {
        match number(error) {
            // Shutting down, connection killed or broken.
            1053 | 1927 | 1080 | 1152 | 1154..=1161 | 4031 => Severity::Disconnected,
            // Read-only servers and transactions, a binary log in statements; a transaction that something left open;
            // statements that are not there, or must be prepared anew.
            1290 | 1836 | 1792 | 1665 | 1568 | 1243 | 1615 => Severity::Stuck,
            // Deadlock, or overtaken by another that made the same row.
            1213 | 1062 => Severity::Undone,
            // Too many connections, no disk, no memory, lock and statement timeouts.
            1040 | 1203 | 1226 | 3 | 1021 | 1026 | 1030 | 1114 | 1037 | 1038 | 1041 | 1205 | 1317 | 1969 => {
                Severity::Unavailable
            }
            // What does not fit.
            1048 | 1264 | 1301 | 1366 | 1406 => Severity::Refused,
            _ => Severity::Broken,
        }
    }

    fn told(error: &dyn DatabaseError) -> String {
        let number = number(error);
        let advice = match number {
            1290 | 1836 => ": it is read_only, as replicas are",
            1665 => ": set binlog_format to ROW or MIXED",
            1153 | 1301 => ": raise max_allowed_packet on the server",
            _ => "",
        };
        format!("{} ({number}){advice}", error.message())
    }
}

fn number(error: &dyn DatabaseError) -> u16 {
    error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number)
}

async fn rows(connection: &mut MySqlConnection, text: &Arc<str>) -> Result<Answer, SqlError> {
    let rows = sqlx::raw_sql(AssertSqlSafe(Arc::clone(text))).fetch_all(connection).await?;
    Ok(Answer { rows, ..Answer::default() })
}

fn bind(args: &[Arg]) -> Result<MySqlArguments, SqlError> {
    let mut bound = MySqlArguments::default();
    for arg in args {
        match arg {
            Arg::Int(number) => bound.add(number),
            Arg::Bytes(bytes) => bound.add(bytes.as_slice()),
        }
        .map_err(SqlError::Encode)?;
    }
    Ok(bound)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.namespace)
    }
}
