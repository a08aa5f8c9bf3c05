//! Sessions in a directory of files.

mod audit;
mod directory;
mod disk;
mod examine;
mod fault;
mod fields;
mod format;
mod journal;
mod layout;
mod lists;
mod open;
mod sweep;
mod tables;
#[cfg(test)]
mod tests;
mod transaction;
mod transfer;
mod writer;
mod writes;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use self::{fault::Fault, journal::Journal, sweep::Sweep, transaction::Transaction, writer::Writer};
use crate::{
    AuditEntry, Change, Ending, Error, PartitionKey, Result, SessionId, SessionInfo, Timestamp,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Loaded, Locked, Locks, Logged, Page,
        PutUser, Query, Reap, Reaped, Rotated, Rotation, Schema, Store, StoredUser, Touch, Updated, Which,
        transfer::AdoptableKey,
    },
};

/// Sessions in a directory on a local disk, each in a JSON file of its own.
///
/// What was answered survives the end of the process, `kill -9` and a power failure, as far as the disk keeps what it
/// was told to keep. Changes that arrive together are committed together, so the wait for the disk is shared. What a call
/// costs depends on what it is about, not on how many sessions are stored. Several processes may open the directory at
/// once; one changes something at a time. Reading a session waits for nobody.
///
/// It takes about three files a session, so small files and names rather than bytes decide how many a disk can
/// hold. The directory must be on a file system with locks (`flock`) and atomic renaming that other machines do not share: no
/// NFS. Look at the files as you like, and change them only while no process has the directory open. For a backup, copy
/// the directory then, or take a snapshot of the file system.
pub struct FileStore {
    directory: Arc<Path>,
    key: AdoptableKey,
    journal: Arc<Journal>,
    writer: Writer,
}

impl FileStore {
    /// How long a call waits for other processes that hold the directory locked, unless told otherwise.
    pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

    /// Opens a directory, and creates it, accessible for its owner only, if there is none. Takes a path as it may follow
    /// `file:` in an address, so `//` at its beginning does not count.
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`] if that names no directory; [`Error::Store`] if the directory cannot be created, is read-only
    /// or damaged, belongs to something else or to a newer version; [`Error::Unavailable`] if another process
    /// holds it locked or the disk is full.
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self> {
        Self::open_with_lock_timeout(directory, Self::LOCK_TIMEOUT).await
    }

    /// As [`open`](Self::open); when other processes hold the directory locked for longer than `lock_timeout`, this and
    /// later calls return [`Error::Unavailable`].
    pub async fn open_with_lock_timeout(directory: impl AsRef<Path>, lock_timeout: Duration) -> Result<Self> {
        let directory: Arc<Path> = open::ADDRESS.path(directory.as_ref())?.into();
        let place = Arc::clone(&directory);
        let opened = tokio::task::spawn_blocking(move || open::open(&place, lock_timeout)).await;
        let (journal, key) = opened.unwrap_or_else(|_| Err(Fault::Panicked.into_error(&directory)))?;
        let writer = Writer::start(Arc::clone(&journal))
            .map_err(|error| Error::unavailable("no thread could be started", error))?;
        Ok(Self { directory, key: AdoptableKey::new(key), journal, writer })
    }

    /// Which version the directory's layout has.
    pub(in crate::store) async fn schema(directory: impl AsRef<Path>) -> Result<Schema> {
        let directory = open::ADDRESS.path(directory.as_ref())?;
        let place: Arc<Path> = directory.as_path().into();
        let looked = tokio::task::spawn_blocking(move || open::schema(&directory)).await;
        looked.unwrap_or_else(|_| Err(Fault::Panicked.into_error(&place)))
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.writer.write(work).await.map_err(|fault| fault.into_error(&self.directory))
    }

    /// Reads what must fit together.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.block(|journal| journal.read(work)).await
    }

    async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Journal) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let journal = Arc::clone(&self.journal);
        let outcome = tokio::task::spawn_blocking(move || work(&journal)).await;
        outcome.unwrap_or(Err(Fault::Panicked)).map_err(|fault| fault.into_error(&self.directory))
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStore({})", self.directory.display())
    }
}

impl Store for FileStore {
    fn partition_key(&self) -> &PartitionKey {
        &self.key
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        let (key, create) = (self.key.clone(), create.clone());
        Box::pin(self.write(move |directory| writes::create(directory, &key, &create, now)))
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(self.block(move |journal| tables::load(journal.disk(), id, now)))
    }

    fn peek(&self, _id: SessionId, _now: Timestamp) -> Option<Loaded> {
        None
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        let change = change.clone();
        Box::pin(self.write(move |directory| writes::update(directory, id, &change, now)))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        let touches = touches.to_vec();
        Box::pin(
            self.write(move |directory| touches.iter().map(|touch| writes::touch(directory, touch, now)).collect()),
        )
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        let rotation = rotation.clone();
        Box::pin(self.write(move |directory| writes::rotate(directory, id, &rotation, now)))
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        let (key, which, ending) = (self.key.clone(), which.clone(), ending.clone());
        Box::pin(self.write(move |directory| writes::end(directory, &key, &which, &ending, now)))
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        let entry = entry.clone();
        Box::pin(self.write(move |directory| {
            directory.log(&entry);
            Ok(())
        }))
    }

    fn enable_user<'a>(&'a self, user: &'a str, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        let (key, user) = (self.key.clone(), user.to_owned());
        Box::pin(self.write(move |directory| writes::enable_user(directory, &key, &user)))
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        Box::pin(async move {
            let query = query.clone();
            if query.user.is_some() {
                let after = after.map(lists::place_in_user).transpose()?;
                let key = self.key.clone();
                self.read(move |directory| lists::of_user(directory, &key, &query, after, limit, now)).await
            } else {
                let after = after.map(Cursor::parse).transpose()?;
                self.read(move |directory| lists::anywhere(directory, &query, after, limit, now)).await
            }
        })
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        Box::pin(async move {
            let mut sweep = Sweep::new(*reap, now);
            let mut ended = Vec::new();
            while !sweep.is_over() {
                let key = self.key.clone();
                let (left, ended_now) = self.write(move |directory| sweep.step(directory, &key)).await?;
                sweep = left;
                ended.extend(ended_now);
            }
            Ok(Reaped { ended, more: sweep.left_something() })
        })
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Box::pin(async move {
            let query = query.clone();
            let after = after.map(Cursor::parse).transpose()?;
            self.read(move |directory| audit::read(directory, &query, after, limit)).await?
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async move {
            self.read(|_| Ok(())).await?;
            Ok(None)
        })
    }
}

impl Directory for FileStore {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        let (key, user) = (self.key.clone(), user.to_owned());
        Box::pin(self.read(move |directory| directory::user(directory, &key, &user)))
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        let (key, put) = (self.key.clone(), put.clone());
        Box::pin(self.write(move |directory| directory::put(directory, &key, &put)))
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        Box::pin(async move {
            let after = after.map(directory::place).transpose()?;
            self.read(move |directory| directory::list(directory, after.as_ref(), limit)).await
        })
    }
}

impl Locks for FileStore {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        Box::pin(self.write(move |directory| writes::lock(directory, id, lease, now)))
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(
            self.write(move |directory| {
                writes::change_lease(directory, id, |held| held.renew(number, lease, now), now)
            }),
        )
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(
            self.write(move |directory| writes::change_lease(directory, id, |held| held.release(number, now), now)),
        )
    }
}
