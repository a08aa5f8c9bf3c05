//! Lists of sessions: of a user, or of everybody, group by group.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::Value;

use super::{
    Inner, groups,
    keys::Place,
    reply::{Damaged, Reply},
    rows, scripts,
    scripts::{Call, Effect},
};
use crate::{
    Partition, Result, SessionInfo, Timestamp,
    store::{Cursor, Page, Query},
};

/// So many sessions are looked at for one page of those that match.
const LOOKED_AT: usize = 1000;

/// So many groups are asked at the same time, when those before were empty.
const GROUPS_AT_ONCE: usize = 128;

/// Where a page ended: in a group, behind a place.
struct Position {
    group: u16,
    behind: Option<Place>,
}

impl Inner {
    pub(super) async fn find(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let after = after.map(Position::parse).transpose()?;
        match &query.user {
            Some(user) => self.find_of_user(user, query, after, limit, now).await,
            None => self.find_anywhere(query, after, limit, now).await,
        }
    }

    async fn find_of_user(
        &self,
        user: &Arc<str>,
        query: &Query,
        after: Option<Position>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let group = self.partition_key.partition_of(user).group();
        let [from, mut to] = Place::all_of(user, &self.partition_key);
        if let Some(place) = after.and_then(|after| after.behind) {
            if !place.belongs_to(user, &self.partition_key) {
                return Err(Cursor::invalid());
            }
            to = place.beyond();
        }
        let mut page = Filling::new(query, limit, now);
        let mut looked_at = 0;
        loop {
            // One more than fits tells whether more follow.
            let count = (limit - page.items.len() + 1).min(LOOKED_AT);
            let found = self.servers.run(&self.listing(group, [&from, &to], true, count)).await?.array()?;
            looked_at += found.len();
            let last = found.len() < count;
            for found in found {
                let (place, info) = listed(found)?;
                to = place.beyond();
                if !page.push(Position { group, behind: Some(place) }, info) {
                    return Ok(page.finish());
                }
            }
            if last {
                return Ok(page.finish_at_end());
            }
            if looked_at >= LOOKED_AT {
                return Ok(page.finish());
            }
        }
    }

    async fn find_anywhere(
        &self,
        query: &Query,
        after: Option<Position>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let Position { mut group, mut behind } = after.unwrap_or(Position { group: 0, behind: None });
        let mut page = Filling::new(query, limit, now);
        let (mut looked_at, mut at_once) = (0, 1);
        while group < Partition::GROUPS {
            let count = (limit - page.items.len() + 1).min(LOOKED_AT);
            let asked: Vec<_> = groups().skip(group.into()).take(at_once).collect();
            let calls = asked.iter().map(|asked| {
                let from = behind.take().map_or_else(|| b"-".to_vec(), |place| place.beyond());
                self.listing(*asked, [&from, b"+"], false, count)
            });
            let mut seen = 0;
            for (answer, asked) in self.servers.run_all(calls).await?.into_iter().zip(asked) {
                let found = answer.array()?;
                let last = found.len() < count;
                seen += found.len();
                for found in found {
                    let (place, info) = listed(found)?;
                    behind = Some(place.clone());
                    if !page.push(Position { group: asked, behind: Some(place) }, info) {
                        return Ok(page.finish());
                    }
                }
                if !last {
                    // There is more in this group, before any of the groups that follow.
                    group = asked;
                    break;
                }
                (group, behind) = (asked + 1, None);
                page.reached(Position { group, behind: None });
            }
            looked_at += seen;
            if looked_at >= LOOKED_AT && group < Partition::GROUPS {
                return Ok(page.finish());
            }
            at_once = if seen < at_once { (at_once * 2).min(GROUPS_AT_ONCE) } else { 1 };
        }
        Ok(page.finish_at_end())
    }

    fn listing(&self, group: u16, [from, to]: [&[u8]; 2], newest_first: bool, count: usize) -> Call {
        let arguments = self.begin(group, Timestamp::EPOCH).text(from).text(to).flag(newest_first).number(count);
        self.on_group(&scripts::LIST, group, &[], arguments).with(Effect::Reads)
    }
}

fn listed(found: Value) -> Result<(Place, SessionInfo), Damaged> {
    let [place, id, seen, head @ ..]: [Value; 10] = found.array()?.try_into().map_err(|_| Damaged("a list"))?;
    Ok((rows::place(place)?, rows::info(id.id()?, seen.time()?, head)?))
}

/// A page being filled with those that live and match.
struct Filling<'a> {
    query: &'a Query,
    limit: usize,
    now: Timestamp,
    items: Vec<SessionInfo>,
    position: Option<Position>,
}

impl<'a> Filling<'a> {
    fn new(query: &'a Query, limit: usize, now: Timestamp) -> Self {
        Self { query, limit, now, items: Vec::new(), position: None }
    }

    /// Takes what was found at a position; `false` if it would be one too many.
    fn push(&mut self, position: Position, info: SessionInfo) -> bool {
        if info.expiry(self.now).is_none() && self.query.matches(&info) {
            if self.items.len() == self.limit {
                return false;
            }
            self.items.push(info);
        }
        self.reached(position);
        true
    }

    fn reached(&mut self, position: Position) {
        self.position = Some(position);
    }

    fn finish(self) -> Page<SessionInfo> {
        Page { next: self.position.map(Position::cursor), items: self.items }
    }

    fn finish_at_end(self) -> Page<SessionInfo> {
        Page { items: self.items, next: None }
    }
}

impl Position {
    fn parse(cursor: &Cursor) -> Result<Self> {
        let (group, place) = cursor.as_str().split_once('.').unwrap_or((cursor.as_str(), ""));
        let group = group.parse().ok().filter(|group| *group <= Partition::GROUPS).ok_or_else(Cursor::invalid)?;
        if place.is_empty() {
            return Ok(Self { group, behind: None });
        }
        let bytes = URL_SAFE_NO_PAD.decode(place).map_err(|_| Cursor::invalid())?;
        let place = Place::from_bytes(&bytes).ok_or_else(Cursor::invalid)?;
        Ok(Self { group, behind: Some(place) })
    }

    fn cursor(self) -> Cursor {
        let Self { group, behind } = self;
        Cursor::new(match behind {
            Some(place) => format!("{group}.{}", URL_SAFE_NO_PAD.encode(place.as_bytes())),
            None => group.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_was_not_given_is_refused() {
        for text in ["", "x", "1025", "3.", "3.AAAA", "3.*", "-1"] {
            let cursor = Cursor::new(text);
            assert_eq!(Position::parse(&cursor).is_ok(), text == "3.", "{text}");
        }
        let place = Place::from_bytes(&[7; Place::LEN]).unwrap();
        let cursor = Position { group: 1023, behind: Some(place.clone()) }.cursor();
        assert_eq!(Position::parse(&cursor).unwrap().behind, Some(place));
    }
}
