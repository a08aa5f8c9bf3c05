//! The audit log, and the reaper by hand.

use std::sync::Arc;

use axum::response::Response;
use cloakroom::{
    SessionId,
    store::{AuditQuery, Cursor, Logged},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{call::Call, json::ok, problem::Problem, sessions::page_size, strict::Nothing};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditParams {
    user: Option<Arc<str>>,
    session: Option<SessionId>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(Call { app, params, .. }: Call<AuditParams>) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let after = params.after.map(Cursor::new);
    let query = AuditQuery { user: params.user, session: params.session };
    let page = app.sessions.audit(&query, after.as_ref(), limit).await;
    let page = page.map_err(|error| Problem::of_cursor("after", error))?;
    Ok(ok(&EntriesView { entries: &page.items, next: page.next.as_ref().map(Cursor::as_str) }))
}

pub(super) async fn reap(Call { app, .. }: Call<Nothing, Nothing>) -> Result<Response, Problem> {
    let ended = app.sessions.reap().await?;
    Ok(ok(&json!({ "ended": ended })))
}

#[derive(Debug, Serialize)]
struct EntriesView<'a> {
    entries: &'a [Logged],
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}
