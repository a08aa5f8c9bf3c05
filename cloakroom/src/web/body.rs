//! A response body whose session may still change while it is sent.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{Result, Session, SessionLock};

pin_project! {
    /// The body of a response that passed a layer of ours: the inner service's, and what it still
    /// changes in the session is stored at its end, or when it is dropped.
    pub struct SessionBody<B> {
        #[pin]
        kind: Kind<B>,
        watch: Watch,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Answer { bytes: Option<Bytes> },
    }
}

/// Stores what a body changed, whatever becomes of the body.
struct Watch {
    session: Option<Session>,
    lock: Option<SessionLock>,
    commit: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
}

impl<B> SessionBody<B> {
    pub(super) fn plain(body: B) -> Self {
        Self { kind: Kind::Inner { body }, watch: Watch { session: None, lock: None, commit: None } }
    }

    pub(super) fn watched(body: B, session: Session, lock: Option<SessionLock>) -> Self {
        Self { kind: Kind::Inner { body }, watch: Watch { session: Some(session), lock, commit: None } }
    }

    pub(super) fn answer(bytes: Bytes) -> Self {
        Self { kind: Kind::Answer { bytes: Some(bytes) }, watch: Watch { session: None, lock: None, commit: None } }
    }
}

impl<B: Body<Data = Bytes>> Body for SessionBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        match this.kind.project() {
            KindProjection::Answer { bytes } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            KindProjection::Inner { body } => {
                if this.watch.commit.is_none()
                    && let Some(frame) = ready!(body.poll_frame(context))
                {
                    return Poll::Ready(Some(frame));
                }
                ready!(this.watch.poll_commit(context));
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Answer { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Answer { bytes } => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

impl Watch {
    fn poll_commit(&mut self, context: &mut Context<'_>) -> Poll<()> {
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

impl<B> fmt::Debug for SessionBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBody").field("watched", &self.watch.session.is_some()).finish_non_exhaustive()
    }
}
