//! Stores what a response's body changes in its session.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    error::Result,
    session::{Session, SessionLock},
};

/// Stores what a body changed, whatever becomes of the body.
pub(super) struct Watch {
    session: Option<Session>,
    lock: Option<SessionLock>,
    commit: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
}

impl Watch {
    pub(super) fn new(session: Session, lock: Option<SessionLock>) -> Self {
        Self { session: Some(session), lock, commit: None }
    }

    /// For a body whose session nobody holds.
    pub(super) fn nothing() -> Self {
        Self { session: None, lock: None, commit: None }
    }

    /// Whether there is a session to look after.
    pub(super) fn is_on(&self) -> bool {
        self.session.is_some()
    }

    /// Whether the body has come to its end, and what it changed is being stored.
    pub(super) fn is_storing(&self) -> bool {
        self.commit.is_some()
    }

    /// To be called at the body's end, until it is ready.
    pub(super) fn poll_commit(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(session) = self.session.take() {
            self.commit = Some(Box::pin(async move { session.commit().await }));
        }
        if let Some(commit) = &mut self.commit {
            report(&ready!(commit.as_mut().poll(context)));
            self.commit = None;
            self.lock = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Watch {
    /// A client that goes away, a HEAD request and a body whose length was known are dropped before they were polled to
    /// their end.
    fn drop(&mut self) {
        let commit = match (self.commit.take(), self.session.take()) {
            (Some(commit), _) => commit,
            (None, Some(session)) if session.is_dirty() => Box::pin(async move { session.commit().await }),
            (None, _) => return,
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { report(&commit.await) });
        } else {
            tracing::warn!("a response body was dropped outside the runtime: its session changes are lost");
        }
    }
}

fn report(committed: &Result<()>) {
    if let Err(error) = committed {
        tracing::warn!(%error, "what a response body changed in its session could not be stored");
    }
}
