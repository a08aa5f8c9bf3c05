//! Stores that hand calls on to another one.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    error::Result,
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, Page, Store,
        slots::{Ask, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction},
    },
    token::{PartitionKey, SessionId},
};

/// Methods of [`Store`] that do what the method of the same name does of another store, which the function before the
/// arrow finds in `self`.
macro_rules! forward {
    ($inner:path => $($method:ident)+) => { $($crate::store::forward::forward!(@$method $inner);)+ };
    (@partition_key $inner:path) => {
        fn partition_key(&self) -> &PartitionKey {
            $inner(self).partition_key()
        }
    };
    (@spans_groups $inner:path) => {
        fn spans_groups(&self) -> bool {
            $inner(self).spans_groups()
        }
    };
    (@read $inner:path) => {
        fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
            $inner(self).read(asks)
        }
    };
    (@commit $inner:path) => {
        fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
            $inner(self).commit(transactions, again)
        }
    };
    (@touch $inner:path) => {
        fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
            $inner(self).touch(touches, now)
        }
    };
    (@list $inner:path) => {
        fn list<'a>(
            &'a self,
            what: &'a List,
            after: Option<&'a Cursor>,
            limit: usize,
        ) -> BoxFuture<'a, Result<Page<Listed>>> {
            $inner(self).list(what, after, limit)
        }
    };
    (@forget $inner:path) => {
        fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
            $inner(self).forget(forget)
        }
    };
    (@audit $inner:path) => {
        fn audit<'a>(
            &'a self,
            query: &'a AuditQuery,
            after: Option<&'a Cursor>,
            limit: usize,
        ) -> BoxFuture<'a, Result<Page<Logged>>> {
            $inner(self).audit(query, after, limit)
        }
    };
    (@ping $inner:path) => {
        fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
            $inner(self).ping()
        }
    };
    (@peek $inner:path) => {
        fn peek(&self, id: SessionId) -> Option<Option<Slot>> {
            $inner(self).peek(id)
        }
    };
    (@edits_in_place $inner:path) => {
        fn edits_in_place(&self) -> bool {
            $inner(self).edits_in_place()
        }
    };
    (@edit $inner:path) => {
        fn edit(&self, id: SessionId, change: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
            $inner(self).edit(id, change)
        }
    };
    (@examine $inner:path) => {
        fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
            $inner(self).examine(now, repair)
        }
    };
    (@adopt_partition_key $inner:path) => {
        fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
            $inner(self).adopt_partition_key(key)
        }
    };
    (@feed $inner:path) => {
        fn feed(&self, pace: &$crate::store::feed::Pace) -> Option<Arc<dyn $crate::store::feed::Feed>> {
            $inner(self).feed(pace)
        }
    };
    (@near $inner:path) => {
        fn near(&self) -> Option<&$crate::store::NearStore> {
            $inner(self).near()
        }
    };
}

pub(crate) use forward;

impl<S: Store + ?Sized> Store for Arc<S> {
    forward!(Self::as_ref => partition_key spans_groups read commit touch list forget audit ping peek edits_in_place edit examine
        adopt_partition_key feed near);
}
