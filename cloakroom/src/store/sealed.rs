//! A store whose records are sealed: it puts a seal into what it creates, and shows no record whose seal does not hold.
//!
//! The seal is an entry of the record's data, so every store can keep it. Nobody above this one ever sees it, nor
//! does it count towards the limit of the data's size.

use std::{sync::Arc, time::Duration};

use crate::{
    AuditEntry, Change, Ending, Error, Json, JsonRef, PartitionKey, Record, Result, SessionId, SessionInfo, Timestamp,
    seal::{SEAL_KEY, Seals},
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Examine, Finding, Gone, Imported, Item,
        Loaded, Locked, Locks, Logged, Page, PutUser, Query, Reap, Reaped, Rotated, Rotation, Store, StoredUser, Touch,
        Transfer, Updated, Which,
    },
};

/// How often a change that needs another seal is sent when others change what the seal covers meanwhile.
const MAX_ATTEMPTS: u32 = 32;

#[derive(Debug)]
pub(crate) struct SealedStore {
    inner: Arc<dyn Store>,
    seals: Arc<Seals>,
}

impl SealedStore {
    pub(crate) fn new(inner: Arc<dyn Store>, seals: Arc<Seals>) -> Self {
        Self { inner, seals }
    }

    /// The record without its seal; none if the seal does not hold.
    fn open(&self, id: SessionId, record: Arc<Record>) -> Option<Arc<Record>> {
        let seal = record.data.get(SEAL_KEY);
        if record.info.id != id || !seal.is_some_and(|seal| self.seals.made(seal, &record.info)) {
            tracing::error!(
                session = %id,
                "the session's row in the store is forged, or was sealed with a key that is not configured: it is refused"
            );
            return None;
        }
        let mut record = Arc::unwrap_or_clone(record);
        record.data.remove(SEAL_KEY);
        Some(Arc::new(record))
    }

    fn open_loaded(&self, id: SessionId, loaded: Loaded) -> Loaded {
        match loaded {
            Loaded::Live(record) => self.open(id, record).map_or(Loaded::Unknown, Loaded::Live),
            Loaded::Ended(_) | Loaded::Unknown => loaded,
        }
    }

    fn open_updated(&self, id: SessionId, updated: Updated) -> Updated {
        let forged = Updated::Gone(Gone::Unknown);
        match updated {
            Updated::Applied(record) => self.open(id, record).map_or(forged, Updated::Applied),
            Updated::Conflict(record) => self.open(id, record).map_or(forged, Updated::Conflict),
            Updated::TooLarge(size) => Updated::TooLarge(size.saturating_sub(Seals::size())),
            Updated::LeaseLost | Updated::Gone(_) => updated,
        }
    }

    /// A change after which the seal is another one, or would be gone. The new one is made over a record whose own
    /// seal held, and stored only where that one still is.
    async fn update_with_seal(&self, id: SessionId, mut change: Change, now: Timestamp) -> Result<Updated> {
        let mut stored = match self.inner.load(id, now).await? {
            Loaded::Live(record) => record,
            Loaded::Ended(tombstone) => return Ok(Updated::Gone(Gone::Ended(tombstone.ended.clone()))),
            Loaded::Unknown => return Ok(Updated::Gone(Gone::Unknown)),
        };
        for _ in 0..MAX_ATTEMPTS {
            let held = stored.data.get(SEAL_KEY).map(JsonRef::to_json);
            let Some(record) = self.open(id, stored) else { return Ok(Updated::Gone(Gone::Unknown)) };
            let mut info = record.info.clone();
            change.fields.apply_to(&mut info);
            change.set(SEAL_KEY, self.seals.seal(&info));
            change.relied_on.insert(SEAL_KEY.into(), held.clone());
            match self.inner.update(id, &change, now).await? {
                Updated::Conflict(fresh) if fresh.data.get(SEAL_KEY) != held.as_ref().map(Json::as_ref) => {
                    stored = fresh;
                }
                updated => return Ok(self.open_updated(id, updated)),
            }
        }
        Err(Error::Contended { attempts: MAX_ATTEMPTS })
    }
}

fn names_the_seal(change: &Change) -> bool {
    change.set.contains_key(SEAL_KEY) || change.remove.contains(SEAL_KEY) || change.relied_on.contains_key(SEAL_KEY)
}

#[deny(clippy::missing_trait_methods)]
impl Store for SealedStore {
    fn partition_key(&self) -> &PartitionKey {
        self.inner.partition_key()
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        let mut create = create.clone();
        create.record.data.insert(SEAL_KEY, self.seals.seal(&create.record.info));
        Box::pin(async move { self.inner.create(&create, now).await })
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(async move { Ok(self.open_loaded(id, self.inner.load(id, now).await?)) })
    }

    fn peek(&self, id: SessionId, now: Timestamp) -> Option<Loaded> {
        Some(self.open_loaded(id, self.inner.peek(id, now)?))
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        Box::pin(async move {
            if names_the_seal(change) {
                let problem = "it contains a control character".into();
                return Err(Error::InvalidKey { key: SEAL_KEY.into(), problem });
            }
            let mut change = change.clone();
            change.max_data_bytes = change.max_data_bytes.saturating_add(Seals::size());
            // What the caller knows has no seal.
            change.known = None;
            if change.remove_all || Seals::covers(&change.fields) {
                return self.update_with_seal(id, change, now).await;
            }
            Ok(self.open_updated(id, self.inner.update(id, &change, now).await?))
        })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        self.inner.touch(touches, now)
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        Box::pin(async move {
            let forged = Rotated::Gone(Gone::Unknown);
            Ok(match self.inner.rotate(id, rotation, now).await? {
                Rotated::Rotated(record) => self.open(id, record).map_or(forged, Rotated::Rotated),
                Rotated::Superseded(record) => self.open(id, record).map_or(forged, Rotated::Superseded),
                gone @ Rotated::Gone(_) => gone,
            })
        })
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        self.inner.end(which, ending, now)
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        self.inner.log(entry, now)
    }

    fn enable_user<'a>(&'a self, user: &'a str, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        self.inner.enable_user(user, now)
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        self.inner.find(query, after, limit, now)
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        self.inner.reap(reap, now)
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        self.inner.audit(query, after, limit)
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        self.inner.ping()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Directory for SealedStore {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        self.inner.user(user)
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        self.inner.put_user(put)
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        self.inner.users(after, limit)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Locks for SealedStore {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        Box::pin(async move {
            Ok(match self.inner.lock(id, lease, now).await? {
                Locked::Granted(record) => self.open(id, record).map_or(Locked::Gone(Gone::Unknown), Locked::Granted),
                other @ (Locked::Held { .. } | Locked::Gone(_)) => other,
            })
        })
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        self.inner.renew(id, number, lease, now)
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        self.inner.unlock(id, number, now)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Examine for SealedStore {
    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.inner.examine(now, repair)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Transfer for SealedStore {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        Box::pin(async move {
            let Page { items, next } = self.inner.export(after, limit).await?;
            let items = items.into_iter().filter_map(|item| match item {
                Item::Session(record) => self.open(record.info.id, record).map(Item::Session),
                other @ (Item::Ended(_) | Item::Fence(_)) => Some(other),
            });
            Ok(Page { items: items.collect(), next })
        })
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        Box::pin(async move {
            let mut sealed = items.to_vec();
            for item in &mut sealed {
                if let Item::Session(record) = item {
                    let record = Arc::make_mut(record);
                    record.data.insert(SEAL_KEY, self.seals.seal(&record.info));
                }
            }
            self.inner.import(&sealed).await
        })
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        self.inner.adopt_partition_key(key)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn sealed() -> SealedStore {
        let seals = Seals::new(&[1; 32], &[[2; 32]]);
        SealedStore::new(Arc::new(MemoryStore::new().unwrap()), Arc::new(seals))
    }

    crate::conformance!(mod memory: sealed());
}
