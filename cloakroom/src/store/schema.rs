//! Which version of its tables or layout a store has.

#[cfg(feature = "file")]
use super::FileStore;
#[cfg(feature = "mysql")]
use super::MysqlStore;
#[cfg(feature = "postgres")]
use super::PostgresStore;
#[cfg(feature = "sqlite")]
use super::SqliteStore;
#[cfg(feature = "redis")]
use super::{RedisStore, open::is_redis};
use crate::error::Result;

/// Which version of its tables or layout a store has. [`open`](super::open) makes or changes what it finds into
/// `latest`, and refuses what is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The version that is there; `None` if there is no store yet.
    pub found: Option<u32>,
    /// The version that this library makes.
    pub latest: u32,
}

impl Schema {
    /// Whether a newer library was at work there, so that this one refuses it.
    pub fn is_newer(self) -> bool {
        self.found.is_some_and(|found| found > self.latest)
    }
}

/// Looks at the store at `url`, and neither makes nor changes anything. What [`open`](super::open) would refuse is an error
/// here too, but for a version that is too new.
///
/// Not for a store that this process has open: closing an SQLite file drops the locks of the whole process on it.
#[allow(clippy::unused_async, reason = "memory: opens without waiting, and may be all there is")]
pub async fn schema(url: &str) -> Result<Schema> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "memory" if rest.is_empty() => Ok(Schema { found: None, latest: 1 }),
        #[cfg(feature = "file")]
        "file" => FileStore::schema(rest).await,
        #[cfg(feature = "sqlite")]
        "sqlite" => SqliteStore::schema(rest).await,
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => PostgresStore::schema(url).await,
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => MysqlStore::schema(url).await,
        #[cfg(feature = "redis")]
        redis if is_redis(redis) => RedisStore::schema(url).await,
        // It says what is wrong with the address.
        _ => super::open(url).await.map(|_| Schema { found: None, latest: 1 }),
    }
}
