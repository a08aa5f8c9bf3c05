//! What must hold of all that ever happened at the server, looked at after each commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cloakroom::{
    Ended, Reason, Record, SessionId, Timestamp,
    audit::Event,
    store::slots::{SeenAt, Transaction, Write},
};

use super::model::{Kept, Model, lives};

#[derive(Default)]
pub(super) struct History {
    /// What should not have happened.
    pub(super) violations: Vec<String>,
    /// The limits of users whose sessions never expire, so that no clock decides whether they count.
    pub(super) limits: Vec<(&'static str, usize)>,
    sessions: BTreeMap<SessionId, Known>,
    logged: usize,
    starts: BTreeSet<SessionId>,
    ends: BTreeSet<SessionId>,
    entries: BTreeSet<u64>,
}

struct Known {
    version: u64,
    seen: Timestamp,
    ended: Option<Ended>,
    /// The counter in it, when it was last open.
    counter: u64,
}

impl History {
    pub(super) fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// What the counter of a session was when it was last open.
    pub(super) fn counter(&self, id: SessionId) -> u64 {
        self.sessions.get(&id).map_or(0, |known| known.counter)
    }

    /// What a commit changed must have been as its time says.
    pub(super) fn look_at_commit(&mut self, before: &Model, after: &Model, transaction: &Transaction) {
        let open = |model: &Model, id| model.slots.get(&id).and_then(Kept::open).cloned();
        for write in &transaction.writes {
            match write {
                Write::Data { id, .. } => {
                    if let (Some(before), Some(after)) = (open(before, *id), open(after, *id))
                        && after.info.version > before.info.version
                        && !lives(&before, transaction.now)
                    {
                        self.violations.push(format!("{id} had expired, and was written"));
                    }
                }
                Write::End(ended) => {
                    let expired = matches!(ended.reason, Reason::IdleTimeout | Reason::AbsoluteTimeout);
                    if let (Some(before), None) = (open(before, ended.id), open(after, ended.id))
                        && expired
                        && lives(&before, transaction.now)
                    {
                        self.violations.push(format!("{} lived, and ended as expired", ended.id));
                    }
                }
                Write::Create(record) if record.idempotency.is_some() => {
                    let open = after.slots.values().filter_map(Kept::open);
                    let same = |other: &&Arc<Record>| {
                        other.idempotency == record.idempotency
                            && other.info.id.partition() == record.info.id.partition()
                    };
                    if open.filter(same).count() > 1 {
                        self.violations.push(format!("{}: its idempotency key has two sessions", record.info.id));
                    }
                }
                _ => {}
            }
        }
    }

    /// A session that had expired by the time of the call is not used.
    pub(super) fn look_at_touches(&mut self, before: &Model, after: &Model, touches: &[SeenAt], now: Timestamp) {
        for SeenAt { id, .. } in touches {
            let open = |model: &Model| model.slots.get(id).and_then(Kept::open).cloned();
            if let (Some(before), Some(after)) = (open(before), open(after))
                && after.info.last_seen_at != before.info.last_seen_at
                && !lives(&before, now)
            {
                self.violations.push(format!("{id} had expired, and was used"));
            }
        }
    }

    pub(super) fn look(&mut self, model: &Model) {
        let mut wrong = Vec::new();
        for (id, kept) in &model.slots {
            let record = kept.open();
            let now = Known {
                version: record.map_or(0, |record| record.info.version),
                seen: record.map_or(Timestamp::EPOCH, |record| record.info.last_seen_at),
                ended: kept.ended().cloned(),
                counter: record.and_then(|record| record.data.get("n")?.as_str().parse().ok()).unwrap_or(0),
            };
            let Some(before) = self.sessions.get_mut(id) else {
                self.sessions.insert(*id, now);
                continue;
            };
            match (&before.ended, &now.ended) {
                (Some(_), None) => wrong.push(format!("{id} ended, and is open again")),
                (Some(before), Some(now)) if before != now => wrong.push(format!("{id} ended twice: {before}, {now}")),
                (None, None) if now.version < before.version => wrong.push(format!("the version of {id} moved back")),
                (None, None) if now.seen < before.seen => wrong.push(format!("last-seen of {id} moved back")),
                (None, None) if now.counter < before.counter => wrong.push(format!("the counter of {id} moved back")),
                _ => {}
            }
            let counter = if now.ended.is_some() { before.counter } else { now.counter };
            *before = Known { counter, ..now };
        }
        for (user, limit) in &self.limits {
            let living = model.of_user(user).len();
            if living > *limit {
                wrong.push(format!("{user} has {living} sessions, the limit is {limit}"));
            }
        }
        for entry in &model.log[self.logged..] {
            if !self.entries.insert(entry.id) {
                wrong.push(format!("entry {} is in the log twice: {:?}", entry.id, entry.entry));
            }
            let session = entry.entry.session;
            let first = match entry.entry.event {
                Event::Started | Event::SignedIn => self.starts.insert(session),
                Event::Ended => self.ends.insert(session),
                _ => true,
            };
            if !first {
                wrong.push(format!("{session} is logged twice: {:?}", entry.entry));
            }
        }
        self.logged = model.log.len();
        self.violations.extend(wrong);
    }

    /// At the end: the log tells of each start and each end that there was, and of no other.
    pub(super) fn close(&mut self, model: &Model) {
        let started: BTreeSet<_> = model.slots.keys().copied().collect();
        let ended: BTreeSet<_> =
            model.slots.iter().filter(|(_, kept)| kept.ended().is_some()).map(|(id, _)| *id).collect();
        for (what, logged, done) in [("starts", &self.starts, started), ("ends", &self.ends, ended)] {
            if *logged != done {
                let (missing, invented): (Vec<_>, Vec<_>) =
                    (done.difference(logged).collect(), logged.difference(&done).collect());
                self.violations.push(format!("{what}: not logged {missing:?}, logged and not so {invented:?}"));
            }
        }
    }
}
