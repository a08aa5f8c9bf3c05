//! Ending many sessions at once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::{Extension, response::Response};
use cloakroom::{
    ClientIp, Ending, Reason, SessionId, Sessions, Timestamp,
    store::{Cursor, EndAnswer, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    call::Call,
    json::ok,
    operation::Operation,
    problem::{Code, Problem},
    strict::{AtMost, Nothing},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeRequest {
    user: Option<Arc<str>>,
    impersonated_by: Option<Arc<str>>,
    ip: Option<ClientIp>,
    device: Option<Arc<str>>,
    /// Seconds.
    idle_longer_than: Option<u64>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    except: AtMost<SessionId, 1000>,
    reason: Option<String>,
    note: Option<Arc<str>>,
    #[serde(default)]
    dry_run: bool,
}

/// What a call that ends many sessions answers.
#[derive(Debug, Serialize)]
pub(super) struct EndedView {
    matched: usize,
    ended: Vec<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_end: Option<Vec<SessionId>>,
}

impl EndedView {
    pub(super) fn of(operation: &Operation) -> Self {
        let ended = operation.ended();
        Self { matched: ended.len(), ended, would_end: None }
    }

    pub(super) fn preview(ids: Vec<SessionId>) -> Self {
        Self { matched: ids.len(), ended: Vec::new(), would_end: Some(ids) }
    }
}

pub(super) async fn revoke(
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, body: request, .. }: Call<Nothing, RevokeRequest>,
) -> Result<Response, Problem> {
    request.check()?;
    let ending = Ending { reason: request.reason()?, by: None, note: request.note.clone() };
    let query = request.query(app.sessions.now());
    let except = request.except.0;
    if request.dry_run {
        return Ok(ok(&EndedView::preview(app.sessions.ids_where(&query, &except).await?)));
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
    Ok(ok(&EndedView::of(&operation)))
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

impl RevokeRequest {
    fn check(&self) -> Result<(), Problem> {
        let Self { user, impersonated_by, ip, device, idle_longer_than, all, .. } = self;
        let narrowed = user.is_some()
            || impersonated_by.is_some()
            || ip.is_some()
            || device.is_some()
            || idle_longer_than.is_some();
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

    fn reason(&self) -> Result<Reason, Problem> {
        match self.reason.as_deref() {
            Some(text) => {
                text.parse().map_err(|error| Problem::field(Code::InvalidField, "reason", format!("reason: {error}")))
            }
            None if self.all => Ok(Reason::AllRevoked),
            None => Ok(Reason::RevokedByAdmin),
        }
    }

    fn query(&self, now: Timestamp) -> Query {
        let last_seen_before = self.idle_longer_than.map(|seconds| now.before(Duration::from_secs(seconds)));
        Query {
            user: self.user.clone(),
            impersonated_by: self.impersonated_by.clone(),
            ip: self.ip.map(ClientIp::get),
            device: self.device.clone(),
            last_seen_before,
        }
    }
}
