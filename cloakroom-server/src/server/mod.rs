//! The server: accepts connections, bounds them in number and time, and finishes them in peace at shutdown.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use cloakroom::{Sessions, client::TrustedProxies};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};

use crate::{
    KeyRing,
    api::{self, App, ForwardAuth, Operations, Work, ext_authz},
    assertion::AssertionKeys,
    keys::Attempts,
    policy::Policies,
};

mod connection;
mod crowd;
pub(crate) mod tls;

use connection::Host;
pub(crate) use crowd::{Crowd, Cut};
pub use tls::{Tls, TlsError};

/// A session server, not serving yet.
#[derive(Clone, Debug)]
#[must_use]
pub struct Server {
    sessions: Sessions,
    keys: KeyRing,
    bounds: Bounds,
    trusted_proxies: Option<Arc<TrustedProxies>>,
    operations: Arc<Operations>,
    work: Work,
    policies: Policies,
    assertion_keys: Option<Arc<AssertionKeys>>,
    grpc: Option<Arc<TcpListener>>,
    tls: Option<Tls>,
    closing: Arc<watch::Sender<bool>>,
}

/// How long things may take, how large they may be, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many connections may be open. Beyond it the one that waited longest for a request is closed for a new one; where
    /// all are at work, the new one is answered 503. Default 10,000.
    pub max_connections: usize,
    /// How long a connection stays open between requests. Balancers that close theirs first lose no request. Default 75 s.
    pub keep_alive: Duration,
    /// Until the head of a request is there: from its first byte, or from the connection's beginning. Default 30 s.
    pub head_timeout: Duration,
    /// Until its body is there. Default 10 s.
    pub body_timeout: Duration,
    /// How long a client may take nothing of an answer. Default 30 s.
    pub write_timeout: Duration,
    /// How large a body may be, in bytes. Default 1 MiB.
    pub max_body: usize,
    /// How many wrong API keys a client may send in a minute; ten times as many may come from all together. Default 20.
    pub key_attempts: u32,
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
            max_connections: 10_000,
            keep_alive: Duration::from_secs(75),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            max_body: 1 << 20,
            key_attempts: 20,
            shutdown_grace: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(2),
            answer_within: Duration::from_secs(10),
            events_interval: Duration::from_secs(1),
        }
    }
}

impl Server {
    /// Serves `sessions` to holders of these keys; keep a [`KeyRing`] to replace them.
    pub fn new(sessions: Sessions, keys: impl Into<KeyRing>) -> Self {
        Self {
            sessions,
            keys: keys.into(),
            bounds: Bounds::default(),
            trusted_proxies: None,
            operations: Arc::default(),
            work: Work::default(),
            policies: Policies::default(),
            assertion_keys: None,
            grpc: None,
            tls: None,
            closing: Arc::default(),
        }
    }

    /// With other than default bounds.
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// The server is asked through these proxies, and believes them where clients come from: in the log, in the bound on wrong
    /// API keys, and in forward authentication, where users whom the directory lets in from some networks only are refused
    /// without it. Default: none.
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

    /// Answers `envoy.service.auth.v3.Authorization` on this listener as well: forward authentication over gRPC. Default: on
    /// none.
    pub fn grpc(mut self, listener: TcpListener) -> Self {
        self.grpc = Some(Arc::new(listener));
        self
    }

    /// Encrypts its connections; keep a clone to replace the certificate. Default: it speaks plain HTTP.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) fn router(&self) -> Router {
        api::router(self.app(Crowd::new(self.bounds.max_connections)))
    }

    fn app(&self, crowd: Arc<Crowd>) -> App {
        App {
            sessions: self.sessions.clone(),
            keys: self.keys.clone(),
            attempts: Arc::new(Attempts::new(self.bounds.key_attempts)),
            bounds: self.bounds,
            metrics: Arc::default(),
            crowd,
            trusted_proxies: self.trusted_proxies.clone(),
            operations: Arc::clone(&self.operations),
            work: self.work.clone(),
            forward_auth: Arc::new(ForwardAuth::new(self.policies.clone(), self.assertion_keys.clone())),
            closing: Arc::clone(&self.closing),
        }
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
    let crowd = Crowd::new(server.bounds.max_connections);
    let app = server.app(Arc::clone(&crowd));
    let host = Host { router: api::router(app.clone()), bounds: server.bounds, tls: server.tls.clone() };
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match Crowd::enter(&crowd) {
                    Some(place) => {
                        let shutdown = connections.watcher();
                        tokio::spawn(host.clone().serve(stream, Peer(peer.ip()), shutdown, place));
                    }
                    // What a client of TLS reads is not for us to write in the clear.
                    None if host.tls.is_some() => {}
                    None => turn_away(&stream),
                },
                Err(error) => wait_out(&error, &crowd).await,
            },
            accepted = accept(server.grpc.as_deref()) => match accepted {
                Ok((stream, peer)) => if let Some(place) = Crowd::enter(&crowd) {
                    // A proxy asks over few connections, and for as long as it runs: none is closed for waiting.
                    place.activity.works();
                    let served = ext_authz::serve(stream, Peer(peer.ip()), &app, &connections);
                    tokio::spawn(async move {
                        served.await;
                        drop(place);
                    });
                },
                Err(error) => wait_out(&error, &crowd).await,
            },
            () = &mut shutdown => break,
        }
    }
    // Others may take the port while the last requests are answered.
    drop((listener, server.grpc));
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

/// The next connection; never one where there is no listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// The client of a request, as far as the connection tells: its other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// All connections are at work.
fn turn_away(stream: &TcpStream) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    // A client that cannot be told is cut off all the same.
    stream.try_write(ANSWER).unwrap_or_default();
}

/// A connection that broke before it was accepted is its own affair. Anything else, such as too many open files, is better
/// once some have gone.
async fn wait_out(error: &io::Error, crowd: &Crowd) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "no connection can be accepted; closing some that wait, and trying again in a second");
        crowd.close_waiting();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
