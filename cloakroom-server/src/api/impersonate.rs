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
    Call { app, body: request, .. }: Call<Nothing, ImpersonateRequest>,
) -> Result<Response, Problem> {
    let ImpersonateRequest { token, user, reason, minutes, as_auditor } = request;
    let mut impersonate = Impersonate::new(user, reason);
    if let Some(minutes) = minutes {
        impersonate = impersonate.minutes(minutes);
    }
    if as_auditor {
        impersonate = impersonate.as_auditor();
    }
    let started = app.sessions.impersonate(token.token()?, impersonate).await.map_err(|error| problem(&app, error))?;
    Ok(hand_over(&app, &started.token, &started.record))
}

pub(super) async fn stop(Call { app, body: request, .. }: Call<Nothing, StopRequest>) -> Result<Response, Problem> {
    let returned =
        app.sessions.stop_impersonating(request.token.token()?).await.map_err(|error| problem(&app, error))?;
    Ok(hand_over(&app, &returned.token, &returned.record))
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
