//! Sessions in one SQLite file.

mod beside;
mod examine;
mod fault;
mod lists;
mod open;
mod tables;
#[cfg(test)]
mod tests;
mod threads;

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
    beside::Beside,
    fault::Fault,
    lists::After,
    open::Opened,
    tables::Within,
    threads::{Stopped, Threads},
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, Schema, Store, embedded,
        feed::{Feed, Pace},
        key::{AdoptableKey, holds_others},
        place::Identity,
        slots::{Ask, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction},
    },
    token::{PartitionKey, SessionId},
};

/// Sessions in one SQLite file on a local disk.
///
/// What was answered survives the end of the process, `kill -9` and a power failure, as far as the disk keeps what it
/// was told to keep (`synchronous=FULL`). Changes that arrive together are committed together, so the wait for the
/// disk is shared. Several processes may open the file at once.
///
/// On a full disk the file is opened and read, and sessions are used and ended as ever, with the room of a file of 512 KiB that
/// is kept beside it (`FILE-reserve`). A file that cannot be written is opened to be read.
///
/// Dropping the store waits until what was accepted is done and brings the write-ahead log home: then the file alone holds
/// everything. A log (`FILE-wal`) that was left by another file, which a backup took the place of, is refused. A file that is deleted or replaced while it is open is noticed at the next call, which is
/// [`Error::Unavailable`].
///
/// A process must not open the file by itself while the store is open, not even to read it: closing a file drops the
/// locks of the whole process on it. For a backup, use `VACUUM INTO` or the command `sqlite3 FILE .backup`.
pub struct SqliteStore {
    file: Arc<Path>,
    key: AdoptableKey,
    /// What lies beside it, unless it can only be read.
    beside: Option<Beside>,
    opened: OpenedFile,
    threads: Threads,
}

/// The file as it was opened.
#[derive(Clone, Debug)]
struct OpenedFile {
    path: Arc<Path>,
    identity: Identity,
    /// Whether it was opened as one that nobody writes.
    immutable: bool,
}

impl OpenedFile {
    /// Whether it still lies there: what is written into a file that is no longer there would be gone later.
    fn check(&self) -> Result<(), Fault> {
        if !self.identity.is_at(&self.path) {
            return Err(Fault::Replaced);
        }
        if self.immutable && Beside::of(&self.path).has_log() {
            return Err(Fault::Written);
        }
        Ok(())
    }
}

impl SqliteStore {
    /// How long a call waits for another process that holds the file locked, unless told otherwise.
    pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

    /// Opens a file, and creates it, readable for its owner only, if there is none. Takes a path as it may follow
    /// `sqlite:` in an address, so `//` at its beginning does not count.
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`] if that names no file; [`Error::Store`] if the file cannot be created or read, is damaged, belongs
    /// to something else or to a newer version, or if the log beside it is another's; [`Error::Unavailable`] if another
    /// process holds it locked.
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
        let Opened { writer, readers, key, identity, beside, immutable } =
            opened.await.map_err(|_| stopped(&file))??;
        Ok(Self {
            threads: Threads::start(writer, readers, beside.clone()).map_err(no_thread)?,
            opened: OpenedFile { path: Arc::clone(&file), identity, immutable },
            file,
            key: AdoptableKey::new(key),
            beside,
        })
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
        self.write_on_a_full_disk(false, work).await
    }

    /// What `frees` room is done on a full disk, too.
    async fn write_on_a_full_disk<T: Send + 'static>(
        &self,
        frees: bool,
        mut work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let opened = self.opened.clone();
        let work = move |db: &Connection| opened.check().and_then(|()| work(db));
        self.answer(self.threads.write(frees, work).await)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let opened = self.opened.clone();
        let work = move |db: &Connection| opened.check().and_then(|()| work(db));
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

impl Store for SqliteStore {
    fn partition_key(&self) -> &PartitionKey {
        &self.key
    }

    fn spans_groups(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        let asks = asks.to_vec();
        Box::pin(self.read(move |db| asks.iter().map(|ask| find(db, ask)).collect()))
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(async move {
            // Each by itself: one that cannot be done must not undo the others.
            let writes = transactions.iter().map(|transaction| {
                let transaction = transaction.clone();
                let frees = embedded::frees(&transaction);
                self.write_on_a_full_disk(frees, move |db| {
                    embedded::commit(&Within::for_transaction(db, &transaction), &transaction, again)
                })
            });
            let mut outcomes = Vec::with_capacity(transactions.len());
            for outcome in embedded::in_turn(writes).await {
                outcomes.push(outcome?.ok_or(Error::OutcomeUnknown { after: Duration::ZERO })?);
            }
            Ok(outcomes)
        })
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        let touches = touches.to_vec();
        let touch = move |db: &Connection| {
            touches.iter().map(|touch| Within::new(db).touch(touch, now)).collect::<Result<Vec<_>, Fault>>()
        };
        Box::pin(self.write_on_a_full_disk(true, touch))
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(async move {
            let (after, what) = (After::of(what, after)?, what.clone());
            self.read(move |db| lists::list(db, &what, &after, limit)).await
        })
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        /// So many are forgotten at a time; then others get their turn.
        const PORTION: usize = 256;
        let forget = *forget;
        Box::pin(async move {
            let mut left = forget.limit;
            while left > 0 {
                let portion = left.min(PORTION);
                if !self.write_on_a_full_disk(true, move |db| lists::forget(db, &forget, portion)).await? {
                    return Ok(false);
                }
                left -= portion;
            }
            Ok(true)
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
            self.read(move |db| lists::audit(db, &query, after, limit)).await
        })
    }

    /// Writes nothing, and asks the disk whether it could.
    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async move {
            let beside = self.beside.clone();
            let prove = move |db: &Connection| {
                db.execute("UPDATE meta SET value = value WHERE name = 'partition_key'", [])?;
                // In the log there may be room that was taken before.
                beside.as_ref().map_or(Ok(()), Beside::try_writing)
            };
            self.write(prove).await?;
            Ok(None)
        })
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

    fn examine(&self, _now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(self.examine_file(repair))
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if !self.key.differs_from(key)? {
                return Ok(());
            }
            let new = key.clone();
            let adopt = move |db: &Connection| {
                let look = "SELECT NOT EXISTS (SELECT 1 FROM slot) AND NOT EXISTS (SELECT 1 FROM user)";
                let is_empty: bool = db.query_row(look, [], |row| row.get(0))?;
                if is_empty {
                    open::set_partition_key(db, &new)?;
                }
                Ok(is_empty)
            };
            if !self.write(adopt).await? {
                return Err(holds_others());
            }
            self.key.adopt(key);
            Ok(())
        })
    }

    fn feed(&self, _: &Pace) -> Option<Arc<dyn Feed>> {
        None
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}

fn find(db: &Connection, ask: &Ask) -> Result<Found, Fault> {
    let tables = Within::new(db);
    Ok(match ask {
        Ask::Session(id) => Found::Session(tables.slot_of(*id, true)?),
        Ask::Head(id) => Found::Session(tables.bare().slot_of(*id, false)?),
        Ask::User(name) => Found::User(embedded::Tables::user(&tables, name)?),
        Ask::HeadsOf(user, limit) => {
            let newest = rusqlite::params![user, i64::MAX, &[][..] as &[u8], tables::at_most(*limit)];
            let slots = tables.bare().slots(tables::OF_USER, newest, false)?.into_iter();
            Found::Heads(slots.filter_map(|slot| if let Slot::Open(head) = slot { Some(head) } else { None }).collect())
        }
        Ask::Try(partition, key) => Found::Try(embedded::Tables::started_with(&tables, *partition, key)?),
    })
}
