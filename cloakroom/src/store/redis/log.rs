//! The audit log: a stream a group, read as one.
//!
//! An entry's place is the millisecond of its server's clock, its group, and its number in that millisecond. A server
//! that says what time it is promises not to write below that any more. So a page ends where the slowest clock of all
//! primaries stood, and what is read of one group alone needs no such bound.

use std::{cmp::Ordering, str::FromStr, time::Duration};

use redis::{Value, cmd};
use tokio::time::{Instant, sleep};

use super::{
    Inner,
    calls::Call,
    health,
    keys::{OfGroup, groups},
    reply::{Damaged, Reply},
    slot,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    store::{AuditQuery, Cursor, Logged, Page, head},
    token::Partition,
};

/// So many entries of one group are looked at for a page.
const LOOKED_AT: usize = 4096;
const AT_ONCE: usize = 256;

/// How long a reader waits for clocks that lag behind, so that it sees all that was written before it came.
const PATIENCE: Duration = Duration::from_millis(200);

/// The place of an entry. Places sort as entries are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    millis: u64,
    group: u16,
    number: u64,
}

impl Inner {
    pub(super) async fn audit(&self, query: &AuditQuery, after: Option<&Cursor>, limit: usize) -> Result<Page<Logged>> {
        let after = after.map_or(Ok(At { millis: 0, group: 0, number: 0 }), Cursor::parse)?;
        let session = query.session.map(|id| id.partition().group());
        let user = query.user.as_ref().map(|user| self.partition_key.partition_of(user).group());
        match (session, user) {
            (None, None) => self.audit_of_all(after, limit).await,
            (Some(session), Some(user)) if session != user => Ok(Page { items: Vec::new(), next: None }),
            (Some(group), _) | (None, Some(group)) => self.audit_of_group(group, query, after, limit).await,
        }
    }

    async fn audit_of_group(&self, group: u16, query: &AuditQuery, after: At, limit: usize) -> Result<Page<Logged>> {
        let mut items: Vec<Logged> = Vec::new();
        let mut after = At { group, ..after };
        for _ in 0..LOOKED_AT / AT_ONCE {
            let answer = self.servers.run(&self.entries(group, after, None, AT_ONCE)).await?;
            let found = self.of_this_store(answer)?.pop().unwrap_or_default().array()?;
            let last = found.len() < AT_ONCE;
            for entry in found {
                let (at, logged) = logged(group, entry)?;
                if let Some(logged) = logged.filter(|logged| query.matches(&logged.entry)) {
                    if items.len() == limit {
                        return Ok(Page { items, next: Some(after.cursor()) });
                    }
                    items.push(logged);
                }
                after = at;
            }
            if last {
                return Ok(Page { items, next: None });
            }
        }
        Ok(Page { items, next: Some(after.cursor()) })
    }

    async fn audit_of_all(&self, after: At, limit: usize) -> Result<Page<Logged>> {
        let until = self.settled().await?;
        let count = (limit / 64).clamp(4, AT_ONCE);
        let calls = groups().map(|group| self.entries(group, after, Some(until), count));
        let mut found = Vec::new();
        // Of a group that has more than was asked for, what follows is unknown, and so the page ends there at the latest.
        let mut known_until: Option<At> = None;
        for (group, answer) in groups().zip(self.servers.run_all(calls).await?) {
            let entries = self.of_this_store(answer)?.pop().unwrap_or_default().array()?;
            let full = entries.len() == count;
            for entry in entries {
                found.push(logged(group, entry)?);
            }
            if let Some((last, _)) = found.last().filter(|_| full) {
                known_until = Some(known_until.map_or(*last, |known| known.min(*last)));
            }
        }
        found.sort_unstable_by_key(|(at, _)| *at);
        let all = found.len();
        found.retain(|(at, _)| known_until.is_none_or(|known| *at <= known));
        found.truncate(limit);
        let more = known_until.is_some() || found.len() < all;
        let next = found.last().map(|(last, _)| last.cursor()).filter(|_| more);
        Ok(Page { items: found.into_iter().filter_map(|(_, logged)| logged).collect(), next })
    }

    /// A time below which nothing can be written any more, and all that was written until now lies.
    async fn settled(&self) -> Result<u64> {
        let millis = |time: Timestamp| u64::try_from(time.as_millis()).unwrap_or_default();
        let begin = Instant::now();
        let clocks = health::clocks(&self.servers).await?;
        let now = clocks.into_iter().map(millis).max().unwrap_or_default();
        loop {
            let clocks = health::clocks(&self.servers).await?;
            let slowest = clocks.into_iter().map(millis).min().unwrap_or_default();
            if slowest > now || begin.elapsed() > PATIENCE {
                return Ok(slowest.saturating_sub(1));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn entries(&self, group: u16, after: At, until: Option<u64>, count: usize) -> Call<'static> {
        let from = match group.cmp(&after.group) {
            Ordering::Less => format!("{}-0", after.millis + 1),
            Ordering::Equal => format!("({}-{}", after.millis, after.number),
            Ordering::Greater => format!("{}-0", after.millis),
        };
        let until = until.map_or_else(|| "+".to_owned(), |until| until.to_string());
        let mut range = cmd("XRANGE");
        range.arg(self.keys.of_group(OfGroup::Audit, group)).arg(from).arg(until).arg("COUNT").arg(count);
        self.checked(group, vec![range])
    }
}

/// An entry of a stream: its number, and one field; none where that cannot be read.
pub(super) fn logged(group: u16, entry: Value) -> Result<(At, Option<Logged>)> {
    let damaged = || Damaged("the place of an audit entry");
    let [number, fields]: [Value; 2] = entry.array()?.try_into().map_err(|_| damaged())?;
    let number = number.text()?;
    let at = number
        .split_once('-')
        .and_then(|(millis, number)| Some(At { millis: millis.parse().ok()?, group, number: number.parse().ok()? }));
    let at = at.ok_or_else(damaged)?;
    let text = fields.array()?.pop().unwrap_or_default().text();
    let (id, entry) = match text.map_err(Error::from).and_then(|text| slot::read_entry(&text)) {
        Ok((id, entry)) => (id, Ok(entry)),
        Err(error) => (0, Err(error)),
    };
    Ok((at, head::logged(at.cursor(), id, entry)))
}

impl At {
    /// When it was written, by its server's clock.
    pub(super) fn time(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.millis).unwrap_or(i64::MAX))
    }

    pub(super) fn in_stream(self) -> String {
        format!("{}-{}", self.millis, self.number)
    }

    fn cursor(self) -> Cursor {
        let Self { millis, group, number } = self;
        Cursor::new(format!("{millis}-{group}-{number}"))
    }
}

impl FromStr for At {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-').map(|part| part.parse::<u64>().map_err(drop));
        let mut part = || parts.next().ok_or(())?;
        let (millis, group, number) = (part()?, part()?, part()?);
        let group = u16::try_from(group).ok().filter(|group| *group < Partition::GROUPS).ok_or(())?;
        // One more millisecond must still be one.
        let sensible = millis < 1 << 53 && parts.next().is_none();
        if sensible { Ok(Self { millis, group, number }) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_back_and_sort_by_time_group_and_number() {
        let at = |text: &str| text.parse::<At>().unwrap();
        let sorted = ["1-5-0", "2-0-7", "2-1-0", "2-1-3", "10-0-0"].map(at);
        assert!(sorted.is_sorted());
        assert!(sorted.iter().all(|place| place.cursor().as_str().parse() == Ok(*place)));
        for text in ["", "1", "1-2", "1-1024-0", "1-2-3-4", "x-1-1", "18446744073709551615-0-0"] {
            assert_eq!(text.parse::<At>(), Err(()), "{text}");
        }
    }
}
