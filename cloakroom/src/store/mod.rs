//! Where sessions live.
//!
//! A [`Store`] keeps records, tombstones, the fences of users and the audit log. Applications never call one: they open
//! it and hand it to [`Sessions`](crate::Sessions).
//!
//! | address | store | feature |
//! |---|---|---|
//! | `memory:` | [`MemoryStore`]: gone when the process ends | always there |
//! | `file:sessions` | [`FileStore`]: a JSON file a session, in one directory | `file` |
//! | `sqlite:sessions.db` | [`SqliteStore`]: one file on this machine | `sqlite` |
//! | `postgres://user:password@host/database` | [`PostgresStore`]: PostgreSQL 13 or newer | `postgres` |
//! | `mysql://user:password@host/database` | [`MysqlStore`]: MariaDB 10.6 or newer | `mysql` |
//! | `redis://HOST:PORT` · `redis-cluster://HOST:PORT` · `redis-sentinel://HOST:PORT,HOST:PORT/NAME` | `RedisStore`: in Redis 7, a cluster, or behind sentinels | `redis` |
//!
//! # Writing a store
//!
//! Implement [`Store`], which keeps slots, merges data and commits transactions, and knows no rule
//! of sessions: those stand once, above it, and make every such store a [`Store`]. Then mount two suites on it (feature
//! `testing`): `cloakroom::slots!` looks at what it keeps, `cloakroom::conformance!` at what sessions do on it.
//!
#![cfg_attr(
    not(feature = "file"),
    doc = "[`FileStore`]: https://docs.rs/cloakroom/latest/cloakroom/store/struct.FileStore.html"
)]
#![cfg_attr(
    not(feature = "mysql"),
    doc = "[`MysqlStore`]: https://docs.rs/cloakroom/latest/cloakroom/store/struct.MysqlStore.html"
)]
#![cfg_attr(
    not(feature = "postgres"),
    doc = "[`PostgresStore`]: https://docs.rs/cloakroom/latest/cloakroom/store/struct.PostgresStore.html"
)]
#![cfg_attr(
    not(feature = "sqlite"),
    doc = "[`SqliteStore`]: https://docs.rs/cloakroom/latest/cloakroom/store/struct.SqliteStore.html"
)]

#[cfg(any(feature = "mysql", feature = "postgres"))]
mod batcher;
mod directory;
#[cfg(any(feature = "file", feature = "mysql", feature = "sqlite"))]
mod embedded;
mod examine;
pub mod feed;
#[cfg(feature = "file")]
mod file;
pub(crate) mod forward;
pub mod head;
mod key;
mod memory;
mod near;
mod open;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
mod packed;
mod pages;
#[cfg(any(feature = "file", feature = "sqlite"))]
mod place;
#[cfg(feature = "redis")]
mod redis;
mod schema;
mod sealed;
pub mod slots;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sql;

pub use crate::{
    change::{Applied, Fields},
    future::BoxFuture,
    lease::Lease,
    record::{Extra, RecentChanges},
    seal::RecordKeys,
    secrets::{Predecessor, Presented, Secrets},
    token::{Digest, Partition, PartitionKey},
};
pub use directory::{LastSignIn, Put, PutUser, StoredUser};
pub(crate) use examine::Damage;
pub use examine::{Finding, Severity};
#[cfg(feature = "file")]
pub use file::FileStore;
pub use memory::MemoryStore;
pub use near::{NearCache, NearFigures, NearStore};
pub use open::open;
pub use pages::{AuditQuery, Cursor, Logged, Page, Query};
#[cfg(feature = "redis")]
pub use redis::RedisStore;
pub use schema::{Schema, schema};
pub use sealed::SealedStore;
pub use slots::Store;
#[cfg(feature = "mysql")]
pub use sql::MysqlStore;
#[cfg(feature = "postgres")]
pub use sql::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sql::SqliteStore;
