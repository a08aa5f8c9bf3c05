//! SQL databases: one layout of tables, and a dialect for each database.
//!
//! A session is one row, and each of its values is one more, so a change writes the keys it names and nothing else.
//! Tombstones, fences of users and the audit log have tables of their own.

mod rows;
mod sqlite;

pub use sqlite::SqliteStore;
