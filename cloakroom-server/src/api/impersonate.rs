//! Acting as another user, and going back.

use axum::response::Response;
use cloakroom::{Error, Impersonate, Record, Token};
use cloakroom_api::{self as wire, HandedOver, Nothing, StopImpersonating};
use http::StatusCode;

use super::{
    App,
    call::Call,
    json::{self, answer},
    operation::Attempt,
    problem::Problem,
    resume::for_holder,
    view::{self, Handed},
};

pub(super) async fn start(
    Call { app, attempt, body: request, .. }: Call<Nothing, wire::Impersonate>,
) -> Result<Response, Problem> {
    let wire::Impersonate { token, user, reason, minutes, as_auditor } = request;
    let mut impersonate = Impersonate::new(user, reason);
    if let Some(minutes) = minutes {
        impersonate = impersonate.minutes(minutes);
    }
    if as_auditor {
        impersonate = impersonate.as_auditor();
    }
    let token = json::token(&token)?;
    if let Some(again) = handed_again(&app, attempt.as_ref(), &token).await? {
        return Ok(again);
    }
    let started =
        app.sessions.impersonate(&token, impersonate).await.map_err(|error| for_holder(&app.sessions, error))?;
    app.operations.hand(attempt, started.record.info.id);
    Ok(hand_over(&app, &started.token, &started.record))
}

pub(super) async fn stop(
    Call { app, attempt, body: request, .. }: Call<Nothing, StopImpersonating>,
) -> Result<Response, Problem> {
    let token = json::token(&request.token)?;
    if let Some(again) = handed_again(&app, attempt.as_ref(), &token).await? {
        return Ok(again);
    }
    let returned = app.sessions.stop_impersonating(&token).await.map_err(|error| for_holder(&app.sessions, error))?;
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
    let Handed { set_cookie, cookie } = Handed::new(&app.sessions, token, &record.info);
    let view = HandedOver { token: token.reveal(), set_cookie, cookie, session: view::session(record) };
    answer(StatusCode::CREATED, &view)
}
