//! Reaping: every group is visited, some at a time, until the limits are used up.

use std::sync::Arc;

use redis::Value;

use super::{
    Inner, groups,
    reply::{Hash, Reply},
    rows::{self, Note},
    scripts,
};
use crate::{
    Result, Timestamp,
    store::{Reap, Reaped},
};

/// So many groups are visited at the same time.
const GROUPS_AT_ONCE: usize = 128;

/// So many of a kind go in one script; then others get their turn.
const BATCH: usize = 64;

impl Inner {
    pub(super) async fn reap(self: &Arc<Self>, reap: &Reap, now: Timestamp) -> Result<Reaped> {
        let Reap { limit, tombstones_before, audit_before } = *reap;
        let mut ended = Vec::new();
        let (mut tombstones, mut entries) = (0, 0);
        // The next group is at the end.
        let mut groups: Vec<u16> = groups().collect();
        groups.reverse();
        while !groups.is_empty() {
            let left = limit - ended.len().max(tombstones).max(entries);
            if left == 0 {
                return Ok(Reaped { ended, more: true });
            }
            // No more groups than each may end one of.
            let visited = groups.split_off(groups.len().saturating_sub(GROUPS_AT_ONCE.min(left)));
            let each = (left / visited.len()).min(BATCH);
            let calls = visited.iter().map(|group| {
                let arguments = self
                    .begin(*group, now)
                    .number(each)
                    .number(each)
                    .number(tombstones_before.as_millis())
                    .number(each)
                    .number(audit_before.as_millis());
                self.on_group(&scripts::REAP, *group, &[], arguments)
            });
            let answers = self.servers.run_all(calls).await?;
            for (answer, group) in answers.into_iter().zip(visited) {
                let malformed = |_| super::Damaged("the answer to a reap");
                let [gone, old, forgotten, notes] = answer.array()?.try_into().map_err(malformed)?;
                let gone = gone.array()?.into_iter().map(super::ended).collect::<Result<Vec<_>, _>>()?;
                let (old, forgotten) = (old.number::<usize>()?, forgotten.number::<usize>()?);
                if gone.len().max(old).max(forgotten) == each {
                    groups.push(group);
                }
                ended.extend(gone);
                tombstones += old;
                entries += forgotten;
                for (successor, note) in Hash::read(notes)?.into_fields() {
                    let successor = Value::BulkString(successor).id()?;
                    self.end_replaced(successor, &rows::from_json::<Note>(note)?).await?;
                }
            }
        }
        Ok(Reaped { ended, more: false })
    }
}
