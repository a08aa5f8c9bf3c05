//! Load: connections that each send the next request when the last is answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    client::Connection,
    histogram::Histogram,
    options::{Options, Request},
};

/// To start a session.
const TRIES: usize = 20;

/// Connections to one subject, and the cookies of its sessions.
pub(crate) struct Load {
    connections: Vec<Client>,
    /// So many meet where connections meet.
    shared: Arc<Vec<String>>,
    increments: Arc<AtomicU64>,
}

struct Client {
    connection: Connection,
    own: Vec<String>,
    turn: usize,
    random: u64,
}

/// What came of a run.
#[derive(Clone, Default)]
pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) latencies: Histogram,
    pub(crate) own_cpu: Duration,
    pub(crate) backend_cpu: Option<Duration>,
}

impl Load {
    /// Starts the sessions, each over the connection that will have it.
    pub(crate) async fn start(address: SocketAddr, options: &Options) -> Self {
        let each = options.sessions.div_ceil(options.connections);
        let mut starting = JoinSet::new();
        for number in 0..options.connections {
            starting.spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut own = Vec::with_capacity(each);
                for session in 0..each {
                    let line = format!("POST /start/{}", number * each + session);
                    let mut answer = connection.ask(&line, "").await;
                    // A store may be too busy with the others.
                    for _ in 0..TRIES {
                        if answer.status == 200 {
                            break;
                        }
                        answer = connection.ask(&line, "").await;
                    }
                    assert_eq!(answer.status, 200, "a session does not start: {}", answer.body);
                    own.push(answer.cookie.unwrap_or_else(|| "__Host-session=none".into()));
                }
                Client { connection, own, turn: 0, random: 0x9E37_79B9_7F4A_7C15 ^ (number as u64 + 1) }
            });
        }
        let mut connections = starting.join_all().await;
        // Those that are met on are none that a connection has for itself.
        let shared = connections.iter_mut().map(|client| {
            if client.own.len() > 1 { client.own.pop().expect("it has several") } else { client.own[0].clone() }
        });
        let shared = Arc::new(shared.collect());
        Self { connections, shared, increments: Arc::default() }
    }

    pub(crate) async fn run(&mut self, request: Request, meets: bool, time: Duration) -> Run {
        let begin = Instant::now();
        let until = begin + time;
        let mut running = JoinSet::new();
        for mut client in self.connections.drain(..) {
            let (shared, increments) = (Arc::clone(&self.shared), Arc::clone(&self.increments));
            running.spawn(async move {
                let mut run = Run::default();
                client.connection.wake().await;
                while Instant::now() < until {
                    client.ask(request, meets.then_some(&*shared), &mut run).await;
                }
                if request == Request::Write {
                    increments.fetch_add(run.answered, Ordering::Relaxed);
                }
                (client, run)
            });
        }
        let mut whole = Run::default();
        for (client, run) in running.join_all().await {
            whole.answered += run.answered;
            whole.failed += run.failed;
            whole.latencies.merge(&run.latencies);
            self.connections.push(client);
        }
        whole.time = begin.elapsed();
        whole
    }

    /// How much what `counter` counts grows with a request, while one at a time is sent over the first connection.
    #[expect(clippy::cast_precision_loss, reason = "there are not that many")]
    pub(crate) async fn count(&mut self, request: Request, requests: u64, counter: impl Fn() -> u64) -> f64 {
        let client = &mut self.connections[0];
        let mut run = Run::default();
        client.ask(request, None, &mut run).await;
        let before = counter();
        for _ in 0..requests {
            client.ask(request, None, &mut run).await;
        }
        if request == Request::Write {
            self.increments.fetch_add(run.answered, Ordering::Relaxed);
        }
        (counter() - before) as f64 / requests as f64
    }

    /// How many increments were answered as stored, and how many are there; None where there were none.
    pub(crate) async fn survived(mut self) -> Option<(u64, u64)> {
        let acknowledged = self.increments.load(Ordering::Relaxed);
        let cookies: Vec<_> = self.connections.iter().flat_map(|client| client.own.clone()).collect();
        let connection = &mut self.connections[0].connection;
        connection.wake().await;
        let mut found = 0;
        for cookie in cookies.iter().chain(&*self.shared) {
            let answer = connection.ask("GET /visits", cookie).await;
            found += answer.body.parse::<u64>().ok().filter(|_| answer.status == 200)?;
        }
        (acknowledged > 0).then_some((acknowledged, found))
    }
}

impl Client {
    async fn ask(&mut self, request: Request, shared: Option<&Vec<String>>, run: &mut Run) {
        let own = self.turn % self.own.len();
        self.turn += 1;
        let cookie = match shared {
            Some(shared) => &shared[self.random(shared.len())],
            None => &self.own[own],
        };
        let begin = Instant::now();
        let answer = self.connection.ask(request.line(), cookie).await;
        run.latencies.add(begin.elapsed());
        if answer.status == 200 {
            run.answered += 1;
        } else {
            run.failed += 1;
        }
        if let Some(cookie) = answer.cookie.filter(|_| shared.is_none()) {
            self.own[own] = cookie;
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below as u64).expect("it is below a length")
    }
}
