//! A store behind an [`Arc`] is a store.

use std::{sync::Arc, time::Duration};

use crate::{
    AuditEntry, Change, Ending, PartitionKey, Result, SessionId, SessionInfo, Timestamp,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Examine, Finding, Imported, Item, Loaded,
        Locked, Locks, Logged, Page, PutUser, Query, Reap, Reaped, RecordKeys, Rotated, Rotation, Sealable, Store,
        StoredUser, Touch, Transfer, Updated, Which,
    },
};

#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn partition_key(&self) -> &PartitionKey {
        (**self).partition_key()
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        (**self).create(create, now)
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        (**self).load(id, now)
    }

    fn peek(&self, id: SessionId, now: Timestamp) -> Option<Loaded> {
        (**self).peek(id, now)
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        (**self).update(id, change, now)
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        (**self).touch(touches, now)
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        (**self).rotate(id, rotation, now)
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        (**self).end(which, ending, now)
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        (**self).log(entry, now)
    }

    fn enable_user<'a>(&'a self, user: &'a str, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        (**self).enable_user(user, now)
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        (**self).find(query, after, limit, now)
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        (**self).reap(reap, now)
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        (**self).audit(query, after, limit)
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        (**self).ping()
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Directory for Arc<S> {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        (**self).user(user)
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        (**self).put_user(put)
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        (**self).users(after, limit)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Locks for Arc<S> {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        (**self).lock(id, lease, now)
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        (**self).renew(id, number, lease, now)
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        (**self).unlock(id, number, now)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Examine for Arc<S> {
    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        (**self).examine(now, repair)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Transfer for Arc<S> {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        (**self).export(after, limit)
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        (**self).import(items)
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        (**self).adopt_partition_key(key)
    }
}

impl<S: Store + ?Sized> Sealable for Arc<S> {
    fn sealed(self: Arc<Self>, keys: &RecordKeys) -> Result<Arc<dyn Store>> {
        Arc::clone(&*self).sealed(keys)
    }
}
