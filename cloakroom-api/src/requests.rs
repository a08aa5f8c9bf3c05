//! What calls about sessions take: bodies and query parameters.

use std::{net::IpAddr, sync::Arc};

use cloakroom::{SessionId, WhenFull, client::ClientIp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    schema,
    values::{AtMost, End, Entries, Level, TokenText},
};

/// What takes nothing: no field, no parameter.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `POST /v1/sessions`. All fields may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// The user who signed in, compared byte for byte. Without it the session is anonymous.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub user: Option<Arc<str>>,
    /// What it starts with.
    #[serde(skip_serializing_if = "Entries::is_empty")]
    pub data: Entries,
    /// The person's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub full_name: Option<Arc<str>>,
    /// What kind of user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub user_type: Option<Arc<str>>,
    /// How long it may go unused, instead of the configured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub idle_seconds: Option<u64>,
    /// The same in milliseconds; one of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub idle_milliseconds: Option<u64>,
    /// When it ends whatever happens, instead of the configured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<End>,
    /// Whether it gets the longer lifetimes, and a cookie that outlives the browser.
    #[serde(skip_serializing_if = "is_default")]
    pub remember: bool,
    /// The auditor who looks into the account of `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub audit_user: Option<Arc<str>>,
    /// How the person proved who they are: names of RFC 8176 with a space between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub methods: Option<Arc<str>>,
    /// The assurance level of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The token of the session that this one takes the place of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<TokenText>,
    /// Whether nothing is carried over from it.
    #[serde(skip_serializing_if = "is_default")]
    pub fresh_data: bool,
    /// How many sessions the user may have, instead of the limit in the directory or the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Where the visitor is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientFacts>,
}

/// How many sessions a user may have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// So many.
    #[schemars(range(min = 1))]
    pub max: u32,
    /// Whether the least recently seen end beyond it, or the new one is refused.
    #[serde(default = "evict")]
    #[schemars(with = "schema::WhenFull")]
    pub when_full: WhenFull,
}

fn evict() -> WhenFull {
    WhenFull::Evict
}

/// Where a visitor is, as the application sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientFacts {
    /// The address, in any spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Address>")]
    pub ip: Option<ClientIp>,
    /// The `User-Agent` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Arc<str>>,
    /// A name for the device. Default: what the user agent says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Arc<str>>,
    /// The country, as two letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<Arc<str>>,
}

impl ClientFacts {
    /// The address, in its one spelling.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip.map(ClientIp::get)
    }
}

/// What changes the data of a session stands once, and every call that changes data takes it.
macro_rules! with_edits {
    ($(#[$of_type:meta])* $name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$of_type])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$of_field])* pub $field: $type,)*
            /// Keys that get a value. `null` is a value.
            #[serde(skip_serializing_if = "Entries::is_empty")]
            pub set: Entries,
            /// Keys that go.
            #[serde(skip_serializing_if = "AtMost::is_empty")]
            pub remove: AtMost<Arc<str>, 10_000>,
            /// Whether every key goes that is there; what is set or added comes after that.
            #[serde(skip_serializing_if = "is_default")]
            pub remove_all: bool,
            /// The whole of the data, in the place of all that is there. Not beside the four others.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub replace: Option<Entries>,
            /// Numbers that are added to what is there; a key that is absent counts as 0.
            #[serde(skip_serializing_if = "Entries::is_empty")]
            pub add: Entries,
            /// The version that the change relies on.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub if_version: Option<u64>,
            /// The number of the lock that the change is made under: refused once the lock is lost.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub lock: Option<u64>,
        }
    };
}

with_edits! {
    /// `PATCH /v1/sessions/{id}`: one atomic change.
    PatchSession {
        /// Whether it counts as use and moves the idle deadline.
        #[serde(skip_serializing_if = "is_default")]
        touch: bool,
        /// How long it may go unused from now on.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        idle_seconds: Option<u64>,
        /// The same in milliseconds; one of the two.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        idle_milliseconds: Option<u64>,
        /// When it ends whatever happens.
        #[serde(skip_serializing_if = "Option::is_none")]
        ends_at: Option<End>,
    }
}

with_edits! {
    /// `POST /v1/sessions/resume`: looks a session up by its token, and changes its data on the way.
    Resume {
        /// The token. Left out, the visitor has none: what is set starts a session.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<TokenText>,
        /// Whether it counts as use and moves the idle deadline. Default true.
        #[serde(skip_serializing_if = "Option::is_none")]
        touch: Option<bool>,
        /// Where the request comes from.
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<ClientFacts>,
    }
}

/// `POST /v1/sessions/resume-many`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeMany {
    /// The tokens.
    pub tokens: AtMost<TokenText, 100>,
    /// Where the request comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientFacts>,
}

/// `POST /v1/sessions/rotate`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// The token that is given up.
    pub token: TokenText,
    /// 0 makes it dead at once. Left out, it is served for the configured time after the new one is first presented.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 0))]
    pub grace_seconds: Option<u64>,
    /// Where the request comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientFacts>,
}

/// `POST /v1/sessions/impersonate`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Impersonate {
    /// The token of the actor's own session.
    pub token: TokenText,
    /// The user that they act as.
    #[schemars(length(min = 1, max = 256))]
    pub user: Arc<str>,
    /// Why.
    #[schemars(length(min = 1, max = 256))]
    pub reason: Arc<str>,
    /// For how long. Default 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 480))]
    pub minutes: Option<u32>,
    /// Whether the actor is the new session's `audit_user` too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub as_auditor: bool,
}

/// `POST /v1/sessions/impersonate/stop`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopImpersonating {
    /// The token of the session in which somebody acts as another.
    pub token: TokenText,
}

/// `POST /v1/sessions/{id}/lock`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lock {
    /// For how long it is held unless it is renewed. Default: the configured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub lease_seconds: Option<u64>,
    /// How long another holder is waited for. Default 0.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(range(max = 10))]
    pub wait_seconds: u64,
}

/// `POST /v1/sessions/{id}/renew`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// The number of the lock.
    pub lock: u64,
    /// For how long it is held from now. Default: the configured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub lease_seconds: Option<u64>,
}

/// `POST /v1/sessions/{id}/unlock`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    /// The number of the lock.
    pub lock: u64,
}

/// The query of `DELETE /v1/sessions/{id}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndSession {
    /// Why it ends. Default `signed_out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Reason>")]
    pub reason: Option<String>,
    /// A remark for the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub note: Option<Arc<str>>,
}

/// The query of `GET /v1/sessions`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListSessions {
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// Those in which this user acts as another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_by: Option<Arc<str>>,
    /// Those that were started from this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Address>")]
    pub ip: Option<ClientIp>,
    /// Those that were started on this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Arc<str>>,
    /// How many at most. Default 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The query of `GET /v1/sessions/count`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Count {
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// Those in which this user acts as another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_by: Option<Arc<str>>,
    /// Those that were started from this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Address>")]
    pub ip: Option<ClientIp>,
    /// Those that were started on this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Arc<str>>,
}

/// `POST /v1/sessions/revoke`. One of the first six is needed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Revoke {
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// Those in which this user acts as another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_by: Option<Arc<str>>,
    /// Those that were started from this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Address>")]
    pub ip: Option<ClientIp>,
    /// Those that were started on this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Arc<str>>,
    /// Seconds since they were last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_longer_than: Option<u64>,
    /// Every session there is. Not together with those above.
    #[serde(skip_serializing_if = "is_default")]
    pub all: bool,
    /// Those that stay.
    #[serde(skip_serializing_if = "AtMost::is_empty")]
    #[schemars(with = "AtMost<schema::SessionId, 1000>")]
    pub except: AtMost<SessionId, 1000>,
    /// Why they end. Default `revoked_by_admin`, with `all` it is `all_revoked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Reason>")]
    pub reason: Option<String>,
    /// A remark for the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub note: Option<Arc<str>>,
    /// Whether nothing ends.
    #[serde(skip_serializing_if = "is_default")]
    pub dry_run: bool,
}

/// `POST /v1/users/{user}/clear-sessions`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClearSessions {
    /// The session that stays, such as the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::SessionId>")]
    pub keep: Option<SessionId>,
    /// Whether all go, however many the user may have.
    #[serde(skip_serializing_if = "is_default")]
    pub force: bool,
    /// The user or administrator who clears them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub by: Option<Arc<str>>,
    /// Whether nothing ends.
    #[serde(skip_serializing_if = "is_default")]
    pub dry_run: bool,
}
