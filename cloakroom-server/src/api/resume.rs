//! From tokens to sessions: resuming, and changing what is found on the way.

use std::{net::IpAddr, sync::Arc};

use axum::response::Response;
use cloakroom::{Ended, Error, Found, Reason, Record, Sessions, SignIn, Token, Visitor};
use cloakroom_api::{AtMost, ClientFacts, Nothing, Resume, ResumeMany, TokenText};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};

use super::{
    App,
    call::Call,
    edit::{Edit, NotMade, given},
    guard,
    json::{self, ok},
    operation::Attempt,
    problem::{Code, Problem},
    start,
    view::{self, SessionView},
    work,
};
use crate::keys::Scope;

pub(super) async fn resume(
    headers: HeaderMap,
    Call { app, caller, attempt, body: request, .. }: Call<Nothing, Resume>,
) -> Result<Response, Problem> {
    let Resume { token, touch, client, .. } = &request;
    let (token, touch, client) = (token.clone(), touch.unwrap_or(true), client.clone());
    let edit = Edit::read(given!(request), &app.sessions, attempt.as_ref())?;
    let Some(text) = token else {
        if !edit.sets_something() {
            let detail = "token: it is missing; a visitor without one gets a session once something is set";
            return Err(Problem::field(Code::MissingField, "token", detail));
        }
        guard::require(caller.as_ref(), Scope::Write)?;
        let newcomer = Newcomer { key: start::idempotency_key(attempt.as_ref(), &headers), client, attempt };
        let work = app.work.clone();
        return Ok(work::joined(work.start(async move { work::response(first(&app, &edit, newcomer).await) })).await);
    };
    let ip = client.as_ref().and_then(ClientFacts::ip);
    if edit.is_empty() && edit.if_version.is_none() && edit.lock.is_none() {
        let found = find(&app.sessions, text.token().as_ref(), ip, touch).await?;
        let record = living(&app.sessions, found)?;
        return Ok(ok(&view::shown(&record)));
    }
    guard::require(caller.as_ref(), Scope::Write)?;
    let work = app.work.clone();
    let change = async move {
        let found = find(&app.sessions, text.token().as_ref(), ip, touch).await?;
        let record = living(&app.sessions, found)?;
        let made = edit.apply(&app.sessions, record.info.id, Some(record)).await;
        let record = made.map_err(|not_made| match not_made {
            NotMade::Error(error) => for_holder(&app.sessions, error),
            NotMade::Problem(problem) => problem,
        })?;
        Ok(ok(&view::shown(&record)))
    };
    Ok(work::joined(work.start(async move { work::response(change.await) })).await)
}

/// A visitor without a token.
struct Newcomer {
    client: Option<ClientFacts>,
    key: Option<String>,
    attempt: Option<Attempt>,
}

/// A visitor's first values start a session.
async fn first(app: &App, edit: &Edit, newcomer: Newcomer) -> Result<Response, Problem> {
    for (field, given) in [("if_version", edit.if_version), ("lock", edit.lock)] {
        if given.is_some() {
            let detail = format!("{field}: without a token there is no session yet: leave it out");
            return Err(Problem::field(Code::InvalidField, field, detail));
        }
    }
    let mut start = SignIn::anonymous().data(edit.first_data()?).client(start::client(newcomer.client));
    if let Some(key) = newcomer.key {
        start = start.idempotency_key(key);
    }
    let started = app.sessions.start(start).await?;
    app.operations.hand(newcomer.attempt, started.record.info.id);
    Ok(start::answer(app, &started))
}

pub(super) async fn find(
    sessions: &Sessions,
    token: Option<&Token>,
    ip: Option<IpAddr>,
    touch: bool,
) -> Result<Found, Error> {
    let Some(token) = token else { return Ok(Found::Unknown) };
    sessions.resume(Visitor::new(token).ip(ip).touch(touch)).await
}

fn living(sessions: &Sessions, found: Found) -> Result<Arc<Record>, Problem> {
    match found {
        Found::Live(record) => Ok(record),
        Found::Ended(ended) => Err(ended_problem(sessions, &ended)),
        Found::Unknown => Err(Problem::unknown_session()),
    }
}

/// What went wrong, for those who hold the session's token.
pub(super) fn for_holder(sessions: &Sessions, error: Error) -> Problem {
    match error {
        Error::Ended(ended) => ended_problem(sessions, &ended),
        error => error.into(),
    }
}

/// For those who hold the cookie: what happened, and how to be rid of it.
pub(super) fn ended_problem(sessions: &Sessions, ended: &Ended) -> Problem {
    Problem::ended(ended).with("clear_cookie", &clear_cookie(sessions, ended.reason))
}

/// The browser of a session that was replaced may hold the new one's cookie already.
pub(super) fn clear_cookie(sessions: &Sessions, reason: Reason) -> Option<String> {
    (!reason.is_replacement()).then(|| sessions.cookie().delete(None))
}

/// So many sessions are loaded at a time.
const LOADED_AT_ONCE: usize = 16;
/// After so many bytes of an answer others have their turn.
const PAUSE_AFTER: usize = 256 << 10;

pub(super) async fn resume_many(
    Call { app, body: request, .. }: Call<Nothing, ResumeMany>,
) -> Result<Response, Problem> {
    let ip = request.client.as_ref().and_then(ClientFacts::ip);
    let (sessions, AtMost(tokens)) = (&app.sessions, request.tokens);
    let resume = |token: TokenText| async move { resumed(sessions, &token, ip).await };
    let mut results = stream::iter(tokens).map(resume).buffered(LOADED_AT_ONCE);
    let mut body = b"{\"results\":[".to_vec();
    let mut paused_at = 0;
    while let Some(result) = results.next().await {
        if body.len() > b"{\"results\":[".len() {
            body.push(b',');
        }
        body.extend(result?);
        if body.len() - paused_at > PAUSE_AFTER {
            paused_at = body.len();
            tokio::task::yield_now().await;
        }
    }
    body.extend(b"]}");
    Ok(json::written(StatusCode::OK, body))
}

type Resumed<'a> = cloakroom_api::ResumedOne<'a, &'a cloakroom::Data, Problem>;

/// One of the results, as text.
async fn resumed(sessions: &Sessions, token: &TokenText, ip: Option<IpAddr>) -> Result<Vec<u8>, Problem> {
    let found = match find(sessions, token.token().as_ref(), ip, true).await {
        Ok(found) => living(sessions, found),
        // One whose user is refused says nothing about the others.
        Err(Error::Refused(refusal)) => Err(Error::Refused(refusal).into()),
        Err(error) => return Err(error.into()),
    };
    let view = match &found {
        Ok(record) => Resumed::Session(Box::<SessionView<'_>>::new(view::session(record))),
        Err(problem) => Resumed::Problem(problem.clone()),
    };
    serde_json::to_vec(&view).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}
