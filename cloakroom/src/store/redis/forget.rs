//! Forgetting: every group is visited, some at a time, until the limits are used up.

use redis::{Value, cmd};

use super::{
    Inner,
    calls::{Call, Effect},
    keys,
    keys::{OfGroup, groups},
    log,
    reply::Reply,
    slot,
    transaction::{Body, Fit},
};
use crate::{clock::Timestamp, error::Result, store::slots::Forget, token::SessionId};

/// So many groups are visited at the same time.
const GROUPS_AT_ONCE: usize = 128;

/// So many of a kind are forgotten of a group; then others get their turn.
const BATCH: usize = 64;

impl Inner {
    pub(super) async fn forget(&self, forget: &Forget) -> Result<bool> {
        let (mut slots, mut entries) = (0, 0);
        // The next group is at the end.
        let mut groups: Vec<u16> = groups().rev().collect();
        while !groups.is_empty() {
            let left = forget.limit.saturating_sub(slots.max(entries));
            if left == 0 {
                return Ok(true);
            }
            // No more groups than each may have one of.
            let visited = groups.split_off(groups.len().saturating_sub(GROUPS_AT_ONCE.min(left)));
            let each = (left / visited.len()).min(BATCH);
            let looks = visited.iter().map(|group| self.old(*group, forget, each));
            let mut work = Vec::new();
            for (answer, group) in self.servers.run_all(looks).await?.into_iter().zip(visited) {
                let mut answers = self.of_this_store(answer)?.into_iter();
                let mut answer = || answers.next().unwrap_or_default().array();
                let ids = answer()?.into_iter().map(Reply::id).collect::<Result<Vec<_>, _>>()?;
                let old = Self::old_entries(group, answer()?, forget.audit_before)?;
                if ids.len().max(old.len()) == each {
                    groups.push(group);
                }
                slots += ids.len();
                entries += old.len();
                work.extend(ids.into_iter().map(|id| self.forget_slot(id)));
                work.extend(self.forget_entries(group, &old));
            }
            self.servers.run_all(work).await?;
        }
        Ok(false)
    }

    fn old(&self, group: u16, forget: &Forget, each: usize) -> Call<'static> {
        let mut ended = cmd("ZRANGEBYSCORE");
        ended.arg(self.keys.of_group(OfGroup::Ended, group)).arg("-inf").arg(forget.ended_before.as_millis());
        ended.arg("LIMIT").arg(0).arg(each);
        let mut entries = cmd("XRANGE");
        entries.arg(self.keys.of_group(OfGroup::Audit, group)).arg("-").arg("+").arg("COUNT").arg(each);
        self.checked(group, vec![ended, entries])
    }

    /// If it is an ended one still.
    fn forget_slot(&self, id: SessionId) -> Call<'static> {
        let text = keys::text(id);
        let mut body = Body::of_store(Timestamp::EPOCH);
        body.must_be("ended", id);
        let session = body.session(id);
        body.write("clear", session, "");
        body.command("HDEL", OfGroup::Seen, &[&text]);
        self.call(id.partition().group(), &body, Fit::WhenFull)
    }

    /// Those at the beginning that are old enough: their places, and what they are known by.
    fn old_entries(group: u16, entries: Vec<Value>, before: Timestamp) -> Result<Vec<(String, i64)>> {
        let mut old = Vec::new();
        for entry in entries {
            let (at, logged) = log::logged(group, entry)?;
            let (time, known_by) = match &logged {
                Some(logged) => (logged.entry.at, slot::logged(logged.entry.session, logged.id)),
                // It cannot be read.
                None => (at.time(), 0),
            };
            if time > before {
                break;
            }
            old.push((at.in_stream(), known_by));
        }
        Ok(old)
    }

    fn forget_entries(&self, group: u16, old: &[(String, i64)]) -> Option<Call<'static>> {
        if old.is_empty() {
            return None;
        }
        let mut forgotten = cmd("SREM");
        forgotten.arg(self.keys.of_group(OfGroup::Logged, group));
        let mut deleted = cmd("XDEL");
        deleted.arg(self.keys.of_group(OfGroup::Audit, group));
        for (at, known_by) in old {
            forgotten.arg(*known_by);
            deleted.arg(at);
        }
        let call = Call::read_all(keys::slot_of_group(group), vec![forgotten, deleted]);
        Some(call.with(Effect::Repeatable))
    }
}
