//! The audit log: what happened to sessions, by whom and why.
//!
//! Entries are written by the store in the same transaction as what they tell of, so none is missing and none lies.
//! Starts, sign-ins, refusals, rotations, privilege changes and endings are entries; data changes and touches are not.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    clock::Timestamp,
    ended::{Ended, Reason},
    record::{Record, SessionInfo},
    token::SessionId,
};

/// One line of the audit log. Serialised, an object with these fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When it happened, by the clock of the node that did it.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// The session it happened to.
    pub session: SessionId,
    /// The session's user.
    pub user: Option<Arc<str>>,
    /// Who really acted, when somebody acted as `user`.
    pub impersonated_by: Option<Arc<str>>,
    /// The auditor who looked into the user's account.
    pub audit_user: Option<Arc<str>>,
    /// Where the session was started from.
    pub ip: Option<IpAddr>,
    /// Why a session ended.
    pub reason: Option<Reason>,
    /// Who did it, if not the session's user, and [through what](crate::Sessions::acting_through).
    pub by: Option<Arc<str>>,
    /// A remark; for a refusal, what was refused.
    pub note: Option<Arc<str>>,
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident, $code:literal;)+) => {
        /// What an audit entry tells of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Event {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Event {
            /// Every event there is.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The stable name stores and the API use.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }
        }
    };
}

events! {
    /// An anonymous session started.
    Started, "started";
    /// A user's session started.
    SignedIn, "signed_in";
    /// A session started in which somebody acts as another; the note says what for.
    Impersonated, "impersonated";
    /// A sign-in or a request was refused; the note says why.
    Refused, "refused";
    /// The session got a new token.
    Rotated, "rotated";
    /// What kind of user it is, or when it ends, changed.
    Changed, "changed";
    /// The session ended; the reason says why.
    Ended, "ended";
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// The text is not the name of an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an audit event")]
pub struct ParseEventError(String);

impl FromStr for Event {
    type Err = ParseEventError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let event = Self::ALL.iter().find(|event| event.code() == text);
        event.copied().ok_or_else(|| ParseEventError(text.into()))
    }
}

/// How [`AuditEntry::by`] and [`Ended::by`] name what a call came through, beside the person it was made for: `key:shop`, or
/// `key:shop for anna`. What comes first is what acted, whatever the caller says.
pub(crate) fn attributed(through: Option<&str>, by: Option<Arc<str>>) -> Option<Arc<str>> {
    match (through, by) {
        (None, by) => by,
        (Some(through), None) => Some(format!("key:{through}").into()),
        (Some(through), Some(by)) => Some(format!("key:{through} for {by}").into()),
    }
}

impl AuditEntry {
    /// Something that happened to a session.
    pub fn about(info: &SessionInfo, event: Event, now: Timestamp) -> Self {
        Self {
            at: now,
            event,
            session: info.id,
            user: info.user.clone(),
            impersonated_by: info.impersonator().cloned(),
            audit_user: info.audit_user.clone(),
            ip: info.client.ip,
            reason: None,
            by: None,
            note: None,
        }
    }

    /// The start of a session.
    pub fn started(record: &Record, now: Timestamp) -> Self {
        let event = match &record.info {
            SessionInfo { acting: Some(_), .. } => Event::Impersonated,
            SessionInfo { user: Some(_), .. } => Event::SignedIn,
            _ => Event::Started,
        };
        Self::about(&record.info, event, now)
    }

    /// The end of a session.
    pub fn ended(info: &SessionInfo, ended: &Ended) -> Self {
        Self {
            reason: Some(ended.reason),
            by: ended.by.clone(),
            note: ended.note.clone(),
            ..Self::about(info, Event::Ended, ended.at)
        }
    }
}
