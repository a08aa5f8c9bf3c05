//! What goes wrong inside, and what it means outside.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use crate::{error::Error, period::rounded};

/// The directory is not the one that was opened.
#[derive(Debug)]
pub(super) struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the directory is not the one that was opened")
    }
}

impl std::error::Error for Gone {}

/// Why work on the directory failed. Cloned when it failed for several callers.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The operating system refused. Nothing was changed.
    Io { file: String, error: Arc<io::Error> },
    /// Others held the directory's lock for all the time there was. Nothing was changed.
    Locked { waited: Duration },
    /// A file does not hold what was written into it.
    Damaged { file: String, problem: String },
    /// What was to be done is in the journal, or may be, but not done: whoever locks the directory next does it.
    Unfinished { after: Duration },
    /// Work of ours panicked, which is a mistake of ours. Nothing was changed.
    Panicked,
}

impl Fault {
    pub(super) fn io(file: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { file: file.to_owned(), error: Arc::new(error) }
    }

    pub(super) fn damaged(file: &str, problem: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), problem: problem.into() }
    }

    /// Whether there was no room on the disk.
    pub(super) fn is_full(&self) -> bool {
        let full = |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        matches!(self, Self::Io { error, .. } if full(error.kind()))
    }

    pub(super) fn into_error(self, directory: &Path) -> Error {
        let (file, error) = match self {
            Self::Io { error, .. }
                if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Gone>) =>
            {
                let directory = directory.display();
                let message = format!(
                    "{directory} was deleted or replaced while it was open: nothing is written into what it was; restart \
                     this program to work on what is there now"
                );
                return Error::Unavailable { message, source: None };
            }
            Self::Io { file, error } => (directory.join(file), error),
            Self::Locked { waited } => {
                let directory = directory.display();
                let message = format!(
                    "another process held {directory} locked for {}; try again, and find out which if it stays so",
                    rounded(waited)
                );
                return Error::Unavailable { message, source: None };
            }
            Self::Damaged { file, problem } => {
                let file = directory.join(file);
                let message = format!("{} is damaged ({problem}): restore it from a backup", file.display());
                return Error::Store { message, source: None };
            }
            Self::Unfinished { after } => return Error::OutcomeUnknown { after },
            Self::Panicked => {
                let directory = directory.display();
                let message = format!("the work on {directory} panicked and was undone: please report this as a bug");
                return Error::Store { message, source: None };
            }
        };
        let file = file.display();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::unavailable(
                format_args!("the disk is full, {file} cannot be written: nothing was changed; free some space"),
                error,
            ),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::store(
                format_args!("{file} cannot be written: let this process read and write the directory and all in it"),
                error,
            ),
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Error::unavailable(format_args!("{file} is gone: was the directory moved or deleted?"), error)
            }
            _ => Error::unavailable(
                format_args!("{file} could not be read or written; look into the system's log for the disk's errors"),
                error,
            ),
        }
    }
}
