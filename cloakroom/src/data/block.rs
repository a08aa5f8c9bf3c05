//! The block of memory that holds all keys and values of a session.

use std::{hint::black_box, iter, mem, ops::Range, sync::Arc};

/// The bytes of a numbers' place in a block.
const NUMBER: usize = size_of::<u32>();

/// A filled block, if there is anything in it.
pub(super) type Filled = Option<Arc<[u8]>>;

/// Where the first text begins, where each text ends, and the texts, each key before its value.
#[derive(Clone, Copy)]
pub(super) struct Block<'a>(&'a [u8]);

impl<'a> Block<'a> {
    pub(super) fn of(filled: &'a Filled) -> Self {
        /// Of no entries: the first text would begin behind this number.
        const EMPTY: [u8; NUMBER] = 4_u32.to_ne_bytes();
        Self(filled.as_deref().unwrap_or(&EMPTY))
    }

    pub(super) fn len(self) -> usize {
        self.start() / (2 * NUMBER)
    }

    pub(super) fn size(self) -> usize {
        self.0.len() - self.start()
    }

    /// One byte of each cache line is read, all at once, so that the processor waits for memory once and not for each
    /// in turn, and does other work meanwhile.
    pub(super) fn prefetch(self) {
        const CACHE_LINE: usize = 64;
        const LINES: usize = 16;
        let lines = self.0.iter().step_by(CACHE_LINE).take(LINES);
        black_box(lines.fold(0, |all, byte| all | byte));
    }

    /// Where the first text begins.
    fn start(self) -> usize {
        self.end(0)
    }

    pub(super) fn position(self, key: &str) -> Option<usize> {
        /// Up to so many keys are compared one by one. Where they end lies together and their texts do not, so hardly any
        /// text is fetched from memory, where a search would fetch several.
        const FEW: usize = 32;
        let (count, key) = (self.len(), key.as_bytes());
        if count > FEW {
            let at = self.place_of(key);
            return (at < count && *self.bytes(2 * at) == *key).then_some(at);
        }
        let mut start = self.start();
        let ends = self.0[NUMBER..start].as_chunks().0;
        ends.as_chunks().0.iter().position(|[key_end, value_end]| {
            let key_start = mem::replace(&mut start, number(value_end));
            let key_end = number(key_end);
            key_end - key_start == key.len() && self.0[key_start..key_end] == *key
        })
    }

    /// Where a key is, or would be.
    pub(super) fn place_of(self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.bytes(2 * middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// With another entry, or none, in place of the one at `at`, or before it.
    pub(super) fn with(self, at: usize, replaced: bool, new: Option<(&[u8], &[u8])>) -> Filled {
        let behind = at + usize::from(replaced);
        let count = self.len() + usize::from(new.is_some()) - usize::from(replaced);
        if count == 0 {
            return None;
        }
        let (old_start, start) = (self.start(), (1 + 2 * count) * NUMBER);
        let (before, after) = (&self.0[old_start..self.end(2 * at)], &self.0[self.end(2 * behind)..]);
        let (key, value) = new.unwrap_or_default();
        let key_end = start + before.len() + key.len();
        let value_end = key_end + value.len();
        let mut block = zeros(value_end + after.len());
        let (numbers, texts) = unshared(&mut block).split_at_mut(start);
        let (kept, rest) = numbers.split_at_mut((2 * at + 1) * NUMBER);
        let (own, moved) = rest.split_at_mut(if new.is_some() { 2 * NUMBER } else { 0 });
        write_moved(kept, self.0, old_start, start);
        write_numbers(own, [key_end, value_end].into_iter());
        write_moved(moved, &self.0[(2 * behind + 1) * NUMBER..], self.end(2 * behind), value_end);
        write_texts(texts, [before, key, value, after].into_iter());
        Some(block)
    }

    /// Keys have even numbers, their values the odd ones behind.
    pub(super) fn bytes(self, at: usize) -> &'a [u8] {
        &self.0[self.range(at)]
    }

    pub(super) fn range(self, at: usize) -> Range<usize> {
        self.end(at)..self.end(at + 1)
    }

    /// Where the text before this one ends, and this one begins.
    fn end(self, at: usize) -> usize {
        number(self.0[at * NUMBER..].first_chunk().expect("there is one more number than texts"))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "that is how chunks of a block come")]
fn number(bytes: &[u8; NUMBER]) -> usize {
    u32::from_ne_bytes(*bytes) as usize
}

pub(super) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("it was text when it was put in")
}

/// A block of these entries, which are sorted by key.
pub(super) fn filled(entries: &[(&[u8], &[u8])]) -> Filled {
    if entries.is_empty() {
        return None;
    }
    let start = (1 + 2 * entries.len()) * NUMBER;
    let size: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
    let mut block = zeros(start + size);
    let (numbers, texts) = unshared(&mut block).split_at_mut(start);
    let ends = entries.iter().flat_map(|(key, value)| [key.len(), value.len()]).scan(start, |end, length| {
        *end += length;
        Some(*end)
    });
    write_numbers(numbers, iter::once(start).chain(ends));
    write_texts(texts, entries.iter().flat_map(|(key, value)| [*key, *value]));
    Some(block)
}

/// To be filled in its place: a list that becomes shared would be copied.
fn zeros(length: usize) -> Arc<[u8]> {
    iter::repeat_n(0, length).collect()
}

fn unshared(block: &mut Arc<[u8]>) -> &mut [u8] {
    Arc::get_mut(block).expect("nobody else has it yet")
}

fn write_numbers(places: &mut [u8], numbers: impl Iterator<Item = usize>) {
    for (place, number) in places.as_chunks_mut().0.iter_mut().zip(numbers) {
        *place = narrow(number).to_ne_bytes();
    }
}

/// Numbers as they were, but for where the texts lie that they count from.
fn write_moved(places: &mut [u8], old: &[u8], from: usize, to: usize) {
    let moved = narrow(to).wrapping_sub(narrow(from));
    for (place, old) in places.as_chunks_mut().0.iter_mut().zip(old.as_chunks().0) {
        *place = u32::from_ne_bytes(*old).wrapping_add(moved).to_ne_bytes();
    }
}

fn write_texts<'a>(mut places: &mut [u8], texts: impl Iterator<Item = &'a [u8]>) {
    for text in texts {
        let (place, behind) = places.split_at_mut(text.len());
        place.copy_from_slice(text);
        places = behind;
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("limits keep data under 4 GiB")
}
