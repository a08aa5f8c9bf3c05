//! The audit log.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use cloakroom::{SessionId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// The query of `GET /v1/audit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListAudit {
    /// Entries about sessions of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// Entries about this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::SessionId>")]
    pub session: Option<SessionId>,
    /// Where to go on: the `next` of the page before, or the cursor of any entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// How many at most. Default 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<usize>,
}

/// The query of `GET /v1/events`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Entries about sessions of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// Entries about this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::SessionId>")]
    pub session: Option<SessionId>,
    /// Where to go on: the cursor of any entry. The header `Last-Event-ID` goes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A page of the log. `E` is an entry: [`LogEntry`], or what is written as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Audited", bound = "")]
pub struct Audited<'a, E = LogEntry> {
    /// Oldest first.
    #[schemars(with = "Vec<LogEntry>")]
    pub entries: Vec<E>,
    /// Where the next page begins; left out where there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Cow<'a, str>>,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogEntry {
    /// Continue after it from here.
    pub cursor: String,
    /// When.
    #[schemars(with = "schema::Time")]
    pub at: Timestamp,
    /// What happened.
    pub event: String,
    /// To which session.
    #[schemars(with = "schema::SessionId")]
    pub session: SessionId,
    /// Whose.
    pub user: Option<String>,
    /// Who really acted.
    pub impersonated_by: Option<String>,
    /// Which auditor looked in.
    pub audit_user: Option<String>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// Why.
    pub reason: Option<String>,
    /// Which key acted, and for whom.
    pub by: Option<String>,
    /// A remark.
    pub note: Option<String>,
}
