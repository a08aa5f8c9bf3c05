//! The directory of users, and clearing a user's sessions.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path, State},
    response::Response,
};
use cloakroom::{
    Clear, DirectoryEntry, Ended, Network, SessionId, Timestamp, User, UserPatch,
    store::{Cursor, WhenFull},
};
use http::request::Parts;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    App,
    guard::{Admin, May, Write},
    json::{Params, Strict, ok},
    problem::{Code, Problem},
    sessions::page_size,
};

/// The user that a path names.
pub(super) struct PathUser(Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for PathUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let not_text = |_| Problem::field(Code::InvalidField, "user", "user: the path's last part is not UTF-8");
        path.map(|Path(user)| Self(user.into())).map_err(not_text)
    }
}

#[derive(Debug, Serialize)]
struct UserView<'a> {
    id: &'a str,
    enabled: bool,
    full_name: Option<&'a str>,
    user_type: Option<&'a str>,
    session_limit: Option<u32>,
    when_full: Option<WhenFull>,
    allowed_networks: &'a [Network],
    last_sign_in: Option<LastSignInView>,
}

#[derive(Debug, Serialize)]
struct LastSignInView {
    at: Timestamp,
    ip: Option<IpAddr>,
}

impl<'a> From<&'a DirectoryEntry> for UserView<'a> {
    fn from(entry: &'a DirectoryEntry) -> Self {
        let User { enabled, full_name, user_type, session_limit, when_full, allowed_networks } = &entry.settings;
        Self {
            id: &entry.user,
            enabled: *enabled,
            full_name: full_name.as_deref(),
            user_type: user_type.as_deref(),
            session_limit: *session_limit,
            when_full: *when_full,
            allowed_networks,
            last_sign_in: entry.last_sign_in.map(|last| LastSignInView { at: last.at, ip: last.ip }),
        }
    }
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    user: UserView<'a>,
}

pub(super) async fn show(_: May<Admin>, State(app): State<App>, PathUser(user): PathUser) -> Result<Response, Problem> {
    let Some(entry) = app.sessions.user(&user).await? else {
        return Err(Problem::new(Code::UserUnknown, "The directory has no entry of this user. PATCH makes one."));
    };
    Ok(ok(&Shown { user: UserView::from(&entry) }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListView<'a> {
    users: Vec<UserView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

pub(super) async fn list(
    _: May<Admin>,
    State(app): State<App>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let after = params.cursor.map(Cursor::new);
    let page = app.sessions.users(after.as_ref(), limit).await?;
    let users = page.items.iter().map(UserView::from).collect();
    Ok(ok(&ListView { users, next: page.next.as_ref().map(Cursor::as_str) }))
}

/// A field that is left out stays, and `null` empties it.
#[expect(clippy::option_option, reason = "a field left out is not one that is null")]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PatchRequest {
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    full_name: Option<Option<Arc<str>>>,
    #[serde(default, deserialize_with = "given")]
    user_type: Option<Option<Arc<str>>>,
    #[serde(default, deserialize_with = "given")]
    session_limit: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    when_full: Option<Option<WhenFull>>,
    allowed_networks: Option<Vec<Network>>,
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl From<PatchRequest> for UserPatch {
    fn from(request: PatchRequest) -> Self {
        let PatchRequest { enabled, full_name, user_type, session_limit, when_full, allowed_networks } = request;
        Self { enabled, full_name, user_type, session_limit, when_full, allowed_networks }
    }
}

#[derive(Debug, Serialize)]
struct PatchedView<'a> {
    user: UserView<'a>,
    ended: Vec<SessionId>,
}

pub(super) async fn patch(
    May { caller, .. }: May<Admin>,
    State(app): State<App>,
    PathUser(user): PathUser,
    Strict(request): Strict<PatchRequest>,
) -> Result<Response, Problem> {
    let (entry, ended) = app.sessions.patch_user(user, &request.into(), Some(caller.name)).await?;
    Ok(ok(&PatchedView { user: UserView::from(&entry), ended: ids(&ended) }))
}

#[derive(Debug, Serialize)]
struct DeletedView {
    deleted: bool,
    ended: Vec<SessionId>,
}

pub(super) async fn delete(
    May { caller, .. }: May<Admin>,
    State(app): State<App>,
    PathUser(user): PathUser,
) -> Result<Response, Problem> {
    let (deleted, ended) = app.sessions.delete_user(user, Some(caller.name)).await?;
    Ok(ok(&DeletedView { deleted, ended: ids(&ended) }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClearRequest {
    keep: Option<SessionId>,
    #[serde(default)]
    force: bool,
    by: Option<Arc<str>>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct ClearedView {
    matched: usize,
    ended: Vec<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_end: Option<Vec<SessionId>>,
}

pub(super) async fn clear_sessions(
    _: May<Write>,
    State(app): State<App>,
    PathUser(user): PathUser,
    Strict(request): Strict<ClearRequest>,
) -> Result<Response, Problem> {
    let mut clear = Clear::of(user).force(request.force);
    if let Some(current) = request.keep {
        clear = clear.keep(current);
    }
    if let Some(by) = request.by {
        clear = clear.by(by);
    }
    let view = if request.dry_run {
        let chosen = app.sessions.sessions_to_clear(&clear).await?;
        let would_end = chosen.iter().map(|info| info.id).collect();
        ClearedView { matched: chosen.len(), ended: Vec::new(), would_end: Some(would_end) }
    } else {
        let ended = app.sessions.clear_sessions(&clear).await?;
        ClearedView { matched: ended.len(), ended: ids(&ended), would_end: None }
    };
    Ok(ok(&view))
}

fn ids(ended: &[Ended]) -> Vec<SessionId> {
    ended.iter().map(|ended| ended.id).collect()
}
