//! Resuming, rotating, showing, listing and ending sessions.

use std::{net::IpAddr, sync::Arc};

use axum::{extract::State, response::Response};
use cloakroom::{
    ClientIp, Ended, Ending, Found, Reason, RotatedToken, Sessions,
    store::{Cursor, EndAnswer, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    App,
    guard::{May, Read, Write},
    json::{Params, PathId, Strict, TokenText, ok},
    problem::{Code, Problem},
    start::ClientRequest,
    view::SessionView,
};
use crate::keys::Caller;

#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    pub(super) session: SessionView<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeRequest {
    token: TokenText,
    #[serde(default = "yes")]
    touch: bool,
    client: Option<ClientRequest>,
}

fn yes() -> bool {
    true
}

pub(super) async fn resume(
    _: May<Read>,
    State(app): State<App>,
    Strict(request): Strict<ResumeRequest>,
) -> Result<Response, Problem> {
    let ip = request.client.as_ref().and_then(ClientRequest::ip);
    let found = find(&app.sessions, &request.token, ip, request.touch).await?;
    Ok(ok(&Shown { session: living(&app.sessions, &found)? }))
}

async fn find(
    sessions: &Sessions,
    token: &TokenText,
    ip: Option<IpAddr>,
    touch: bool,
) -> Result<Found, cloakroom::Error> {
    let Ok(token) = token.token() else { return Ok(Found::Unknown) };
    if touch { sessions.resume_from(token, ip).await } else { sessions.resume_without_touch_from(token, ip).await }
}

fn living<'a>(sessions: &Sessions, found: &'a Found) -> Result<SessionView<'a>, Problem> {
    match found {
        Found::Live(record) => Ok(SessionView::from(&**record)),
        Found::Ended(ended) => Err(ended_problem(sessions, ended)),
        Found::Unknown => Err(Problem::unknown_session()),
    }
}

/// For those who hold the cookie: what happened, and how to be rid of it.
pub(super) fn ended_problem(sessions: &Sessions, ended: &Ended) -> Problem {
    Problem::ended(ended).with("clear_cookie", &clear_cookie(sessions, ended.reason))
}

/// The browser of a session that was replaced may hold the new one's cookie already.
fn clear_cookie(sessions: &Sessions, reason: Reason) -> Option<String> {
    (!reason.is_replacement()).then(|| sessions.cookie().delete(None))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeManyRequest {
    tokens: Vec<TokenText>,
    client: Option<ClientRequest>,
}

#[derive(Debug, Serialize)]
struct ResumedMany<'a> {
    results: Vec<Resumed<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Resumed<'a> {
    Session(Box<SessionView<'a>>),
    Problem(Problem),
}

const MOST_TOKENS: usize = 100;

pub(super) async fn resume_many(
    _: May<Read>,
    State(app): State<App>,
    Strict(request): Strict<ResumeManyRequest>,
) -> Result<Response, Problem> {
    if request.tokens.len() > MOST_TOKENS {
        let detail = format!("tokens: at most {MOST_TOKENS} at once, these are {}", request.tokens.len());
        return Err(Problem::field(Code::InvalidField, "tokens", detail));
    }
    let ip = request.client.as_ref().and_then(ClientRequest::ip);
    let mut found = Vec::with_capacity(request.tokens.len());
    for token in &request.tokens {
        found.push(match find(&app.sessions, token, ip, true).await {
            // One whose user is refused says nothing about the others.
            Err(error @ cloakroom::Error::Refused(_)) => Err(Some(Problem::from(error))),
            found => Ok(found?),
        });
    }
    let resumed = found.iter_mut().map(|found| match found {
        Ok(found) => {
            living(&app.sessions, found).map_or_else(Resumed::Problem, |session| Resumed::Session(Box::new(session)))
        }
        Err(problem) => Resumed::Problem(problem.take().unwrap_or_else(Problem::unknown_session)),
    });
    Ok(ok(&ResumedMany { results: resumed.collect() }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateRequest {
    token: TokenText,
    client: Option<ClientRequest>,
}

#[derive(Debug, Serialize)]
struct RotatedView<'a> {
    token: String,
    set_cookie: Option<String>,
    session: SessionView<'a>,
}

pub(super) async fn rotate(
    _: May<Write>,
    State(app): State<App>,
    Strict(request): Strict<RotateRequest>,
) -> Result<Response, Problem> {
    let presented = request.token.token()?;
    let ip = request.client.as_ref().and_then(ClientRequest::ip);
    let rotated = app.sessions.rotate_from(presented, ip).await.map_err(|error| match error {
        cloakroom::Error::Ended(ended) => ended_problem(&app.sessions, &ended),
        error => error.into(),
    })?;
    let (token, set_cookie, record) = match rotated {
        RotatedToken::Rotated { token, record } => {
            let set_cookie = app.sessions.cookie().set(&token, &record.info, app.sessions.now(), None);
            (token.reveal(), Some(set_cookie), record)
        }
        // The winner's answer brings the new cookie; this one's token works until then.
        RotatedToken::Superseded { record } => (presented.reveal(), None, record),
    };
    Ok(ok(&RotatedView { token, set_cookie, session: SessionView::from(&*record) }))
}

pub(super) async fn show(_: May<Read>, State(app): State<App>, PathId(id): PathId) -> Result<Response, Problem> {
    match app.sessions.get(id).await? {
        Found::Live(record) => Ok(ok(&Shown { session: SessionView::from(&*record) })),
        Found::Ended(ended) => Err(Problem::ended(&ended)),
        Found::Unknown => Err(Problem::unknown_session()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndParams {
    reason: Option<String>,
    note: Option<Arc<str>>,
}

#[derive(Debug, Serialize)]
struct EndedView {
    ended_now: bool,
    reason: &'static str,
    clear_cookie: Option<String>,
}

pub(super) async fn end(
    May { caller, .. }: May<Write>,
    State(app): State<App>,
    PathId(id): PathId,
    Params(params): Params<EndParams>,
) -> Result<Response, Problem> {
    let reason = match params.reason.as_deref() {
        Some(text) => text.parse().map_err(|error| Problem::new(Code::InvalidParameter, format!("reason: {error}")))?,
        None => Reason::SignedOut,
    };
    let (ended_now, ended) = match app.sessions.end(id, &ending(reason, params.note, &caller)).await? {
        EndAnswer::EndedNow(ended) => (true, ended),
        EndAnswer::EndedBefore(ended) => (false, ended),
        EndAnswer::Unknown(_) => return Err(Problem::unknown_session()),
    };
    let clear_cookie = clear_cookie(&app.sessions, ended.reason);
    Ok(ok(&EndedView { ended_now, reason: ended.reason.code(), clear_cookie }))
}

/// An ending on behalf of an API key. What people do themselves is not put down to the key that carried it.
pub(super) fn ending(reason: Reason, note: Option<Arc<str>>, caller: &Caller) -> Ending {
    let by_the_user = matches!(reason, Reason::SignedOut | Reason::SignedOutElsewhere);
    Ending { reason, by: (!by_the_user).then(|| Arc::clone(&caller.name)), note }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    user: Option<Arc<str>>,
    impersonated_by: Option<Arc<str>>,
    ip: Option<ClientIp>,
    device: Option<Arc<str>>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListView<'a> {
    sessions: Vec<SessionView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

pub(super) async fn list(
    _: May<Read>,
    State(app): State<App>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let ListParams { user, impersonated_by, ip, device, .. } = params;
    let query = Query { user, impersonated_by, ip: ip.map(ClientIp::get), device, last_seen_before: None };
    let after = params.cursor.map(Cursor::new);
    let page = app.sessions.find(&query, after.as_ref(), limit).await?;
    let sessions = page.items.iter().map(SessionView::from).collect();
    Ok(ok(&ListView { sessions, next: page.next.as_ref().map(Cursor::as_str) }))
}

/// How many items a page has: 50 unless asked otherwise.
pub(super) fn page_size(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(50) {
        limit @ 1..=500 => Ok(limit),
        limit => Err(Problem::new(Code::InvalidParameter, format!("limit: {limit} is not between 1 and 500"))),
    }
}
