//! Slots that are kept, within a bound: what was not used for longest goes first, about.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    clock::Timestamp,
    record::{Client, Record, SessionInfo},
    store::{feed::Channel, slots::Slot},
    token::SessionId,
};

/// A slot that is kept.
pub(super) struct Kept {
    pub(super) slot: Option<Slot>,
    /// Over which it is told that it changed.
    pub(super) channel: Arc<Channel>,
    /// Before it was looked at.
    pub(super) since: u64,
    /// Since the shelf was last searched for room.
    used: AtomicBool,
    bytes: usize,
    stamp: u64,
}

impl Kept {
    /// Notes that it was of use. Readers that share it only write the first time.
    pub(super) fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// Slots, up to so many bytes.
#[derive(Default)]
pub(super) struct Shelf {
    slots: HashMap<SessionId, Kept>,
    /// In the order in which they are looked at for room. Those that were taken off meanwhile are still named.
    order: VecDeque<(SessionId, u64)>,
    bytes: usize,
    stamps: u64,
}

impl Shelf {
    pub(super) fn get(&self, id: SessionId) -> Option<&Kept> {
        self.slots.get(&id)
    }

    pub(super) fn put(&mut self, id: SessionId, slot: Option<Slot>, channel: Arc<Channel>, since: u64, most: usize) {
        self.remove(id);
        let bytes = weight(slot.as_ref());
        if bytes > most {
            return;
        }
        self.make_room(most - bytes);
        self.stamps += 1;
        self.bytes += bytes;
        self.order.push_back((id, self.stamps));
        let kept = Kept { slot, channel, since, used: AtomicBool::new(false), bytes, stamp: self.stamps };
        self.slots.insert(id, kept);
        if self.order.len() > 2 * self.slots.len() + 16 {
            self.order.retain(|(id, stamp)| self.slots.get(id).is_some_and(|kept| kept.stamp == *stamp));
        }
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Kept> {
        let kept = self.slots.remove(&id)?;
        self.bytes -= kept.bytes;
        Some(kept)
    }

    /// Moves when a session was last seen, as far as it is known here.
    pub(super) fn touch(&mut self, id: SessionId, seen: Timestamp) {
        let Some(Kept { slot: Some(Slot::Open(record)), .. }) = self.slots.get_mut(&id) else { return };
        if record.info.last_seen_at < seen {
            Arc::make_mut(record).info.last_seen_at = seen;
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Kept) -> bool) {
        let bytes = &mut self.bytes;
        self.slots.retain(|_, kept| {
            let stays = keep(kept);
            if !stays {
                *bytes -= kept.bytes;
            }
            stays
        });
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn make_room(&mut self, most: usize) {
        while self.bytes > most {
            let Some((id, stamp)) = self.order.pop_front() else { return };
            match self.slots.get_mut(&id) {
                Some(kept) if kept.stamp == stamp => {
                    if mem::take(kept.used.get_mut()) {
                        self.order.push_back((id, stamp));
                    } else {
                        self.remove(id);
                    }
                }
                _ => {}
            }
        }
    }
}

/// About how much memory it takes.
fn weight(slot: Option<&Slot>) -> usize {
    /// The entry in the map and in the order, and what memory allocators add.
    const BESIDE: usize = 192;
    let record = match slot {
        None => return BESIDE,
        Some(Slot::Open(record)) => record,
        Some(Slot::Ended(slot)) => &slot.record,
    };
    let SessionInfo { user, full_name, user_type, authentication, client, acting, audit_user, .. } = &record.info;
    let Client { user_agent, device, country, .. } = client;
    let methods = authentication.as_ref().and_then(|authentication| authentication.methods.as_ref());
    let impersonator = acting.as_ref().map(|acting| &acting.by);
    let texts = [user, full_name, user_type, audit_user, user_agent, device, country].map(Option::as_ref);
    let texts = texts.into_iter().chain([methods, impersonator]).flatten();
    let texts: usize = texts.map(|text| text.len() + 16).sum();
    let changes = size_of_val(record.recent_changes.ids());
    BESIDE + size_of::<Record>() + record.data.size() + 16 * record.data.len() + texts + changes
}
