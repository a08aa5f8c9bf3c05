//! SQL databases.
//!
//! What PostgreSQL and MariaDB have in common stands here: [connections](pool), [what travels together](flight), [how data
//! are kept](super::packed) and [what rows mean](rows).

#[cfg(any(feature = "postgres", feature = "mysql"))]
mod address;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod fault;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod flight;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod lists;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod loads;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod plain;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "mysql")]
pub use mysql::MysqlStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
