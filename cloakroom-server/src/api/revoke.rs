//! Ending many sessions at once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::{Extension, response::Response};
use cloakroom::{
    Ending, Reason, SessionId, Sessions, Timestamp,
    client::ClientIp,
    rules::EndAnswer,
    store::{Cursor, Query},
};
use cloakroom_api::{Nothing, Revoke, Revoked};

use super::{
    call::Call,
    json::{check_text, ok},
    operation::Operation,
    problem::{Code, Problem},
};

/// What an operation has ended.
pub(super) fn revoked(operation: &Operation) -> Revoked {
    let ended = operation.ended();
    Revoked { matched: ended.len(), ended, would_end: None }
}

/// What it would end.
pub(super) fn preview(ids: Vec<SessionId>) -> Revoked {
    Revoked { matched: ids.len(), ended: Vec::new(), would_end: Some(ids) }
}

pub(super) async fn revoke(
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, body: request, .. }: Call<Nothing, Revoke>,
) -> Result<Response, Problem> {
    check(&request)?;
    check_text("note", request.note.as_deref(), true)?;
    let ending = Ending { reason: reason(&request)?, by: None, note: request.note.clone() };
    let query = query(&request, app.sessions.now());
    let except = request.except.0;
    if request.dry_run {
        return Ok(ok(&preview(app.sessions.ids_where(&query, &except).await?)));
    }
    operation.settle(&app.sessions, &ending).await?;
    match query {
        Query { user: Some(user), impersonated_by: None, ip: None, device: None, last_seen_before: None } => {
            let except = except.into_iter().collect();
            operation.may_end_all_of(&app.sessions, &user, &except).await?;
            let ended = app.sessions.end_all_of(user, except.into_iter().collect(), &ending).await?;
            operation.has_ended(ended.iter().map(|ended| ended.id));
        }
        query => end_where(&app.sessions, &query, &except.into_iter().collect(), &ending, &operation).await?,
    }
    Ok(ok(&revoked(&operation)))
}

/// In portions, each noted as soon as it is done.
async fn end_where(
    sessions: &Sessions,
    query: &Query,
    except: &HashSet<SessionId>,
    ending: &Ending,
    operation: &Operation,
) -> cloakroom::Result<()> {
    const PORTION: usize = 500;
    let mut after: Option<Cursor> = None;
    loop {
        let page = sessions.find(query, after.as_ref(), PORTION).await?;
        let ids: Vec<_> = page.items.iter().map(|info| info.id).filter(|id| !except.contains(id)).collect();
        operation.is_about_to_end(&ids);
        let answers = sessions.end_many(ids, ending).await?;
        operation.has_ended(answers.into_iter().filter_map(EndAnswer::ended_now).map(|ended| ended.id));
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn check(request: &Revoke) -> Result<(), Problem> {
    let Revoke { user, impersonated_by, ip, device, idle_longer_than, all, .. } = request;
    let narrowed =
        user.is_some() || impersonated_by.is_some() || ip.is_some() || device.is_some() || idle_longer_than.is_some();
    match (*all, narrowed) {
        (false, false) => {
            let detail = "Give user, impersonated_by, ip, device or idle_longer_than; or \"all\": true for every session there is.";
            Err(Problem::new(Code::QueryEmpty, detail))
        }
        (true, true) => {
            let detail = "all: every session, or those that match the other fields? Leave one out.";
            Err(Problem::field(Code::InvalidField, "all", detail))
        }
        _ => Ok(()),
    }
}

fn reason(request: &Revoke) -> Result<Reason, Problem> {
    match request.reason.as_deref() {
        Some(text) => {
            text.parse().map_err(|error| Problem::field(Code::InvalidField, "reason", format!("reason: {error}")))
        }
        None if request.all => Ok(Reason::AllRevoked),
        None => Ok(Reason::RevokedByAdmin),
    }
}

fn query(request: &Revoke, now: Timestamp) -> Query {
    let last_seen_before = request.idle_longer_than.map(|seconds| now.before(Duration::from_secs(seconds)));
    Query {
        user: request.user.clone(),
        impersonated_by: request.impersonated_by.clone(),
        ip: request.ip.map(ClientIp::get),
        device: request.device.clone(),
        last_seen_before,
    }
}
