//! What a backend says changed.
//!
//! A store that can be told by its backend has a [`Feed`]: looks at slots through it are watched, and [`News`] of what
//! changed since comes over the [`Channel`] that each look names. What lies on a channel that is not proven alive is worth
//! nothing.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    store::{
        BoxFuture,
        slots::{Outcome, Slot, Transaction},
    },
    token::SessionId,
};

/// What a backend says changed. From [`Store::feed`](super::Store::feed).
pub trait Feed: fmt::Debug + Send + Sync + 'static {
    /// Tells this listener from now on, as long as the store lives.
    fn listen(&self, listener: Arc<dyn Listener>);

    /// A session's slot with its data, as it is now. What changes in it from then on is told, by whichever node it was made.
    fn look(&self, id: SessionId) -> BoxFuture<'_, Result<Looked>>;

    /// [Commits](super::Store::commit), and says besides, of a single change of one session's data, over which channel what
    /// changes after it is told. Otherwise `None`: then slots that it wrote are to be looked at anew.
    ///
    /// News of what is committed here may be left out.
    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Watched>>;
}

/// A slot, and over which channel what changes in it is told.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The slot.
    pub slot: Option<Slot>,
    /// `None` where nothing is told of it.
    pub channel: Option<Arc<Channel>>,
}

/// What became of transactions, and over which channel what changes after them is told.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Of each.
    pub outcomes: Vec<Outcome>,
    /// `None` where nothing is told.
    pub channel: Option<Arc<Channel>>,
}

/// What changed. There may be more news than changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// This session.
    Session(SessionId),
    /// The audit log.
    Log,
    /// A channel was lost: everything may have changed.
    Lost,
}

/// Who is told. Called where news arrives: it must not wait.
pub trait Listener: Send + Sync + 'static {
    /// Takes it.
    fn told(&self, news: News);
}

/// A connection over which a backend tells what changed, in the order in which it happened.
///
/// It is proven when something that was written at some time has come back over it as news: then all that was told before has
/// come, too.
#[derive(Debug, Default)]
pub struct Channel {
    proven: AtomicU64,
    lost: AtomicBool,
}

impl Channel {
    /// A channel over which all that happens from this time on is told.
    pub fn since(now: u64) -> Arc<Self> {
        Arc::new(Self { proven: AtomicU64::new(now), lost: AtomicBool::new(false) })
    }

    /// Everything that happened before this time has been told.
    pub fn prove(&self, at: u64) {
        self.proven.fetch_max(at, Ordering::AcqRel);
    }

    /// Nothing comes over it any more.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Whether it is lost for good.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether it was proven that lately.
    pub fn holds(&self, now: u64, silence: u64) -> bool {
        now.saturating_sub(self.proven.load(Ordering::Acquire)) < silence && !self.is_lost()
    }
}

/// How a feed is to be kept.
#[derive(Clone, Debug)]
pub struct Pace {
    /// After how long without proof a channel counts as lost. It is proven some four times in that.
    pub silence: Duration,
    /// What time it is.
    pub ticks: Ticks,
}

/// Milliseconds that pass evenly, whatever is done to the machine's clock.
#[derive(Clone)]
pub struct Ticks(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Ticks {
    /// Of the given clock.
    pub fn from_fn(ticks: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(ticks))
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Ticks {
    /// Of this machine.
    fn default() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        Self::from_fn(move || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticks({})", self.now())
    }
}

/// Those who are told.
#[derive(Default)]
pub struct Listeners(RwLock<Vec<Arc<dyn Listener>>>);

impl Listeners {
    /// One more.
    pub fn add(&self, listener: Arc<dyn Listener>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Tells all.
    pub fn tell(&self, news: News) {
        for listener in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener.told(news);
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listeners")
    }
}
