//! How slots lie in Redis.
//!
//! A session is one hash, of these fields:
//!
//! | field | | |
//! |---|---|---|
//! | `h` | head | its text, as [`head`](crate::store::head) makes it; a sealed one behind `!`, its columns and a line break |
//! | `v` | row | what the scripts compare: revision, idle timeout, absolute end, `1` if it counts for its user or else `0`; version, bytes of keys and values, the ids of the latest transactions that changed or ended it, 8 bytes each |
//! | `p` | place | its [`Place`], and its [idempotency key](try_of), if any |
//! | `d` | data | [in one piece](crate::store::packed) |
//! | `w`, `e` | | of an ended one, in place of `v`, `p` and the data: its row, and how it ended |
//!
//! When it was last seen lies in the hash of its group, so that a touch does not change what clients may cache of it.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use redis::Value;
use serde::{Deserialize, Serialize};

use super::{
    keys::{Place, try_of},
    reply::{Damaged, Reply},
};
use crate::{
    audit::AuditEntry,
    clock::Timestamp,
    data::Data,
    error::{Error, Result},
    record::{RecentChanges, Record, SessionInfo},
    store::{
        LastSignIn, head,
        head::Beside,
        packed,
        slots::{Columns, EndedSlot, LogEntry, Slot, UserSlot},
    },
    token::{Digest, PartitionKey, SessionId},
};

/// The fields of a head, in the order in which [`of_head`] wants them.
pub(super) const HEAD: [&str; 4] = ["h", "v", "w", "e"];
/// Those of a slot, as [`whole`] wants them.
pub(super) const WHOLE: [&str; 5] = ["h", "v", "w", "e", "d"];

/// What a session's slot has of its head.
pub(super) struct Row {
    pub(super) head: Vec<u8>,
    /// The first half of the row: of the head.
    pub(super) lead: String,
    pub(super) place: Place,
    pub(super) idempotency: Option<Vec<u8>>,
}

impl Row {
    pub(super) fn of(record: &Record, key: &PartitionKey) -> Self {
        let SessionInfo { id, idle_timeout, ends_at, acting, .. } = &record.info;
        let idle = idle_timeout.map(|idle| i64::try_from(idle.as_millis()).unwrap_or(i64::MAX));
        let end = ends_at.map(Timestamp::as_millis);
        let counts = u8::from(acting.is_none());
        let mut head = head::encode(record).into_bytes();
        if !head.starts_with(b"{") {
            let columns = serde_json::to_vec(&ColumnsText::of(&head::columns(record))).expect("columns can be written");
            head = [b"!", columns.as_slice(), b"\n", head.as_slice()].concat();
        }
        Self {
            head,
            lead: format!("{} {} {} {counts} ", record.revision, or_empty(idle), or_empty(end)),
            place: Place::of(&record.info, key),
            idempotency: record.idempotency.as_ref().map(|digest| try_of(id.partition(), digest)),
        }
    }

    /// Where it stands in the indexes.
    pub(super) fn standing(&self) -> Vec<u8> {
        [self.place.as_bytes(), self.idempotency.as_deref().unwrap_or_default()].concat()
    }

    /// The whole row, for a slot that is put as it is. Behind an ended one there is the transaction that ended it.
    pub(super) fn whole(&self, version: u64, size: usize, latest: Option<u64>) -> Vec<u8> {
        let mut row = format!("{}{version} {size} ", self.lead).into_bytes();
        row.extend(latest.into_iter().flat_map(u64::to_be_bytes));
        row
    }
}

/// The version of the data and the revision of the head that the row of an open session tells.
pub(super) fn state_of_row(row: &Value) -> Option<(u64, u64)> {
    let Value::BulkString(row) = row else { return None };
    let mut parts = row.split(|byte| *byte == b' ');
    let mut number = |place| str::from_utf8(parts.nth(place)?).ok()?.parse().ok();
    let (revision, version) = (number(0)?, number(3)?);
    Some((version, revision))
}

/// Whether a value is there, and a number.
pub(super) fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The slot with its data, from when it was last seen and the fields that make it [`WHOLE`].
pub(super) fn whole(id: SessionId, seen: Value, fields: Value) -> Result<Option<Slot>> {
    let [head, open, ended, ending, data]: [Value; 5] = fields.array()?.try_into().map_err(|_| FIELDS)?;
    let data = match data.optional_bytes()? {
        Some(stored) => packed::read(&stored).ok_or(Damaged("the data of a session"))?,
        None => Data::new(),
    };
    Found::of([head, open, ended, ending])?.slot(id, seen, data)
}

/// The slot without data, from when it was last seen and the fields of its [`HEAD`].
pub(super) fn of_head(id: SessionId, seen: Value, fields: Value) -> Result<Option<Slot>> {
    Found::of(fields.array()?.try_into().map_err(|_| FIELDS)?)?.slot(id, seen, Data::new())
}

const FIELDS: Damaged = Damaged("the fields of a session");

/// As [`of_head`], for those who count sessions or end them: of a head that cannot be read, what the row says.
pub(super) fn bare(id: SessionId, seen: Value, fields: Value) -> Result<Option<Slot>> {
    let found = Found::of(fields.array()?.try_into().map_err(|_| FIELDS)?)?;
    let seen_at = match &seen {
        Value::BulkString(text) => number(text),
        _ => None,
    };
    match found.slot(id, seen, Data::new()) {
        Err(error @ Error::Store { .. }) => {
            let seen_at = seen_at.and_then(|seen| i64::try_from(seen).ok()).map(Timestamp::from_millis);
            found.known(id, seen_at).ok_or(error).map(Some)
        }
        slot => slot,
    }
}

struct Found {
    head: Option<Vec<u8>>,
    row: Option<Vec<u8>>,
    ending: Option<Vec<u8>>,
}

impl Found {
    fn of([head, open, ended, ending]: [Value; 4]) -> Result<Self> {
        let row = open.optional_bytes()?;
        let row = if row.is_some() { row } else { ended.optional_bytes()? };
        Ok(Self { head: head.optional_bytes()?, row, ending: ending.optional_bytes()? })
    }

    fn slot(&self, id: SessionId, seen: Value, data: Data) -> Result<Option<Slot>> {
        let (head, row) = match (&self.head, &self.row) {
            (Some(head), Some(row)) => (head, row),
            (None, None) => return Ok(None),
            _ => return Err(Damaged("the fields of a session").into()),
        };
        let seen = match seen.optional_time()? {
            Some(seen) => seen,
            // Forgotten between the look at the slot and that at when it was last seen.
            None if self.ending.is_some() => return Ok(None),
            None => return Err(Damaged("when a session was last seen").into()),
        };
        // Revision, idle timeout, absolute end, whether it counts; version, size, ids.
        let mut parts = row.splitn(7, |byte| *byte == b' ');
        let revision = parts.next().and_then(number).ok_or(Damaged("a revision"))?;
        let version = parts.nth(3).and_then(number).ok_or(Damaged("a version"))?;
        let changes = parts.nth(1).ok_or(Damaged("the row of a session"))?;
        let mut record = record(text(head)?, Beside { id, revision, version, seen, data })?;
        let ids = changes.as_chunks::<8>().0.iter().map(|id| u64::from_be_bytes(*id));
        record.recent_changes = RecentChanges::from_ids(ids);
        let Some(ending) = &self.ending else { return Ok(Some(Slot::Open(Arc::new(record)))) };
        let transaction = changes.last_chunk().map_or(0, |id| u64::from_be_bytes(*id));
        let ended: EndedSlot = head::decode_ended(text(ending)?, record, transaction)?;
        Ok(Some(Slot::Ended(Arc::new(ended))))
    }

    /// An open slot as its row tells it.
    fn known(&self, id: SessionId, seen: Option<Timestamp>) -> Option<Slot> {
        let parts: Vec<_> = self.row.as_ref()?.splitn(7, |byte| *byte == b' ').collect();
        let [revision, idle, ends, counts, version, ..] = parts[..] else { return None };
        if self.ending.is_some() {
            return None;
        }
        let columns = Columns {
            user: None,
            created_at: seen?,
            idle: number(idle).map(Duration::from_millis),
            ends_at: number(ends).and_then(|end| i64::try_from(end).ok()).map(Timestamp::from_millis),
            impersonated_by: (counts == b"0").then(|| "".into()),
            ip: None,
            device: None,
            idempotency: None,
            due_at: None,
        };
        let head = String::from_utf8_lossy(self.head.as_deref().unwrap_or_default());
        let mut record = head::sealed(id, &head, columns);
        (record.revision, record.info.version, record.info.last_seen_at) = (number(revision)?, number(version)?, seen?);
        Some(Slot::Open(Arc::new(record)))
    }
}

fn record(stored: &str, beside: Beside) -> Result<Record> {
    let Some(rest) = stored.strip_prefix('!') else {
        return head::decode(stored, beside, || Err(Damaged("a head").into()));
    };
    let (columns, sealed) = rest.split_once('\n').ok_or(Damaged("a sealed head"))?;
    head::decode(sealed, beside, || {
        let columns: ColumnsText<'_> = serde_json::from_str(columns).map_err(|_| Damaged("the columns of a head"))?;
        Ok(columns.into_columns()?)
    })
}

fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn text(bytes: &[u8]) -> Result<&str, Damaged> {
    str::from_utf8(bytes).map_err(|_| Damaged("a text"))
}

/// What is known of a session whose head is sealed.
#[derive(Serialize, Deserialize)]
struct ColumnsText<'a> {
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    created: i64,
    idle: Option<u64>,
    ends: Option<i64>,
    #[serde(borrow)]
    impersonator: Option<Cow<'a, str>>,
    ip: Option<IpAddr>,
    #[serde(borrow)]
    device: Option<Cow<'a, str>>,
    idempotency: Option<Vec<u8>>,
    due: Option<i64>,
}

impl<'a> ColumnsText<'a> {
    fn of(columns: &'a Columns) -> Self {
        let Columns { user, created_at, idle, ends_at, impersonated_by, ip, device, idempotency, due_at } = columns;
        let borrowed = |text: &'a Option<Arc<str>>| text.as_deref().map(Cow::Borrowed);
        Self {
            user: borrowed(user),
            created: created_at.as_millis(),
            idle: idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            ends: ends_at.map(Timestamp::as_millis),
            impersonator: borrowed(impersonated_by),
            ip: *ip,
            device: borrowed(device),
            idempotency: idempotency.as_ref().map(|digest| digest.as_bytes().to_vec()),
            due: due_at.map(Timestamp::as_millis),
        }
    }

    fn into_columns(self) -> Result<Columns, Damaged> {
        let shared = |text: Option<Cow<'_, str>>| text.map(|text| Arc::from(&*text));
        let digest = |bytes: Vec<u8>| bytes.try_into().map(Digest::from_bytes).map_err(|_| Damaged("a digest"));
        Ok(Columns {
            user: shared(self.user),
            created_at: Timestamp::from_millis(self.created),
            idle: self.idle.map(Duration::from_millis),
            ends_at: self.ends.map(Timestamp::from_millis),
            impersonated_by: shared(self.impersonator),
            ip: self.ip,
            device: shared(self.device),
            idempotency: self.idempotency.map(digest).transpose()?,
            due_at: self.due.map(Timestamp::from_millis),
        })
    }
}

/// A user's slot as one text: revision, when it is due, what the rules keep.
pub(super) fn of_user(slot: &UserSlot) -> String {
    format!("{} {} {}", slot.revision, or_empty(slot.due_at.map(Timestamp::as_millis)), slot.text)
}

/// A user's slot from its text and from when the user last signed in.
pub(super) fn user(stored: Value, signed_in: Value) -> Result<Option<UserSlot>, Damaged> {
    let Some(stored) = stored.optional_text()? else { return Ok(None) };
    let mut parts = stored.splitn(3, ' ');
    let mut part = || parts.next().ok_or(Damaged("a user's slot"));
    let (revision, due, text) = (part()?, part()?, part()?);
    let number = |_| Damaged("a user's slot");
    let due = if due.is_empty() { None } else { Some(Timestamp::from_millis(due.parse().map_err(number)?)) };
    let last_sign_in = signed_in.optional_text()?.map(|text| read_sign_in(&text)).transpose()?;
    let revision = revision.parse().map_err(|_| Damaged("a user's slot"))?;
    Ok(Some(UserSlot { text: text.into(), revision, last_sign_in, due_at: due }))
}

pub(super) fn sign_in(sign_in: LastSignIn) -> String {
    format!("{} {}", sign_in.at.as_millis(), or_empty(sign_in.ip))
}

fn read_sign_in(text: &str) -> Result<LastSignIn, Damaged> {
    let damaged = || Damaged("a last sign-in");
    let (at, ip) = text.split_once(' ').ok_or_else(damaged)?;
    let ip = (!ip.is_empty()).then(|| ip.parse()).transpose().map_err(|_| damaged())?;
    Ok(LastSignIn { at: Timestamp::from_millis(at.parse().map_err(|_| damaged())?), ip })
}

/// What tells an entry from others in its group: as a number, of which Redis keeps many in little space.
pub(super) fn logged(session: SessionId, id: u64) -> i64 {
    let half = |at: usize| u64::from_be_bytes(*session.as_bytes()[at..].first_chunk().expect("an id has two halves"));
    (id ^ half(2) ^ half(10).rotate_left(1)).cast_signed()
}

/// An audit entry as one text: session, id, the entry.
pub(super) fn of_entry(entry: &LogEntry) -> String {
    format!("{} {} {}", entry.entry.session, entry.id, head::encode_entry(&entry.entry))
}

pub(super) fn read_entry(text: &str) -> Result<(u64, AuditEntry)> {
    let mut parts = text.splitn(3, ' ');
    let mut part = || parts.next().ok_or(Damaged("an audit entry"));
    let (session, id, entry) = (part()?, part()?, part()?);
    let session = session.parse().map_err(|_| Damaged("an audit entry"))?;
    let id = id.parse().map_err(|_| Damaged("an audit entry"))?;
    Ok((id, head::decode_entry(session, entry)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_sessions_are_told_apart() {
        let session = |byte| SessionId::from_bytes([byte; SessionId::LEN]);
        assert_eq!(logged(session(1), 7), logged(session(1), 7));
        assert_ne!(logged(session(1), 7), logged(session(1), 8));
        assert_ne!(logged(session(1), 7), logged(session(2), 7));
    }

    #[test]
    fn users_slots_are_read_back() {
        for due_at in [None, Some(Timestamp::from_millis(-5))] {
            let slot = UserSlot { text: "a b  c".into(), revision: u64::MAX, last_sign_in: None, due_at };
            let stored = Value::BulkString(of_user(&slot).into_bytes());
            assert_eq!(user(stored, Value::Nil).unwrap(), Some(slot));
        }
        let signed_in = LastSignIn { at: Timestamp::from_millis(3), ip: Some([1, 2, 3, 4].into()) };
        assert_eq!(read_sign_in(&sign_in(signed_in)).unwrap(), signed_in);
        assert!(user(Value::BulkString(b"1 2".to_vec()), Value::Nil).is_err());
    }
}
