//! Calls that change nothing. Each sees one state of the database.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::{fault::Fault, tables};
use crate::{
    Result, SessionId, SessionInfo, Timestamp,
    store::{AuditQuery, Cursor, Loaded, Logged, Page, Query, Tombstone},
};

/// So many sessions are looked at for one page of those that match.
const SCANNED: usize = 4096;

/// Where a page of a user's sessions ended: when the last one was created, and its id.
#[derive(Clone, Copy)]
pub(super) struct PlaceInUser(Timestamp, SessionId);

impl PlaceInUser {
    pub(super) fn parse(cursor: &Cursor) -> Result<Self> {
        let (millis, id) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
        let millis = millis.parse().map_err(|_| Cursor::invalid())?;
        Ok(Self(Timestamp::from_millis(millis), id.parse().map_err(|_| Cursor::invalid())?))
    }

    fn of(info: &SessionInfo) -> Cursor {
        Cursor::new(format!("{}.{}", info.created_at.as_millis(), info.id))
    }
}

pub(super) fn load(db: &Connection, id: SessionId, now: Timestamp) -> Result<Loaded, Fault> {
    let Some(head) = tables::head(db, id)? else {
        let tombstone = tables::tombstone(db, id)?;
        return Ok(tombstone.map_or(Loaded::Unknown, |tombstone| Loaded::Ended(Arc::new(tombstone))));
    };
    Ok(match head.info.expired(now) {
        Some(ended) => Loaded::Ended(Arc::new(Tombstone { ended, secrets: head.secrets })),
        None => Loaded::Live(Arc::new(head.with_data(tables::data(db, id)?))),
    })
}

pub(super) fn find_of_user(
    db: &Connection,
    query: &Query,
    after: Option<PlaceInUser>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<SessionInfo>, Fault> {
    let after = after.map_or((i64::MAX, Vec::new()), |PlaceInUser(at, id)| (at.as_millis(), id.as_bytes().to_vec()));
    let mut page = Filling::new(limit);
    tables::visit_sessions(db, tables::OF_USER, params![query.user, after.0, after.1], |info| {
        !lives_and_matches(&info, query, now) || page.push(info)
    })?;
    Ok(page.finish(PlaceInUser::of))
}

pub(super) fn find_anywhere(
    db: &Connection,
    query: &Query,
    after: Option<SessionId>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<SessionInfo>, Fault> {
    let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    let mut page = Filling::new(limit);
    let mut scanned = 0;
    let mut last = None;
    tables::visit_sessions(db, tables::AFTER_ID, params![after, tables::at_most(SCANNED)], |info| {
        scanned += 1;
        last = Some(info.id);
        !lives_and_matches(&info, query, now) || page.push(info)
    })?;
    let page = page.finish(|info| Cursor::new(info.id.to_string()));
    // The scan ended before the table did: the next page goes on from there.
    let unfinished = last.filter(|_| page.next.is_none() && limit > 0 && scanned == SCANNED);
    Ok(Page { next: page.next.or(unfinished.map(|id| Cursor::new(id.to_string()))), ..page })
}

pub(super) fn audit(db: &Connection, query: &AuditQuery, after: i64, limit: usize) -> Result<Page<Logged>, Fault> {
    let mut page = Filling::new(limit);
    let visit = |seq: i64, entry| {
        !query.matches(&entry) || page.push(Logged { id: 0, cursor: Cursor::new(seq.to_string()), entry })
    };
    match (&query.session, &query.user) {
        (Some(session), _) => {
            tables::visit_audit(db, tables::AUDIT_OF_SESSION, params![after, session.as_bytes()], visit)
        }
        (None, Some(user)) => tables::visit_audit(db, tables::AUDIT_OF_USER, params![after, user], visit),
        (None, None) => tables::visit_audit(db, tables::AUDIT, params![after], visit),
    }?;
    Ok(page.finish(|last| last.cursor.clone()))
}

fn lives_and_matches(info: &SessionInfo, query: &Query, now: Timestamp) -> bool {
    info.expiry(now).is_none() && query.matches(info)
}

/// A page being filled.
struct Filling<T> {
    items: Vec<T>,
    limit: usize,
    is_over: bool,
}

impl<T> Filling<T> {
    fn new(limit: usize) -> Self {
        Self { items: Vec::new(), limit, is_over: false }
    }

    /// Adds an item if there is room, and says whether to go on: one item beyond the limit tells that more follow.
    fn push(&mut self, item: T) -> bool {
        if self.items.len() == self.limit {
            self.is_over = true;
            return false;
        }
        self.items.push(item);
        true
    }

    fn finish(self, cursor_after: impl FnOnce(&T) -> Cursor) -> Page<T> {
        let next = self.items.last().filter(|_| self.is_over).map(cursor_after);
        Page { items: self.items, next }
    }
}
