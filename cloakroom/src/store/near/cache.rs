//! What lies near: slots that are kept, and calls that are under way for them.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use super::{NearCache, NearFigures, shelf::Shelf};
use crate::{
    clock::Timestamp,
    record::Record,
    store::{
        feed::{Channel, Listener, Looked, News, Ticks},
        slots::Slot,
    },
    token::SessionId,
};

/// Slots in shares that are locked each by itself.
pub(super) struct Cache {
    shares: Box<[Share]>,
    most_known: usize,
    most_unknown: usize,
    silence: u64,
    max_age: u64,
    ticks: Ticks,
    joined: AtomicU64,
    told: AtomicU64,
}

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Share {
    slots: RwLock<Slots>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Default)]
struct Slots {
    known: Shelf,
    /// Ids under which there is nothing: a flood of them takes no room from those that live.
    unknown: Shelf,
    calls: HashMap<SessionId, Calls>,
}

/// Calls that are under way for one session.
#[derive(Default)]
struct Calls {
    count: usize,
    /// Raised by everything after which the answer of a call that is under way may be old.
    generation: u64,
    /// The load that others may wait for.
    load: Option<watch::Receiver<Option<Shared>>>,
}

/// What callers who waited for another one's load get: a slot, or what failed.
pub(super) type Shared = Result<Option<Slot>, Arc<str>>;

/// How a load begins.
pub(super) enum Begun<'a> {
    /// Somebody else is loading it.
    Join(watch::Receiver<Option<Shared>>),
    /// The caller loads it.
    Lead(Load<'a>),
}

impl Cache {
    const SHARES: usize = 256;
    /// The part for ids that are unknown.
    const UNKNOWN: usize = 32;

    pub(super) fn new(settings: &NearCache, ticks: Ticks) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let most = settings.max_bytes / Self::SHARES;
        Self {
            shares: (0..Self::SHARES).map(|_| Share::default()).collect(),
            most_known: most - most / Self::UNKNOWN,
            most_unknown: most / Self::UNKNOWN,
            silence: millis(settings.silence),
            max_age: millis(settings.max_age),
            ticks,
            joined: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// The slot, if it is as good as looking.
    #[expect(clippy::option_option, reason = "that there is no slot may be known")]
    #[inline]
    pub(super) fn glance(&self, id: SessionId) -> Option<Option<Slot>> {
        let share = self.share(id);
        let slots = read(share);
        let kept = slots.known.get(id).or_else(|| slots.unknown.get(id))?;
        let now = self.ticks.now();
        if now.saturating_sub(kept.since) >= self.max_age || !kept.channel.holds(now, self.silence) {
            return None;
        }
        kept.note_use();
        share.hits.fetch_add(1, Ordering::Relaxed);
        Some(kept.slot.clone())
    }

    /// Begins a load; where the caller may `join`, perhaps somebody else's that is under way.
    pub(super) fn begin(&self, id: SessionId, join: bool) -> Begun<'_> {
        let share = self.share(id);
        let mut slots = write(share);
        let calls = slots.calls.entry(id).or_default();
        if join && let Some(load) = &calls.load {
            self.joined.fetch_add(1, Ordering::Relaxed);
            return Begun::Join(load.clone());
        }
        calls.count += 1;
        let (sender, receiver) = watch::channel(None);
        if join {
            calls.load = Some(receiver.clone());
        }
        let generation = calls.generation;
        share.misses.fetch_add(1, Ordering::Relaxed);
        Begun::Lead(Load { cache: self, id, generation, since: self.ticks.now(), sender, receiver })
    }

    /// Begins a commit that writes these sessions.
    pub(super) fn begin_write(&self, ids: Vec<SessionId>) -> Writing<'_> {
        let generations = ids.iter().map(|id| {
            let mut slots = write(self.share(*id));
            let calls = slots.calls.entry(*id).or_default();
            calls.count += 1;
            calls.generation
        });
        let generations = generations.collect();
        Writing { cache: self, ids, generations, since: self.ticks.now() }
    }

    pub(super) fn touched(&self, id: SessionId, seen: Timestamp) {
        write(self.share(id)).known.touch(id, seen);
    }

    /// Lets go of what was kept of sessions that ended: stores forget them in time.
    pub(super) fn drop_ended(&self) {
        for share in &self.shares {
            write(share).known.retain(|kept| !matches!(kept.slot, Some(Slot::Ended(_))));
        }
    }

    pub(super) fn figures(&self) -> NearFigures {
        let mut figures = NearFigures {
            joined: self.joined.load(Ordering::Relaxed),
            told: self.told.load(Ordering::Relaxed),
            ..NearFigures::default()
        };
        for share in &self.shares {
            figures.hits += share.hits.load(Ordering::Relaxed);
            figures.misses += share.misses.load(Ordering::Relaxed);
            let slots = read(share);
            figures.slots += slots.known.len() + slots.unknown.len();
            figures.bytes += slots.known.bytes() + slots.unknown.bytes();
        }
        figures
    }

    fn changed(&self, id: SessionId) {
        self.told.fetch_add(1, Ordering::Relaxed);
        write(self.share(id)).spoil(id);
    }

    fn put(&self, slots: &mut Slots, id: SessionId, slot: Option<Slot>, channel: Arc<Channel>, since: u64) {
        if !channel.holds(self.ticks.now(), self.silence) {
            return;
        }
        if slot.is_none() {
            slots.known.remove(id);
            slots.unknown.put(id, slot, channel, since, self.most_unknown);
            return;
        }
        slots.unknown.remove(id);
        let newer = slots
            .known
            .get(id)
            .is_some_and(|kept| Arc::ptr_eq(&kept.channel, &channel) && is_newer(kept.slot.as_ref(), slot.as_ref()));
        if !newer {
            slots.known.put(id, slot, channel, since, self.most_known);
        }
    }

    fn share(&self, id: SessionId) -> &Share {
        // The last bytes of an id are random.
        let number = usize::from(id.as_bytes()[SessionId::LEN - 1]);
        &self.shares[number % Self::SHARES]
    }
}

impl Slots {
    /// What is kept of it is old, and what calls under way answer may be.
    fn spoil(&mut self, id: SessionId) {
        self.known.remove(id);
        self.unknown.remove(id);
        if let Some(calls) = self.calls.get_mut(&id) {
            calls.generation += 1;
            calls.load = None;
        }
    }

    /// A call is over.
    fn leave(&mut self, id: SessionId) {
        if let Some(calls) = self.calls.get_mut(&id) {
            calls.count -= 1;
            if calls.count == 0 {
                self.calls.remove(&id);
            }
        }
    }

    fn generation(&self, id: SessionId) -> Option<u64> {
        self.calls.get(&id).map(|calls| calls.generation)
    }
}

/// Whether what is kept must not make room: it ended, or it has seen more changes.
fn is_newer(kept: Option<&Slot>, than: Option<&Slot>) -> bool {
    match (kept, than) {
        (Some(Slot::Ended(_)), Some(Slot::Open(_))) => true,
        (Some(Slot::Open(kept)), Some(Slot::Open(new))) => kept.info.version > new.info.version,
        _ => false,
    }
}

impl Listener for Cache {
    fn told(&self, news: News) {
        match news {
            News::Session(id) => self.changed(id),
            News::Log => {}
            News::Lost => {
                for share in &self.shares {
                    let mut slots = write(share);
                    slots.known.retain(|kept| !kept.channel.is_lost());
                    slots.unknown.retain(|kept| !kept.channel.is_lost());
                }
            }
        }
    }
}

/// A load under way.
pub(super) struct Load<'a> {
    cache: &'a Cache,
    id: SessionId,
    generation: u64,
    since: u64,
    sender: watch::Sender<Option<Shared>>,
    receiver: watch::Receiver<Option<Shared>>,
}

impl Load<'_> {
    /// Keeps what was found, unless that is old by now, and hands it to those who waited.
    pub(super) fn found(self, looked: &Looked) {
        let mut slots = write(self.cache.share(self.id));
        if let Some(channel) = &looked.channel
            && slots.generation(self.id) == Some(self.generation)
        {
            self.cache.put(&mut slots, self.id, looked.slot.clone(), Arc::clone(channel), self.since);
        }
        drop(slots);
        self.sender.send_replace(Some(Ok(looked.slot.clone())));
    }

    /// Tells those who waited that it failed.
    pub(super) fn failed(self, why: &str) {
        self.sender.send_replace(Some(Err(why.into())));
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        let mut slots = write(self.cache.share(self.id));
        if let Some(calls) = slots.calls.get_mut(&self.id)
            && calls.load.as_ref().is_some_and(|load| self.receiver.same_channel(load))
        {
            calls.load = None;
        }
        slots.leave(self.id);
    }
}

/// A commit under way. However it ends, what was kept of the sessions that it writes goes.
pub(super) struct Writing<'a> {
    cache: &'a Cache,
    ids: Vec<SessionId>,
    generations: Vec<u64>,
    since: u64,
}

impl Writing<'_> {
    /// Keeps what a change of one session's data has made of it. `make` gets what was kept before.
    pub(super) fn changed(
        mut self,
        channel: &Arc<Channel>,
        make: impl FnOnce(Option<&Arc<Record>>) -> Option<Arc<Record>>,
    ) {
        let (Some(id), Some(generation)) = (self.ids.pop(), self.generations.pop()) else { return };
        let mut slots = write(self.cache.share(id));
        let undisturbed = slots.generation(id) == Some(generation);
        let before = slots.known.remove(id);
        slots.spoil(id);
        if undisturbed {
            let before = before.as_ref().and_then(|kept| match &kept.slot {
                Some(Slot::Open(record)) => Some(record),
                _ => None,
            });
            if let Some(record) = make(before) {
                self.cache.put(&mut slots, id, Some(Slot::Open(record)), Arc::clone(channel), self.since);
            }
        }
        slots.leave(id);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            let mut slots = write(self.cache.share(*id));
            slots.spoil(*id);
            slots.leave(*id);
        }
    }
}

fn read(share: &Share) -> RwLockReadGuard<'_, Slots> {
    share.slots.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(share: &Share) -> RwLockWriteGuard<'_, Slots> {
    share.slots.write().unwrap_or_else(PoisonError::into_inner)
}
