//! Counts round trips: how often a client speaks after the server did.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::backend::host;

pub(crate) struct Proxy {
    pub(crate) address: String,
    trips: Arc<AtomicU64>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let own = listener.local_addr().expect("it has one").to_string();
        let server = host(address).to_owned();
        let address = address.replacen(&server, &own, 1);
        let trips = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&trips);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.expect("the server answers");
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("it is a TCP connection");
                }
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let server_spoke = Arc::new(AtomicBool::new(true));
                let (counter, spoke) = (Arc::clone(&counter), Arc::clone(&server_spoke));
                tokio::spawn(forward(from_client, to_server, move || {
                    if spoke.swap(false, Ordering::Relaxed) {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }));
                tokio::spawn(forward(from_server, to_client, move || server_spoke.store(true, Ordering::Relaxed)));
            }
        });
        Self { address, trips, accepting }
    }

    /// Until now, over all connections.
    pub(crate) fn trips(&self) -> u64 {
        self.trips.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, note: impl Fn()) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        note();
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
