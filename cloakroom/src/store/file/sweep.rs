//! Reaping, in steps that are each small enough to share a commit with others.

use super::{
    audit,
    fault::Fault,
    format::StoredFence,
    layout::{Due, UserDigest},
    tables,
    transaction::Transaction,
};
use crate::{Ended, PartitionKey, SessionId, Timestamp, store::Reap};

/// What is left to do of one call to reap.
#[derive(Clone, Copy)]
pub(super) struct Sweep {
    reap: Reap,
    now: Timestamp,
    sessions: Quota,
    tombstones: Quota,
    fences: Quota,
    audit: Quota,
}

/// How many of a kind may still go, and whether there are any.
#[derive(Clone, Copy)]
struct Quota {
    left: usize,
    more: bool,
}

impl Quota {
    fn of_this_step(self) -> usize {
        self.left.min(STEP)
    }
}

/// So many of each kind go in one step: a few milliseconds' work.
const STEP: usize = 32;

impl Sweep {
    pub(super) fn new(reap: Reap, now: Timestamp) -> Self {
        let of_limit = Quota { left: reap.limit, more: true };
        let fences = Quota { left: usize::MAX, more: true };
        Self { reap, now, sessions: of_limit, tombstones: of_limit, fences, audit: of_limit }
    }

    /// Does a little of everything, and says what is left and which sessions ended.
    pub(super) fn step(
        mut self,
        directory: &mut Transaction<'_>,
        key: &PartitionKey,
    ) -> Result<(Self, Vec<Ended>), Fault> {
        let ended = self.end_expired(directory, key)?;
        self.forget_tombstones(directory)?;
        self.forget_fences(directory)?;
        // A line is read many times faster than a session is ended.
        let most = self.audit.left.min(32 * STEP);
        let (forgotten, more) = audit::forget(directory, self.reap.audit_before, most)?;
        self.audit = Quota { left: self.audit.left - forgotten, more };
        Ok((self, ended))
    }

    /// Whether there is no more to do, or no more may be done.
    pub(super) fn is_over(&self) -> bool {
        self.quotas().iter().all(|quota| quota.left == 0 || !quota.more)
    }

    /// Whether something is left that could not be done within the limit.
    pub(super) fn left_something(&self) -> bool {
        self.quotas().iter().any(|quota| quota.more)
    }

    fn end_expired(&mut self, directory: &mut Transaction<'_>, key: &PartitionKey) -> Result<Vec<Ended>, Fault> {
        let mut ended = Vec::new();
        let most = self.sessions.of_this_step();
        let mut due = tables::due::<SessionId>(directory, Due::Session, self.now, most + 1)?.into_iter();
        for due in due.by_ref().take(most) {
            let Some(stored) = tables::session(directory, due.name)?.filter(|stored| stored.due == Some(due.at)) else {
                directory.remove(Due::Session.marker(due.at, due.name));
                continue;
            };
            match stored.record.info.expired(self.now) {
                Some(expired) => {
                    tables::bury(directory, key, stored, expired.clone())?;
                    ended.push(expired);
                }
                // It was used meanwhile.
                None => tables::put_back(directory, stored),
            }
        }
        self.sessions = Quota { left: self.sessions.left - ended.len(), more: due.next().is_some() };
        Ok(ended)
    }

    fn forget_tombstones(&mut self, directory: &mut Transaction<'_>) -> Result<(), Fault> {
        let (before, most) = (self.reap.tombstones_before, self.tombstones.of_this_step());
        let mut due = tables::due::<SessionId>(directory, Due::Tombstone, before, most + 1)?.into_iter();
        for tombstone in due.by_ref().take(most) {
            tables::forget_tombstone(directory, tombstone.at, tombstone.name);
            self.tombstones.left -= 1;
        }
        self.tombstones.more = due.next().is_some();
        Ok(())
    }

    fn forget_fences(&mut self, directory: &mut Transaction<'_>) -> Result<(), Fault> {
        let most = self.fences.of_this_step();
        let mut due =
            tables::due::<UserDigest>(directory, Due::Fence, self.reap.tombstones_before, most + 1)?.into_iter();
        for due in due.by_ref().take(most) {
            let fence = tables::fence(directory, &due.name)?;
            if fence.ended_before == Some(due.at) {
                let without = StoredFence { ended_before: None, ..fence.clone() };
                tables::set_fence(directory, &due.name, &fence, &without);
            } else {
                directory.remove(Due::Fence.marker(due.at, &due.name));
            }
        }
        self.fences.more = due.next().is_some();
        Ok(())
    }

    fn quotas(&self) -> [Quota; 4] {
        [self.sessions, self.tombstones, self.fences, self.audit]
    }
}
