//! Sessions in one SQLite file.

mod directory;
mod examine;
mod fault;
mod open;
mod reads;
mod sweep;
mod tables;
#[cfg(test)]
mod tests;
mod threads;
mod transfer;
mod writes;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use self::{
    fault::Fault,
    open::Opened,
    sweep::Sweep,
    threads::{Stopped, Threads},
};
use crate::{
    AuditEntry, Change, Ending, Error, PartitionKey, Result, SessionId, SessionInfo, Timestamp,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Loaded, Locked, Locks, Logged, Page,
        PutUser, Query, Reap, Reaped, Rotated, Rotation, Schema, Store, StoredUser, Touch, Updated, Which,
        transfer::AdoptableKey,
    },
};

/// Sessions in one SQLite file on a local disk.
///
/// What was answered survives the end of the process, `kill -9` and a power failure, as far as the disk keeps what it
/// was told to keep (`synchronous=FULL`). Changes that arrive together are committed together, so the wait for the
/// disk is shared. Several processes may open the file at once.
///
/// A process must not open the file by itself while the store is open, not even to read it: closing a file drops the
/// locks of the whole process on it. For a backup, use `VACUUM INTO` or the command `sqlite3 FILE .backup`.
pub struct SqliteStore {
    file: Arc<Path>,
    key: AdoptableKey,
    threads: Threads,
}

impl SqliteStore {
    /// How long a call waits for another process that holds the file locked, unless told otherwise.
    pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

    /// Opens a file, and creates it, readable for its owner only, if there is none. Takes a path as it may follow
    /// `sqlite:` in an address, so `//` at its beginning does not count.
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`] if that names no file; [`Error::Store`] if the file cannot be created, is
    /// read-only or damaged, belongs to something else or to a newer version; [`Error::Unavailable`] if another process
    /// holds it locked.
    pub async fn open(file: impl AsRef<Path>) -> Result<Self> {
        Self::open_with_busy_timeout(file, Self::BUSY_TIMEOUT).await
    }

    /// As [`open`](Self::open); when another process holds the file locked for longer than `busy_timeout`, this and
    /// later calls return [`Error::Unavailable`].
    pub async fn open_with_busy_timeout(file: impl AsRef<Path>, busy_timeout: Duration) -> Result<Self> {
        let file: Arc<Path> = open::file_named(file.as_ref())?.into();
        let (answer, opened) = oneshot::channel();
        let place = PathBuf::from(&*file);
        let no_thread = |error| Error::unavailable("no thread could be started", error);
        thread::Builder::new()
            .name("cloakroom-sqlite-open".into())
            // Nobody to hear the answer is no failure: the file is closed again.
            .spawn(move || drop(answer.send(open::open(&place, readers(), busy_timeout))))
            .map_err(no_thread)?;
        let Opened { writer, readers, key } = opened.await.map_err(|_| stopped(&file))??;
        Ok(Self { threads: Threads::start(writer, readers).map_err(no_thread)?, file, key: AdoptableKey::new(key) })
    }

    /// Which version the file's schema has.
    pub(in crate::store) async fn schema(file: impl AsRef<Path>) -> Result<Schema> {
        let file = open::file_named(file.as_ref())?;
        let place = file.clone();
        let looked = tokio::task::spawn_blocking(move || open::schema(&file, Self::BUSY_TIMEOUT)).await;
        looked.unwrap_or_else(|_| Err(stopped(&place)))
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.answer(self.threads.write(work).await)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.answer(self.threads.read(work).await)
    }

    fn answer<T>(&self, outcome: Result<Result<T, Fault>, Stopped>) -> Result<T> {
        match outcome {
            Ok(outcome) => outcome.map_err(|fault| fault.into_error(&self.file)),
            Err(Stopped) => Err(stopped(&self.file)),
        }
    }
}

/// How many threads read.
fn readers() -> usize {
    thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

fn stopped(file: &Path) -> Error {
    let message = format!("a thread that works on {} has stopped: restart the program", file.display());
    Error::Store { message, source: None }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteStore({})", self.file.display())
    }
}

impl Directory for SqliteStore {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        let user = user.to_owned();
        Box::pin(self.read(move |db| directory::user(db, &user)))
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        let put = put.clone();
        Box::pin(self.write(move |db| directory::put(db, &put)))
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        Box::pin(async move {
            let after = after.map(Cursor::name).transpose()?;
            self.read(move |db| directory::list(db, after.as_deref(), limit)).await
        })
    }
}

impl Locks for SqliteStore {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        Box::pin(self.write(move |db| writes::lock(db, id, lease, now)))
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.write(move |db| writes::keep_or_release(db, id, now, |held| held.renew(number, lease, now))))
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.write(move |db| writes::keep_or_release(db, id, now, |held| held.release(number, now))))
    }
}

impl Store for SqliteStore {
    fn partition_key(&self) -> &PartitionKey {
        &self.key
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        let create = create.clone();
        Box::pin(self.write(move |db| writes::create(db, &create, now)))
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(self.read(move |db| reads::load(db, id, now)))
    }

    fn peek(&self, _id: SessionId, _now: Timestamp) -> Option<Loaded> {
        None
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        let change = change.clone();
        Box::pin(self.write(move |db| writes::update(db, id, &change, now)))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        let touches = touches.to_vec();
        Box::pin(self.write(move |db| touches.iter().map(|touch| writes::touch(db, touch, now)).collect()))
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        let rotation = rotation.clone();
        Box::pin(self.write(move |db| writes::rotate(db, id, &rotation, now)))
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        let (which, ending) = (which.clone(), ending.clone());
        Box::pin(self.write(move |db| writes::end(db, &which, &ending, now)))
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        let entry = entry.clone();
        Box::pin(self.write(move |db| tables::insert_audit(db, &entry)))
    }

    fn enable_user<'a>(&'a self, user: &'a str, _now: Timestamp) -> BoxFuture<'a, Result<()>> {
        let user = user.to_owned();
        Box::pin(self.write(move |db| tables::enable_user(db, &user)))
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
                let after = after.map(reads::PlaceInUser::parse).transpose()?;
                self.read(move |db| reads::find_of_user(db, &query, after, limit, now)).await
            } else {
                let after = after.map(Cursor::parse).transpose()?;
                self.read(move |db| reads::find_anywhere(db, &query, after, limit, now)).await
            }
        })
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        Box::pin(async move {
            let mut sweep = Sweep::new(*reap, now);
            let mut ended = Vec::new();
            while !sweep.is_over() {
                let (left, ended_now) = self.write(move |db| sweep.step(db)).await?;
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
            let after = after.map_or(Ok(0), Cursor::parse)?;
            self.read(move |db| reads::audit(db, &query, after, limit)).await
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async move {
            self.read(tables::look).await?;
            Ok(None)
        })
    }
}
