//! The audit log, and the reaper by hand.

use axum::response::Response;
use cloakroom::store::{AuditQuery, Cursor};
use cloakroom_api::{Audited, ListAudit, Nothing, Reaped};

use super::{call::Call, json::ok, problem::Problem, sessions::page_size};

pub(super) async fn list(Call { app, params, .. }: Call<ListAudit>) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let after = params.after.map(Cursor::new);
    let query = AuditQuery { user: params.user, session: params.session };
    let page = app.sessions.audit_log().page(&query, after.as_ref(), limit).await;
    let page = page.map_err(|error| Problem::of_cursor("after", error))?;
    let next = page.next.as_ref().map(|next| next.as_str().into());
    Ok(ok(&Audited { entries: page.items, next }))
}

pub(super) async fn reap(Call { app, .. }: Call<Nothing, Nothing>) -> Result<Response, Problem> {
    let ended = app.sessions.reap().await?;
    Ok(ok(&Reaped { ended }))
}
