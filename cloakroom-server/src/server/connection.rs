//! One connection: what it is at, and how long it may be.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
};
use http::Request;
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::Watcher,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tower_service::Service as _;

use super::{
    Bounds, Peer, Tls,
    crowd::{Cut, Place},
};

/// What connections of a server have in common.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) router: Router,
    pub(super) bounds: Bounds,
    pub(super) tls: Option<Tls>,
}

impl Host {
    /// Serves one connection to its end.
    pub(super) async fn serve(self, stream: TcpStream, peer: Peer, shutdown: Watcher, place: Place) {
        // Answers are small and written at once: waiting to fill a packet only delays them.
        stream.set_nodelay(true).unwrap_or_default();
        let (bounds, activity) = (self.bounds, Arc::clone(&place.activity));
        let wire = Wire { stream, activity: Arc::clone(&activity), stuck: None, timeout: bounds.write_timeout };
        let mut served = pin!(self.talk(wire, peer, shutdown, &place));
        let mut due = pin!(sleep_until(activity.due(&bounds)));
        loop {
            tokio::select! {
                () = &mut served => break,
                () = &mut due => match activity.overdue(&bounds) {
                    Some(why) => {
                        place.note(why);
                        tracing::debug!(why = why.name(), client = %peer.0, "a connection is closed");
                        break;
                    }
                    None => due.as_mut().reset(activity.due(&bounds)),
                },
                () = activity.closed() => break,
            }
        }
    }

    async fn talk(self, wire: Wire, peer: Peer, shutdown: Watcher, place: &Place) {
        let done = match &self.tls {
            None => self.answer(wire, peer, shutdown, &place.activity).await,
            Some(tls) => match tls.acceptor().accept(wire).await {
                Ok(stream) => self.answer(stream, peer, shutdown, &place.activity).await,
                Err(error) => {
                    tracing::debug!(%error, client = %peer.0, "a client could not agree on TLS");
                    return;
                }
            },
        };
        if let Err(error) = done {
            if is_timeout(&error) {
                place.note(Cut::Unread);
            }
            tracing::debug!(%error, client = %peer.0, "a connection broke");
        }
    }

    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        shutdown: Watcher,
        activity: &Arc<Activity>,
    ) -> Result<(), hyper::Error> {
        let service = service_fn(|mut request: Request<Incoming>| {
            activity.works();
            request.extensions_mut().insert(peer);
            let (mut router, activity) = (self.router.clone(), Arc::clone(activity));
            async move {
                let response = router.call(request).await?;
                Ok::<_, Infallible>(response.map(|body| Answer { body, activity }))
            }
        });
        // The bound on a head also holds between requests there; here the two differ.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service);
        shutdown.watch(connection).await
    }
}

fn is_timeout(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is new, and nothing came yet.
    Fresh,
    /// A part of a request's head is there.
    Head,
    /// A request is answered.
    Busy,
    /// The last answer is written, or nearly so.
    Idle,
}

/// What a connection is at, and since when: told by its parts, read by the task that bounds it.
#[derive(Debug)]
pub(super) struct Activity {
    /// Milliseconds since `EPOCH`, and the phase in the last two bits.
    state: AtomicU64,
    close: Notify,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Activity {
    pub(super) fn new() -> Self {
        let activity = Self { state: AtomicU64::new(0), close: Notify::new() };
        activity.set(Phase::Fresh);
        activity
    }

    /// What it is at, and since when.
    pub(super) fn now(&self) -> (Phase, Instant) {
        let state = self.state.load(Ordering::Relaxed);
        let phase = match state & 3 {
            0 => Phase::Fresh,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::Idle,
        };
        (phase, *EPOCH + Duration::from_millis(state >> 2))
    }

    /// A request is there.
    pub(super) fn works(&self) {
        self.set(Phase::Busy);
    }

    /// Its answer is.
    pub(super) fn answered(&self) {
        self.set(Phase::Idle);
    }

    /// Has the connection closed.
    pub(super) fn close(&self) {
        self.close.notify_one();
    }

    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }

    /// Bytes came.
    fn received(&self) {
        if matches!(self.now().0, Phase::Fresh | Phase::Idle) {
            self.set(Phase::Head);
        }
    }

    #[cfg(test)]
    pub(super) fn waits_since(&self, millis: u64) {
        self.store(Phase::Idle, millis);
    }

    fn set(&self, phase: Phase) {
        let millis = u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        self.store(phase, millis);
    }

    fn store(&self, phase: Phase, millis: u64) {
        self.state.store(millis << 2 | phase as u64, Ordering::Relaxed);
    }

    /// When it is to be looked at again.
    fn due(&self, bounds: &Bounds) -> Instant {
        match self.now() {
            (Phase::Fresh | Phase::Head, since) => since + bounds.head_timeout,
            (Phase::Idle, since) => since + bounds.keep_alive,
            // It has bounds of its own: of the body, of the store, and of the client that reads.
            (Phase::Busy, _) => Instant::now() + bounds.head_timeout.min(bounds.keep_alive),
        }
    }

    fn overdue(&self, bounds: &Bounds) -> Option<Cut> {
        let why = match self.now().0 {
            Phase::Busy => return None,
            Phase::Fresh | Phase::Head => Cut::Head,
            Phase::Idle => Cut::Idle,
        };
        (self.due(bounds) <= Instant::now()).then_some(why)
    }
}

/// The stream, which notes what comes, and breaks where the client takes nothing for too long.
struct Wire {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// While nothing can be written: until when that is borne.
    stuck: Option<Pin<Box<Sleep>>>,
    timeout: Duration,
}

impl Wire {
    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let timeout = self.timeout;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.activity.received();
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.bounded(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// A body that notes when all of it is written, or dropped.
struct Answer {
    body: Body,
    activity: Arc<Activity>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.activity.answered();
    }
}
