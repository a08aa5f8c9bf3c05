//! Sessions in a directory of files.

mod audit;
mod disk;
mod examine;
mod fault;
mod format;
mod journal;
mod layout;
mod lists;
mod open;
mod tables;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use self::{
    fault::Fault,
    format::Part,
    journal::Journal,
    lists::After,
    tables::Within,
    view::{Changes, View},
    writer::Writer,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, Schema, Store,
        embedded::{self, Tables},
        feed::{Feed, Pace},
        key::{AdoptableKey, holds_others},
        slots::{Ask, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction},
    },
    token::{PartitionKey, SessionId},
};

/// Sessions in a directory on a local disk, each in a JSON file of its own.
///
/// What was answered survives the end of the process, `kill -9` and a power failure, as far as the disk keeps what it
/// was told to keep. Changes that arrive together are committed together, so the wait for the disk is shared. What a call
/// costs depends on what it is about, not on how many sessions are stored. Several processes may open the directory at
/// once; one changes something at a time. Reading a session waits for nobody.
///
/// On a full disk sessions are read, used and ended as ever, with the room of a file of 1 MiB that is kept for it. A file
/// that is damaged fails the calls about its session and no others: lists leave it out, and what is settled about its user
/// moves it to the directory `damaged`, for it would not hear of it. A directory that is deleted or replaced while it is
/// open is noticed at the next call, which is [`Error::Unavailable`].
///
/// It takes about three files a session, so small files and names rather than bytes decide how many a disk can
/// hold. The directory must be on a file system with locks (`flock`) and atomic renaming that other machines do not share: no
/// NFS. Look at the files as you like, and change them only while no process has the directory open. For a backup, copy
/// the directory then, or take a snapshot of the file system. Dropping the store waits until what was accepted is done.
pub struct FileStore {
    directory: Arc<Path>,
    key: AdoptableKey,
    writer: Writer,
    journal: Arc<Journal>,
}

impl FileStore {
    /// How long a call waits for other processes that hold the directory locked, unless told otherwise.
    pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

    /// Opens a directory, and creates it, accessible for its owner only, if there is none. Takes a path as it may follow
    /// `file:` in an address, so `//` at its beginning does not count. One that cannot be written is opened to be read.
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`] if that names no directory; [`Error::Store`] if the directory cannot be created or read, is
    /// damaged, belongs to something else or to a newer version; [`Error::Unavailable`] if another process
    /// holds it locked or the disk is full and the directory is new.
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
        Ok(Self { directory, key: AdoptableKey::new(key), writer, journal })
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
        frees: bool,
        work: impl FnMut(&View<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.writer.write(frees, work).await.map_err(|fault| fault.into_error(&self.directory))
    }

    /// Reads what must fit together.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View<'_>) -> Result<T, Fault> + Send + 'static,
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

    fn spans_groups(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(async move {
            let alone = match *asks {
                [Ask::Session(id)] => Some((id, Part::All)),
                [Ask::Head(id)] => Some((id, Part::Head)),
                _ => None,
            };
            if let Some((id, part)) = alone {
                return self.block(move |journal| Ok(vec![Found::Session(look(journal, id, part)?)])).await;
            }
            let (key, asks) = (self.key.clone(), asks.to_vec());
            self.read(move |view| asks.iter().map(|ask| find(Within::new(view, &key), ask)).collect()).await
        })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(async move {
            // Each by itself: one that cannot be done must not undo the others.
            let writes = transactions.iter().map(|transaction| {
                let (key, transaction) = (self.key.clone(), transaction.clone());
                self.write(embedded::frees(&transaction), move |view| {
                    embedded::commit(&Within::for_transaction(view, &key, &transaction), &transaction, again)
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
        let (key, touches) = (self.key.clone(), touches.to_vec());
        let touch = move |view: &View<'_>| {
            touches.iter().map(|touch| Within::new(view, &key).touch(touch, now)).collect::<Result<Vec<_>, Fault>>()
        };
        Box::pin(self.write(true, touch))
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(async move {
            let (after, what, key) = (After::of(what, after)?, what.clone(), self.key.clone());
            self.read(move |view| lists::list(Within::new(view, &key), &what, &after, limit)).await
        })
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        /// So many are forgotten at a time; then others get their turn.
        const PORTION: usize = 32;
        let forget = *forget;
        Box::pin(async move {
            let mut left = forget.limit;
            while left > 0 {
                let (key, portion) = (self.key.clone(), left.min(PORTION));
                let forget = move |view: &View<'_>| lists::forget(Within::new(view, &key), &forget, portion);
                if !self.write(true, forget).await? {
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
            let after = after.map(Cursor::parse).transpose()?;
            self.read(move |view| audit::read(view, &query, after, limit, audit::Damage::LeftOut)).await?
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async move {
            self.block(Journal::try_writing).await?;
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
        Box::pin(self.examine_directory(repair))
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if !self.key.differs_from(key)? {
                return Ok(());
            }
            let stored = key.clone();
            if !self.write(false, move |view| open::adopt(view, &stored)).await? {
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

/// Looks at a slot without the lock: its file changes as a whole.
fn look(journal: &Journal, id: SessionId, part: Part) -> Result<Option<Slot>, Fault> {
    let nothing = Changes::default();
    Ok(tables::stored(&View::new(journal.disk(), &nothing), id, part)?.map(|stored| stored.slot))
}

fn find(within: Within<'_>, ask: &Ask) -> Result<Found, Fault> {
    let slot = |id, part| Ok(within.stored(id, part)?.map(|stored| stored.slot));
    Ok(match ask {
        Ask::Session(id) => Found::Session(slot(*id, Part::All)?),
        Ask::Head(id) => Found::Session(slot(*id, Part::Head)?),
        Ask::User(name) => Found::User(within.user(name)?),
        Ask::HeadsOf(user, limit) => Found::Heads(lists::heads_of(within, user, *limit)?),
        Ask::Try(partition, key) => Found::Try(within.started_with(*partition, key)?),
    })
}
