//! A proxy in front of a server that counts connections and exchanges, and can cut, delay, swallow or redirect them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

/// A proxy on a port of its own.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// Where the next connection leads.
    server: Mutex<String>,
    /// How long it takes to be made.
    delay: Mutex<Duration>,
    /// How long answers are under way.
    distance: Mutex<Duration>,
    accepted: AtomicUsize,
    exchanges: AtomicUsize,
    /// So many answers from now one is cut off; none at its largest.
    until_cut: AtomicUsize,
    generation: watch::Sender<u64>,
    /// Connections that are older than this are silent: nothing goes through, and nothing says so.
    silence: watch::Sender<u64>,
    /// What stands in messages that are not handed on.
    dropping: Mutex<Option<&'static [u8]>>,
    dropped: AtomicUsize,
}

impl Proxy {
    /// In front of `server`, a host and a port.
    pub(crate) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            server: Mutex::new(server),
            delay: Mutex::default(),
            distance: Mutex::default(),
            accepted: AtomicUsize::new(0),
            exchanges: AtomicUsize::new(0),
            until_cut: AtomicUsize::new(usize::MAX),
            generation: watch::Sender::new(0),
            silence: watch::Sender::new(0),
            dropping: Mutex::default(),
            dropped: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&accepting), client));
            }
        });
        Self { address, state }
    }

    /// How often a client spoke after the server, so far: each time is a wait for a round trip.
    pub(crate) fn exchanges(&self) -> usize {
        self.state.exchanges.load(Ordering::SeqCst)
    }

    /// How many connections were opened so far.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// From now on it takes so long to make a connection.
    pub(crate) fn delay_connections(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// From now on the server's answers take so long to arrive.
    pub(crate) fn delay_answers(&self, distance: Duration) {
        *self.state.distance.lock().unwrap() = distance;
    }

    /// New connections lead to another server.
    pub(crate) fn lead_to(&self, server: String) {
        *self.state.server.lock().unwrap() = server;
    }

    /// Connections that are there stay open, and nothing goes through them any more, as where a translator of addresses has
    /// forgotten them.
    pub(crate) fn swallow_all(&self) {
        self.state.silence.send_modify(|generation| *generation += 1);
    }

    /// From now on what the server sends at once and what these bytes stand in is not handed on. The connection goes on.
    pub(crate) fn drop_messages(&self, with: &'static [u8]) {
        *self.state.dropping.lock().unwrap() = Some(with);
    }

    /// How many messages were dropped.
    pub(crate) fn dropped(&self) -> usize {
        self.state.dropped.load(Ordering::SeqCst)
    }

    /// Closes every connection there is.
    pub(crate) fn cut_all(&self) {
        self.state.generation.send_modify(|generation| *generation += 1);
    }

    /// Lets the next request reach the server, and closes its connection in place of handing on the answer.
    pub(crate) fn cut_next_answer(&self) {
        self.cut_answer_after(0);
    }

    /// As [`cut_next_answer`](Self::cut_next_answer), when so many answers have been handed on.
    pub(crate) fn cut_answer_after(&self, answers: usize) {
        self.state.until_cut.store(answers, Ordering::SeqCst);
    }
}

impl State {
    fn drops(&self, message: &[u8]) -> bool {
        let with = *self.dropping.lock().unwrap();
        let drops = with.is_some_and(|with| message.windows(with.len()).any(|window| window == with));
        self.dropped.fetch_add(usize::from(drops), Ordering::SeqCst);
        drops
    }

    fn is_to_be_cut(&self) -> bool {
        let count = |left: usize| (left != usize::MAX).then(|| left.checked_sub(1).unwrap_or(usize::MAX));
        self.until_cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(0)
    }
}

async fn serve(state: Arc<State>, client: TcpStream) {
    state.accepted.fetch_add(1, Ordering::SeqCst);
    let (address, delay) = (state.server.lock().unwrap().clone(), *state.delay.lock().unwrap());
    sleep(delay).await;
    let Ok(server) = TcpStream::connect(&address).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let mut generation = state.generation.subscribe();
    let mut silence = state.silence.subscribe();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut client_spoke_last = false;
    loop {
        tokio::select! {
            read = from_client.read(&mut asked) => match read {
                Ok(length) if length > 0 => {
                    if !std::mem::replace(&mut client_spoke_last, true) {
                        state.exchanges.fetch_add(1, Ordering::SeqCst);
                    }
                    if to_server.write_all(&asked[..length]).await.is_err() { return }
                }
                _ => return,
            },
            read = from_server.read(&mut answered) => match read {
                Ok(length) if length > 0 => {
                    client_spoke_last = false;
                    let distance = *state.distance.lock().unwrap();
                    if !distance.is_zero() { sleep(distance).await }
                    if state.is_to_be_cut() { return }
                    if state.drops(&answered[..length]) { continue }
                    if to_client.write_all(&answered[..length]).await.is_err() { return }
                }
                _ => return,
            },
            _ = generation.changed() => return,
            _ = silence.changed() => {
                let _ = generation.changed().await;
                return;
            }
        }
    }
}
