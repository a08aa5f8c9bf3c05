//! What to list, and where a listing goes on.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    audit::AuditEntry,
    clock::Timestamp,
    error::{Error, Result},
    record::SessionInfo,
    token::SessionId,
};

/// Which sessions to list: those that match every field given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Of this user, compared byte for byte: their own, and those in which somebody acts as them.
    pub user: Option<Arc<str>>,
    /// In which this user acts as another, compared byte for byte.
    pub impersonated_by: Option<Arc<str>>,
    /// Started from this address.
    pub ip: Option<IpAddr>,
    /// On the device of this name.
    pub device: Option<Arc<str>>,
    /// Last seen at or before this time.
    pub last_seen_before: Option<Timestamp>,
}

impl Query {
    /// All sessions of one user.
    pub fn of_user(user: impl Into<Arc<str>>) -> Self {
        Self { user: Some(user.into()), ..Self::default() }
    }

    /// Whether a session matches.
    pub fn matches(&self, info: &SessionInfo) -> bool {
        let Self { user, impersonated_by, ip, device, last_seen_before } = self;
        user.as_ref().is_none_or(|user| info.user.as_ref() == Some(user))
            && impersonated_by.as_ref().is_none_or(|actor| info.impersonator() == Some(actor))
            && ip.is_none_or(|ip| info.client.ip == Some(ip))
            && device.as_ref().is_none_or(|device| info.client.device.as_ref() == Some(device))
            && last_seen_before.is_none_or(|limit| info.last_seen_at <= limit)
    }
}

/// A place in a listing. Opaque: only the store that gave it understands it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// A store's own cursor: printable ASCII without white space.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for a client to hand back.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a part of a store's own cursor.
    pub fn parse<T: FromStr>(&self) -> Result<T> {
        self.0.parse().map_err(|_| Self::invalid())
    }

    /// The place behind a name, which may be any text.
    pub(crate) fn behind(name: &str) -> Self {
        Self(format!("u{}", URL_SAFE_NO_PAD.encode(name)))
    }

    /// The name that [`behind`](Self::behind) was given.
    pub(crate) fn name(&self) -> Result<String> {
        let name = self.0.strip_prefix('u').ok_or_else(Self::invalid)?;
        let bytes = URL_SAFE_NO_PAD.decode(name).map_err(|_| Self::invalid())?;
        String::from_utf8(bytes).map_err(|_| Self::invalid())
    }

    /// What a cursor that the store did not give is answered with.
    pub fn invalid() -> Error {
        Error::InvalidCursor { problem: "it is not one that this store gave".into() }
    }
}

/// Part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Which audit entries to read: those that match every field given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// About sessions of this user.
    pub user: Option<Arc<str>>,
    /// About this session.
    pub session: Option<SessionId>,
}

impl AuditQuery {
    /// Whether an entry matches.
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        self.user.as_ref().is_none_or(|user| entry.user.as_ref() == Some(user))
            && self.session.is_none_or(|session| entry.session == session)
    }
}

/// An audit entry and its place in the log. Serialised, one object.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Logged {
    /// Continue after this entry from here.
    pub cursor: Cursor,
    /// Tells two entries about one session apart, when the log is copied.
    #[serde(skip)]
    pub id: u64,
    /// The entry.
    #[serde(flatten)]
    pub entry: AuditEntry,
}
