//! The directory of users, and clearing a user's sessions.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use axum::{
    Extension,
    extract::{FromRequestParts, Path},
    response::Response,
};
use cloakroom::{
    Clear, DirectoryEntry, Ending, Network, Reason, SessionId, Timestamp, User, UserPatch,
    store::{Cursor, EndAnswer, WhenFull},
};
use http::request::Parts;
use serde::{Deserialize, Serialize};

use super::{
    call::Call,
    json::ok,
    operation::Operation,
    problem::{Code, Problem},
    revoke::EndedView,
    sessions::page_size,
    strict::{Nothing, Nullable},
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

pub(super) async fn show(PathUser(user): PathUser, Call { app, .. }: Call) -> Result<Response, Problem> {
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

pub(super) async fn list(Call { app, params, .. }: Call<ListParams>) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let after = params.cursor.map(Cursor::new);
    let page = app.sessions.users(after.as_ref(), limit).await?;
    let users = page.items.iter().map(UserView::from).collect();
    Ok(ok(&ListView { users, next: page.next.as_ref().map(Cursor::as_str) }))
}

/// A field that is left out stays, and `null` empties it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PatchRequest {
    enabled: Option<bool>,
    full_name: Nullable<Arc<str>>,
    user_type: Nullable<Arc<str>>,
    session_limit: Nullable<u32>,
    when_full: Nullable<WhenFull>,
    allowed_networks: Nullable<Vec<Network>>,
}

impl From<PatchRequest> for UserPatch {
    fn from(request: PatchRequest) -> Self {
        let PatchRequest { enabled, full_name, user_type, session_limit, when_full, allowed_networks } = request;
        Self {
            enabled,
            full_name: full_name.0,
            user_type: user_type.0,
            session_limit: session_limit.0,
            when_full: when_full.0,
            allowed_networks: allowed_networks.0.map(Option::unwrap_or_default),
        }
    }
}

#[derive(Debug, Serialize)]
struct PatchedView<'a> {
    user: UserView<'a>,
    ended: Vec<SessionId>,
}

pub(super) async fn patch(
    PathUser(user): PathUser,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, body: request, .. }: Call<Nothing, PatchRequest>,
) -> Result<Response, Problem> {
    if request.enabled == Some(false) {
        operation.settle(&app.sessions, &Ending::new(Reason::UserDisabled)).await?;
        operation.may_end_all_of(&app.sessions, &user, &HashSet::new()).await?;
    }
    let (entry, ended) = app.sessions.patch_user(user, &request.into(), None).await?;
    operation.has_ended(ended.iter().map(|ended| ended.id));
    Ok(ok(&PatchedView { user: UserView::from(&entry), ended: operation.ended() }))
}

#[derive(Debug, Serialize)]
struct DeletedView {
    deleted: bool,
    ended: Vec<SessionId>,
}

pub(super) async fn delete(
    PathUser(user): PathUser,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, .. }: Call,
) -> Result<Response, Problem> {
    operation.settle(&app.sessions, &Ending::new(Reason::UserDisabled)).await?;
    operation.may_end_all_of(&app.sessions, &user, &HashSet::new()).await?;
    let (deleted, ended) = app.sessions.delete_user(user, None).await?;
    operation.has_ended(ended.iter().map(|ended| ended.id));
    Ok(ok(&DeletedView { deleted, ended: operation.ended() }))
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

pub(super) async fn clear_sessions(
    PathUser(user): PathUser,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, body: request, .. }: Call<Nothing, ClearRequest>,
) -> Result<Response, Problem> {
    let mut clear = Clear::of(user).force(request.force);
    if let Some(current) = request.keep {
        clear = clear.keep(current);
    }
    if let Some(by) = request.by {
        clear = clear.by(by);
    }
    operation.settle(&app.sessions, &clear.ending()).await?;
    let chosen = app.sessions.sessions_to_clear(&clear).await?;
    let chosen: Vec<_> = chosen.iter().map(|info| info.id).collect();
    if request.dry_run {
        return Ok(ok(&EndedView::preview(chosen)));
    }
    operation.is_about_to_end(&chosen);
    let answers = app.sessions.end_many(chosen, &clear.ending()).await?;
    operation.has_ended(answers.into_iter().filter_map(EndAnswer::ended_now).map(|ended| ended.id));
    Ok(ok(&EndedView::of(&operation)))
}
