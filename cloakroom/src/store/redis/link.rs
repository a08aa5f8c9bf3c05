//! One server: connections that are made when they are needed, and again when they are lost.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// A server.
pub(super) struct Link {
    client: Client,
    wants: Wants,
    lanes: Vec<Mutex<Lane>>,
}

/// What a server must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    Anything,
    /// One that was primary once may be back as a replica, with what it has missed.
    Primary,
}

/// A connection that many calls share, if there is one.
#[derive(Default)]
struct Lane {
    connection: Option<MultiplexedConnection>,
    /// Counts the connections, so that a late complaint about an old one does not drop its successor.
    number: u64,
    next_try: Option<Instant>,
    pause: Duration,
}

/// A connection, and what to complain about when it turns out to be broken.
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    lane: usize,
    number: u64,
}

impl Link {
    /// WAIT holds up what follows on its connection, so calls that wait have connections of their own.
    const LANES_FOR_WAITING: usize = 16;
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    pub(super) fn new(client: Client, wants: Wants) -> Self {
        let lanes = (0..=Self::LANES_FOR_WAITING).map(|_| Mutex::default()).collect();
        Self { client, wants, lanes }
    }

    /// A connection; for a call that waits one of those set apart, by turns.
    ///
    /// Whoever comes first connects, the others stand in line for it. Tries that fail are spaced out.
    pub(super) async fn connect(&self, waits: bool, turn: usize) -> RedisResult<Connected> {
        let number_of_lane = if waits { 1 + turn % Self::LANES_FOR_WAITING } else { 0 };
        let mut lane = self.lanes[number_of_lane].lock().await;
        if lane.connection.is_none() {
            if let Some(next_try) = lane.next_try {
                tokio::time::sleep_until(next_try).await;
            }
            match self.make().await {
                Ok(connection) => {
                    lane.connection = Some(connection);
                    lane.number += 1;
                    lane.next_try = None;
                    lane.pause = Duration::ZERO;
                }
                Err(error) => {
                    lane.pause = (lane.pause * 2).clamp(Self::FIRST_PAUSE, Self::LONGEST_PAUSE);
                    lane.next_try = Some(Instant::now() + lane.pause);
                    return Err(error);
                }
            }
        }
        let connection = lane.connection.clone().expect("it was just made");
        Ok(Connected { connection, lane: number_of_lane, number: lane.number })
    }

    async fn make(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Self::CONNECT_TIMEOUT))
            // Each call has its own.
            .set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        if self.wants == Wants::Primary {
            let role = timeout(Self::CONNECT_TIMEOUT, cmd("ROLE").query_async::<Vec<Value>>(&mut connection)).await;
            let role = role.map_err(std::io::Error::from)??;
            if !matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") {
                return Err((ErrorKind::Client, "the server is not the primary any more").into());
            }
        }
        Ok(connection)
    }

    /// Lets go of a connection that is broken or silent, so that the next call makes another.
    pub(super) async fn drop_connection(&self, broken: &Connected) {
        let mut lane = self.lanes[broken.lane].lock().await;
        if lane.number == broken.number {
            lane.connection = None;
        }
    }
}
