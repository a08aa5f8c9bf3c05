//! From an address to a store.

use std::sync::Arc;

#[cfg(feature = "file")]
use super::FileStore;
#[cfg(feature = "mysql")]
use super::MysqlStore;
#[cfg(feature = "postgres")]
use super::PostgresStore;
#[cfg(feature = "redis")]
use super::RedisStore;
#[cfg(feature = "sqlite")]
use super::SqliteStore;
use super::{MemoryStore, Store};
use crate::error::{Error, Result};

/// Opens the store at `url`. See the [table](super) for addresses.
///
/// A scheme that is known but was not compiled in is an error that names the feature to enable.
#[allow(clippy::unused_async, reason = "memory: opens without waiting, and may be all there is")]
pub async fn open(url: &str) -> Result<Arc<dyn Store>> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "memory" if rest.is_empty() => Ok(Arc::new(MemoryStore::new()?)),
        "memory" => Err(Error::StoreUrl("memory: takes nothing behind the colon".into())),
        #[cfg(feature = "file")]
        "file" => Ok(Arc::new(FileStore::open(rest).await?)),
        #[cfg(not(feature = "file"))]
        "file" => Err(Error::StoreUrl(
            "file: needs the feature \"file\" of the crate cloakroom: cargo add cloakroom --features file".into(),
        )),
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Arc::new(SqliteStore::open(rest).await?)),
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => Err(Error::StoreUrl(
            "sqlite: needs the feature \"sqlite\" of the crate cloakroom: cargo add cloakroom --features sqlite".into(),
        )),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Arc::new(PostgresStore::open(url).await?)),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(Error::StoreUrl(format!(
            "{scheme}: needs the feature \"postgres\" of the crate cloakroom: cargo add cloakroom --features postgres"
        ))),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => Ok(Arc::new(MysqlStore::open(url).await?)),
        #[cfg(not(feature = "mysql"))]
        "mysql" | "mariadb" => Err(Error::StoreUrl(format!(
            "{scheme}: needs the feature \"mysql\" of the crate cloakroom: cargo add cloakroom --features mysql"
        ))),
        #[cfg(feature = "redis")]
        redis if is_redis(redis) => Ok(Arc::new(RedisStore::open(url).await?)),
        #[cfg(not(feature = "redis"))]
        redis if is_redis(redis) => Err(Error::StoreUrl(format!(
            "{scheme}: needs the feature \"redis\" of the crate cloakroom: cargo add cloakroom --features redis"
        ))),
        _ => Err(Error::StoreUrl(format!(
            "{scheme:?} is not a store address: use memory:, file:DIRECTORY, sqlite:FILE such as sqlite:sessions.db, \
             postgres://USER:PASSWORD@HOST/DATABASE, mysql://USER:PASSWORD@HOST/DATABASE, redis://HOST:PORT, \
             redis-cluster://HOST:PORT or redis-sentinel://HOST:PORT,HOST:PORT/NAME"
        ))),
    }
}

/// Whether it is one of the ways to reach a Redis: with TLS or without, alone, a cluster, or through sentinels.
pub(super) fn is_redis(scheme: &str) -> bool {
    let layout = scheme.strip_prefix("rediss").or_else(|| scheme.strip_prefix("redis"));
    matches!(layout, Some("" | "-cluster" | "-sentinel"))
}
