//! What goes wrong inside, and what it means outside.

use std::{io::ErrorKind, path::Path, sync::Arc};

use rusqlite::ErrorCode;

use crate::{error::Error, token::SessionId};

/// Why work on the database failed. Cloned when it failed for several callers.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Sqlite(Arc<rusqlite::Error>),
    /// A row that cannot be read: of which session, and why.
    Damaged(SessionId, Arc<str>),
    /// The file that was opened is not where it was.
    Replaced,
    /// It was opened as one that nobody writes, and somebody does.
    Written,
    /// Nothing can be written beside the file.
    Unwritable(Arc<std::io::Error>),
    /// Work of ours panicked, which is a mistake of ours; whatever it wrote was undone.
    Panicked,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl Fault {
    pub(super) fn damaged(id: SessionId, problem: &dyn std::fmt::Display) -> Self {
        Self::Damaged(id, problem.to_string().into())
    }

    /// What is wrong with a row.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Damaged(_, problem) => problem.to_string(),
            Self::Sqlite(error) => error.to_string(),
            Self::Replaced | Self::Written | Self::Unwritable(_) | Self::Panicked => String::new(),
        }
    }

    /// Whether one row cannot be read, and all others may be.
    pub(super) fn is_of_a_row(&self) -> bool {
        match self {
            Self::Damaged(..) => true,
            Self::Sqlite(error) => error.sqlite_error_code().is_none(),
            Self::Replaced | Self::Written | Self::Unwritable(_) | Self::Panicked => false,
        }
    }

    pub(super) fn is_locked(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// Whether there was no room on the disk, for the log or for the memory that processes share.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Sqlite(error) => {
                let extended = error.sqlite_error().map(|error| error.extended_code);
                matches!(self.code(), Some(ErrorCode::DiskFull))
                    || extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
            }
            Self::Unwritable(error) => matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
            _ => false,
        }
    }

    /// Whether this process may read the file at most.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen))
    }

    pub(super) fn into_error(self, file: &Path) -> Error {
        let (code, is_full) = (self.code(), self.is_full());
        let file = file.display();
        let error = match self {
            Self::Sqlite(error) => error,
            Self::Damaged(id, problem) => {
                let message =
                    format!("{file} holds a damaged row of session {id} ({problem}): correct it or delete it");
                return Error::Store { message, source: None };
            }
            Self::Replaced => {
                let message = format!(
                    "{file} was deleted or replaced while it was open: nothing is written into what it was; restart \
                     this program to work on what is there now"
                );
                return Error::Unavailable { message, source: None };
            }
            Self::Written => {
                let message = format!(
                    "another program has begun to write {file}, which this one opened without being allowed to write: \
                     restart this one"
                );
                return Error::Unavailable { message, source: None };
            }
            Self::Unwritable(error) if is_full => {
                return Error::unavailable(
                    format_args!("the disk is full, {file} cannot grow: nothing was written; free some space"),
                    error,
                );
            }
            Self::Unwritable(error) => {
                return Error::store(
                    format_args!(
                        "nothing can be written beside {file}: let this process write to it and to its directory"
                    ),
                    error,
                );
            }
            Self::Panicked => {
                let message = format!("the work on {file} panicked and was undone: please report this as a bug");
                return Error::Store { message, source: None };
            }
        };
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::unavailable(
                format_args!("another process holds {file} locked; try again, and find out which if it stays so"),
                error,
            ),
            Some(_) if is_full => Error::unavailable(
                format_args!("the disk is full, {file} cannot grow: nothing was written; free some space"),
                error,
            ),
            Some(ErrorCode::SystemIoFailure) => Error::unavailable(
                format_args!("{file} could not be read or written; look into the system's log for the disk's errors"),
                error,
            ),
            Some(ErrorCode::OutOfMemory) => {
                Error::unavailable(format_args!("there is not enough memory to work on {file}"), error)
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Error::store(
                format_args!("{file} is read-only: let this process write to it and to its directory"),
                error,
            ),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::store(
                format_args!(
                    "{file} is damaged or not a database: restore it from a backup; \
                     if it holds something else, name another file"
                ),
                error,
            ),
            Some(ErrorCode::CannotOpen) => Error::store(
                format_args!("{file} cannot be opened: let this process read and write it and its directory"),
                error,
            ),
            Some(_) => Error::store(format_args!("the work on {file} failed"), error),
            None => Error::store(format_args!("{file} holds a damaged row: correct it or delete it"), error),
        }
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Damaged(..) | Self::Replaced | Self::Written | Self::Unwritable(_) | Self::Panicked => None,
        }
    }
}
