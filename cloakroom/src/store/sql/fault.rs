//! Why a call to a database server failed, and what its caller is told.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use sqlx::Error as SqlError;

use super::pool::Engine;
use crate::{error::Error, period::rounded};

/// Whether a call that was cut off may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Read,
    Write,
}

/// What can be done about an error that a server reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Severity {
    /// The connection is lost, and with it what was under way.
    Disconnected,
    /// Nothing was done, and this connection will not do it: another one may.
    Stuck,
    /// The server undid the call for the sake of others; it may be repeated.
    Undone,
    /// The server is short of something; later it may work.
    Unavailable,
    /// Nothing was done, and the connection is sound: what was sent is wrong.
    Refused,
    /// An operator must look.
    Broken,
}

/// Why a call failed.
#[derive(Clone, Debug)]
pub(in crate::store) enum Fault {
    /// No answer in time; where the call had been sent, it may have been carried out.
    Slow { after: Duration, was_sent: bool },
    /// The connection broke while the call was under way.
    Cut { source: Arc<SqlError>, after: Duration },
    /// There was no connection to be had.
    Unreachable { source: Arc<SqlError> },
    /// What the server said.
    Server { severity: Severity, source: Arc<SqlError> },
    /// What the server answered makes no sense.
    Nonsense { source: Arc<SqlError> },
    /// The application closed its pool.
    Closed,
}

impl Fault {
    pub(in crate::store) fn of<E: Engine>(error: SqlError, after: Duration) -> Self {
        let source = Arc::new(error);
        match &*source {
            SqlError::Io(_) | SqlError::Protocol(_) | SqlError::Tls(_) | SqlError::WorkerCrashed => {
                Self::Cut { source, after }
            }
            SqlError::PoolClosed => Self::Closed,
            SqlError::PoolTimedOut => Self::Unreachable { source },
            SqlError::Database(database) => match E::severity(&**database) {
                Severity::Disconnected => Self::Cut { source, after },
                severity => Self::Server { severity, source },
            },
            _ => Self::Nonsense { source },
        }
    }

    /// What went wrong before anything was sent.
    pub(super) fn connecting<E: Engine>(error: SqlError, after: Duration) -> Self {
        match Self::of::<E>(error, after) {
            Self::Cut { source, .. } => Self::Unreachable { source },
            fault => fault,
        }
    }

    /// The fault of a later try, when an earlier one may have been carried out.
    pub(super) fn after_sending(self, after: Duration) -> Self {
        match self {
            Self::Slow { .. } => Self::Slow { after, was_sent: true },
            Self::Unreachable { source } => Self::Cut { source, after },
            fault => fault,
        }
    }

    /// Whether it says nothing of what was called.
    pub(in crate::store) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Slow { .. } | Self::Cut { .. } | Self::Unreachable { .. } | Self::Closed => true,
            Self::Server { severity, .. } => matches!(severity, Severity::Stuck | Severity::Unavailable),
            Self::Nonsense { .. } => false,
        }
    }

    /// Whether the same connection can be used on.
    pub(super) fn leaves_connection(&self) -> bool {
        matches!(self, Self::Server { severity: Severity::Undone | Severity::Refused | Severity::Unavailable, .. })
    }

    /// For the caller.
    pub(in crate::store) fn into_error<E: Engine>(self, kind: Kind) -> Error {
        let name = E::NAME;
        match self {
            Self::Slow { after, was_sent: true } | Self::Cut { after, .. } if kind == Kind::Write => {
                Error::OutcomeUnknown { after }
            }
            Self::Slow { after, was_sent } => {
                let (what, advice) = if was_sent {
                    ("no answer", "")
                } else {
                    ("no connection", ": see that it is reachable, and has connections to spare")
                };
                let message = format!("{what} from {name} for {}{advice}", rounded(after));
                Error::Unavailable { message, source: None }
            }
            Self::Cut { source, .. } => {
                Error::unavailable(format!("the connection to {name} broke: {}", told::<E>(&source)), source)
            }
            Self::Unreachable { source } => Error::unavailable(
                format!(
                    "no connection to {name} ({}): see that it runs, is reachable, and has connections to spare",
                    told::<E>(&source)
                ),
                source,
            ),
            Self::Server { severity: Severity::Stuck | Severity::Unavailable | Severity::Undone, source } => {
                Error::unavailable(format!("{name} cannot serve it now: {}", told::<E>(&source)), source)
            }
            Self::Server { source, .. } => Error::store(format!("{name} refuses: {}", told::<E>(&source)), source),
            Self::Nonsense { source } => {
                Error::store(format!("{name} gave an answer that makes no sense: {}", told::<E>(&source)), source)
            }
            Self::Closed => {
                Error::Unavailable { message: format!("the pool of connections to {name} was closed"), source: None }
            }
        }
    }
}

/// What the server said, or the innermost reason.
fn told<E: Engine>(error: &SqlError) -> String {
    if let Some(database) = error.as_database_error() {
        return E::told(database);
    }
    let mut innermost: &(dyn StdError + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
