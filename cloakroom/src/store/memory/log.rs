//! The latest audit entries.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    clock::Timestamp,
    error::Result,
    store::{AuditQuery, Cursor, Logged, Page, slots::LogEntry},
};

/// The latest audit entries, numbered from the first one ever.
///
/// In strips, so that those who write seldom meet. A number is taken and its entry written under the lock of one strip:
/// who holds all of them sees every entry up to the highest number, and later ones have higher numbers.
pub(super) struct Log {
    strips: Box<[Strip]>,
    counter: Counter,
}

/// On cache lines of its own: the other strips' writers do not share it.
#[derive(Default)]
#[repr(align(128))]
struct Strip(Mutex<VecDeque<(u64, LogEntry)>>);

/// The latest number.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

/// One strip, locked: what is written through it appears to readers at once.
pub(super) struct Writer<'a> {
    entries: MutexGuard<'a, VecDeque<(u64, LogEntry)>>,
    counter: &'a Counter,
}

impl Log {
    pub(super) const STRIPS: usize = 64;
    const KEPT: u64 = 100_000;

    pub(super) fn new() -> Self {
        Self { strips: (0..Self::STRIPS).map(|_| Strip::default()).collect(), counter: Counter::default() }
    }

    /// For what happens to sessions of a shard, while it is locked: so the entries of a session are in order.
    pub(super) fn writer(&self, shard: u16) -> Writer<'_> {
        Writer { entries: self.strips[usize::from(shard) % Self::STRIPS].lock(), counter: &self.counter }
    }

    pub(super) fn read(&self, query: &AuditQuery, after: Option<&Cursor>, limit: usize) -> Result<Page<Logged>> {
        let after: u64 = after.map(Cursor::parse).transpose()?.unwrap_or(0);
        let strips: Vec<_> = self.strips.iter().map(Strip::lock).collect();
        let forgotten = self.counter.0.load(Ordering::Relaxed).saturating_sub(Self::KEPT);
        let mut matching: Vec<_> = strips
            .iter()
            .flat_map(|entries| {
                let start = entries.partition_point(|(number, _)| *number <= after.max(forgotten));
                entries.range(start..).filter(|(_, logged)| query.matches(&logged.entry)).take(limit.saturating_add(1))
            })
            .collect();
        matching.sort_unstable_by_key(|(number, _)| *number);
        let logged = |(number, LogEntry { id, entry }): &(u64, LogEntry)| Logged {
            id: *id,
            cursor: Cursor::new(number.to_string()),
            entry: entry.clone(),
        };
        let items: Vec<_> = matching.iter().take(limit).copied().map(logged).collect();
        let next = items.last().filter(|_| matching.len() > limit).map(|last| last.cursor.clone());
        Ok(Page { items, next })
    }

    /// Forgets at most `batch` entries of a strip that are old enough; says how many.
    pub(super) fn forget(&self, strip: usize, before: Timestamp, batch: usize) -> usize {
        let mut entries = self.strips[strip].lock();
        let old = entries.iter().take(batch).take_while(|(_, logged)| logged.entry.at <= before).count();
        entries.drain(..old);
        old
    }
}

impl Writer<'_> {
    /// Writes an entry; one that may be there already only if it is not.
    pub(super) fn push(&mut self, entry: LogEntry, again: bool) {
        let same = |(_, other): &(u64, LogEntry)| other.id == entry.id && other.entry.session == entry.entry.session;
        if again && self.entries.iter().any(same) {
            return;
        }
        let number = self.counter.0.fetch_add(1, Ordering::Relaxed) + 1;
        while self.entries.pop_front_if(|(old, _)| *old + Log::KEPT <= number).is_some() {}
        self.entries.push_back((number, entry));
    }
}

impl Strip {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, LogEntry)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{AuditEntry, Event},
        token::SessionId,
    };

    fn entry(number: u64) -> LogEntry {
        let entry = AuditEntry {
            at: Timestamp::from_millis(i64::try_from(number).unwrap()),
            event: Event::Started,
            session: SessionId::from_bytes([0; SessionId::LEN]),
            user: None,
            impersonated_by: None,
            audit_user: None,
            ip: None,
            reason: None,
            by: None,
            note: None,
        };
        LogEntry { id: number, entry }
    }

    fn numbers(page: &Page<Logged>) -> Vec<u64> {
        page.items.iter().map(|logged| u64::try_from(logged.entry.at.as_millis()).unwrap()).collect()
    }

    #[test]
    fn the_latest_are_kept_wherever_they_were_written() {
        let log = Log::new();
        let write = |number: u64, group: u16| log.writer(group).push(entry(number), false);
        // One strip falls silent, and the others go on.
        (1..=50).for_each(|number| write(number, 5));
        (51..=Log::KEPT + 30).for_each(|number| write(number, 6 + u16::try_from(number % 3).unwrap()));
        let mut page = log.read(&AuditQuery::default(), None, 40).unwrap();
        assert_eq!(numbers(&page), (31..=70).collect::<Vec<_>>());
        page = log.read(&AuditQuery::default(), page.next.as_ref(), usize::MAX).unwrap();
        assert_eq!(numbers(&page), (71..=Log::KEPT + 30).collect::<Vec<_>>());
        assert_eq!(page.next, None);
    }

    #[test]
    fn i16_a_reader_beside_many_writers_misses_nothing() {
        const EACH: u64 = 5_000;
        let log = Log::new();
        let write = |group: u16| (1..=EACH).for_each(|number| log.writer(group).push(entry(number), false));
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            for group in 0..3 {
                scope.spawn(move || write(group));
            }
            let mut after = None;
            while seen.len() < 3 * usize::try_from(EACH).unwrap() {
                let page = log.read(&AuditQuery::default(), after.as_ref(), 100).unwrap();
                seen.extend(numbers(&page));
                after = page.items.last().map(|last| last.cursor.clone()).or(after);
            }
        });
        seen.sort_unstable();
        assert!(seen.chunks(3).zip(1..).all(|(same, number)| same == [number; 3]));
    }
}
