//! Statements with their values in them. Several of them travel as one, so that a transaction is one round trip.

use std::{fmt::Write as _, sync::Arc};

use crate::{
    clock::Timestamp,
    record::Record,
    store::{
        head, packed,
        slots::{Columns, LogEntry, Slot},
        sql::{
            address::Namespace,
            rows::{ends_column, hex, idle_column, recent_column},
        },
    },
    token::{Digest, SessionId},
};

/// What of a slot is read, from [`slot`](super::super::rows::slot) on.
pub(super) const SLOT: &str = "revision, version, seen, head, data, recent, ended_by, ending, user_id, created_at, idle, \
    ends_at, impersonated_by, ip, device, idempotency";
/// As [`SLOT`], without data.
pub(super) const HEAD: &str = "revision, version, seen, head, NULL, recent, ended_by, ending, user_id, created_at, idle, \
    ends_at, impersonated_by, ip, device, idempotency";
/// A user's slot, in the columns that [`SLOT`] has for a session's.
pub(super) const USER: &str = "revision, due_at, signed_in_at, signed_in_from, NULL, NULL, NULL, settled, user_id, NULL, NULL, \
    NULL, NULL, NULL, NULL, NULL";

/// Whether a session lives at this time.
pub(super) fn lives(now: i64) -> String {
    format!("ended_at IS NULL AND seen + idle > {now} AND ends_at > {now}")
}

/// A statement, in which `~` stands for the prefix of names. Nothing else in it may be that.
pub(super) fn own(namespace: &Namespace, text: &str) -> Arc<str> {
    text.replace('~', &format!("{namespace}_")).into()
}

/// What means the same whatever the server thinks of backslashes.
pub(super) fn literal(text: &[u8]) -> String {
    match str::from_utf8(text) {
        Ok(text) if !text.contains(['\\', '\0']) => format!("'{}'", text.replace('\'', "''")),
        _ => bytes(text),
    }
}

pub(super) fn bytes(bytes: &[u8]) -> String {
    format!("X'{}'", hex(bytes))
}

pub(super) fn id(id: SessionId) -> String {
    bytes(id.as_bytes())
}

pub(super) fn ids(all: impl IntoIterator<Item = SessionId>) -> String {
    all.into_iter().map(id).collect::<Vec<_>>().join(",")
}

pub(super) fn or_null(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

fn text_or_null(text: Option<&str>) -> String {
    or_null(text.map(|text| literal(text.as_bytes())))
}

/// Names of columns and what they get.
pub(super) type Assigned = Vec<(&'static str, String)>;

/// `name = value, …`
pub(super) fn assignments(assigned: &Assigned) -> String {
    assigned.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// `(name, …)` and `value, …`
pub(super) fn names_and_values(assigned: &Assigned) -> (String, String) {
    let (names, values): (Vec<_>, Vec<_>) = assigned.iter().map(|(name, value)| (*name, value.as_str())).unzip();
    (format!("({})", names.join(",")), values.join(","))
}

/// All columns of a slot but its id.
pub(super) fn slot_columns(slot: &Slot) -> Assigned {
    let (record, ended) = match slot {
        Slot::Open(record) => (record, None),
        Slot::Ended(ended) => (&ended.record, Some(ended)),
    };
    let mut columns = head_columns(record);
    if ended.is_some() {
        columns.retain(|(name, _)| *name != "due_at");
        columns.push(("due_at", "NULL".into()));
    }
    let recent = if ended.is_some() { Vec::new() } else { recent_column(&record.recent_changes, record.info.version) };
    columns.extend([
        ("placed", "UUID_SHORT()".to_owned()),
        ("version", record.info.version.cast_signed().to_string()),
        ("seen", record.info.last_seen_at.as_millis().to_string()),
        ("recent", bytes(&recent)),
        ("data", literal(&packed::stored(&record.data))),
        ("ended_at", or_null(ended.map(|slot| slot.ended.at.as_millis()))),
        ("ended_by", or_null(ended.map(|slot| slot.transaction.cast_signed()))),
        ("ending", text_or_null(ended.map(|slot| head::encode_ending(&slot.ended)).as_deref())),
    ]);
    columns
}

/// What a new head replaces.
pub(super) fn head_columns(record: &Record) -> Assigned {
    let Columns { user, created_at, idle, ends_at, impersonated_by, ip, device, idempotency, due_at } =
        head::columns(record);
    vec![
        ("revision", record.revision.cast_signed().to_string()),
        ("head", literal(head::encode(record).as_bytes())),
        ("user_id", text_or_null(user.as_deref())),
        ("created_at", created_at.as_millis().to_string()),
        ("idle", idle_column(idle).to_string()),
        ("ends_at", ends_column(ends_at).to_string()),
        ("impersonated_by", text_or_null(impersonated_by.as_deref())),
        ("ip", text_or_null(ip.map(|ip| ip.to_string()).as_deref())),
        ("device", text_or_null(device.as_deref())),
        ("idempotency", or_null(idempotency.as_ref().map(|digest| bytes(Digest::as_bytes(digest))))),
        ("due_at", or_null(due_at.map(Timestamp::as_millis))),
    ]
}

/// A row of the audit log, as `(id, at, session, user_id, entry)`.
pub(super) fn entry_values(LogEntry { id: number, entry }: &LogEntry) -> String {
    format!(
        "{},{},{},{},{}",
        number.cast_signed(),
        entry.at.as_millis(),
        id(entry.session),
        text_or_null(entry.user.as_deref()),
        literal(head::encode_entry(entry).as_bytes())
    )
}

/// Several rows of a list of values.
pub(super) fn rows(rows: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for row in rows {
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma}({row})").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_mean_themselves_in_every_mode() {
        assert_eq!(literal(b"it's"), "'it''s'");
        assert_eq!(literal("☂ \u{1e}".as_bytes()), "'☂ \u{1e}'");
        assert_eq!(literal(b"a\\'"), "X'615c27'");
        assert_eq!(literal(b"\0\xff"), "X'00ff'");
        assert_eq!(literal(b""), "''");
    }
}
