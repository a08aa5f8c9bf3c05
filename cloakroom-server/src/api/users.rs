//! The directory of users, and clearing a user's sessions.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Extension,
    extract::{FromRequestParts, Path},
    response::Response,
};
use cloakroom::{
    Ending, Reason, User,
    rules::EndAnswer,
    sessions::{Clear, DirectoryEntry},
    store::Cursor,
    users::UserPatch,
};
use cloakroom_api::{
    self as wire, ClearSessions, Deleted, ListUsers, ListedUsers, Nothing, PatchUser, PatchedUser, ShownUser,
};
use http::request::Parts;

use super::{
    call::Call,
    json::{check_text, ok},
    operation::Operation,
    problem::{Code, Problem},
    revoke::{preview, revoked},
    sessions::page_size,
    view::text,
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

fn user_of(entry: &DirectoryEntry) -> wire::User<'_> {
    let User { enabled, full_name, user_type, session_limit, when_full, allowed_networks } = &entry.settings;
    wire::User {
        id: (&*entry.user).into(),
        enabled: *enabled,
        full_name: text(full_name.as_ref()),
        user_type: text(user_type.as_ref()),
        session_limit: *session_limit,
        when_full: *when_full,
        allowed_networks: allowed_networks.as_slice().into(),
        last_sign_in: entry.last_sign_in.map(|last| wire::LastSignIn { at: last.at, ip: last.ip }),
    }
}

pub(super) async fn show(PathUser(user): PathUser, Call { app, .. }: Call) -> Result<Response, Problem> {
    let Some(entry) = app.sessions.users().get(&user).await? else {
        return Err(Problem::new(Code::UserUnknown, "The directory has no entry of this user. PATCH makes one."));
    };
    Ok(ok(&ShownUser { user: user_of(&entry) }))
}

pub(super) async fn list(Call { app, params, .. }: Call<ListUsers>) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let after = params.cursor.map(Cursor::new);
    let page = app.sessions.users().list(after.as_ref(), limit).await?;
    let users = page.items.iter().map(user_of).collect();
    Ok(ok(&ListedUsers { users, next: page.next.as_ref().map(|next| next.as_str().into()) }))
}

fn asked(request: PatchUser) -> UserPatch {
    let PatchUser { enabled, full_name, user_type, session_limit, when_full, allowed_networks } = request;
    UserPatch {
        enabled,
        full_name: full_name.0,
        user_type: user_type.0,
        session_limit: session_limit.0,
        when_full: when_full.0,
        allowed_networks: allowed_networks.0.map(Option::unwrap_or_default),
    }
}

pub(super) async fn patch(
    PathUser(user): PathUser,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, body: request, .. }: Call<Nothing, PatchUser>,
) -> Result<Response, Problem> {
    if request.enabled == Some(false) {
        operation.settle(&app.sessions, &Ending::new(Reason::UserDisabled)).await?;
        operation.may_end_all_of(&app.sessions, &user, &HashSet::new()).await?;
    }
    let (entry, ended) = app.sessions.users().patch(user, &asked(request), None).await?;
    operation.has_ended(ended.iter().map(|ended| ended.id));
    Ok(ok(&PatchedUser { user: user_of(&entry), ended: operation.ended() }))
}

pub(super) async fn delete(
    PathUser(user): PathUser,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, .. }: Call,
) -> Result<Response, Problem> {
    operation.settle(&app.sessions, &Ending::new(Reason::UserDisabled)).await?;
    operation.may_end_all_of(&app.sessions, &user, &HashSet::new()).await?;
    let (deleted, ended) = app.sessions.users().delete(user, None).await?;
    operation.has_ended(ended.iter().map(|ended| ended.id));
    Ok(ok(&Deleted { deleted, ended: operation.ended() }))
}

pub(super) async fn clear_sessions(
    PathUser(user): PathUser,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, body: request, .. }: Call<Nothing, ClearSessions>,
) -> Result<Response, Problem> {
    check_text("by", request.by.as_deref(), false)?;
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
        return Ok(ok(&preview(chosen)));
    }
    operation.is_about_to_end(&chosen);
    let answers = app.sessions.end_many(chosen, &clear.ending()).await?;
    operation.has_ended(answers.into_iter().filter_map(EndAnswer::ended_now).map(|ended| ended.id));
    Ok(ok(&revoked(&operation)))
}
