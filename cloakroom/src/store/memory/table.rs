//! A hash table for session ids.
//!
//! Among a million sessions, what a look-up costs is the memory it waits for: this one reads the id and what belongs to it
//! from one place, where a table of the standard library reads control bytes elsewhere first.

use std::iter;

use crate::token::SessionId;

/// What is kept by session id. Grows, and never shrinks.
///
/// Entries lie at the place their id says or, if others are there, at the next free one behind it. Ids are random, and
/// those that are kept were made by us: their own bytes are the hash.
pub(super) struct Table<V> {
    /// None at all, or a power of two, of which at least a fifth is free.
    slots: Box<[Slot<V>]>,
    count: usize,
}

/// Never on two cache lines: it has 32 bytes where `V` is a pointer.
#[repr(align(32))]
struct Slot<V>(Option<(SessionId, V)>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { slots: Box::default(), count: 0 }
    }
}

impl<V> Table<V> {
    pub(super) fn get(&self, id: SessionId) -> Option<&V> {
        self.slots[self.place_of(id)?].0.as_ref().map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut V> {
        self.slots[self.place_of(id)?].0.as_mut().map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, id: SessionId, value: V) {
        if let Some(place) = self.place_of(id) {
            self.slots[place].0 = Some((id, value));
            return;
        }
        if (self.count + 1) * 5 > self.slots.len() * 4 {
            self.grow();
        }
        self.fill(id, value);
        self.count += 1;
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<V> {
        let mut hole = self.place_of(id)?;
        let removed = self.slots[hole].0.take();
        self.count -= 1;
        // Those behind it close up, except over their own place: a search stops at the first free one.
        let mut place = self.next(hole);
        while let Some((id, _)) = &self.slots[place].0 {
            if self.distance(self.home(*id), place) >= self.distance(hole, place) {
                self.slots.swap(hole, place);
                hole = place;
            }
            place = self.next(place);
        }
        removed.map(|(_, value)| value)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().flat_map(|slot| &slot.0).map(|(_, value)| value)
    }

    fn place_of(&self, id: SessionId) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut place = self.home(id);
        loop {
            match &self.slots[place].0 {
                Some((there, _)) if *there == id => return Some(place),
                Some(_) => place = self.next(place),
                None => return None,
            }
        }
    }

    fn grow(&mut self) {
        let slots = iter::repeat_with(|| Slot(None)).take((self.slots.len() * 2).max(4)).collect();
        let entries = std::mem::replace(&mut self.slots, slots);
        entries.into_iter().filter_map(|slot| slot.0).for_each(|(id, value)| self.fill(id, value));
    }

    /// Puts what is not there into the first free place.
    fn fill(&mut self, id: SessionId, value: V) {
        let mut place = self.home(id);
        while self.slots[place].0.is_some() {
            place = self.next(place);
        }
        self.slots[place].0 = Some((id, value));
    }

    fn home(&self, id: SessionId) -> usize {
        let [.., a, b, c, d] = *id.as_bytes();
        let random = u32::from_ne_bytes([a, b, c, d]);
        random as usize & (self.slots.len() - 1)
    }

    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.slots.len() - 1)
    }

    /// How many steps of [`next`](Self::next) lead from one place to the other.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::{array, collections::BTreeMap};

    use super::*;

    /// Ids that differ in their partition alone have the same place.
    fn id(partition: u8, place: u8) -> SessionId {
        SessionId::from_bytes(array::from_fn(|at| match at {
            0 => partition,
            14 => place,
            _ => 0,
        }))
    }

    #[test]
    fn crowded_entries_are_found_replaced_and_removed() {
        // Few ids on few places, so that runs of entries meet, close up and wrap around the table's end.
        let ids: Vec<_> = (0..6).flat_map(|partition| [0, 1, 14, 15].map(|place| id(partition, place))).collect();
        let mut table = Table::default();
        let mut model = BTreeMap::new();
        let mut random = 1_u64;
        for step in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = ids[usize::try_from(random >> 40).unwrap() % ids.len()];
            if (random >> 33).is_multiple_of(2) && model.len() < 12 {
                table.insert(id, step);
                model.insert(id, step);
            } else {
                assert_eq!(table.remove(id), model.remove(&id));
            }
            for id in &ids {
                assert_eq!(table.get(*id), model.get(id), "step {step}");
            }
        }
        let mut values: Vec<_> = table.values().copied().collect();
        values.sort_unstable();
        let mut expected: Vec<_> = model.into_values().collect();
        expected.sort_unstable();
        assert_eq!(values, expected);
    }

    #[test]
    fn it_grows_with_what_is_in_it() {
        let mut table = Table::default();
        assert_eq!(table.get(id(0, 0)), None);
        for place in 0..=255 {
            table.insert(id(7, place), place);
        }
        assert!((0..=255).all(|place| table.get(id(7, place)) == Some(&place)));
        *table.get_mut(id(7, 9)).unwrap() = 0;
        assert_eq!(table.get(id(7, 9)), Some(&0));
        assert_eq!(table.get(id(8, 0)), None);
    }
}
