//! Exclusive access to one session, among those who ask for it.

use std::{sync::Arc, time::Duration};

use super::Sessions;
use crate::{
    error::{Error, Result},
    record::Record,
    rules::Locked,
    rules::jitter,
    token::SessionId,
};

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
        let lease = self.sessions.config().lock_lease;
        if self.sessions.renew_lock(self.id, self.number, lease).await? { Ok(()) } else { Err(Error::LockLost) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (sessions, id, number) = (self.sessions.clone(), self.id, self.number);
        runtime.spawn(async move {
            if let Err(error) = sessions.unlock(id, number).await {
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
        match self.take_lock(id, TakeLock { lease, patience }).await? {
            Locked::Granted(record) => Ok((Lock { sessions: self.clone(), id, number: record.lease.number }, record)),
            Locked::Held { .. } => Err(Error::Locked { waited: patience }),
            Locked::Gone(gone) => Err(gone.into()),
        }
    }

    /// As [`lock`](Self::lock), for a holder that is no value of this process, such as a client of a server: it must
    /// [renew](Self::renew_lock) and [give back](Self::unlock) the lock by its [number](crate::store::Lease::number).
    pub async fn take_lock(&self, id: SessionId, take: TakeLock) -> Result<Locked> {
        let TakeLock { lease, patience } = take;
        let mut waited = Duration::ZERO;
        for attempt in 0.. {
            let now = self.now();
            let locked = self.store_write(self.rules().lock(id, lease, now)).await?;
            match &locked {
                Locked::Granted(record) => {
                    if let Err(error) = self.check_attended(record, now).await {
                        self.unlock(id, record.lease.number).await?;
                        return Err(error);
                    }
                    return Ok(locked);
                }
                Locked::Held { .. } if waited < patience => {}
                Locked::Held { .. } | Locked::Gone(_) => return Ok(locked),
            }
            let pause = jitter(attempt).max(Duration::from_millis(1)).min(patience.saturating_sub(waited));
            tokio::time::sleep(pause).await;
            waited += pause;
        }
        Err(Error::Locked { waited })
    }

    /// Holds a lock for `lease` from now, at least; `false` if it was lost, or its session is gone.
    pub async fn renew_lock(&self, id: SessionId, number: u64, lease: Duration) -> Result<bool> {
        self.store_write(self.rules().renew(id, number, lease, self.now())).await
    }

    /// Gives a lock back; `false` if it was lost, or its session is gone.
    pub async fn unlock(&self, id: SessionId, number: u64) -> Result<bool> {
        self.store_write(self.rules().unlock(id, number, self.now())).await
    }
}

/// How a lock is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeLock {
    /// For how long it is held, unless it is renewed.
    pub lease: Duration,
    /// How long others that hold it are waited for. Zero: not at all.
    pub patience: Duration,
}
