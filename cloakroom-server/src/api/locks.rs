//! Locks of sessions, as leases: a caller that goes away holds one no longer than it asked for.

use std::time::Duration;

use axum::response::Response;
use cloakroom::{Found, SessionId, rules::Locked, sessions::TakeLock};
use cloakroom_api::{self as wire, Lock, Nothing, Renew, Renewed, Unlock, Unlocked};

use super::{
    App,
    call::Call,
    json::{PathId, ok},
    problem::{Code, Problem},
    view,
};

/// The longest that a lock is held without being renewed, and waited for, in seconds.
pub(super) const MOST_LEASE: u64 = 3600;
pub(super) const MOST_WAIT: u64 = 10;

pub(super) async fn lock(
    PathId(id): PathId,
    Call { app, attempt, body: request, .. }: Call<Nothing, Lock>,
) -> Result<Response, Problem> {
    let lease = lease(&app, request.lease_seconds)?;
    let patience = within("wait_seconds", request.wait_seconds, 0, MOST_WAIT)?;
    if let Some((session, number)) = app.operations.lock_of(attempt.as_ref()).filter(|(session, _)| *session == id)
        && app.sessions.renew_lock(session, number, lease).await?
        && let Found::Live(record) = app.sessions.get(session).await?
    {
        return Ok(ok(&locked(&record)));
    }
    match app.sessions.take_lock(id, TakeLock { lease, patience }).await? {
        Locked::Granted(record) => {
            app.operations.hand_lock(attempt, id, record.lease.number);
            Ok(ok(&locked(&record)))
        }
        Locked::Held { until } => {
            let detail = format!("Another caller holds the session's lock, until {until} unless it is renewed.");
            Err(Problem::new(Code::Locked, detail).with("until", &until))
        }
        Locked::Gone(gone) => Err(cloakroom::Error::from(gone).into()),
    }
}

fn locked(record: &cloakroom::Record) -> wire::Locked<'_, &cloakroom::Data> {
    wire::Locked { lock: record.lease.number, until: record.lease.until, session: view::session(record) }
}

pub(super) async fn renew(
    PathId(id): PathId,
    Call { app, body: request, .. }: Call<Nothing, Renew>,
) -> Result<Response, Problem> {
    let lease = lease(&app, request.lease_seconds)?;
    let until = app.sessions.now().after(lease);
    if app.sessions.renew_lock(id, request.lock, lease).await? {
        return Ok(ok(&Renewed { lock: request.lock, until }));
    }
    still_there(&app, id).await?;
    Err(cloakroom::Error::LockLost.into())
}

pub(super) async fn unlock(
    PathId(id): PathId,
    Call { app, body: request, .. }: Call<Nothing, Unlock>,
) -> Result<Response, Problem> {
    let released = app.sessions.unlock(id, request.lock).await?;
    if !released {
        still_there(&app, id).await?;
    }
    Ok(ok(&Unlocked { released }))
}

async fn still_there(app: &App, id: SessionId) -> Result<(), Problem> {
    match app.sessions.get(id).await? {
        Found::Live(_) => Ok(()),
        Found::Ended(ended) => Err(Problem::ended(&ended)),
        Found::Unknown => Err(Problem::unknown_session()),
    }
}

fn lease(app: &App, asked: Option<u64>) -> Result<Duration, Problem> {
    match asked {
        Some(seconds) => within("lease_seconds", seconds, 1, MOST_LEASE),
        None => Ok(app.sessions.settings().lock_lease),
    }
}

fn within(field: &str, seconds: u64, least: u64, most: u64) -> Result<Duration, Problem> {
    if (least..=most).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    let detail = format!("{field}: {seconds} is not between {least} and {most}");
    Err(Problem::field(Code::InvalidField, field, detail))
}
