//! The rules of sessions: who is admitted, what a change, a rotation or a lease does, how sessions end.
//!
//! They stand here once, over the slots of any [`SlotStore`]: look, decide, commit what was decided together with what it
//! relied on, and look anew where that is not so any more.

use std::time::Duration;

use crate::{
    AuditEntry, Change, Ending, PartitionKey, Result, SessionId, SessionInfo, Timestamp,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Examine, Finding, Imported, Item, Loaded,
        Locked, Locks, Logged, Page, PutUser, Query, Reap, Reaped, Rotated, Rotation, Sealable, Store, StoredUser,
        Touch, Transfer, Updated, Which, slots::SlotStore,
    },
};

mod attempts;
mod create;
mod end;
mod end_all;
mod examine;
mod heads;
mod look;
mod reap;
mod touch;
mod transaction;
mod transfer;
mod update;
mod user_text;
mod users;

pub(crate) use attempts::jitter;

#[deny(clippy::missing_trait_methods)]
impl<S: SlotStore + Sealable + ?Sized> Store for S {
    fn partition_key(&self) -> &PartitionKey {
        SlotStore::partition_key(self)
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        Box::pin(create::create(self, create, now))
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(async move { Ok(look::loaded(look::session(self, id).await?, now)) })
    }

    fn peek(&self, id: SessionId, now: Timestamp) -> Option<Loaded> {
        Some(look::loaded(SlotStore::peek(self, id)?, now))
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        Box::pin(update::update(self, id, change, now))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(touch::touch(self, touches, now))
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        Box::pin(heads::rotate(self, id, rotation, now))
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        match which {
            Which::Ids(ids) => Box::pin(end::end(self, ids, ending, now)),
            Which::OfUser { user, except, fence } => {
                Box::pin(end_all::end_all(self, user, except, *fence, ending, now))
            }
        }
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(transaction::log(self, entry, now))
    }

    fn enable_user<'a>(&'a self, user: &'a str, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(users::enable(self, user, now))
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        Box::pin(look::find(self, query, after, limit, now))
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        Box::pin(reap::reap(self, reap, now))
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        SlotStore::audit(self, query, after, limit)
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        SlotStore::ping(self)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: SlotStore + ?Sized> Directory for S {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        Box::pin(users::user(self, user))
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        Box::pin(users::put(self, put))
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        Box::pin(users::list(self, after, limit))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: SlotStore + ?Sized> Locks for S {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        Box::pin(heads::lock(self, id, lease, now))
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(heads::renew(self, id, number, lease, now))
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(heads::unlock(self, id, number, now))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: SlotStore + ?Sized> Examine for S {
    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(examine::examine(self, now, repair))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: SlotStore + ?Sized> Transfer for S {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        Box::pin(transfer::export(self, after, limit))
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        Box::pin(transfer::import(self, items))
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        SlotStore::adopt_partition_key(self, key)
    }
}
