//! What the files look like: JSON, each piece of it followed by a checksum, which is a JSON string too, so that tools for
//! JSON read them as they are.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};

use super::{fault::Fault, layout::hex};
use crate::{
    audit::AuditEntry,
    clock::Timestamp,
    data::Data,
    error::Error,
    record::RecentChanges,
    store::{
        LastSignIn,
        head::{self, Beside},
        slots::{Columns, LogEntry, Slot, UserSlot},
    },
    token::{Digest, SessionId},
};

/// A session's slot as its file holds it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) slot: Slot,
    /// When an open one is due.
    pub(super) due: Option<Timestamp>,
}

/// What is read of a session's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All but the data.
    Head,
    All,
    /// All, without the data where they are damaged.
    Whole,
}

impl Stored {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_line();
        if let Slot::Open(record) = &self.slot {
            seal(&mut bytes, record.data.to_text(|_| true).as_bytes());
        }
        bytes
    }

    /// The first line alone, before data that stay as they are.
    pub(super) fn encode_line(&self) -> Vec<u8> {
        let (record, ended) = match &self.slot {
            Slot::Open(record) => (record, None),
            Slot::Ended(ended) => (&ended.record, Some(ended)),
        };
        let head = raw(&head::encode(record));
        encode(&Line {
            ended: ended
                .map(|slot| Ended { ending: raw(&head::encode_ending(&slot.ended)), transaction: slot.transaction }),
            id: record.info.id,
            columns: (!head.get().starts_with('{')).then(|| ColumnsText::of(head::columns(record))),
            head,
            revision: record.revision,
            version: record.info.version,
            seen: record.info.last_seen_at.as_millis(),
            due: self.due.map(Timestamp::as_millis),
            changes: record.recent_changes.ids().to_vec(),
        })
    }

    pub(super) fn decode(file: &str, id: SessionId, bytes: &[u8], part: Part) -> Result<Self, Fault> {
        let (line, data) = bytes.split_at(first_line(bytes).ok_or_else(|| Fault::damaged(file, "it is cut off"))?);
        let line: Line = decode(file, line)?;
        // Where a file system takes large and small letters for the same, another id could lead here.
        if line.id != id {
            return Err(Fault::damaged(file, "it is another session's"));
        }
        let data = match part {
            _ if line.ended.is_some() => Data::new(),
            Part::Head => Data::new(),
            Part::All => decode_data(file, data)?,
            Part::Whole => decode_data(file, data).unwrap_or_default(),
        };
        line.into_stored(data).map_err(|problem| Fault::damaged(file, problem))
    }
}

/// Where the first line ends. The data behind it may have ends of lines inside.
pub(super) fn first_line(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes).map(|end| end + 1)
}

/// A value and its checksum, as one line.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let json = serde_json::to_vec(value).expect("what is stored has string keys, and its values are JSON");
    seal(&mut bytes, &json);
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(unseal(file, bytes)?).map_err(|error| Fault::damaged(file, error.to_string()))
}

/// Whether these are the bytes of a file of a session that ended.
pub(super) fn tells_of_an_ending(bytes: &[u8]) -> bool {
    bytes.starts_with(b"{\"ended\":")
}

pub(super) fn encode_user(name: &str, slot: &UserSlot) -> Vec<u8> {
    encode(&User {
        name: name.into(),
        slot: raw(&slot.text),
        revision: slot.revision,
        signed_in_at: slot.last_sign_in.map(|stamp| stamp.at.as_millis()),
        signed_in_from: slot.last_sign_in.and_then(|stamp| stamp.ip),
        due: slot.due_at.map(Timestamp::as_millis),
    })
}

/// A user's name and slot.
pub(super) fn decode_user(file: &str, bytes: &[u8]) -> Result<(Arc<str>, UserSlot), Fault> {
    let User { name, slot, revision, signed_in_at, signed_in_from, due } = decode(file, bytes)?;
    let text = text(&slot).map_err(|problem| Fault::damaged(file, problem))?;
    let last_sign_in = signed_in_at.map(|at| LastSignIn { at: Timestamp::from_millis(at), ip: signed_in_from });
    let slot = UserSlot { text: text.into(), revision, last_sign_in, due_at: due.map(Timestamp::from_millis) };
    Ok((name, slot))
}

pub(super) fn encode_entry(LogEntry { id, entry }: &LogEntry) -> Vec<u8> {
    encode(&Logged { id: *id, session: entry.session, entry: raw(&head::encode_entry(entry)) })
}

/// What the line of an entry begins with.
pub(super) fn beginning_of_entry(session: SessionId, id: u64) -> Vec<u8> {
    format!("{{\"id\":{id},\"session\":\"{session}\",").into_bytes()
}

pub(super) fn decode_entry(file: &str, line: &[u8]) -> Result<(u64, AuditEntry), Fault> {
    let Logged { id, session, entry } = decode(file, line)?;
    let entry = text(&entry).and_then(|entry| head::decode_entry(session, &entry).map_err(|error| error.to_string()));
    Ok((id, entry.map_err(|problem| Fault::damaged(file, problem))?))
}

/// Where the audit entries that are not forgotten begin.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct AuditFirst {
    pub(super) position: u64,
}

/// The first file that is written, and the first one that is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) cloakroom_file_store: u32,
    /// In hexadecimal.
    pub(super) partition_key: String,
}

/// `ended` comes first: see [`tells_of_an_ending`].
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    id: SessionId,
    head: Box<RawValue>,
    /// Where they cannot be read from the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<ColumnsText>,
    revision: u64,
    version: u64,
    seen: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    changes: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct Ended {
    ending: Box<RawValue>,
    transaction: u64,
}

impl Line {
    fn into_stored(self, data: Data) -> Result<Stored, String> {
        let Self { ended, id, head, columns, revision, version, seen, due, changes } = self;
        let beside = Beside { id, revision, version, seen: Timestamp::from_millis(seen), data };
        let due = due.map(Timestamp::from_millis);
        let missing = || Error::Store { message: "its columns are missing".into(), source: None };
        let columns = || columns.map(|columns| columns.into_columns(due)).ok_or_else(missing);
        let record = head::decode(&text(&head)?, beside, columns);
        let mut record = record.map_err(|error| error.to_string())?;
        let slot = match ended {
            None => {
                record.recent_changes = RecentChanges::from_ids(changes);
                Slot::Open(Arc::new(record))
            }
            Some(Ended { ending, transaction }) => {
                let ended = head::decode_ended(&text(&ending)?, record, transaction);
                Slot::Ended(Arc::new(ended.map_err(|error| error.to_string())?))
            }
        };
        Ok(Stored { slot, due })
    }
}

#[derive(Serialize, Deserialize)]
struct ColumnsText {
    user: Option<Arc<str>>,
    created: i64,
    idle: Option<u64>,
    ends: Option<i64>,
    impersonator: Option<Arc<str>>,
    ip: Option<IpAddr>,
    device: Option<Arc<str>>,
    idempotency: Option<[u8; Digest::LEN]>,
}

impl ColumnsText {
    fn of(columns: Columns) -> Self {
        let Columns { user, created_at, idle, ends_at, impersonated_by, ip, device, idempotency, due_at: _ } = columns;
        Self {
            user,
            created: created_at.as_millis(),
            idle: idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            ends: ends_at.map(Timestamp::as_millis),
            impersonator: impersonated_by,
            ip,
            device,
            idempotency: idempotency.map(|digest| *digest.as_bytes()),
        }
    }

    fn into_columns(self, due_at: Option<Timestamp>) -> Columns {
        let Self { user, created, idle, ends, impersonator, ip, device, idempotency } = self;
        Columns {
            user,
            created_at: Timestamp::from_millis(created),
            idle: idle.map(Duration::from_millis),
            ends_at: ends.map(Timestamp::from_millis),
            impersonated_by: impersonator,
            ip,
            device,
            idempotency: idempotency.map(Digest::from_bytes),
            due_at,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct User {
    name: Arc<str>,
    slot: Box<RawValue>,
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_in_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_in_from: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
}

/// In this order: see [`beginning_of_entry`].
#[derive(Serialize, Deserialize)]
struct Logged {
    id: u64,
    session: SessionId,
    entry: Box<RawValue>,
}

/// An opaque text as JSON: itself where it is an object on one line, which keeps files readable; otherwise a string.
fn raw(text: &str) -> Box<RawValue> {
    let object = Some(text).filter(|text| text.starts_with('{') && !text.contains('\n'));
    let object = object.and_then(|text| RawValue::from_string(text.to_owned()).ok());
    object.unwrap_or_else(|| to_raw_value(text).expect("a text can be written"))
}

fn text(raw: &RawValue) -> Result<Cow<'_, str>, String> {
    match raw.get() {
        text if text.starts_with('"') => serde_json::from_str(text).map(Cow::Owned).map_err(|error| error.to_string()),
        text => Ok(Cow::Borrowed(text)),
    }
}

fn decode_data(file: &str, bytes: &[u8]) -> Result<Data, Fault> {
    let text = str::from_utf8(unseal(file, bytes)?).map_err(|error| Fault::damaged(file, error.to_string()))?;
    Data::from_text(text).map_err(|error| Fault::damaged(file, error.to_string()))
}

const CHECKSUM_BYTES: usize = 8;
/// Tab, quotation mark, hexadecimal digits, quotation mark, end of line.
const SEAL_LEN: usize = 2 * CHECKSUM_BYTES + 4;

fn seal(bytes: &mut Vec<u8>, json: &[u8]) {
    bytes.extend_from_slice(json);
    bytes.extend_from_slice(format!("\t\"{}\"\n", checksum(json)).as_bytes());
}

fn unseal<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
    let end = bytes.len().checked_sub(SEAL_LEN).ok_or_else(|| Fault::damaged(file, "it is cut off"))?;
    let (json, seal) = bytes.split_at(end);
    if seal == format!("\t\"{}\"\n", checksum(json)).as_bytes() {
        Ok(json)
    } else {
        Err(Fault::damaged(file, "a checksum does not match"))
    }
}

fn checksum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..CHECKSUM_BYTES])
}
