//! What rows mean, whatever the driver.

use std::{fmt, sync::Arc, time::Duration};

use sqlx::Error as SqlError;

use crate::{
    clock::Timestamp,
    data::Data,
    error::{Error, Result},
    record::{RecentChanges, Record},
    store::{
        LastSignIn,
        head::{self, Beside},
        packed,
        slots::{Columns, Listed, Slot, UserSlot},
    },
    token::SessionId,
};

/// What stands for no idle timeout and no absolute end: it is behind all times, and there is room behind it.
pub(super) const NEVER: i64 = 1 << 61;
/// The longest time that can go unused.
const LONGEST: i64 = 1 << 59;

/// A row, by the numbers of its columns.
pub(super) trait SqlRow {
    fn int(&self, column: usize) -> Result<Option<i64>>;
    fn text(&self, column: usize) -> Result<Option<&str>>;
    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>>;
    /// What a sealed head needs, from this column on.
    fn columns(&self, first: usize) -> Result<Option<Columns>>;
}

/// A time to compare deadlines with. The latest time is behind every deadline there is.
pub(super) fn now(now: Timestamp) -> i64 {
    if now < Timestamp::MAX { now.as_millis() } else { 1 << 60 }
}

pub(super) fn idle_column(idle: Option<Duration>) -> i64 {
    idle.map_or(NEVER, |idle| i64::try_from(idle.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST)))
}

pub(super) fn idle_of(column: i64) -> Option<Duration> {
    u64::try_from(column).ok().filter(|_| column < NEVER).map(Duration::from_millis)
}

pub(super) fn ends_column(ends_at: Option<Timestamp>) -> i64 {
    ends_at.map_or(NEVER, Timestamp::as_millis)
}

pub(super) fn end_of(column: i64) -> Option<Timestamp> {
    (column < NEVER).then(|| Timestamp::from_millis(column))
}

/// A slot in a row, in columns from `first` on: revision, version, seen, head, data, recent ids, the transaction that ended
/// it, its ending, and what a sealed head needs.
pub(super) fn slot(row: &impl SqlRow, first: usize, id: SessionId) -> Result<Slot> {
    let data = data(row, first + 4, id)?;
    concluded(row, first, record(row, first, id, data, |head, beside, columns| head::decode(head, beside, columns))?)
}

/// As [`slot`], without data, for those who count sessions or end them: of a head that cannot be read its columns stand in
/// the row, or it is an error.
pub(super) fn bare_slot(row: &impl SqlRow, first: usize, id: SessionId) -> Result<Slot> {
    let record =
        record(row, first, id, Data::new(), |head, beside, columns| head::decode_or_known(head, beside, columns))?;
    concluded(row, first, record)
}

/// A slot for a list, which leaves out what cannot be read.
pub(super) fn listed(slot: Result<Slot>) -> Result<Option<Listed>> {
    match slot {
        Ok(slot) => Ok(Some(Listed::Session(slot))),
        Err(Error::Store { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A slot for the list of everything, which names what cannot be read.
pub(super) fn listed_with_damage(id: SessionId, slot: Result<Slot>) -> Result<Listed> {
    match slot {
        Ok(slot) => Ok(Listed::Session(slot)),
        Err(error @ Error::Store { .. }) => Ok(Listed::Damaged(id, error.to_string())),
        Err(error) => Err(error),
    }
}

fn concluded(row: &impl SqlRow, first: usize, record: Record) -> Result<Slot> {
    Ok(match row.text(first + 7)? {
        None => Slot::Open(Arc::new(record)),
        Some(ending) => {
            let transaction = row.int(first + 6)?.unwrap_or_default().cast_unsigned();
            Slot::Ended(Arc::new(head::decode_ended(ending, record, transaction)?))
        }
    })
}

fn record<R: SqlRow>(
    row: &R,
    first: usize,
    id: SessionId,
    data: Data,
    decode: impl FnOnce(&str, Beside, &dyn Fn() -> Result<Columns>) -> Result<Record>,
) -> Result<Record> {
    let beside = Beside {
        id,
        revision: number(row, first)?.cast_unsigned(),
        version: number(row, first + 1)?.cast_unsigned(),
        seen: Timestamp::from_millis(number(row, first + 2)?),
        data,
    };
    let head = row.text(first + 3)?.ok_or_else(|| damaged(format_args!("a session {id} without head")))?;
    let recent = row.bytes(first + 5)?.unwrap_or_default();
    let changes = RecentChanges::from_ids(recent_ids(&recent, beside.version));
    let record = decode(head, beside, &|| {
        row.columns(first + 8)?.ok_or_else(|| damaged(format_args!("the columns of session {id}")))
    })?;
    Ok(Record { recent_changes: changes, ..record })
}

/// The ids of the latest changes, oldest first: that of the change to version n + 1 is at n modulo their number.
fn recent_ids(recent: &[u8], version: u64) -> impl Iterator<Item = u64> {
    let ids = recent.as_chunks().0;
    let start = usize::try_from(version).unwrap_or(0) % ids.len().max(1);
    ids[start..].iter().chain(&ids[..start]).map(|id| u64::from_be_bytes(*id)).filter(|id| *id != 0)
}

/// The ids of the latest changes, as [`recent_ids`] reads them.
#[cfg(feature = "mysql")]
pub(super) fn recent_column(changes: &RecentChanges, version: u64) -> Vec<u8> {
    use crate::store::slots::KEPT_IDS;

    let mut ids = [0; KEPT_IDS];
    for (back, id) in (1..=KEPT_IDS as u64).zip(changes.ids().iter().rev()) {
        let place = usize::try_from(version.wrapping_sub(back) % KEPT_IDS as u64).unwrap_or(0);
        ids[place] = *id;
    }
    ids.iter().flat_map(|id| id.to_be_bytes()).collect()
}

fn data(row: &impl SqlRow, column: usize, id: SessionId) -> Result<Data> {
    let Some(stored) = row.bytes(column)? else { return Ok(Data::new()) };
    packed::read(&stored).ok_or_else(|| damaged(format_args!("data of session {id}")))
}

/// A user's slot, in the columns that [`slot`] has for a session's.
pub(super) fn user(row: &impl SqlRow, first: usize) -> Result<UserSlot> {
    let ip = row.text(first + 3)?.and_then(|ip| ip.parse().ok());
    Ok(UserSlot {
        text: row.text(first + 7)?.unwrap_or_default().into(),
        revision: number(row, first)?.cast_unsigned(),
        last_sign_in: row.int(first + 2)?.map(|at| LastSignIn { at: Timestamp::from_millis(at), ip }),
        due_at: row.int(first + 1)?.map(Timestamp::from_millis),
    })
}

pub(super) fn id(row: &impl SqlRow, column: usize) -> Result<SessionId> {
    let bytes = row.bytes(column)?.and_then(|bytes| bytes.try_into().ok());
    bytes.map(SessionId::from_bytes).ok_or_else(|| damaged("an id that is none"))
}

pub(super) fn number(row: &impl SqlRow, column: usize) -> Result<i64> {
    row.int(column)?.ok_or_else(|| damaged("a number that is none"))
}

pub(super) fn unexpected(error: SqlError) -> Error {
    Error::store("the database gave an answer that cannot be read", error)
}

pub(super) fn damaged(what: impl fmt::Display) -> Error {
    Error::Store {
        message: format!("the database holds {what} that cannot be read: it was changed by hand"),
        source: None,
    }
}

/// What is answered where the place of the sessions is another one than it was.
pub(super) fn replaced() -> Error {
    let message = "the tables are gone, or others have taken their place since this program opened them: restart it once \
                   they are as they should be";
    Error::Unavailable { message: message.into(), source: None }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use super::*;
    use crate::store::slots::KEPT_IDS;

    #[test]
    fn the_latest_ids_stand_where_their_version_says() {
        let mut changes = RecentChanges::default();
        for version in 1..=40_u64 {
            changes.push(version * 1000);
            let kept: Vec<_> = recent_ids(&recent_column(&changes, version), version).collect();
            let expected: Vec<_> = (1..=version).rev().take(KEPT_IDS).map(|version| version * 1000).collect();
            assert!(kept.iter().rev().eq(&expected), "{version}: {kept:?}");
        }
    }
}
