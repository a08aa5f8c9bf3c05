//! Exclusive access to one session, among those who ask for it.

use std::{sync::Arc, time::Duration};

use super::Sessions;
use crate::{Error, Record, Result, SessionId, rules::jitter, store::Locked};

/// A lock that is held. Given back when it is dropped; if its holder crashes, when its lease runs out.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct Lock {
    sessions: Sessions,
    id: SessionId,
    number: u64,
}

impl Lock {
    /// The number the lock was granted under: what is written with it is refused once the lease has run out.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Holds it for another lease from now. [`Error::LockLost`] if the lease had run out.
    pub async fn renew(&self) -> Result<()> {
        let Sessions(inner, _) = &self.sessions;
        let renewal = inner.store.renew(self.id, self.number, inner.config.lock_lease, self.sessions.now());
        if self.sessions.store_write(renewal).await? { Ok(()) } else { Err(Error::LockLost) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (sessions, id, number) = (self.sessions.clone(), self.id, self.number);
        runtime.spawn(async move {
            let released = sessions.store_write(sessions.store().unlock(id, number, sessions.now())).await;
            if let Err(error) = released {
                tracing::warn!(session = %id, %error, "a lock could not be given back: its lease will run out");
            }
        });
    }
}

impl Sessions {
    /// Locks a session, waiting for those who hold it, and answers with its record as it is by then.
    ///
    /// A lock excludes lockers alone: changes without it still count, and lose nothing. [`Error::Locked`] after the
    /// configured [timeout](super::Builder::lock_timeout).
    pub async fn lock(&self, id: SessionId) -> Result<(Lock, Arc<Record>)> {
        let (lease, patience) = (self.config().lock_lease, self.config().lock_timeout);
        let mut waited = Duration::ZERO;
        for attempt in 0.. {
            let now = self.now();
            match self.store_write(self.store().lock(id, lease, now)).await? {
                Locked::Granted(record) => {
                    let lock = Lock { sessions: self.clone(), id, number: record.lease.number };
                    self.check_attended(&record, now).await?;
                    return Ok((lock, record));
                }
                Locked::Gone(gone) => return Err(gone.into()),
                Locked::Held { .. } => {}
            }
            if waited >= patience {
                break;
            }
            let pause = jitter(attempt).max(Duration::from_millis(1)).min(patience.saturating_sub(waited));
            tokio::time::sleep(pause).await;
            waited += pause;
        }
        Err(Error::Locked { waited })
    }
}
