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

use super::{fault::Fault, journal::Journal, transaction::Transaction};

/// Hands work to the thread.
#[derive(Debug)]
pub(super) struct Writer(mpsc::Sender<Box<dyn Write>>);

impl Writer {
    pub(super) fn start(journal: Arc<Journal>) -> io::Result<Self> {
        let (writer, waiting) = mpsc::channel(QUEUE);
        thread::Builder::new().name("cloakroom-file".into()).spawn(move || write_all(&journal, waiting))?;
        Ok(Self(writer))
    }

    /// Lets `work` change the directory, perhaps once more if its commit failed, and answers when that is on the disk.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let task = WriteTask { work, outcome: None, answer };
        self.0.send(Box::new(task)).await.map_err(|_| Fault::Panicked)?;
        answered.await.unwrap_or(Err(Fault::Panicked))
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
        Err(fault @ Fault::Io { .. }) if batch.len() > 1 => {
            tracing::debug!(writes = batch.len(), "a group of writes was undone and is repeated one by one: {fault:?}");
            for write in &mut batch {
                if let Err(fault) = commit_together(journal, std::slice::from_mut(write)) {
                    write.fail(&fault);
                }
            }
        }
        Err(fault) => batch.iter_mut().for_each(|write| write.fail(&fault)),
        Ok(()) => {}
    }
    for write in batch {
        write.answer();
    }
}

/// Runs writes and commits their changes at once; one that fails changes nothing and fails alone.
pub(super) fn commit_together(journal: &Journal, writes: &mut [Box<dyn Write>]) -> Result<(), Fault> {
    journal.write(|changes| {
        for write in writes {
            let mut own = Transaction::new(journal.disk(), changes);
            // A panic must not take the thread away from everybody else; what was to change is dropped with `own`.
            let done = panic::catch_unwind(AssertUnwindSafe(|| write.run(&mut own)));
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
    fn run(&mut self, directory: &mut Transaction<'_>) -> bool;
    /// Keeps the failure as its outcome.
    fn fail(&mut self, fault: &Fault);
    /// Tells who waits.
    fn answer(self: Box<Self>);
}

struct WriteTask<W, T> {
    work: W,
    outcome: Option<Result<T, Fault>>,
    answer: oneshot::Sender<Result<T, Fault>>,
}

impl<W, T> Write for WriteTask<W, T>
where
    W: FnMut(&mut Transaction<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, directory: &mut Transaction<'_>) -> bool {
        self.outcome.insert((self.work)(directory)).is_ok()
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
