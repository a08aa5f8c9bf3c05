//! The threads that work on the database, so that no task of an asynchronous runtime ever waits for a disk.
//!
//! One thread writes. It takes what waits, runs all of it in one transaction and answers after the commit, so that
//! many callers share one wait for the disk. A few threads read; each transaction they begin sees all that was
//! answered. All of them end when the store is dropped and what was accepted is done.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{beside::Beside, fault::Fault};

/// Hands work to the threads.
#[derive(Debug)]
pub(super) struct Threads {
    /// `None` only while it is dropped.
    queues: Option<Queues>,
    readers: Vec<thread::JoinHandle<()>>,
    writer: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Queues {
    writes: mpsc::Sender<Box<dyn Write>>,
    reads: mpsc::Sender<Read>,
}

/// The threads are gone.
#[derive(Debug)]
pub(super) struct Stopped;

impl Threads {
    pub(super) fn start(
        write_with: Connection,
        read_with: Vec<Connection>,
        beside: Option<Beside>,
    ) -> io::Result<Self> {
        let (writes, to_write) = mpsc::channel(QUEUE);
        let (reads, to_read) = mpsc::channel(QUEUE);
        let to_read = Arc::new(Mutex::new(to_read));
        let mut readers = Vec::new();
        for reader in read_with {
            let waiting = Arc::clone(&to_read);
            readers.push(spawn("cloakroom-sqlite-read", move || read_all(&reader, &waiting))?);
        }
        let writer = spawn("cloakroom-sqlite-write", move || write_all(&write_with, beside.as_ref(), to_write))?;
        Ok(Self { queues: Some(Queues { writes, reads }), readers, writer: Some(writer) })
    }

    fn queues(&self) -> Result<&Queues, Stopped> {
        self.queues.as_ref().ok_or(Stopped)
    }

    /// Runs `work` in a write transaction, perhaps again if the transaction had to be repeated, and answers
    /// when it is on the disk. What `frees` room may use the reserve.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        frees: bool,
        work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Result<T, Fault>, Stopped> {
        let (answer, answered) = oneshot::channel();
        let task = WriteTask { work, frees, outcome: None, answer };
        self.queues()?.writes.send(Box::new(task)).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// Runs `work` in a transaction that sees one state of the database.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Result<T, Fault>, Stopped> {
        let (answer, answered) = oneshot::channel();
        let read = move |db: &Connection| {
            if !answer.is_closed() {
                // Nobody to hear the answer is no failure.
                let _ = answer.send(in_snapshot(db, work));
            }
        };
        self.queues()?.reads.send(Box::new(read)).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }
}

/// So much work may wait for a thread; callers beyond it wait for their place.
const QUEUE: usize = 1024;

/// So many writes share a transaction at most, which bounds how long the first of them waits for the others.
const BATCH: usize = 256;

type Read = Box<dyn FnOnce(&Connection) + Send>;

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work)
}

fn read_all(db: &Connection, waiting: &Mutex<mpsc::Receiver<Read>>) {
    // The lock is released before the work begins: the next thread waits while this one reads.
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
    while let Some(read) = next() {
        read(db);
    }
}

fn in_snapshot<T>(db: &Connection, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
    run(db, "BEGIN")?;
    let outcome = caught(|| work(db));
    roll_back(db);
    outcome
}

/// A panic must not take the thread away from everybody else.
fn caught<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    // The transaction is undone, and nothing else outlives the work.
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Fault::Panicked))
}

fn write_all(db: &Connection, beside: Option<&Beside>, mut waiting: mpsc::Receiver<Box<dyn Write>>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        write_batch(db, beside, batch);
        if let Some(beside) = beside {
            beside.take_in_if_long(db);
        }
    }
    // The file alone is the store. Where another process still reads, that one does it later.
    if let Some(Err(error)) = beside.map(|beside| beside.take_in(db, "TRUNCATE")) {
        tracing::warn!(%error, "the write-ahead log could not be brought home; it lies beside the file and belongs to it");
    }
}

impl Drop for Threads {
    /// Waits until what was accepted is done. The writer's connection closes last: of two that close at once neither takes
    /// the write-ahead log away.
    fn drop(&mut self) {
        let Some(Queues { writes, reads }) = self.queues.take() else { return };
        drop(reads);
        // A thread of ours that panicked has told so.
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
        drop(writes);
        drop(self.writer.take().map(thread::JoinHandle::join));
    }
}

/// Runs and answers all of a batch. If their common transaction is lost, each gets one of its own, so that one write
/// that cannot be done does not fail the others.
fn write_batch(db: &Connection, beside: Option<&Beside>, mut batch: Vec<Box<dyn Write>>) {
    match commit_together(db, &mut batch) {
        Ok(()) => {}
        Err(lost) if lost.is_locked() || (batch.len() == 1 && !lost.is_full()) => fail_all(&mut batch, &lost),
        Err(lost) => {
            tracing::debug!(writes = batch.len(), "a group of writes was undone and is repeated one by one: {lost:?}");
            commit_each(db, beside, &mut batch);
        }
    }
    for write in batch {
        write.answer();
    }
}

fn commit_each(db: &Connection, beside: Option<&Beside>, batch: &mut [Box<dyn Write>]) {
    for at in 0..batch.len() {
        let mut done = commit_together(db, &mut batch[at..=at]);
        if let (Err(lost), Some(beside)) = (&done, beside.filter(|_| batch[at].frees()))
            && lost.is_full()
        {
            beside.use_reserve();
            done = commit_together(db, &mut batch[at..=at]);
            // Takes no more room than before, if it can; otherwise the log goes on.
            let _ = beside.take_in(db, "TRUNCATE");
            beside.fill_reserve();
        }
        match done {
            Ok(()) => {}
            // One wait for a locked database is enough for all of them.
            Err(lost) if lost.is_locked() => return fail_all(&mut batch[at..], &lost),
            Err(lost) => batch[at].fail(&lost),
        }
    }
}

fn fail_all(batch: &mut [Box<dyn Write>], lost: &Fault) {
    for write in batch {
        write.fail(lost);
    }
}

/// Runs writes in one transaction; one that fails is undone alone. On an error nothing was written.
fn commit_together(db: &Connection, writes: &mut [Box<dyn Write>]) -> Result<(), Fault> {
    run(db, "BEGIN IMMEDIATE")?;
    let done = writes.iter_mut().try_for_each(|write| run_one(db, &mut **write)).and_then(|()| run(db, "COMMIT"));
    if done.is_err() {
        roll_back(db);
    }
    done
}

fn run_one(db: &Connection, write: &mut dyn Write) -> Result<(), Fault> {
    run(db, "SAVEPOINT one")?;
    if let Err(fault) = write.run(db) {
        // A full disk or a failing one may have undone the whole transaction already. For a full one there is a reserve.
        if db.is_autocommit() || fault.is_full() {
            return Err(fault);
        }
        run(db, "ROLLBACK TO one")?;
    }
    run(db, "RELEASE one")
}

fn roll_back(db: &Connection) {
    // It fails if SQLite has done it already, and that is as good.
    let _ = run(db, "ROLLBACK");
}

fn run(db: &Connection, statement: &str) -> Result<(), Fault> {
    db.prepare_cached(statement)?.execute([])?;
    Ok(())
}

/// Work for the thread that writes, and who waits for its answer.
trait Write: Send {
    /// Does the work and keeps the outcome, in place of that of an earlier run.
    fn run(&mut self, db: &Connection) -> Result<(), Fault>;
    /// Whether it makes room on the disk, or takes none for long.
    fn frees(&self) -> bool;
    /// Keeps the failure as its outcome.
    fn fail(&mut self, fault: &Fault);
    /// Tells who waits.
    fn answer(self: Box<Self>);
}

struct WriteTask<W, T> {
    work: W,
    frees: bool,
    outcome: Option<Result<T, Fault>>,
    answer: oneshot::Sender<Result<T, Fault>>,
}

impl<W, T> Write for WriteTask<W, T>
where
    W: FnMut(&Connection) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, db: &Connection) -> Result<(), Fault> {
        let outcome = caught(|| (self.work)(db));
        let done = outcome.as_ref().map(|_| ()).map_err(Fault::clone);
        self.outcome = Some(outcome);
        done
    }

    fn frees(&self) -> bool {
        self.frees
    }

    fn fail(&mut self, fault: &Fault) {
        self.outcome = Some(Err(fault.clone()));
    }

    fn answer(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // Nobody to hear the answer is no failure: the work is done all the same.
            let _ = self.answer.send(outcome);
        }
    }
}
