//! What is stored, as bytes and back.
//!
//! | field of a session | holds |
//! |---|---|
//! | `w` | who: what of a session the audit log shows, JSON |
//! | `i` | what else never changes, JSON |
//! | `p` | its place in the index |
//! | `n` `y` `o` `x` `v` | full name, user type, idle timeout, absolute end, version |
//! | `k` `q` `r` `g` | current secret's digest, when it was issued, rotations, predecessors |
//! | `l` `f` `u` | recent changes, lock number, lock's end |
//! | `e` `z` | digest of the idempotency key, size of the data |
//! | `a` | there if somebody acts as the user, so that no limit counts it |
//! | `d:KEY` | the value of KEY |
//!
//! A tombstone lies under the same key, so that an id can never be both: `w k q r g` as above, and `t` when, `c` why, `b`
//! by whom, `m` their remark. Times are milliseconds.

use std::{net::IpAddr, sync::Arc, time::Duration};

use redis::Value;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    keys::Place,
    reply::{Damaged, Hash, Reply},
};
use crate::{
    Assurance, AuditEntry, Client, Data, Digest, Ended, Json, Lease, Predecessor, RecentChanges, Record, Secrets,
    SessionId, SessionInfo, Timestamp,
    store::{LastSignIn, Tombstone},
};

const DATA: &[u8] = b"d:";

/// The blanks of a grace that has no end yet are as long as the latest end.
const GRACE: usize = 15;

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Who {
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<Arc<str>>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    impersonated_by: Option<Arc<str>>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    audit_user: Option<Arc<str>>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct Origin {
    #[serde(rename = "c")]
    created_at: i64,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    authenticated_at: Option<i64>,
    #[serde(rename = "r", default, skip_serializing_if = "std::ops::Not::not")]
    remember: bool,
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    user_agent: Option<Arc<str>>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    device: Option<Arc<str>>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    country: Option<Arc<str>>,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    methods: Option<Arc<str>>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    returns_to: Option<SessionId>,
}

pub(super) fn who(info: &SessionInfo) -> Vec<u8> {
    let SessionInfo { user, impersonated_by, audit_user, client, .. } = info;
    let (user, impersonated_by, audit_user) = (user.clone(), impersonated_by.clone(), audit_user.clone());
    to_json(&Who { user, impersonated_by, audit_user, ip: client.ip })
}

/// What the log says of those an entry is about.
pub(super) fn who_of(entry: &AuditEntry) -> Vec<u8> {
    let AuditEntry { user, impersonated_by, audit_user, ip, .. } = entry;
    let (user, impersonated_by, audit_user) = (user.clone(), impersonated_by.clone(), audit_user.clone());
    to_json(&Who { user, impersonated_by, audit_user, ip: *ip })
}

/// Fields and values of a session, but for those that its creation sets by itself: `w k p e`.
pub(super) fn fields(record: &Record) -> Vec<Vec<u8>> {
    let Record { info, data, secrets, recent_changes, lease, idempotency: _, .. } = record;
    let mut fields = Vec::new();
    let mut field = |name: &[u8], value: Vec<u8>| fields.extend([name.to_vec(), value]);
    let digits = |number: i64| number.to_string().into_bytes();
    let origin = Origin {
        created_at: info.created_at.as_millis(),
        authenticated_at: info.authenticated_at.map(Timestamp::as_millis),
        remember: info.remember,
        user_agent: info.client.user_agent.clone(),
        device: info.client.device.clone(),
        country: info.client.country.clone(),
        methods: info.methods.clone(),
        level: info.level.map(Assurance::number),
        returns_to: info.returns_to,
    };
    field(b"i", to_json(&origin));
    field(b"v", info.version.to_string().into());
    field(b"z", data.size().to_string().into());
    if info.impersonated_by.is_some() {
        field(b"a", b"1".into());
    }
    if let Some(name) = &info.full_name {
        field(b"n", name.as_bytes().into());
    }
    if let Some(kind) = &info.user_type {
        field(b"y", kind.as_bytes().into());
    }
    if let Some(idle) = info.idle_timeout {
        field(b"o", millis(idle).into());
    }
    if let Some(end) = info.ends_at {
        field(b"x", digits(end.as_millis()));
    }
    field(b"q", digits(secrets.issued_at.as_millis()));
    field(b"r", secrets.rotations.to_string().into());
    field(b"g", pack(&secrets.predecessors));
    if !recent_changes.ids().is_empty() {
        field(b"l", recent_changes.ids().iter().flat_map(|id| id.to_be_bytes()).collect());
    }
    if *lease != Lease::default() {
        field(b"f", lease.number.to_string().into());
        field(b"u", digits(lease.until.as_millis()));
    }
    for (key, value) in data.iter() {
        field(&[DATA, key.as_bytes()].concat(), value.as_str().into());
    }
    fields
}

/// Milliseconds, as text.
pub(super) fn millis(duration: Duration) -> String {
    // More than the time there is left is as good as that.
    duration.as_millis().min(1 << 52).to_string()
}

/// A session that lives, from its last-seen and its fields.
pub(super) fn record(id: SessionId, seen: Value, fields: Value) -> Result<Record, Damaged> {
    let seen = seen.time()?;
    let mut hash = Hash::read(fields)?;
    let mut entries = Vec::new();
    hash.drain_prefixed(DATA, |key, value| {
        entries.push((key.into(), Json::from_stored(value)));
    })?;
    let data: Data = entries.into_iter().collect();
    let secrets = secrets([hash.take("k"), hash.take("q"), hash.take("r"), hash.take("g")])?;
    let recent = hash.take("l").optional_bytes()?.unwrap_or_default();
    let recent_changes = RecentChanges::from_ids(recent.chunks_exact(8).map(|id| {
        let id: [u8; 8] = id.try_into().expect("chunks of eight");
        u64::from_be_bytes(id)
    }));
    let number = hash.take("f").optional_number()?.unwrap_or_default();
    let until = hash.take("u").optional_time()?.unwrap_or_default();
    let idempotency = hash.take("e").optional_bytes()?.map(|bytes| digest(&bytes)).transpose()?;
    let head = ["w", "i", "v", "n", "y", "o", "x"].map(|name| hash.take(name));
    Ok(Record {
        revision: 0,
        user_epoch: 0,
        extra: None,
        info: info(id, seen, head)?,
        data,
        secrets,
        recent_changes,
        lease: Lease { number, until },
        idempotency,
    })
}

/// A session without its data, from the fields `w i v n y o x`.
pub(super) fn info(id: SessionId, seen: Timestamp, head: [Value; 7]) -> Result<SessionInfo, Damaged> {
    let [who, origin, version, full_name, user_type, idle, ends_at] = head;
    let Who { user, impersonated_by, audit_user, ip } = from_json(who)?;
    let origin: Origin = from_json(origin)?;
    let level = origin.level.map(|number| Assurance::from_number(number).ok_or(Damaged("an assurance level")));
    Ok(SessionInfo {
        id,
        user,
        full_name: full_name.optional_text()?,
        user_type: user_type.optional_text()?,
        created_at: Timestamp::from_millis(origin.created_at),
        last_seen_at: seen,
        idle_timeout: idle.optional_number()?.map(Duration::from_millis),
        ends_at: ends_at.optional_time()?,
        authenticated_at: origin.authenticated_at.map(Timestamp::from_millis),
        methods: origin.methods,
        level: level.transpose()?,
        remember: origin.remember,
        client: Client { ip, user_agent: origin.user_agent, device: origin.device, country: origin.country },
        impersonated_by,
        returns_to: origin.returns_to,
        audit_user,
        version: version.number()?,
    })
}

/// Whose session it is and when it started, from the fields `w i`.
pub(super) fn origin(who: Value, origin: Value) -> Result<(Option<Arc<str>>, Timestamp), Damaged> {
    let (Who { user, .. }, origin): (_, Origin) = (from_json(who)?, from_json(origin)?);
    Ok((user, Timestamp::from_millis(origin.created_at)))
}

/// How a session ended, from an answer's `t c b m w k q r g`.
pub(super) fn tombstone(id: SessionId, answer: Vec<Value>) -> Result<Tombstone, Damaged> {
    let [at, reason, by, note, who, current, issued_at, rotations, predecessors] =
        answer.try_into().map_err(|_| Damaged("a tombstone"))?;
    let Who { user, .. } = from_json(who)?;
    let ended = Ended {
        id,
        user,
        at: at.time()?,
        reason: reason.text()?.parse().map_err(|_| Damaged("a reason"))?,
        by: by.optional_text()?,
        note: note.optional_text()?,
    };
    Ok(Tombstone { ended, secrets: secrets([current, issued_at, rotations, predecessors])? })
}

/// Fields and values of a tombstone.
pub(super) fn tombstone_fields(tombstone: &Tombstone) -> Vec<Vec<u8>> {
    let Tombstone { ended, secrets } = tombstone;
    let who = Who { user: ended.user.clone(), ..Who::default() };
    let mut fields = vec![
        ("t", ended.at.as_millis().to_string().into_bytes()),
        ("c", ended.reason.code().into()),
        ("w", to_json(&who)),
        ("k", secrets.current.as_bytes().to_vec()),
        ("q", secrets.issued_at.as_millis().to_string().into_bytes()),
        ("r", secrets.rotations.to_string().into_bytes()),
        ("g", pack(&secrets.predecessors)),
    ];
    fields.extend(ended.by.as_ref().map(|by| ("b", by.as_bytes().to_vec())));
    fields.extend(ended.note.as_ref().map(|note| ("m", note.as_bytes().to_vec())));
    fields.into_iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value]).collect()
}

fn secrets([current, issued_at, rotations, predecessors]: [Value; 4]) -> Result<Secrets, Damaged> {
    Ok(Secrets {
        current: digest(&current.bytes()?)?,
        issued_at: issued_at.time()?,
        rotations: rotations.number()?,
        predecessors: unpack(&predecessors.bytes()?)?,
    })
}

/// Digest and end of grace, one after another; the end is blank while the successor was not presented.
fn pack(predecessors: &[Predecessor]) -> Vec<u8> {
    let mut packed = Vec::new();
    for Predecessor { digest, grace_ends } in predecessors {
        packed.extend_from_slice(digest.as_bytes());
        let end = grace_ends.map_or_else(String::new, |end| end.as_millis().to_string());
        packed.extend_from_slice(format!("{end:>GRACE$}").as_bytes());
    }
    packed
}

fn unpack(packed: &[u8]) -> Result<Vec<Predecessor>, Damaged> {
    let one = |bytes: &[u8]| {
        let (secret, grace) = bytes.split_at_checked(Digest::LEN).ok_or(Damaged("a predecessor"))?;
        let grace = str::from_utf8(grace).map_err(|_| Damaged("a grace"))?.trim();
        let grace_ends = if grace.is_empty() { None } else { Some(grace.parse().map_err(|_| Damaged("a grace"))?) };
        Ok(Predecessor { digest: digest(secret)?, grace_ends: grace_ends.map(Timestamp::from_millis) })
    };
    packed.chunks(Digest::LEN + GRACE).map(one).collect()
}

pub(super) fn place(value: Value) -> Result<Place, Damaged> {
    Place::from_bytes(&value.bytes()?).ok_or(Damaged("a place in the index"))
}

/// An audit entry, from the fields of its place in the stream.
pub(super) fn audit_entry(fields: Value) -> Result<AuditEntry, Damaged> {
    let mut hash = Hash::read(fields)?;
    let Who { user, impersonated_by, audit_user, ip } = from_json(hash.take("w"))?;
    let reason = hash.take("r").optional_text()?;
    Ok(AuditEntry {
        at: hash.take("t").time()?,
        event: hash.take("e").text()?.parse().map_err(|_| Damaged("an event"))?,
        session: hash.take("s").id()?,
        user,
        impersonated_by,
        audit_user,
        ip,
        reason: reason.map(|code| code.parse().map_err(|_| Damaged("a reason"))).transpose()?,
        by: hash.take("b").optional_text()?,
        note: hash.take("m").optional_text()?,
    })
}

/// A session that a sign-in replaced and that lies elsewhere, for as long as it was not ended there.
#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    #[serde(rename = "s")]
    pub(super) replaced: SessionId,
    #[serde(rename = "t")]
    pub(super) at: i64,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<Arc<str>>,
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have no keys that JSON could not have")
}

pub(super) fn from_json<T: DeserializeOwned>(value: Value) -> Result<T, Damaged> {
    serde_json::from_slice(&value.bytes()?).map_err(|_| Damaged("a part written as JSON"))
}

/// When somebody signed in, and where from.
pub(super) fn sign_in(sign_in: LastSignIn) -> String {
    let LastSignIn { at, ip } = sign_in;
    format!("{} {}", at.as_millis(), ip.map(|ip| ip.to_string()).unwrap_or_default())
}

pub(super) fn read_sign_in(text: &str) -> Result<LastSignIn, Damaged> {
    const WHAT: Damaged = Damaged("a time of signing in");
    let (millis, ip) = text.split_once(' ').ok_or(WHAT)?;
    let ip = if ip.is_empty() { None } else { Some(ip.parse().map_err(|_| WHAT)?) };
    Ok(LastSignIn { at: Timestamp::from_millis(millis.parse().map_err(|_| WHAT)?), ip })
}

fn digest(bytes: &[u8]) -> Result<Digest, Damaged> {
    bytes.try_into().map(Digest::from_bytes).map_err(|_| Damaged("a digest"))
}
