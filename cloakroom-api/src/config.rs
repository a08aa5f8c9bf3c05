//! How a server is set up.

use cloakroom::WhenFull;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// `GET /v1/config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The server's version, and the commit where that is known.
    pub version: String,
    /// How long sessions live.
    pub lifetimes: ConfigLifetimes,
    /// The same on mobile devices, if that differs.
    pub mobile_lifetimes: Option<ConfigLifetimes>,
    /// How long a rotated token is served after its successor was first presented.
    pub rotation_grace_seconds: u64,
    /// How long it is known how a session ended.
    pub ended_known_for_seconds: u64,
    /// How long the audit log is kept.
    pub audit_kept_for_seconds: u64,
    /// What is too much.
    pub limits: ConfigLimits,
    /// Locks.
    pub lock: ConfigLock,
    /// The cookie.
    pub cookie: ConfigCookie,
    /// What this server can do beside what its first version could.
    pub features: Vec<Feature>,
}

/// How long sessions live, unless a call says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigLifetimes {
    /// How long one may go unused.
    pub idle_milliseconds: u64,
    /// How long a signed-in one lives at all; `null` for as long as it is used.
    pub absolute_milliseconds: Option<u64>,
    /// The first, of one that is to be remembered.
    pub remember_idle_milliseconds: u64,
    /// The second, of one that is to be remembered.
    pub remember_absolute_milliseconds: Option<u64>,
    /// The assurance level whose bounds hold for every session; `null` for none.
    #[schemars(range(min = 1, max = 3))]
    pub level: Option<u8>,
    /// Whether `ends_at` may be `never`.
    pub may_never_end: bool,
}

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigLimits {
    /// How many sessions a user may have, where neither the directory nor the call says it; `null` for any number.
    pub sessions: Option<u32>,
    /// What happens beyond that.
    #[schemars(with = "Option<schema::WhenFull>")]
    pub when_full: Option<WhenFull>,
    /// Bytes of all keys and values of a session.
    pub data_bytes: usize,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Levels of lists and objects in a value.
    pub value_levels: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Items of a page.
    pub page: usize,
    /// Minutes that somebody may act as another.
    pub impersonation_minutes: u64,
}

/// Locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigLock {
    /// For how long one is held, where the call does not say it.
    pub lease_seconds: u64,
    /// The longest that a call may ask for.
    pub most_lease_seconds: u64,
    /// The longest that a call may wait.
    pub most_wait_seconds: u64,
}

/// The cookie that hands tokens to browsers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigCookie {
    /// Its name.
    pub name: String,
    /// `Path`.
    pub path: String,
    /// `Domain`; `null` for none.
    pub domain: Option<String>,
    /// `Secure`.
    pub secure: bool,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`: `Strict`, `Lax` or `None`.
    #[schemars(extend("enum" = ["Strict", "Lax", "None"]))]
    pub same_site: std::borrow::Cow<'static, str>,
    /// `Partitioned`.
    pub partitioned: bool,
}

/// What came to the API after its first version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// `PATCH` moves deadlines and touches.
    Deadlines,
    /// `replace` and `remove_all`.
    Replace,
    /// `resume` changes what it finds, and starts what it does not.
    ResumeAndChange,
    /// Locks.
    Locks,
    /// A rotation whose old token is dead at once.
    RotateAtOnce,
    /// `Idempotency-Key` on every call that changes something.
    IdempotencyKeys,
    /// `GET /v1/sessions/count`.
    Count,
}
