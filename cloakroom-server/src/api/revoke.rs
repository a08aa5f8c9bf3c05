//! Ending many sessions at once.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use cloakroom::{
    Ending, Reason, SessionId,
    store::{EndAnswer, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    App,
    guard::{Admin, May},
    json::{Strict, ok},
    problem::{Code, Problem},
    sessions::ending,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeRequest {
    user: Option<Arc<str>>,
    ip: Option<IpAddr>,
    device: Option<Arc<str>>,
    /// Seconds.
    idle_longer_than: Option<u64>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    except: Vec<SessionId>,
    reason: Option<String>,
    note: Option<Arc<str>>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct RevokedView {
    matched: usize,
    ended: Vec<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_end: Option<Vec<SessionId>>,
}

pub(super) async fn revoke(
    May { caller, .. }: May<Admin>,
    State(app): State<App>,
    Strict(request): Strict<RevokeRequest>,
) -> Result<Response, Problem> {
    request.check()?;
    let ending = ending(request.reason()?, request.note.clone(), &caller);
    let (matched, ended, would_end) = if request.dry_run {
        let matching = request.walk(&app, None).await?;
        (matching.len(), Vec::new(), Some(matching))
    } else if let Some(user) = request.user_alone() {
        let ended = app.sessions.end_all_of(user, request.except, &ending).await?;
        (ended.len(), ended.iter().map(|ended| ended.id).collect(), None)
    } else {
        let ended = request.walk(&app, Some(&ending)).await?;
        (ended.len(), ended, None)
    };
    Ok(ok(&RevokedView { matched, ended, would_end }))
}

const PAGE: usize = 500;

impl RevokeRequest {
    fn check(&self) -> Result<(), Problem> {
        let Self { user, ip, device, idle_longer_than, all, .. } = self;
        let narrowed = user.is_some() || ip.is_some() || device.is_some() || idle_longer_than.is_some();
        match (*all, narrowed) {
            (false, false) => {
                let detail = "Give user, ip, device or idle_longer_than; or \"all\": true for every session there is.";
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

    /// The user, if nothing else narrows the query: then one transaction ends everything, sign-ins under way included.
    fn user_alone(&self) -> Option<Arc<str>> {
        let Self { user, ip: None, device: None, idle_longer_than: None, .. } = self else { return None };
        user.clone()
    }

    /// Goes through all sessions that match, page by page, and ends them if it is told how. Answers which it found, or
    /// which it ended.
    async fn walk(&self, app: &App, ending: Option<&Ending>) -> Result<Vec<SessionId>, Problem> {
        let idle = self.idle_longer_than.map(|seconds| app.sessions.now().before(Duration::from_secs(seconds)));
        let query = Query {
            user: self.user.clone(),
            impersonated_by: None,
            ip: self.ip,
            device: self.device.clone(),
            last_seen_before: idle,
        };
        let mut walked = Vec::new();
        let mut after = None;
        loop {
            let page = app.sessions.find(&query, after.as_ref(), PAGE).await?;
            let ids = page.items.iter().map(|info| info.id).filter(|id| !self.except.contains(id));
            match ending {
                None => walked.extend(ids),
                Some(ending) => {
                    let answers = app.sessions.end_many(ids.collect(), ending).await?;
                    walked.extend(answers.into_iter().filter_map(|answer| match answer {
                        EndAnswer::EndedNow(ended) => Some(ended.id),
                        EndAnswer::EndedBefore(_) | EndAnswer::Unknown(_) => None,
                    }));
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(walked);
            }
        }
    }
}
