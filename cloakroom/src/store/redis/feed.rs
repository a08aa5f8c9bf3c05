//! What Redis says changed: keys that it has shown on a connection and that were changed since, pushed over that connection.
//!
//! Looks are marked one by one (`CLIENT TRACKING ON OPTIN NOLOOP`), so that only sessions are tracked and not when they were
//! last seen. The server sends what changed in one stream with its answers, in the order in which it happened. Whether it still
//! does is proven by a key that another connection writes and that comes back over this one.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::{PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    Inner,
    keys::Keys,
    link::{Connected, Link, Purpose},
};
use crate::{
    change::random_id,
    error::Result,
    store::{
        BoxFuture,
        feed::{Channel, Feed, Listener, Listeners, Looked, News, Pace, Ticks, Watched},
        slots::Transaction,
    },
    token::SessionId,
};

/// The news of a Redis.
pub(super) struct RedisFeed {
    inner: Arc<Inner>,
    hub: Arc<Hub>,
    started: AtomicBool,
}

/// Where all that servers push arrives.
pub(super) struct Hub {
    keys: Keys,
    pace: Pace,
    node: u64,
    listeners: Listeners,
    /// Wakes those who wait for their beat.
    beaten: Mutex<Vec<(Weak<Channel>, Arc<Beats>)>>,
    /// A server does not track: until then it is not asked again.
    refused: Mutex<Option<Instant>>,
}

/// Beats that came back over a channel.
#[derive(Default)]
struct Beats {
    count: std::sync::atomic::AtomicU64,
    more: Notify,
}

impl RedisFeed {
    pub(super) fn of(inner: &Arc<Inner>, pace: &Pace) -> Self {
        let hub = Hub {
            keys: inner.keys.clone(),
            pace: pace.clone(),
            node: random_id(),
            listeners: Listeners::default(),
            beaten: Mutex::default(),
            refused: Mutex::default(),
        };
        inner.servers.track_for(Arc::new(hub));
        let hub = Arc::clone(inner.servers.hub().expect("it was just set"));
        Self { inner: Arc::clone(inner), hub, started: AtomicBool::new(false) }
    }

    /// Where it is certain that there is a runtime.
    fn start(&self) {
        if !self.started.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_beating(Arc::downgrade(&self.inner), self.hub.pace.silence));
        }
    }
}

impl fmt::Debug for RedisFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisFeed")
    }
}

impl Feed for RedisFeed {
    fn listen(&self, listener: Arc<dyn Listener>) {
        self.hub.listeners.add(listener);
    }

    fn look(&self, id: SessionId) -> BoxFuture<'_, Result<Looked>> {
        self.start();
        Box::pin(self.inner.tracked_session(id))
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Watched>> {
        self.start();
        Box::pin(self.inner.tracked_commit(transactions, again))
    }
}

impl Hub {
    const BETWEEN_TRIES: Duration = Duration::from_secs(30);

    pub(super) fn ticks(&self) -> &Ticks {
        &self.pace.ticks
    }

    /// Whether servers may be asked to track.
    pub(super) fn may_track(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_none_or(|again| again <= Instant::now())
    }

    /// A server answered that it does not track for us.
    pub(super) fn refused(&self, error: &RedisError) {
        tracing::warn!(%error, "Redis does not tell what changes: sessions are not kept in memory");
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(Instant::now() + Self::BETWEEN_TRIES);
    }

    /// Takes what a server pushed. Called in the order of its stream, before later answers are handed on.
    pub(super) fn pushed(&self, channel: &Arc<Channel>, push: PushInfo) {
        let PushInfo { kind, data } = push;
        match (kind, data.into_iter().next()) {
            (PushKind::Invalidate, Some(Value::Array(changed))) => {
                for key in changed {
                    let Value::BulkString(key) = key else { continue };
                    if let Some(id) = self.keys.session_of(&key) {
                        self.listeners.tell(News::Session(id));
                    } else if self.keys.is_beat(&key) {
                        let beats = self.beats(channel);
                        beats.count.fetch_add(1, Ordering::AcqRel);
                        beats.more.notify_waiters();
                    }
                }
            }
            // Everything was deleted, or the connection is gone.
            (PushKind::Invalidate | PushKind::Disconnection, _) => self.lose(channel),
            _ => {}
        }
    }

    fn lose(&self, channel: &Channel) {
        channel.lose();
        self.listeners.tell(News::Lost);
    }

    fn beats(&self, channel: &Arc<Channel>) -> Arc<Beats> {
        let mut beaten = self.beaten.lock().unwrap_or_else(PoisonError::into_inner);
        beaten.retain(|(channel, _)| channel.strong_count() > 0);
        let known = beaten.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(channel)));
        if let Some((_, beats)) = known {
            return Arc::clone(beats);
        }
        let beats = Arc::<Beats>::default();
        beaten.push((Arc::downgrade(channel), Arc::clone(&beats)));
        beats
    }

    /// Proves a channel, if what is written on the server comes back over it.
    async fn beat(&self, link: &Link, connected: &Connected, channel: &Arc<Channel>, group: u16) -> Option<()> {
        let key = self.keys.beat(group, self.node);
        let beats = self.beats(channel);
        let begin = self.pace.ticks.now();
        let mut track = redis::pipe();
        track.cmd("CLIENT").arg("CACHING").arg("YES").ignore().cmd("EXISTS").arg(&key).ignore();
        let mut tracked: MultiplexedConnection = connected.connection.clone();
        track.query_async::<()>(&mut tracked).await.ok()?;
        // What came before that answer may tell of an earlier beat.
        let before = beats.count.load(Ordering::Acquire);
        let mut other = link.connect(Purpose::Calls).await.ok()?;
        let write = redis::cmd("SET").arg(&key).arg(1).arg("EX").arg(60).to_owned();
        write.query_async::<()>(&mut other.connection).await.ok()?;
        loop {
            let more = beats.more.notified();
            if beats.count.load(Ordering::Acquire) > before {
                channel.prove(begin);
                return Some(());
            }
            more.await;
        }
    }
}

/// Proves every channel some four times in the time that they may be silent.
async fn keep_beating(inner: Weak<Inner>, silence: Duration) {
    loop {
        tokio::time::sleep(silence / 4).await;
        let Some(inner) = inner.upgrade() else { break };
        let Some(hub) = inner.servers.hub() else { break };
        let tracked = inner.servers.tracked().await;
        join_all(tracked.iter().map(|(link, connected, group)| async move {
            let Some(channel) = &connected.channel else { return };
            let beat = timeout(silence, hub.beat(link, connected, channel, *group)).await;
            if !matches!(beat, Ok(Some(()))) {
                tracing::debug!("a connection over which Redis tells what changes does not answer: it is given up");
                hub.lose(channel);
                link.drop_connection(connected).await;
            }
        }))
        .await;
    }
}
