//! One server: connections that are made when they are needed, and again when they are lost.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, RedisResult, Value, aio::MultiplexedConnection, cmd,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::feed::Hub;
use crate::store::feed::Channel;

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
    /// Over which the server tells what changed of what was looked at through this connection.
    channel: Option<Arc<Channel>>,
}

/// A connection, and what to complain about when it turns out to be broken.
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    pub(super) channel: Option<Arc<Channel>>,
    lane: usize,
    number: u64,
}

/// What a connection is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// Any call.
    Calls,
    /// Calls that wait for replicas, by turns.
    Waiting(usize),
    /// Calls whose keys the server tracks.
    Tracking(&'a Arc<Hub>),
}

impl Link {
    /// WAIT holds up what follows on its connection, so calls that wait have connections of their own.
    const LANES_FOR_WAITING: usize = 16;
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    /// The lane of calls that are tracked; those of waiting ones lie between it and the first.
    const TRACKING: usize = Self::LANES_FOR_WAITING + 1;

    pub(super) fn new(client: Client, wants: Wants) -> Self {
        let lanes = (0..=Self::TRACKING).map(|_| Mutex::default()).collect();
        Self { client, wants, lanes }
    }

    /// A connection for this purpose.
    ///
    /// Whoever comes first connects, the others stand in line for it. Tries that fail are spaced out.
    pub(super) async fn connect(&self, purpose: Purpose<'_>) -> RedisResult<Connected> {
        let number_of_lane = match purpose {
            Purpose::Calls => 0,
            Purpose::Waiting(turn) => 1 + turn % Self::LANES_FOR_WAITING,
            Purpose::Tracking(_) => Self::TRACKING,
        };
        let mut lane = self.lanes[number_of_lane].lock().await;
        if lane.channel.as_ref().is_some_and(|channel| channel.is_lost()) {
            lane.connection = None;
        }
        if lane.connection.is_none() {
            if let Some(next_try) = lane.next_try {
                tokio::time::sleep_until(next_try).await;
            }
            match self.make(purpose).await {
                Ok((connection, channel)) => {
                    lane.connection = Some(connection);
                    lane.channel = channel;
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
        Ok(Connected { connection, channel: lane.channel.clone(), lane: number_of_lane, number: lane.number })
    }

    /// The tracked connection that there is now.
    pub(super) async fn tracked(&self) -> Option<Connected> {
        let lane = self.lanes[Self::TRACKING].lock().await;
        let connection = lane.connection.clone()?;
        Some(Connected { connection, channel: lane.channel.clone(), lane: Self::TRACKING, number: lane.number })
    }

    async fn make(&self, purpose: Purpose<'_>) -> RedisResult<(MultiplexedConnection, Option<Arc<Channel>>)> {
        let Purpose::Tracking(hub) = purpose else { return Ok((self.make_plain().await?, None)) };
        let info = self.client.get_connection_info().clone();
        let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(login))?;
        let channel = Channel::since(hub.ticks().now());
        let (hub, told) = (Arc::clone(hub), Arc::clone(&channel));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Self::CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_push_sender(move |push| {
                hub.pushed(&told, push);
                Ok::<_, std::convert::Infallible>(())
            });
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        self.check(&mut connection).await?;
        // What this connection itself changes is not told: it would be told of behind the answer.
        let track = cmd("CLIENT").arg("TRACKING").arg("ON").arg("OPTIN").arg("NOLOOP").to_owned();
        timeout(Self::CONNECT_TIMEOUT, track.query_async::<()>(&mut connection))
            .await
            .map_err(std::io::Error::from)??;
        Ok((connection, Some(channel)))
    }

    async fn make_plain(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Self::CONNECT_TIMEOUT))
            // Each call has its own.
            .set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        self.check(&mut connection).await?;
        Ok(connection)
    }

    async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        if self.wants == Wants::Primary {
            let role = timeout(Self::CONNECT_TIMEOUT, cmd("ROLE").query_async::<Vec<Value>>(connection)).await;
            let role = role.map_err(std::io::Error::from)??;
            if !matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") {
                return Err((ErrorKind::Client, "the server is not the primary any more").into());
            }
        }
        Ok(())
    }

    /// Lets go of a connection that is broken or silent, so that the next call makes another.
    pub(super) async fn drop_connection(&self, broken: &Connected) {
        let mut lane = self.lanes[broken.lane].lock().await;
        if let Some(channel) = &broken.channel {
            channel.lose();
        }
        if lane.number == broken.number {
            lane.connection = None;
        }
    }
}
