//! The thread that writes, so that no task of an asynchronous runtime ever waits for a disk.
//!
//! It takes what waits, lets each call add its changes to one commit and answers after that, so that many callers share
//! one wait for the disk. It ends when the store is dropped and what was accepted is done.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::{fault::Fault, journal::Journal, view::View};

/// Hands work to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Box<dyn Write>>>,
    running: Option<thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(journal: Arc<Journal>) -> io::Result<Self> {
        let (writer, waiting) = mpsc::channel(QUEUE);
        let running =
            thread::Builder::new().name("cloakroom-file".into()).spawn(move || write_all(&journal, waiting))?;
        Ok(Self { queue: Some(writer), running: Some(running) })
    }

    /// Lets `work` change the directory, perhaps once more if its commit failed, and answers when that is on the disk.
    /// What `frees` room may use the reserve.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        frees: bool,
        work: impl FnMut(&View<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let task = WriteTask { work, frees, outcome: None, answer };
        let queue = self.queue.as_ref().ok_or(Fault::Panicked)?;
        queue.send(Box::new(task)).await.map_err(|_| Fault::Panicked)?;
        answered.await.unwrap_or(Err(Fault::Panicked))
    }
}

impl Drop for Writer {
    /// Waits until what was accepted is done.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.running.take() {
            // A thread of ours that panicked has told so.
            let _ = thread.join();
        }
    }
}

/// So much work may wait for the thread; callers beyond it wait for their place.
const QUEUE: usize = 1024;

/// So many writes share a commit at most, which bounds how long the first of them waits for the others.
const BATCH: usize = 256;

fn write_all(journal: &Journal, mut waiting: mpsc::Receiver<Box<dyn Write>>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        write_batch(journal, batch);
        if let Err(fault) = journal.checkpoint_if_long() {
            tracing::warn!("the journal could not be emptied, and grows: {fault:?}");
        }
    }
}

/// Runs and answers all of a batch. If their common commit fails, each gets one of its own, so that one write that
/// cannot be done does not fail the others.
fn write_batch(journal: &Journal, mut batch: Vec<Box<dyn Write>>) {
    match commit_together(journal, &mut batch) {
        Err(fault @ Fault::Io { .. }) if batch.len() > 1 || fault.is_full() => {
            tracing::debug!(writes = batch.len(), "a group of writes was undone and is repeated one by one: {fault:?}");
            if fault.is_full() {
                journal.make_room();
            }
            for write in &mut batch {
                commit_alone(journal, write);
            }
        }
        Err(fault) => batch.iter_mut().for_each(|write| write.fail(&fault)),
        Ok(()) => {}
    }
    for write in batch {
        write.answer();
    }
}

fn commit_alone(journal: &Journal, write: &mut Box<dyn Write>) {
    let frees = write.frees();
    let mut commit = || commit_together(journal, std::slice::from_mut(write));
    let done = match commit() {
        Err(fault) if fault.is_full() && frees => journal.with_reserve(commit),
        done => done,
    };
    if let Err(fault) = done {
        write.fail(&fault);
    }
}

/// Runs writes and commits their changes at once; one that fails changes nothing and fails alone.
pub(super) fn commit_together(journal: &Journal, writes: &mut [Box<dyn Write>]) -> Result<(), Fault> {
    journal.write(|changes| {
        for write in writes {
            let own = View::new(journal.disk(), changes);
            // A panic must not take the thread away from everybody else; what was to change is dropped with `own`.
            let done = panic::catch_unwind(AssertUnwindSafe(|| write.run(&own)));
            match done {
                Ok(true) => {
                    let own = own.into_changes();
                    changes.extend(own);
                }
                Ok(false) => {}
                Err(_) => write.fail(&Fault::Panicked),
            }
        }
        Ok(())
    })
}

/// Work for the thread, and who waits for its answer.
pub(super) trait Write: Send {
    /// Does the work and keeps the outcome, in place of that of an earlier run. Says whether it succeeded.
    fn run(&mut self, directory: &View<'_>) -> bool;
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
    W: FnMut(&View<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, directory: &View<'_>) -> bool {
        self.outcome.insert((self.work)(directory)).is_ok()
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
