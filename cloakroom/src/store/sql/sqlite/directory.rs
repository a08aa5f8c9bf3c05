//! The users of the directory.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{fault::Fault, tables::at_most};
use crate::{
    SessionInfo,
    store::{
        Cursor, LastSignIn, Page, Put, PutUser, StoredUser,
        sql::rows::{UserRow, ip_column},
    },
};

pub(super) const USER: &str =
    "SELECT user_id, settings, signed_in_at, signed_in_from FROM directory WHERE user_id = ?1";

/// No user has an empty name.
pub(super) const USERS: &str = "SELECT user_id, settings, signed_in_at, signed_in_from FROM directory \
    WHERE user_id > ?1 ORDER BY user_id LIMIT ?2";

pub(super) const NOTE_SIGN_IN: &str = "UPDATE directory SET signed_in_at = ?2, signed_in_from = ?3 \
    WHERE user_id = ?1 AND (signed_in_at IS NULL OR signed_in_at <= ?2)";

pub(super) fn user(db: &Connection, user: &str) -> Result<Option<StoredUser>, Fault> {
    let row = db.prepare_cached(USER)?.query_row([user], user_row).optional()?;
    Ok(row.map(UserRow::decode).transpose()?)
}

pub(super) fn put(db: &Connection, put: &PutUser) -> Result<bool, Fault> {
    const WRITE: &str = "INSERT OR REPLACE INTO directory (user_id, settings, signed_in_at, signed_in_from) \
        VALUES (?1, ?2, ?3, ?4)";
    match put.decide(user(db, &put.user)?.as_ref()) {
        Put::Refuse => return Ok(false),
        Put::Leave => {}
        Put::Keep(StoredUser { user, settings, last_sign_in }) => {
            let at = last_sign_in.map(|last| last.at.as_millis());
            let from = ip_column(last_sign_in.and_then(|last| last.ip));
            db.prepare_cached(WRITE)?.execute(params![user, settings, at, from])?;
        }
        Put::Delete => {
            db.prepare_cached("DELETE FROM directory WHERE user_id = ?1")?.execute([&put.user])?;
        }
    }
    Ok(true)
}

pub(super) fn list(db: &Connection, after: Option<&str>, limit: usize) -> Result<Page<StoredUser>, Fault> {
    let mut select = db.prepare_cached(USERS)?;
    let rows = select.query_map(params![after.unwrap_or_default(), at_most(limit.saturating_add(1))], user_row)?;
    let mut items = rows.map(|row| Ok(row?.decode()?)).collect::<Result<Vec<_>, Fault>>()?;
    let is_over = items.len() <= limit;
    items.truncate(limit);
    let next = items.last().filter(|_| !is_over).map(|last| Cursor::behind(&last.user));
    Ok(Page { items, next })
}

pub(super) fn note_sign_in(db: &Connection, info: &SessionInfo) -> Result<(), Fault> {
    if let Some((user, LastSignIn { at, ip })) = LastSignIn::of(info) {
        db.prepare_cached(NOTE_SIGN_IN)?.execute(params![user, at.as_millis(), ip_column(ip)])?;
    }
    Ok(())
}

fn user_row(row: &Row<'_>) -> rusqlite::Result<UserRow> {
    Ok(UserRow {
        user: row.get::<_, Arc<str>>(0)?,
        settings: row.get(1)?,
        signed_in_at: row.get(2)?,
        signed_in_from: row.get(3)?,
    })
}
