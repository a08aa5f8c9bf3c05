//! Every store in this process, and every wrapper, passes the whole suite.

#[cfg(feature = "file")]
mod file;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::Arc;

use cloakroom::{
    store::{MemoryStore, Store},
    testing::{SpyStore, conformance},
};

conformance!(mod memory: MemoryStore::new().unwrap());
cloakroom::testing::slots!(mod slots: MemoryStore::new().unwrap());
conformance!(mod shared: Arc::new(MemoryStore::new().unwrap()) as Arc<dyn Store>);
conformance!(mod remote: SpyStore::remote(MemoryStore::new().unwrap()));
