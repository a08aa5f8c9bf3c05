//! What the stores keep as opaque text, made and read in one place: heads, endings, users' slots, audit entries.
//!
//! A field that only Rust reads is added here and touches no store. What a newer version wrote and this one does not know
//! is kept and written back, so that two versions can run on one store.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::slots::{Columns, EndedSlot};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
use super::{Cursor, Logged};
use crate::{
    assurance::Assurance,
    audit::AuditEntry,
    clock::Timestamp,
    data::Data,
    ended::Ended,
    error::{Error, Result},
    lease::Lease,
    record::{Acting, Authentication, Client, Extra, Record, SessionInfo},
    secrets::{Predecessor, Secrets},
    token::{Digest, SessionId},
};

/// The head of a session as text.
pub fn encode(record: &Record) -> String {
    if let Some(sealed) = record.extra.as_ref().and_then(|extra| extra.sealed.as_ref()) {
        return sealed.to_string();
    }
    text(&HeadText::of(record))
}

/// What stores find and compare.
pub fn columns(record: &Record) -> Columns {
    let info = &record.info;
    Columns {
        user: info.user.clone(),
        created_at: info.created_at,
        idle: info.idle_timeout,
        ends_at: info.ends_at,
        impersonated_by: info.impersonator().cloned(),
        ip: info.client.ip,
        device: info.client.device.clone(),
        idempotency: record.idempotency,
        due_at: record.due_at(),
    }
}

/// What a store keeps beside a head.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The session.
    pub id: SessionId,
    /// The head's revision.
    pub revision: u64,
    /// The version of its data.
    pub version: u64,
    /// When it was last seen.
    pub seen: Timestamp,
    /// Its data; empty where they were not asked for.
    pub data: Data,
}

/// The session of a head. A text that is no JSON object is a sealed one: then all that is known is in the columns, which
/// only those who open the seal replace.
pub fn decode(head: &str, beside: Beside, columns: impl FnOnce() -> Result<Columns>) -> Result<Record> {
    let Beside { id, revision, version, seen, data } = beside;
    let mut record = if head.starts_with('{') {
        let head: HeadText<'_> = serde_json::from_str(head).map_err(|error| damaged("head", &id, error))?;
        head.into_record(id)?
    } else {
        sealed(id, head, columns()?)
    };
    record.revision = revision;
    record.info.version = version;
    record.info.last_seen_at = seen;
    record.data = data;
    Ok(record)
}

/// As [`decode`], for those who count sessions or end them: of a head that cannot be read the columns are known.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn decode_or_known(head: &str, beside: Beside, columns: impl Fn() -> Result<Columns>) -> Result<Record> {
    let Beside { id, revision, version, seen, .. } = beside;
    if let Ok(record) = decode(head, beside, &columns) {
        return Ok(record);
    }
    let mut record = sealed(id, head, columns()?);
    record.revision = revision;
    record.info.version = version;
    record.info.last_seen_at = seen;
    Ok(record)
}

/// A session of which only the columns are known, and the head as it is stored.
pub(crate) fn sealed(id: SessionId, head: &str, columns: Columns) -> Record {
    let Columns { user, created_at, idle, ends_at, impersonated_by, ip, device, idempotency, due_at: _ } = columns;
    let info = SessionInfo {
        idle_timeout: idle,
        ends_at,
        user,
        client: Client { ip, device, ..Client::default() },
        acting: impersonated_by.map(|by| Acting { by, returns_to: None }),
        ..SessionInfo::new(id, created_at)
    };
    let secrets = Secrets::new(Digest::from_bytes([0; Digest::LEN]), created_at);
    let extra = Extra { sealed: Some(head.into()), ..Extra::default() };
    Record { idempotency, extra: Some(Box::new(extra)), ..Record::new(info, secrets) }
}

/// How a session ended, as text; beside it the store keeps head, last-seen, the time of the end and the transaction's id.
pub fn encode_ending(ended: &Ended) -> String {
    text(&EndingText {
        at: ended.at.as_millis(),
        reason: ended.reason.code().into(),
        by: ended.by.as_deref().map(Cow::Borrowed),
        note: ended.note.as_deref().map(Cow::Borrowed),
    })
}

/// The ended slot of a session.
pub fn decode_ended(ending: &str, record: Record, transaction: u64) -> Result<EndedSlot> {
    let id = record.info.id;
    let ending: EndingText<'_> = serde_json::from_str(ending).map_err(|error| damaged("ending", &id, error))?;
    let reason = ending.reason.parse().map_err(|error| damaged("ending", &id, error))?;
    let ended = Ended {
        id,
        user: record.info.user.clone(),
        at: Timestamp::from_millis(ending.at),
        reason,
        by: shared(ending.by),
        note: shared(ending.note),
    };
    Ok(EndedSlot { record: Arc::new(record), ended, transaction })
}

/// An audit entry as text.
pub fn encode_entry(entry: &AuditEntry) -> String {
    text(&EntryText {
        at: entry.at.as_millis(),
        event: entry.event.code().into(),
        user: entry.user.as_deref().map(Cow::Borrowed),
        impersonated_by: entry.impersonated_by.as_deref().map(Cow::Borrowed),
        audit_user: entry.audit_user.as_deref().map(Cow::Borrowed),
        ip: entry.ip,
        reason: entry.reason.map(|reason| reason.code().into()),
        by: entry.by.as_deref().map(Cow::Borrowed),
        note: entry.note.as_deref().map(Cow::Borrowed),
    })
}

/// The audit entry of a text, about this session.
pub fn decode_entry(session: SessionId, entry: &str) -> Result<AuditEntry> {
    let entry: EntryText<'_> = serde_json::from_str(entry).map_err(|error| damaged("audit entry", &session, error))?;
    let reason = entry.reason.map(|reason| reason.parse()).transpose();
    Ok(AuditEntry {
        at: Timestamp::from_millis(entry.at),
        event: entry.event.parse().map_err(|error| damaged("audit entry", &session, error))?,
        session,
        user: shared(entry.user),
        impersonated_by: shared(entry.impersonated_by),
        audit_user: shared(entry.audit_user),
        ip: entry.ip,
        reason: reason.map_err(|error| damaged("audit entry", &session, error))?,
        by: shared(entry.by),
        note: shared(entry.note),
    })
}

/// An entry on a page of the log, which leaves out what cannot be read: those behind it must be seen.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
pub(crate) fn logged(cursor: Cursor, id: u64, entry: Result<AuditEntry>) -> Option<Logged> {
    match entry {
        Ok(entry) => Some(Logged { cursor, id, entry }),
        Err(error) => {
            tracing::error!("an entry of the audit log is left out: {error}");
            None
        }
    }
}

/// A record as the store keeps its head: short names, in an order that stays, absent for nothing.
#[derive(Serialize, Deserialize)]
struct HeadText<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type", skip_serializing_if = "Option::is_none")]
    user_type: Option<Cow<'a, str>>,
    created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proved: Option<i64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    methods: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    remember: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    agent: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    device: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    country: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    impersonator: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    returns_to: Option<SessionId>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    auditor: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<SessionId>,
    #[serde(default, skip_serializing_if = "is_zero")]
    epoch: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    idempotency: Option<Cow<'a, str>>,
    #[serde(borrow)]
    secret: Cow<'a, str>,
    issued: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    rotations: u64,
    /// Earlier secrets, newest first, each with the end of its grace.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<(Cow<'a, str>, Option<i64>)>,
    /// Number and end of the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<(u64, i64)>,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

impl<'a> HeadText<'a> {
    fn of(record: &'a Record) -> Self {
        let Record { data: _, secrets, info, recent_changes: _, lease, idempotency, revision: _, user_epoch, extra } =
            record;
        let SessionInfo {
            last_seen_at: _,
            idle_timeout,
            ends_at,
            acting,
            id: _,
            user,
            full_name,
            user_type,
            created_at,
            authentication,
            remember,
            client: Client { ip, user_agent, device, country },
            audit_user,
            version: _,
        } = info;
        let Secrets { current, issued_at, rotations, predecessors } = secrets;
        let millis = |time: Timestamp| time.as_millis();
        Self {
            user: borrowed(user.as_ref()),
            name: borrowed(full_name.as_ref()),
            user_type: borrowed(user_type.as_ref()),
            created: created_at.as_millis(),
            idle: idle_timeout.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            ends: ends_at.map(millis),
            proved: authentication.as_ref().map(|proof| millis(proof.at)),
            methods: borrowed(authentication.as_ref().and_then(|proof| proof.methods.as_ref())),
            level: info.level().map(Assurance::number),
            remember: *remember,
            ip: *ip,
            agent: borrowed(user_agent.as_ref()),
            device: borrowed(device.as_ref()),
            country: borrowed(country.as_ref()),
            impersonator: borrowed(acting.as_ref().map(|acting| &acting.by)),
            returns_to: info.returns_to(),
            auditor: borrowed(audit_user.as_ref()),
            replaces: extra.as_ref().and_then(|extra| extra.replaces),
            epoch: *user_epoch,
            idempotency: idempotency.as_ref().map(digest_text),
            secret: digest_text(current),
            issued: issued_at.as_millis(),
            rotations: u64::from(*rotations),
            earlier: predecessors.iter().map(|one| (digest_text(&one.digest), one.grace_ends.map(millis))).collect(),
            lease: (*lease != Lease::default()).then(|| (lease.number, lease.until.as_millis())),
            unknown: extra.as_ref().map(|extra| extra.unknown.clone()).unwrap_or_default(),
        }
    }

    fn into_record(self, id: SessionId) -> Result<Record> {
        let millis = Timestamp::from_millis;
        let digest = |text: &str| read_digest(text).ok_or_else(|| damaged("head", &id, "a digest is not one"));
        let predecessors: Result<Vec<_>> = self
            .earlier
            .iter()
            .map(|(text, grace_ends)| Ok(Predecessor { digest: digest(text)?, grace_ends: grace_ends.map(millis) }))
            .collect();
        let secrets = Secrets {
            current: digest(&self.secret)?,
            issued_at: millis(self.issued),
            rotations: u32::try_from(self.rotations).unwrap_or(u32::MAX),
            predecessors: predecessors?,
        };
        let level = self
            .level
            .map(|number| Assurance::from_number(number).ok_or_else(|| damaged("head", &id, "no such level")));
        let (methods, level) = (shared(self.methods), level.transpose()?);
        let returns_to = self.returns_to;
        let info = SessionInfo {
            idle_timeout: self.idle.map(Duration::from_millis),
            ends_at: self.ends.map(millis),
            acting: shared(self.impersonator).map(|by| Acting { by, returns_to }),
            user: shared(self.user),
            full_name: shared(self.name),
            user_type: shared(self.user_type),
            authentication: self.proved.map(|at| Authentication { at: millis(at), methods, level }),
            remember: self.remember,
            client: Client {
                ip: self.ip,
                user_agent: shared(self.agent),
                device: shared(self.device),
                country: shared(self.country),
            },
            audit_user: shared(self.auditor),
            ..SessionInfo::new(id, millis(self.created))
        };
        let extra = Extra { replaces: self.replaces, sealed: None, unknown: self.unknown };
        Ok(Record {
            lease: self.lease.map(|(number, until)| Lease { number, until: millis(until) }).unwrap_or_default(),
            idempotency: self.idempotency.as_deref().map(digest).transpose()?,
            user_epoch: self.epoch,
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
            ..Record::new(info, secrets)
        })
    }
}

#[derive(Serialize, Deserialize)]
struct EndingText<'a> {
    at: i64,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    by: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct EntryText<'a> {
    at: i64,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    impersonated_by: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    audit_user: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    by: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers can be written")
}

fn borrowed(text: Option<&Arc<str>>) -> Option<Cow<'_, str>> {
    text.map(|text| Cow::Borrowed(&**text))
}

fn shared(text: Option<Cow<'_, str>>) -> Option<Arc<str>> {
    text.map(|text| Arc::from(&*text))
}

fn digest_text(digest: &Digest) -> Cow<'static, str> {
    URL_SAFE_NO_PAD.encode(digest.as_bytes()).into()
}

fn read_digest(text: &str) -> Option<Digest> {
    Some(Digest::from_bytes(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn damaged(what: &str, id: &SessionId, problem: impl std::fmt::Display) -> Error {
    Error::Store { message: format!("the {what} of session {id} in the store is damaged: {problem}"), source: None }
}
