//! Places in lists, as cursors tell them.

use crate::{
    error::Result,
    store::{Cursor, Page, slots::Listed},
    token::SessionId,
};

/// So many sessions are looked at for one page of those that match.
pub(super) const SCANNED: usize = 4096;

/// A page of rows, of which one more than `limit` was asked for.
pub(super) fn page<R>(
    rows: &[R],
    limit: usize,
    item: impl Fn(&R) -> Result<Option<Listed>>,
    place: impl Fn(&R) -> Result<String>,
) -> Result<Page<Listed>> {
    let shown = &rows[..rows.len().min(limit)];
    let items = shown.iter().filter_map(|row| item(row).transpose()).collect::<Result<Vec<_>>>()?;
    let last = shown.last().filter(|_| rows.len() > limit);
    Ok(Page { items, next: last.map(place).transpose()?.map(Cursor::new) })
}

/// A page of what a scan found, which may have ended before the table does: the next page goes on from there.
pub(super) fn scanned_page(
    mut items: Vec<(SessionId, Option<Listed>)>,
    limit: usize,
    scanned: Option<SessionId>,
) -> Page<Listed> {
    let is_full = items.len() > limit;
    items.truncate(limit);
    let next = if is_full { items.last().map(|(id, _)| *id) } else { scanned };
    let items = items.into_iter().filter_map(|(_, item)| item).collect();
    Page { items, next: next.map(|id| Cursor::new(id.to_string())) }
}

pub(super) fn place_by_id(cursor: &Cursor) -> Result<Vec<u8>> {
    let id: SessionId = cursor.parse()?;
    Ok(id.as_bytes().to_vec())
}

/// By a time and an id.
pub(super) fn place_by_time(cursor: &Cursor) -> Result<(i64, Vec<u8>)> {
    let (millis, id) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
    let id: SessionId = id.parse().map_err(|_| Cursor::invalid())?;
    Ok((millis.parse().map_err(|_| Cursor::invalid())?, id.as_bytes().to_vec()))
}

pub(super) fn place_of_due_user(cursor: &Cursor) -> Result<(i64, String)> {
    let (due, user) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
    Ok((due.parse().map_err(|_| Cursor::invalid())?, Cursor::new(user).name()?))
}
