//! Sessions in a database server, whichever it is: what is not dialect.
//!
//! Each call is one stored routine of the server, which locks, decides and writes, so each call is one round trip. What it
//! takes and answers is the same in every dialect.

mod answers;
mod arguments;
mod connections;
mod dialect;
mod directory;
mod examine;
mod reads;
mod together;
mod transfer;
mod writes;

use std::{fmt, sync::Arc, time::Duration};

use self::{
    answers::{Answers, record},
    connections::{Access, Connections, Kind, Options, Transaction},
    together::Together,
};
pub(super) use self::{
    arguments::Arg,
    dialect::{Dialect, Opened, Severity, if_there, numbered},
};
pub(super) use super::address::{Address, Namespace};
use crate::{
    AuditEntry, Change, Ending, PartitionKey, Result, SessionId, SessionInfo, Timestamp,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, EndAnswer, Loaded, Locked, Locks, Logged, Page, Query, Reap,
        Reaped, Rotated, Rotation, Schema, Store, Touch, Updated, Which, transfer::AdoptableKey,
    },
};

/// Sessions in a database server.
pub struct SqlStore<D: Dialect> {
    connections: Arc<Connections<D>>,
    changes: Arc<Together<D>>,
    key: AdoptableKey,
}

impl<D: Dialect> SqlStore<D> {
    /// Opens connections of its own.
    pub(super) async fn open_address(address: Address<Options<D>>) -> Result<Self> {
        let Address { options, namespace, max_connections } = address;
        Self::start(Connections::own(options, namespace, max_connections)).await
    }

    /// Which version the tables at an address have.
    pub(super) async fn schema_at(address: Address<Options<D>>) -> Result<Schema> {
        let Address { options, namespace, .. } = address;
        let version = |version| u32::try_from(version).unwrap_or(u32::MAX);
        let found = Arc::new(Connections::<D>::own(options, namespace, 1)).version().await?;
        Ok(Schema { found: (found > 0).then(|| version(found)), latest: version(D::LATEST) })
    }

    /// Borrows the application's connections.
    pub(super) async fn open_pool(pool: sqlx::Pool<D::Db>, namespace: Namespace) -> Result<Self> {
        Self::start(Connections::shared(pool, namespace)).await
    }

    async fn start(connections: Connections<D>) -> Result<Self> {
        let connections = Arc::new(connections);
        let key = Arc::clone(&connections).open().await?;
        let changes = Arc::new(Together::new(Arc::clone(&connections)));
        Ok(Self { connections, changes, key: AdoptableKey::new(key) })
    }

    async fn read(&self, routine: &'static str, args: Vec<Arg>) -> Result<Answers<D>> {
        Connections::call(&self.connections, Kind::Read, routine, args).await.map(Answers::new)
    }

    async fn write(&self, routine: &'static str, args: Vec<Arg>) -> Result<Answers<D>> {
        Connections::call(&self.connections, Kind::Write, routine, args).await.map(Answers::new)
    }

    /// Runs `work`, which may be repeated, in one transaction.
    async fn transaction<T: Send + 'static>(
        &self,
        access: Access,
        work: impl for<'t, 'c> Fn(&'t mut Transaction<'c, D>) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    ) -> Result<T> {
        Connections::transaction(&self.connections, access, work).await
    }
}

impl<D: Dialect> fmt::Debug for SqlStore<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Store({})", D::NAME, self.connections.namespace())
    }
}

impl<D: Dialect> Store for SqlStore<D> {
    fn partition_key(&self) -> &PartitionKey {
        &self.key
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        Box::pin(self.create_record(create, now))
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(async move { self.read("load", vec![Arg::id(id)]).await?.loaded(now) })
    }

    fn peek(&self, _id: SessionId, _now: Timestamp) -> Option<Loaded> {
        None
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        Box::pin(self.update_record(id, change, now))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(self.touch_records(touches, now))
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        Box::pin(self.rotate_record(id, rotation, now))
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        Box::pin(async move {
            match which {
                Which::Ids(ids) => self.end_ids(ids, ending, now).await,
                Which::OfUser { user, except, fence } => self.end_of_user(user, except, *fence, ending, now).await,
            }
        })
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.append_to_log(entry))
    }

    fn enable_user<'a>(&'a self, user: &'a str, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.write("enable_user", vec![Arg::text(user)]).await.map(drop) })
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        Box::pin(async move {
            match &query.user {
                Some(user) => self.find_of_user(user, query, after, limit, now).await,
                None => self.find_anywhere(query, after, limit, now).await,
            }
        })
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        Box::pin(self.reap_in_steps(*reap, now))
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Box::pin(self.read_audit(query, after, limit))
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async move { Ok(self.read("ping", Vec::new()).await?.number()?.map(Timestamp::from_millis)) })
    }
}

impl<D: Dialect> Locks for SqlStore<D> {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        Box::pin(async move {
            let answers = self.write("lock", vec![Arg::id(id), Arg::at(now.after(lease)), Arg::at(now)]).await?;
            Ok(match answers.kind()?.as_deref() {
                Some("held") => Locked::Held { until: Timestamp::from_millis(answers.number()?.unwrap_or(0)) },
                Some("granted") => Locked::Granted(record(&answers)?),
                _ => Locked::Gone(answers.gone(now)?),
            })
        })
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let args = vec![Arg::id(id), Arg::Int(Some(number.cast_signed())), Arg::at(now.after(lease)), Arg::at(now)];
            Ok(!self.write("renew", args).await?.is_empty())
        })
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let args = vec![Arg::id(id), Arg::Int(Some(number.cast_signed())), Arg::at(now)];
            Ok(!self.write("unlock", args).await?.is_empty())
        })
    }
}
