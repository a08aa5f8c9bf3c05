//! What differs between database servers.

use std::{fmt, future::Future, sync::Arc};

use sqlx::{Database, Error as SqlError};

use super::{Arg, Namespace};
use crate::{PartitionKey, store::Finding};

/// A kind of database server. Not to be implemented elsewhere.
pub trait Dialect: fmt::Debug + Send + Sync + Sized + 'static {
    /// The driver.
    type Db: Database;

    /// What it is called.
    const NAME: &'static str;

    /// A statement that calls a routine.
    fn statement(namespace: &Namespace, routine: &str, args: &[Arg]) -> String;

    /// Runs a statement to its very end; the answer is all rows of all its results.
    fn run(
        connection: &mut <Self::Db as Database>::Connection,
        statement: Arc<str>,
        args: &[Arg],
    ) -> impl Future<Output = Result<Vec<<Self::Db as Database>::Row>, SqlError>> + Send;

    /// A statement of ours: `~` stands for what our tables begin with, `?` for a value.
    fn prepare(namespace: &Namespace, statement: &str) -> String;

    /// What begins a transaction that sees one state of the database, and one that sees what it waited for.
    const BEGIN_READ: &'static [&'static str];
    /// As [`BEGIN_READ`](Self::BEGIN_READ).
    const BEGIN_WRITE: &'static [&'static str];

    /// Columns of a session that are about this database alone, and what they begin with.
    const SESSION_COLUMNS: &'static [(&'static str, &'static str)];

    /// Ends the insertion of a user who may be disabled already.
    const KEEP_DISABLED: &'static str;
    /// Ends the insertion of a fence where there may be one already.
    const KEEP_LATER_FENCE: &'static str;

    /// Runs a command that has neither values nor an answer.
    fn command(
        connection: &mut <Self::Db as Database>::Connection,
        command: &'static str,
    ) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// The version of the schema that this library makes.
    const LATEST: usize;

    /// Which version of the schema is there; 0 if none.
    fn find_version(
        connection: &mut <Self::Db as Database>::Connection,
        namespace: &Namespace,
    ) -> impl Future<Output = Result<usize, SqlError>> + Send;

    /// Looks whether the server is one we know, brings the schema up to date, and reads the partition key. Safe on
    /// any number of nodes at once.
    fn open(
        connection: &mut <Self::Db as Database>::Connection,
        namespace: &Namespace,
    ) -> impl Future<Output = Result<Opened, SqlError>> + Send;

    /// The table of that name, as statements write it.
    fn table(namespace: &Namespace, name: &str) -> String;

    /// Bytes as statements write them.
    fn literal(bytes: &[u8]) -> String;

    /// Runs a statement without parameters; how many rows it changed.
    fn execute(
        connection: &mut <Self::Db as Database>::Connection,
        statement: String,
    ) -> impl Future<Output = Result<u64, SqlError>> + Send;

    /// Looks at the server's settings, and at whether tables, indexes and routines are as they were made; with `repair`
    /// mends those. The connection is not used for anything else any more.
    fn examine(
        connection: &mut <Self::Db as Database>::Connection,
        namespace: &Namespace,
        max_connections: u32,
        repair: bool,
    ) -> impl Future<Output = Result<Vec<Finding>, SqlError>> + Send;

    /// What an error's code means.
    fn severity(code: &str, number: Option<u16>) -> Severity;

    /// The server's number of an error, where it has one.
    fn number(error: &dyn sqlx::error::DatabaseError) -> Option<u16>;

    /// A column of a row, by name; `None` if it is null or the row has no such column.
    fn int(row: &<Self::Db as Database>::Row, column: &str) -> Result<Option<i64>, SqlError>;
    /// As [`int`](Self::int).
    fn text(row: &<Self::Db as Database>::Row, column: &str) -> Result<Option<Arc<str>>, SqlError>;
    /// As [`int`](Self::int).
    fn bytes(row: &<Self::Db as Database>::Row, column: &str) -> Result<Option<Vec<u8>>, SqlError>;
    /// As [`int`](Self::int).
    fn bool(row: &<Self::Db as Database>::Row, column: &str) -> Result<Option<bool>, SqlError>;
}

/// What opening found.
#[derive(Debug)]
pub enum Opened {
    /// All is well.
    Ready(PartitionKey),
    /// The server or what it holds cannot be used; what is wrong, and what to do.
    Unusable(String),
}

/// What can be done about an error that the server reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The connection is lost, and with it what was under way.
    Disconnected,
    /// The server undid the call for the sake of others; it may be repeated.
    Undone,
    /// The server is short of something; later it may work.
    Unavailable,
    /// Somebody must look.
    Broken,
}

/// A routine's name with the number of the schema that made it.
pub(in crate::store::sql) fn numbered(routine: &str) -> String {
    let schema = match routine {
        "user" | "users" | "put_user" => 2,
        _ => 1,
    };
    format!("{routine}_{schema}")
}

/// The value, if the row has such a column.
pub(in crate::store::sql) fn if_there<T>(value: Result<Option<T>, SqlError>) -> Result<Option<T>, SqlError> {
    match value {
        Err(SqlError::ColumnNotFound(_)) => Ok(None),
        value => value,
    }
}
