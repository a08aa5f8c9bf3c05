//! Connections: accepted, bounded in time, and finished in peace at shutdown.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use cloakroom::{Sessions, TrustedProxies};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tower_service::Service;

use crate::{
    api::{self, App, ForwardAuth, Operations, Work},
    assertion::AssertionKeys,
    keys::ApiKeys,
    policy::Policies,
};

/// A session server, not serving yet.
#[derive(Clone, Debug)]
#[must_use]
pub struct Server {
    sessions: Sessions,
    keys: Arc<ApiKeys>,
    bounds: Bounds,
    trusted_proxies: Option<Arc<TrustedProxies>>,
    operations: Arc<Operations>,
    work: Work,
    policies: Policies,
    assertion_keys: Option<Arc<AssertionKeys>>,
    closing: Arc<watch::Sender<bool>>,
}

/// How long things may take, and how large they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// From the first byte of a request, or the last of the one before, until its head is there. Default 30 s.
    pub head_timeout: Duration,
    /// Until its body is there. Default 10 s.
    pub body_timeout: Duration,
    /// How large a body may be, in bytes. Default 1 MiB.
    pub max_body: usize,
    /// How long requests in flight have to finish at shutdown. Default 10 s.
    pub shutdown_grace: Duration,
    /// How long the store has to answer a readiness check. Default 2 s.
    pub ping_timeout: Duration,
    /// How long a call that ends sessions is waited for, before the answer is 202 and a job to ask about. Default 10 s.
    pub answer_within: Duration,
    /// How often the store is asked for what is new, for each client of `/v1/events`. Default 1 s.
    pub events_interval: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
            max_body: 1 << 20,
            shutdown_grace: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(2),
            answer_within: Duration::from_secs(10),
            events_interval: Duration::from_secs(1),
        }
    }
}

impl Server {
    /// Serves `sessions` to holders of these keys.
    pub fn new(sessions: Sessions, keys: ApiKeys) -> Self {
        Self {
            sessions,
            keys: Arc::new(keys),
            bounds: Bounds::default(),
            trusted_proxies: None,
            operations: Arc::default(),
            work: Work::default(),
            policies: Policies::default(),
            assertion_keys: None,
            closing: Arc::default(),
        }
    }

    /// With other than default bounds.
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Forward authentication is asked through these proxies, and believes them where its visitors come from: users whom
    /// the directory lets in from some networks only are refused there without it. Default: none.
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.trusted_proxies = Some(Arc::new(proxies));
        self
    }

    /// What forward authentication asks for, by name. Default: one policy, `default`, which asks that visitors are signed
    /// in.
    pub fn policies(mut self, policies: Policies) -> Self {
        self.policies = policies;
        self
    }

    /// Forward authentication signs what it says with these. Default: it sends no assertions.
    pub fn assertion_keys(mut self, keys: AssertionKeys) -> Self {
        self.assertion_keys = Some(Arc::new(keys));
        self
    }

    pub(crate) fn router(&self) -> Router {
        api::router(App {
            sessions: self.sessions.clone(),
            keys: Arc::clone(&self.keys),
            bounds: self.bounds,
            metrics: Arc::default(),
            trusted_proxies: self.trusted_proxies.clone(),
            operations: Arc::clone(&self.operations),
            work: self.work.clone(),
            forward_auth: Arc::new(ForwardAuth::new(self.policies.clone(), self.assertion_keys.clone())),
            closing: Arc::clone(&self.closing),
        })
    }
}

/// Listens, with room for a crowd that connects at once. The usual queue of 128 lets connections beyond it be reset.
///
/// Must be called within a Tokio runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // On Windows this would let two programs share the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Serves until `shutdown` is ready, finishes the requests in flight, and shuts the sessions down.
pub async fn run(listener: TcpListener, server: Server, shutdown: impl Future<Output = ()>) {
    let router = server.router();
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => serve(stream, Peer(peer.ip()), &router, &connections, server.bounds.head_timeout),
                Err(error) => wait_out(&error).await,
            },
            () = &mut shutdown => break,
        }
    }
    // Others may take the port while the last requests are answered.
    drop(listener);
    server.closing.send_replace(true);
    tracing::info!("shutting down: finishing the requests in flight");
    let finished = async {
        connections.shutdown().await;
        // Those whose clients have gone.
        server.work.finish().await;
    };
    if tokio::time::timeout(server.bounds.shutdown_grace, finished).await.is_err() {
        tracing::warn!(after = ?server.bounds.shutdown_grace, "some requests did not finish in time");
        server.work.cut_off().await;
    }
    server.sessions.shutdown().await;
}

/// Who sent a request: the other end of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

fn serve(stream: TcpStream, peer: Peer, router: &Router, connections: &GracefulShutdown, head_timeout: Duration) {
    // Answers are small and written at once: waiting to fill a packet only delays them.
    stream.set_nodelay(true).unwrap_or_default();
    let router = router.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    });
}

/// A connection that broke before it was accepted is its own affair. Anything else, such as too many open files, will not
/// be better at once.
async fn wait_out(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "no connection can be accepted; trying again in a second");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
