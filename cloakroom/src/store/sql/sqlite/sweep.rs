//! Reaping, in steps that are each small enough for a transaction that others share.

use rusqlite::{Connection, params};

use super::{fault::Fault, tables, writes};
use crate::{Ended, Timestamp, store::Reap};

/// What is left to do of one call to reap.
#[derive(Clone, Copy)]
pub(super) struct Sweep {
    now: Timestamp,
    sessions: Quota,
    old: [Old; 3],
}

/// How many of a kind may still go, and whether there are any.
#[derive(Clone, Copy)]
struct Quota {
    left: usize,
    more: bool,
}

/// A kind of rows that are forgotten when they are old.
#[derive(Clone, Copy)]
struct Old {
    forget: &'static str,
    any: &'static str,
    before: Timestamp,
    quota: Quota,
}

impl Sweep {
    pub(super) fn new(reap: Reap, now: Timestamp) -> Self {
        let Reap { limit, tombstones_before, audit_before } = reap;
        let old = |forget, any, before, left| Old { forget, any, before, quota: Quota { left, more: true } };
        Self {
            now,
            sessions: Quota { left: limit, more: true },
            old: [
                old(tables::FORGET_TOMBSTONES, tables::ANY_OLD_TOMBSTONE, tombstones_before, limit),
                old(tables::FORGET_AUDIT, tables::ANY_OLD_AUDIT, audit_before, limit),
                old(tables::FORGET_FENCES, tables::ANY_OLD_FENCE, tombstones_before, usize::MAX),
            ],
        }
    }

    /// Does a little of everything, and says what is left and which sessions ended.
    pub(super) fn step(mut self, db: &Connection) -> Result<(Self, Vec<Ended>), Fault> {
        let ended = self.end_expired(db)?;
        for Old { forget, any, before, quota } in &mut self.old {
            quota.left -= tables::forget(db, forget, *before, quota.left.min(STEP))?;
            quota.more = tables::is_any(db, any, *before)?;
        }
        Ok((self, ended))
    }

    /// Whether there is no more to do, or no more may be done.
    pub(super) fn is_over(&self) -> bool {
        self.quotas().all(|quota| quota.left == 0 || !quota.more)
    }

    /// Whether something is left that could not be done within the limit.
    pub(super) fn left_something(&self) -> bool {
        self.quotas().any(|quota| quota.more)
    }

    fn end_expired(&mut self, db: &Connection) -> Result<Vec<Ended>, Fault> {
        let mut ended = Vec::new();
        let most = self.sessions.left.min(STEP);
        for id in tables::ids(db, tables::EXPIRED, params![self.now.as_millis(), tables::at_most(most)])? {
            let Some(head) = tables::head(db, id)? else { continue };
            let Some(expired) = head.info.expired(self.now) else {
                // Somebody changed its deadlines by hand: what the row says counts, not the indexed column.
                tables::set_last_seen(db, &head.info)?;
                continue;
            };
            writes::bury(db, head, expired.clone())?;
            ended.push(expired);
        }
        self.sessions.left -= ended.len();
        self.sessions.more = tables::is_any(db, tables::ANY_EXPIRED, self.now)?;
        Ok(ended)
    }

    fn quotas(&self) -> impl Iterator<Item = Quota> {
        [self.sessions].into_iter().chain(self.old.map(|old| old.quota))
    }
}

/// So many rows of each kind go in one step: a few milliseconds' work.
const STEP: usize = 32;
