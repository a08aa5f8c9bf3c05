//! Exclusive access to the session of a request.

use std::sync::Arc;

use super::{Session, Stage, State};
use crate::{change::Change, error::Result, sessions::Lock};

/// The lock on a request's session. While it is held, what the request stores is refused if its lease has run out
/// ([`Error::LockLost`](crate::Error::LockLost)). Given back when it is dropped and what was pending then is stored.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct SessionLock {
    session: Session,
    lock: Option<Lock>,
}

impl Session {
    /// Excludes other requests that lock this session, until the guard is dropped, and sees it as it is by then. Waits
    /// for who holds it; [`Error::Locked`](crate::Error::Locked) after the configured timeout.
    ///
    /// No update is lost without it: it is for work outside the session that must not be done twice at a time. A
    /// visitor of whom nothing is stored has nobody to exclude.
    pub async fn lock(&self) -> Result<SessionLock> {
        let _turn = self.0.turn.lock().await;
        let Some(id) = self.id() else { return Ok(SessionLock { session: self.clone(), lock: None }) };
        let (lock, record) = self.0.sessions.lock(id).await?;
        let mut state = self.state();
        state.lease = Some(lock.number());
        state.rebase(record, None)?;
        drop(state);
        Ok(SessionLock { session: self.clone(), lock: Some(lock) })
    }
}

impl SessionLock {
    /// Holds it for another lease from now.
    pub async fn renew(&self) -> Result<()> {
        match &self.lock {
            Some(lock) => lock.renew().await,
            None => Ok(()),
        }
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        let mut state = self.session.state();
        if state.lease == Some(lock.number()) {
            state.releasing = Some(lock);
            state.release_if_stored();
        }
    }
}

impl State {
    /// Gives the lock back once nothing is pending that was decided under it.
    pub(super) fn release_if_stored(&mut self) {
        if self.releasing.is_some() && self.pending.is_empty() {
            self.releasing = None;
            self.lease = None;
        }
    }

    /// A change as it is to be sent: under the lease, where a lock is held.
    pub(super) fn under_lease(&self, mut change: Arc<Change>) -> Arc<Change> {
        let locked = matches!(self.stage, Stage::Stored { .. });
        if let Some(number) = self.lease.filter(|_| locked) {
            Arc::make_mut(&mut change).lease = Some(number);
        }
        change
    }
}
