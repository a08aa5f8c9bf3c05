//! What the files look like: JSON, each piece of it followed by a checksum, which is a JSON string too, so that tools for
//! JSON read them as they are.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::{
    fault::Fault,
    fields::{
        EndedFields, EntryFields, InfoFields, LeaseFields, SecretsFields, digest_hex, optional_digest_hex,
        optional_millis,
    },
    layout::hex,
};
use crate::{
    AuditEntry, Data, Digest, Ended, Json, Lease, RecentChanges, Record, Secrets, SessionId, SessionInfo, Timestamp,
    store::Tombstone,
};

/// A session as its file holds it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) record: Record,
    /// When the reaper looks at it: at its deadline or before, because use moves the deadline and leaves this.
    pub(super) due: Option<Timestamp>,
}

impl Stored {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Record { info, data, secrets, recent_changes, lease, idempotency, .. } = &self.record;
        let head = Head {
            info: info.clone(),
            secrets: secrets.clone(),
            recent_changes: recent_changes.ids().to_vec(),
            lease: *lease,
            idempotency: *idempotency,
            due: self.due,
        };
        let mut bytes = Vec::new();
        seal(&mut bytes, &head);
        seal(&mut bytes, data);
        bytes
    }

    pub(super) fn decode(file: &str, id: SessionId, bytes: &[u8]) -> Result<Self, Fault> {
        let (head, data) = bytes.split_at(first_line(bytes).ok_or_else(|| Fault::damaged(file, "it is cut off"))?);
        let Head { info, secrets, recent_changes, lease, idempotency, due } = Head::decode(file, id, head)?;
        let data: Entries =
            serde_json::from_slice(unseal(file, data)?).map_err(|error| Fault::damaged(file, error.to_string()))?;
        let recent_changes = RecentChanges::from_ids(recent_changes);
        Ok(Self {
            record: Record {
                revision: 0,
                user_epoch: 0,
                extra: None,
                info,
                data: data.0,
                secrets,
                recent_changes,
                lease,
                idempotency,
            },
            due,
        })
    }

    /// Reads the first line alone, of what may be only the beginning of the file; `None` if that is too short.
    pub(super) fn decode_info(file: &str, id: SessionId, beginning: &[u8]) -> Result<Option<SessionInfo>, Fault> {
        let Some(end) = first_line(beginning) else { return Ok(None) };
        Ok(Some(Head::decode(file, id, &beginning[..end])?.info))
    }
}

/// A value and its checksum, as one line.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    seal(&mut bytes, value);
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(unseal(file, bytes)?).map_err(|error| Fault::damaged(file, error.to_string()))
}

pub(super) fn encode_tombstone(tombstone: &Tombstone) -> Vec<u8> {
    encode(&StoredTombstone { ended: tombstone.ended.clone(), secrets: tombstone.secrets.clone() })
}

pub(super) fn decode_tombstone(file: &str, id: SessionId, bytes: &[u8]) -> Result<Tombstone, Fault> {
    let StoredTombstone { ended, secrets } = decode(file, bytes)?;
    if ended.id == id { Ok(Tombstone { ended, secrets }) } else { Err(Fault::damaged(file, "it is another session's")) }
}

pub(super) fn encode_entry(entry: &AuditEntry) -> Vec<u8> {
    encode(&StoredEntry(entry.clone()))
}

pub(super) fn decode_entry(file: &str, line: &[u8]) -> Result<AuditEntry, Fault> {
    decode::<StoredEntry>(file, line).map(|StoredEntry(entry)| entry)
}

/// What a user's partition remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredFence {
    /// Whose it is.
    pub(super) user: Option<Arc<str>>,
    pub(super) disabled: bool,
    #[serde(with = "optional_millis")]
    pub(super) ended_before: Option<Timestamp>,
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
    #[serde(with = "digest_hex")]
    pub(super) partition_key: Digest,
}

const CHECKSUM_BYTES: usize = 8;
/// Tab, quotation mark, hexadecimal digits, quotation mark, end of line.
const SEAL_LEN: usize = 2 * CHECKSUM_BYTES + 4;

fn seal<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    let start = bytes.len();
    serde_json::to_writer(&mut *bytes, value).expect("what is stored has string keys, and its values are JSON");
    let checksum = checksum(&bytes[start..]);
    bytes.extend_from_slice(format!("\t\"{checksum}\"\n").as_bytes());
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

/// Where the first line ends. The data behind it may have ends of lines inside.
fn first_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1)
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(with = "InfoFields")]
    info: SessionInfo,
    #[serde(with = "SecretsFields")]
    secrets: Secrets,
    recent_changes: Vec<u64>,
    #[serde(with = "LeaseFields")]
    lease: Lease,
    #[serde(with = "optional_digest_hex")]
    idempotency: Option<Digest>,
    #[serde(with = "optional_millis")]
    due: Option<Timestamp>,
}

impl Head {
    fn decode(file: &str, id: SessionId, line: &[u8]) -> Result<Self, Fault> {
        let head: Self = decode(file, line)?;
        // Where a file system takes large and small letters for the same, another id could lead here.
        if head.info.id == id { Ok(head) } else { Err(Fault::damaged(file, "it is another session's")) }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredTombstone {
    #[serde(with = "EndedFields")]
    ended: Ended,
    #[serde(with = "SecretsFields")]
    secrets: Secrets,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry(#[serde(with = "EntryFields")] AuditEntry);

/// Session data, read without looking into the values.
struct Entries(Data);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Data;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the values of a session")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
                let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0));
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    entries.push((key.into(), Json::from_stored(value.get())));
                }
                Ok(entries.into_iter().collect())
            }
        }
        deserializer.deserialize_map(Visitor).map(Self)
    }
}
