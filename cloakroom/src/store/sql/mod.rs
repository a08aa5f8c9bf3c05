//! SQL databases: one layout of tables, and a dialect for each database.
//!
//! A session is one row, and each of its values is one more, so a change writes the keys it names and nothing else.
//! Tombstones, fences of users and the audit log have tables of their own.

#[cfg(any(feature = "postgres", feature = "mysql"))]
mod address;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod checks;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod fault;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod remote;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "mysql")]
pub use mysql::MysqlStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use remote::SqlStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
