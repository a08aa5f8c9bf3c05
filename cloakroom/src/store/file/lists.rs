//! Listing sessions.

use super::{
    fault::Fault,
    layout::{self, Dated},
    tables,
    transaction::Transaction,
};
use crate::{
    PartitionKey, Result, SessionId, SessionInfo, Timestamp,
    store::{Cursor, Page, Query},
};

/// A place in the list of a user's sessions, as a cursor says it.
pub(super) fn place_in_user(cursor: &Cursor) -> Result<Dated<SessionId>> {
    cursor.as_str().parse().map_err(|()| Cursor::invalid())
}

pub(super) fn of_user(
    directory: &Transaction<'_>,
    key: &PartitionKey,
    query: &Query,
    after: Option<Dated<SessionId>>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<SessionInfo>, Fault> {
    let user = tables::digest_of(key, query.user.as_deref().unwrap_or_default());
    let mut items: Vec<SessionInfo> = Vec::new();
    for place in tables::sessions_of(directory, &user)? {
        if after.is_some_and(|after| place >= after) {
            continue;
        }
        let Some(info) = matching(directory, query, place.name, now)? else { continue };
        if items.len() == limit {
            let next = items.last().map(|last| Dated { at: last.created_at, name: last.id });
            return Ok(Page { items, next: next.map(|place| Cursor::new(place.to_string())) });
        }
        items.push(info);
    }
    Ok(Page { items, next: None })
}

/// In the order of the ids.
pub(super) fn anywhere(
    directory: &Transaction<'_>,
    query: &Query,
    after: Option<SessionId>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<SessionInfo>, Fault> {
    let mut items: Vec<SessionInfo> = Vec::new();
    let mut looked_at = 0;
    let mut last = after;
    for byte in after.map_or(0, |after| after.as_bytes()[0])..=u8::MAX {
        let names = directory.list(&layout::sessions(byte))?;
        let mut ids: Vec<_> = names.iter().filter_map(|name| layout::session_named(name)).collect();
        ids.retain(|id| after.is_none_or(|after| *id > after));
        ids.sort_unstable();
        for id in ids {
            if items.len() == limit || looked_at == LOOK {
                return Ok(Page { items, next: last.map(|last| Cursor::new(last.to_string())) });
            }
            items.extend(matching(directory, query, id, now)?);
            looked_at += 1;
            last = Some(id);
        }
    }
    Ok(Page { items, next: None })
}

/// So many sessions are looked at for a page, so that a query that matches few does not read them all while others wait.
const LOOK: usize = 1000;

fn matching(
    directory: &Transaction<'_>,
    query: &Query,
    id: SessionId,
    now: Timestamp,
) -> Result<Option<SessionInfo>, Fault> {
    let info = tables::info(directory, id)?;
    Ok(info.filter(|info| info.expiry(now).is_none() && query.matches(info)))
}
