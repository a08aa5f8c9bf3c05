//! A response body whose session may still change while it is sent.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::watch::Watch;

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

impl<B> SessionBody<B> {
    pub(super) fn plain(body: B) -> Self {
        Self::watched(body, Watch::nothing())
    }

    pub(super) fn watched(body: B, watch: Watch) -> Self {
        Self { kind: Kind::Inner { body }, watch }
    }

    pub(super) fn answer(bytes: Bytes) -> Self {
        Self { kind: Kind::Answer { bytes: Some(bytes) }, watch: Watch::nothing() }
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
                if !this.watch.is_storing()
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

impl<B> fmt::Debug for SessionBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBody").field("watched", &self.watch.is_on()).finish_non_exhaustive()
    }
}
