//! The directory of users.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use cloakroom::{SessionId, Timestamp, WhenFull, network::Network};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{schema, values::Nullable};

/// A user of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User<'a> {
    /// The user.
    pub id: Cow<'a, str>,
    /// Whether the user may have sessions.
    pub enabled: bool,
    /// The name, for a start that gives none.
    pub full_name: Option<Cow<'a, str>>,
    /// The type, for a start that gives none.
    pub user_type: Option<Cow<'a, str>>,
    /// How many sessions; `null` for what is configured.
    pub session_limit: Option<u32>,
    /// What happens beyond that; `null` for what is configured.
    #[schemars(with = "Option<schema::WhenFull>")]
    pub when_full: Option<WhenFull>,
    /// From where the user may come; empty for anywhere.
    #[schemars(with = "Vec<schema::Network>")]
    pub allowed_networks: Cow<'a, [Network]>,
    /// The latest start.
    pub last_sign_in: Option<LastSignIn>,
}

/// When and from where a user's latest session was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastSignIn {
    /// When.
    #[schemars(with = "schema::Time")]
    pub at: Timestamp,
    /// From where.
    pub ip: Option<IpAddr>,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownUser<'a> {
    /// As the directory knows them.
    pub user: User<'a>,
}

/// The query of `GET /v1/users`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListUsers {
    /// How many at most. Default 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A page of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedUsers<'a> {
    /// In an order of the store's own.
    pub users: Vec<User<'a>>,
    /// Where the next page begins; left out on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Cow<'a, str>>,
}

/// `PATCH /v1/users/{user}`. A field that is left out stays, and `null` empties it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PatchUser {
    /// `false` ends all sessions of the user and refuses further ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The name.
    #[serde(skip_serializing_if = "Nullable::is_left_out")]
    #[schemars(with = "Nullable<Text>")]
    pub full_name: Nullable<Arc<str>>,
    /// The type.
    #[serde(skip_serializing_if = "Nullable::is_left_out")]
    #[schemars(with = "Nullable<Text>")]
    pub user_type: Nullable<Arc<str>>,
    /// How many sessions.
    #[serde(skip_serializing_if = "Nullable::is_left_out")]
    pub session_limit: Nullable<u32>,
    /// What happens beyond that.
    #[serde(skip_serializing_if = "Nullable::is_left_out")]
    #[schemars(with = "Nullable<schema::WhenFull>")]
    pub when_full: Nullable<WhenFull>,
    /// From where the user may come.
    #[serde(skip_serializing_if = "Nullable::is_left_out")]
    #[schemars(with = "Nullable<Vec<schema::Network>>")]
    pub allowed_networks: Nullable<Vec<Network>>,
}

/// A name.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "for the schema alone")]
struct Text(#[schemars(length(max = 256))] String);

/// A user as they are after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PatchedUser<'a> {
    /// As the directory knows them now.
    pub user: User<'a>,
    /// Sessions that ended for it.
    #[schemars(with = "Vec<schema::SessionId>")]
    pub ended: Vec<SessionId>,
}

/// What became of a user that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deleted {
    /// Whether there was an entry.
    pub deleted: bool,
    /// Sessions that ended for it.
    #[schemars(with = "Vec<schema::SessionId>")]
    pub ended: Vec<SessionId>,
}
