//! Acting as another user, and going back.

use std::sync::Arc;

use axum::response::Response;
use cloakroom::{Error, Impersonate, Record, Token};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    App,
    call::Call,
    json::{TokenText, answer},
    operation::Attempt,
    problem::Problem,
    sessions::ended_problem,
    strict::Nothing,
    view::SessionView,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImpersonateRequest {
    token: TokenText,
    user: Arc<str>,
    reason: Arc<str>,
    minutes: Option<u32>,
    #[serde(default)]
    as_auditor: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StopRequest {
    token: TokenText,
}

#[derive(Debug, Serialize)]
struct HandedOver<'a> {
    token: String,
    set_cookie: String,
    session: SessionView<'a>,
}

pub(super) async fn start(
    Call { app, attempt, body: request, .. }: Call<Nothing, ImpersonateRequest>,
) -> Result<Response, Problem> {
    let ImpersonateRequest { token, user, reason, minutes, as_auditor } = request;
    let mut impersonate = Impersonate::new(user, reason);
    if let Some(minutes) = minutes {
        impersonate = impersonate.minutes(minutes);
    }
    if as_auditor {
        impersonate = impersonate.as_auditor();
    }
    let token = token.token()?;
    if let Some(again) = handed_again(&app, attempt.as_ref(), token).await? {
        return Ok(again);
    }
    let started = app.sessions.impersonate(token, impersonate).await.map_err(|error| problem(&app, error))?;
    app.operations.hand(attempt, started.record.info.id);
    Ok(hand_over(&app, &started.token, &started.record))
}

pub(super) async fn stop(
    Call { app, attempt, body: request, .. }: Call<Nothing, StopRequest>,
) -> Result<Response, Problem> {
    let token = request.token.token()?;
    if let Some(again) = handed_again(&app, attempt.as_ref(), token).await? {
        return Ok(again);
    }
    let returned = app.sessions.stop_impersonating(token).await.map_err(|error| problem(&app, error))?;
    app.operations.hand(attempt, returned.record.info.id);
    Ok(hand_over(&app, &returned.token, &returned.record))
}

/// The answer of a repeat: the first try spent the token, and the session that it was spent for has a new one. Where that is
/// not so any more, the repeat is a call like any other.
async fn handed_again(app: &App, attempt: Option<&Attempt>, spent: &Token) -> Result<Option<Response>, Problem> {
    let Some(session) = app.operations.handed(attempt) else { return Ok(None) };
    match app.sessions.hand_over_again(spent, session).await {
        Ok(handed) => Ok(Some(hand_over(app, &handed.token, &handed.record))),
        Err(Error::UnknownSession | Error::Ended(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn hand_over(app: &App, token: &Token, record: &Record) -> Response {
    let view = HandedOver {
        token: token.reveal(),
        set_cookie: app.sessions.cookie().set(token, &record.info, app.sessions.now(), None),
        session: SessionView::from(record),
    };
    answer(StatusCode::CREATED, &view)
}

fn problem(app: &App, error: Error) -> Problem {
    match error {
        Error::Ended(ended) => ended_problem(&app.sessions, &ended),
        error => error.into(),
    }
}
