//! The audit log, and the reaper by hand.

use std::{net::IpAddr, sync::Arc};

use axum::{extract::State, response::Response};
use cloakroom::{
    SessionId, Timestamp,
    store::{AuditQuery, Cursor, Logged},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    App,
    guard::{Admin, May, Read},
    json::{Params, Strict, ok},
    problem::Problem,
    sessions::page_size,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditParams {
    user: Option<Arc<str>>,
    session: Option<SessionId>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    _: May<Read>,
    State(app): State<App>,
    Params(params): Params<AuditParams>,
) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let after = params.after.map(Cursor::new);
    let query = AuditQuery { user: params.user, session: params.session };
    let page = app.sessions.audit(&query, after.as_ref(), limit).await?;
    let entries = page.items.iter().map(EntryView::from).collect();
    Ok(ok(&EntriesView { entries, next: page.next.as_ref().map(Cursor::as_str) }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) async fn reap(
    _: May<Admin>,
    State(app): State<App>,
    Strict(Nothing {}): Strict<Nothing>,
) -> Result<Response, Problem> {
    let ended = app.sessions.reap().await?;
    Ok(ok(&json!({ "ended": ended })))
}

#[derive(Debug, Serialize)]
struct EntriesView<'a> {
    entries: Vec<EntryView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct EntryView<'a> {
    cursor: &'a str,
    at: Timestamp,
    event: &'static str,
    session: SessionId,
    user: Option<&'a str>,
    impersonated_by: Option<&'a str>,
    audit_user: Option<&'a str>,
    ip: Option<IpAddr>,
    reason: Option<&'static str>,
    by: Option<&'a str>,
    note: Option<&'a str>,
}

impl<'a> From<&'a Logged> for EntryView<'a> {
    fn from(Logged { cursor, entry }: &'a Logged) -> Self {
        Self {
            cursor: cursor.as_str(),
            at: entry.at,
            event: entry.event.code(),
            session: entry.session,
            user: entry.user.as_deref(),
            impersonated_by: entry.impersonated_by.as_deref(),
            audit_user: entry.audit_user.as_deref(),
            ip: entry.ip,
            reason: entry.reason.map(cloakroom::Reason::code),
            by: entry.by.as_deref(),
            note: entry.note.as_deref(),
        }
    }
}
