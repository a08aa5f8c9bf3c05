//! Sessions in Redis, alone, as a cluster, or behind sentinels.
//!
//! What is read is read by plain commands. Each [transaction](crate::store::slots::Transaction) is one run of one script on
//! keys of one slot, so it is atomic and takes one round trip. How things lie is told in [`keys`] and [`slot`].

mod address;
mod calls;
mod cluster_map;
mod examine;
mod feed;
mod forget;
mod health;
mod keys;
mod link;
mod list;
mod log;
mod read;
mod reply;
mod sentinels;
mod servers;
mod settings;
mod slot;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use self::{
    address::{Address, Layout},
    keys::Keys,
    servers::Servers,
};
use crate::{
    clock::Timestamp,
    error::Result,
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, Schema, Store,
        feed::{Feed, Pace},
        key::{AdoptableKey, holds_others},
        slots::{Ask, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction},
    },
    token::{PartitionKey, SessionId},
};

/// Sessions in Redis 7 or newer, or Valkey: one server, a cluster, or a primary that sentinels watch.
///
/// | address | |
/// |---|---|
/// | `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]` | one server, port 6379 and database 0 unless told otherwise |
/// | `redis-cluster://[USER:PASSWORD@]HOST:PORT?node=HOST:PORT,…` | a cluster, found through any of the nodes named |
/// | `redis-sentinel://[USER:PASSWORD@]HOST[:PORT],…/NAME[/DATABASE]` | the primary that these sentinels (port 26379 unless told otherwise) know as `NAME`, whichever it is at the time |
/// | `rediss://…`, `rediss-cluster://…`, `rediss-sentinel://…` | the same over TLS (feature `tls`), sentinels too |
///
/// | parameter | default | |
/// |---|---|---|
/// | `prefix` | `cloakroom:` | what all keys begin with; stores of different prefixes do not meet |
/// | `timeout_ms` | 5000 | how long a call may take, with all its tries |
/// | `wait_replicas` | 0 | how many replicas must have a creation, an ending, or a change of a head or of a user before it is answered |
/// | `sentinel_login` | `none` | `same`: sentinels ask for the user and password in the address, too |
/// | `tls_ca` | the system's | a PEM file: the authorities to trust in place of those whom the system trusts |
/// | `tls_cert`, `tls_key` | | PEM files: the certificate to show, where the server asks for one, and its key |
///
/// # What it promises
///
/// Each transaction is one script: nobody sees half of it, and a limit holds however many nodes sign a user in at once.
/// Sessions of one user lie in one of 1,024 groups, each in a slot of its own.
///
/// Every group is marked as this store's, and every call looks at the mark. A server that was emptied or replaced under
/// running programs is refused as [`Error::Unavailable`](crate::Error::Unavailable) until they are restarted, or it is restored.
///
/// # What it keeps
///
/// As much as Redis does. With `appendonly yes` and `appendfsync always`, what was answered survives the end of the server,
/// `kill -9` and a power failure; with `everysec` the last second may be gone; without an append-only file everything since the
/// last snapshot. When a primary fails, what its replica had not received is gone, even an ending: `wait_replicas=1` answers
/// only when a replica has it, and otherwise with [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown).
///
/// Redis must not evict: with a `maxmemory` and a policy other than `noeviction` it would drop sessions and
/// indexes as it likes. Opening warns of it, and [`ping`](Store::ping) fails. A server that is full takes no new session
/// and no new data; sessions end there, and users are disabled and deleted.
///
/// # Round trips
///
/// One a transaction and one a look. Lists of all users' sessions take two or more, and visit groups one after another;
/// forgetting visits all. A connection that was cut is made again and the call repeated, within `timeout_ms`; so is a
/// call that a cluster cannot serve while slots move or a primary is replaced.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Servers,
    keys: Keys,
    partition_key: AdoptableKey,
    /// What every group is marked with: of the partition key, and of the one taken over.
    identity: String,
    adopted_identity: OnceLock<String>,
    layout: Layout,
}

impl RedisStore {
    /// Opens the store at an address, and sets it up if it is new. A replica can be opened, to read from.
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`](crate::Error::StoreUrl) if the address cannot be used;
    /// [`Error::Unavailable`](crate::Error::Unavailable) if no server answers in time; [`Error::Store`](crate::Error::Store) if it is too
    /// old or another engine, refuses the user, or belongs to a cluster and the address does not say so.
    pub async fn open(url: &str) -> Result<Self> {
        let address = Address::parse(url)?;
        let (keys, layout) = (Keys::new(&address.prefix), address.layout.clone());
        let servers = Servers::new(address);
        let key = health::prepare(&servers, &keys).await?;
        let identity = health::identity(&key);
        let partition_key = AdoptableKey::new(key);
        let adopted_identity = OnceLock::new();
        Ok(Self { inner: Arc::new(Inner { servers, keys, partition_key, identity, adopted_identity, layout }) })
    }

    /// Which version the layout of what is stored has.
    pub(in crate::store) async fn schema(url: &str) -> Result<Schema> {
        let address = Address::parse(url)?;
        let keys = Keys::new(&address.prefix);
        health::schema(&Servers::new(address), &keys).await
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.inner.layout {
            Layout::One => "",
            Layout::Cluster => "cluster, ",
            Layout::Sentinels(_) => "sentinels, ",
        };
        write!(f, "RedisStore({kind}prefix {:?})", self.inner.keys.prefix())
    }
}

impl Store for RedisStore {
    fn partition_key(&self) -> &PartitionKey {
        &self.inner.partition_key
    }

    fn spans_groups(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(self.inner.read(asks))
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(self.inner.commit(transactions, again))
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(self.inner.touch(touches, now))
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(self.inner.list(what, after, limit))
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.inner.forget(forget))
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Box::pin(self.inner.audit(query, after, limit))
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async move { self.inner.ping().await.map(Some) })
    }

    fn peek(&self, _id: SessionId) -> Option<Option<Slot>> {
        None
    }

    fn edits_in_place(&self) -> bool {
        false
    }

    fn edit(&self, _id: SessionId, _change: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        None
    }

    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(self.inner.examine(now, repair))
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.adopt(key))
    }

    fn feed(&self, pace: &Pace) -> Option<Arc<dyn Feed>> {
        Some(Arc::new(feed::RedisFeed::of(&self.inner, pace)))
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}

impl Inner {
    /// What every group is marked with.
    fn identity(&self) -> &str {
        self.adopted_identity.get().unwrap_or(&self.identity)
    }

    async fn adopt(&self, key: &PartitionKey) -> Result<()> {
        if !self.partition_key.differs_from(key)? {
            return Ok(());
        }
        if self.holds_something().await? {
            return Err(holds_others());
        }
        health::set_partition_key(&self.servers, &self.keys, key).await?;
        let _ = self.adopted_identity.set(health::identity(key));
        self.partition_key.adopt(key);
        Ok(())
    }

    /// Whether there is a slot.
    async fn holds_something(&self) -> Result<bool> {
        use self::keys::OfGroup;
        let calls = keys::groups().map(|group| {
            let mut exist = redis::cmd("EXISTS");
            for key in [OfGroup::Index, OfGroup::Ended, OfGroup::Names] {
                exist.arg(self.keys.of_group(key, group));
            }
            calls::Call::read(keys::slot_of_group(group), exist)
        });
        Ok(self.servers.run_all(calls).await?.into_iter().any(|count| count != redis::Value::Int(0)))
    }
}
