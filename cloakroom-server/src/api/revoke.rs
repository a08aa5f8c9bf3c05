//! Ending many sessions at once.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use cloakroom::{ClientIp, Reason, SessionId, Timestamp, store::Query};
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
    ip: Option<ClientIp>,
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
    let query = request.query(app.sessions.now());
    let (ended, would_end) = if request.dry_run {
        (Vec::new(), Some(app.sessions.ids_where(&query, &request.except).await?))
    } else {
        let ended = app.sessions.end_where(&query, &request.except, &ending).await?;
        (ended.iter().map(|ended| ended.id).collect(), None)
    };
    let matched = would_end.as_ref().unwrap_or(&ended).len();
    Ok(ok(&RevokedView { matched, ended, would_end }))
}

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

    fn query(&self, now: Timestamp) -> Query {
        let last_seen_before = self.idle_longer_than.map(|seconds| now.before(Duration::from_secs(seconds)));
        Query {
            user: self.user.clone(),
            impersonated_by: None,
            ip: self.ip.map(ClientIp::get),
            device: self.device.clone(),
            last_seen_before,
        }
    }
}
