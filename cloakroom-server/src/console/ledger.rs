//! The audit log as pages need it: the latest first, from any time, and counted by the hour.
//!
//! Stores read the log oldest first. So it is read through once, when the first page asks, and from then on what came since;
//! what stays in memory is where each portion begins, which times it spans, and how much happened in each hour.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cloakroom::{
    Reason, Result, SessionId, Sessions, Timestamp,
    audit::{AuditEntry, Event},
    store::{AuditQuery, Cursor, Logged, Page},
};

use super::single::Single;

/// The log, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    read: Mutex<Read>,
    reading: Single,
}

#[derive(Debug, Default)]
struct Read {
    portions: Vec<Portion>,
    after: Option<Cursor>,
    entries: usize,
    hours: BTreeMap<i64, Hour>,
}

/// Entries that are read at once.
#[derive(Clone, Debug)]
struct Portion {
    after: Option<Cursor>,
    earliest: Timestamp,
    latest: Timestamp,
    entries: usize,
}

const PORTION: usize = 500;

/// What happened in an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hour {
    pub(super) sign_ins: usize,
    pub(super) anonymous: usize,
    pub(super) impersonations: usize,
    pub(super) refused: usize,
    /// By [`Reason`], in the order of all of them.
    pub(super) ended: [usize; Reason::ALL.len()],
}

impl Hour {
    const MILLIS: i64 = 3_600_000;

    pub(super) fn all_ended(&self) -> usize {
        self.ended.iter().sum()
    }

    pub(super) fn add(&mut self, other: &Self) {
        let Self { sign_ins, anonymous, impersonations, refused, ended } = other;
        self.sign_ins += sign_ins;
        self.anonymous += anonymous;
        self.impersonations += impersonations;
        self.refused += refused;
        for (sum, ended) in self.ended.iter_mut().zip(ended) {
            *sum += ended;
        }
    }

    fn count(&mut self, entry: &AuditEntry) {
        match entry.event {
            Event::Started => self.anonymous += 1,
            Event::SignedIn => self.sign_ins += 1,
            Event::Impersonated => self.impersonations += 1,
            Event::Refused => self.refused += 1,
            Event::Ended => {
                let reason = Reason::ALL.iter().position(|reason| Some(*reason) == entry.reason);
                if let Some(count) = reason.and_then(|at| self.ended.get_mut(at)) {
                    *count += 1;
                }
            }
            _ => {}
        }
    }
}

/// How far the log was read.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// All of it, a moment ago.
    pub(super) complete: bool,
    pub(super) entries: usize,
    /// Behind the last entry that was read.
    pub(super) after: Option<Cursor>,
}

/// Which entries: those that match every field given.
#[derive(Clone, Debug, Default)]
pub(super) struct Which {
    pub(super) user: Option<Arc<str>>,
    pub(super) session: Option<SessionId>,
    pub(super) event: Option<Event>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl Which {
    pub(super) fn matches(&self, entry: &AuditEntry) -> bool {
        let Self { user, session, event, since, until } = self;
        user.as_ref().is_none_or(|user| entry.user.as_ref() == Some(user))
            && session.is_none_or(|session| entry.session == session)
            && event.is_none_or(|event| entry.event == event)
            && since.is_none_or(|since| entry.at >= since)
            && until.is_none_or(|until| entry.at <= until)
    }

    /// What a store has indexes for.
    pub(super) fn query(&self) -> AuditQuery {
        AuditQuery { user: self.user.clone(), session: self.session }
    }
}

/// Entries, the latest first.
#[derive(Debug, Default)]
pub(super) struct Latest {
    pub(super) entries: Vec<Logged>,
    /// There are more, or may be, at or before this time.
    pub(super) more: Option<Timestamp>,
}

impl Ledger {
    /// Reads what came since, for at most so long; it goes on if that is not enough.
    pub(super) async fn read_on(self: &Arc<Self>, sessions: &Sessions, within: Duration) -> Standing {
        let (ledger, sessions) = (Arc::clone(self), sessions.clone());
        let work = async move {
            if let Err(error) = ledger.read_to_the_end(&sessions).await {
                tracing::warn!(%error, "the console cannot read the audit log");
            }
        };
        let complete = self.reading.run(work, within).await;
        let read = self.read();
        Standing { complete, entries: read.entries, after: read.after.clone() }
    }

    async fn read_to_the_end(&self, sessions: &Sessions) -> Result<()> {
        loop {
            let after = self.read().after.clone();
            let page = sessions.audit_log().page(&AuditQuery::default(), after.as_ref(), PORTION).await?;
            if !self.read().take(after, page) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    /// The latest that match, `count` of them, or fewer where that takes longer.
    pub(super) async fn latest(
        &self,
        sessions: &Sessions,
        which: &Which,
        count: usize,
        patience: Duration,
    ) -> Result<Latest> {
        let begun = Instant::now();
        let portions = self.spanning(which);
        let query = which.query();
        let is_indexed = query.user.is_some() || query.session.is_some();
        // Of each portion, the latest time in it and in all before it.
        let mut latest: Vec<_> = portions.iter().map(|portion| portion.latest).collect();
        for at in 1..latest.len() {
            latest[at] = latest[at].max(latest[at - 1]);
        }
        let (mut found, mut seen) = (Vec::<Logged>::new(), HashSet::new());
        let (mut looked_at, mut step) = (portions.len(), 1);
        while looked_at > 0 {
            let is_enough = found.get(count).is_some_and(|next| latest[looked_at - 1] < next.entry.at);
            if is_enough || begun.elapsed() > patience {
                break;
            }
            let from = looked_at.saturating_sub(step);
            let read = read_between(sessions, &query, &portions[from..looked_at]).await?;
            found.extend(read.into_iter().rev().filter(|logged| {
                // Where old entries were forgotten, a portion reaches into the next.
                which.matches(&logged.entry) && seen.insert(logged.cursor.clone())
            }));
            // Of those at the same time, the last one in the log comes first.
            found.sort_by_key(|logged| Reverse(logged.entry.at));
            looked_at = from;
            // What an index finds costs what it finds: look back further and further.
            step = if is_indexed { step * 4 } else { 1 };
        }
        let unread = looked_at.checked_sub(1).map(|last| latest[last]);
        let beyond = found.get(count).map(|logged| logged.entry.at);
        found.truncate(count);
        Ok(Latest { entries: found, more: beyond.max(unread) })
    }

    /// Where reading must begin to see all that match.
    pub(super) fn start(&self, which: &Which) -> Option<Cursor> {
        self.spanning(which).first().and_then(|portion| portion.after.clone())
    }

    /// What happened, by the hour, since a time: the start of each hour, and what it counts.
    pub(super) fn hours(&self, since: Timestamp) -> Vec<(Timestamp, Hour)> {
        let first = since.as_millis().div_euclid(Hour::MILLIS);
        let read = self.read();
        let hours = read.hours.range(first..);
        hours.map(|(hour, counts)| (Timestamp::from_millis(hour * Hour::MILLIS), counts.clone())).collect()
    }

    /// Portions that may hold what matches. Those between the first and the last are all there.
    fn spanning(&self, which: &Which) -> Vec<Portion> {
        let read = self.read();
        let may_hold = |portion: &Portion| {
            which.since.is_none_or(|since| portion.latest >= since)
                && which.until.is_none_or(|until| portion.earliest <= until)
        };
        let first = read.portions.iter().position(may_hold);
        let last = read.portions.iter().rposition(may_hold);
        first.zip(last).map(|(first, last)| read.portions[first..=last].to_vec()).unwrap_or_default()
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of these portions, and perhaps some behind them.
async fn read_between(sessions: &Sessions, query: &AuditQuery, portions: &[Portion]) -> Result<Vec<Logged>> {
    let all: usize = portions.iter().map(|portion| portion.entries).sum();
    let latest = portions.iter().map(|portion| portion.latest).max();
    let mut found: Vec<Logged> = Vec::new();
    let mut after = portions.first().and_then(|first| first.after.clone());
    loop {
        let page = sessions.audit_log().page(query, after.as_ref(), PORTION).await?;
        let is_beyond = page.items.last().is_some_and(|last| Some(last.entry.at) > latest);
        found.extend(page.items);
        after = page.next;
        if after.is_none() || found.len() >= all || is_beyond {
            return Ok(found);
        }
    }
}

impl Read {
    /// Notes what was read behind `after`; says whether there may be more.
    fn take(&mut self, after: Option<Cursor>, page: Page<Logged>) -> bool {
        let Page { items, next } = page;
        let Some(last) = items.last().map(|last| last.cursor.clone()) else {
            let more = next.is_some() && next != self.after;
            self.after = next.or(self.after.take());
            return more;
        };
        let more = next.is_some();
        self.after = next.or(Some(last));
        self.entries += items.len();
        for logged in &items {
            let hour = logged.entry.at.as_millis().div_euclid(Hour::MILLIS);
            self.hours.entry(hour).or_default().count(&logged.entry);
        }
        let times = || items.iter().map(|logged| logged.entry.at);
        let portion = Portion {
            after,
            earliest: times().min().unwrap_or_default(),
            latest: times().max().unwrap_or_default(),
            entries: items.len(),
        };
        // What comes in dribs and drabs makes no portions of its own.
        match self.portions.last_mut().filter(|last| last.entries + portion.entries <= PORTION) {
            Some(last) => {
                last.earliest = last.earliest.min(portion.earliest);
                last.latest = last.latest.max(portion.latest);
                last.entries += portion.entries;
            }
            None => self.portions.push(portion),
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use cloakroom::{SignIn, store};

    use super::*;

    const LONG: Duration = Duration::from_mins(2);

    #[tokio::test]
    async fn the_latest_come_first_in_memory() {
        holds_on("memory:").await;
    }

    #[tokio::test]
    async fn the_latest_come_first_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        holds_on(&format!("sqlite:{}", directory.path().join("test.db").display())).await;
    }

    #[tokio::test]
    async fn the_latest_come_first_on_files() {
        let directory = tempfile::tempdir().unwrap();
        holds_on(&format!("file:{}", directory.path().join("sessions").display())).await;
    }

    #[tokio::test]
    async fn the_latest_come_first_on_postgres() {
        holds_at("POSTGRES", "schema").await;
    }

    #[tokio::test]
    async fn the_latest_come_first_on_mariadb() {
        holds_at("MARIADB", "prefix").await;
    }

    #[tokio::test]
    async fn the_latest_come_first_on_redis() {
        holds_at("REDIS", "prefix").await;
    }

    #[tokio::test]
    async fn the_latest_come_first_on_a_redis_cluster() {
        holds_at("REDIS_CLUSTER", "prefix").await;
    }

    async fn holds_at(service: &str, parameter: &str) {
        let Some(url) = needs::variable(&format!("CLOAKROOM_TEST_{service}_URL")) else { return };
        let joint = if url.contains('?') { '&' } else { '?' };
        let tail = if parameter == "prefix" && service.starts_with("REDIS") { ":" } else { "" };
        holds_on(&format!("{url}{joint}{parameter}=ledger_{}{tail}", std::process::id())).await;
    }

    async fn holds_on(url: &str) {
        let sessions = Sessions::builder(store::open(url).await.unwrap());
        let sessions = sessions.call_timeout(LONG).without_upkeep().build().unwrap();
        let ledger = Arc::new(Ledger::default());
        let mut ids = Vec::new();
        for round in 0..3 {
            for n in 0..450 {
                let started = sessions.start(SignIn::new(format!("user-{}", n % 90))).await.unwrap();
                ids.push(started.record.info.id);
            }
            let ended: Vec<_> = ids.iter().copied().skip(round * 450).step_by(9).collect();
            sessions.end_many(ended, &Reason::RevokedByAdmin.into()).await.unwrap();
            let standing = ledger.read_on(&sessions, LONG).await;
            assert!(standing.complete);
            assert_eq!(standing.entries, (round + 1) * 500);
        }

        let all = every(&sessions).await;
        let half = all[all.len() / 2].entry.at;
        for which in [
            Which::default(),
            Which { user: Some("user-7".into()), ..Which::default() },
            Which { user: Some("user-9".into()), event: Some(Event::Ended), ..Which::default() },
            Which { user: Some("nobody".into()), ..Which::default() },
            Which { session: Some(ids[9]), ..Which::default() },
            Which { event: Some(Event::Ended), since: Some(half), ..Which::default() },
            Which { until: Some(half), ..Which::default() },
            Which { since: Some(half), until: Some(half), ..Which::default() },
        ] {
            let mut matching: Vec<_> = all.iter().filter(|logged| which.matches(&logged.entry)).cloned().collect();
            matching.sort_by_key(|logged| Reverse(logged.entry.at));
            let whole = ledger.latest(&sessions, &which, 10_000, LONG).await.unwrap();
            assert_eq!((cursors(&whole.entries), whole.more), (cursors(&matching), None), "{which:?}");
            let times = |entries: &[Logged]| entries.iter().map(|logged| logged.entry.at).collect::<Vec<_>>();
            let first = ledger.latest(&sessions, &which, 20, LONG).await.unwrap();
            assert_eq!(times(&first.entries), times(&matching[..matching.len().min(20)]), "{which:?}");
            assert_eq!(first.more, matching.get(20).map(|next| next.entry.at), "{which:?}");
        }
        let hours = ledger.hours(Timestamp::EPOCH);
        let ended: usize = hours.iter().map(|(_, hour)| hour.all_ended()).sum();
        let sign_ins: usize = hours.iter().map(|(_, hour)| hour.sign_ins).sum();
        assert_eq!((sign_ins, ended), (3 * 450, 3 * 50));
    }

    async fn every(sessions: &Sessions) -> Vec<Logged> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = sessions.audit_log().page(&AuditQuery::default(), after.as_ref(), 500).await.unwrap();
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// Those of the same time are in no order between stores.
    fn cursors(entries: &[Logged]) -> Vec<&str> {
        let mut cursors: Vec<_> = entries.iter().map(|logged| logged.cursor.as_str()).collect();
        cursors.sort_unstable();
        cursors
    }
}
