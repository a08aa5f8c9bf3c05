//! Resuming, rotating, showing, listing and ending sessions.

use std::{net::IpAddr, sync::Arc};

use axum::{Extension, response::Response};
use cloakroom::{
    ClientIp, Ended, Ending, Found, ParseReasonError, Reason, RotatedToken, Sessions,
    store::{Cursor, EndAnswer, Query},
};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    call::Call,
    json::{self, PathId, TokenText, ok},
    operation::Operation,
    problem::{Code, Problem},
    start::ClientRequest,
    strict::{AtMost, Nothing},
    view::SessionView,
};

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

pub(super) async fn resume(Call { app, body: request, .. }: Call<Nothing, ResumeRequest>) -> Result<Response, Problem> {
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
    tokens: AtMost<TokenText, 100>,
    client: Option<ClientRequest>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Resumed<'a> {
    Session(Box<SessionView<'a>>),
    Problem(Problem),
}

/// So many sessions are loaded at a time.
const LOADED_AT_ONCE: usize = 16;
/// After so many bytes of an answer others have their turn.
const PAUSE_AFTER: usize = 256 << 10;

pub(super) async fn resume_many(
    Call { app, body: request, .. }: Call<Nothing, ResumeManyRequest>,
) -> Result<Response, Problem> {
    let ip = request.client.as_ref().and_then(ClientRequest::ip);
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

/// One of the results, as text.
async fn resumed(sessions: &Sessions, token: &TokenText, ip: Option<IpAddr>) -> Result<Vec<u8>, Problem> {
    let found = find(sessions, token, ip, true).await;
    let view = match &found {
        Ok(found) => {
            living(sessions, found).map_or_else(Resumed::Problem, |session| Resumed::Session(Box::new(session)))
        }
        // One whose user is refused says nothing about the others.
        Err(cloakroom::Error::Refused(refusal)) => Resumed::Problem(cloakroom::Error::Refused(*refusal).into()),
        Err(_) => return Err(found.err().map_or_else(Problem::unknown_session, Problem::from)),
    };
    serde_json::to_vec(&view).map_err(|error| Problem::new(Code::Internal, error.to_string()))
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

pub(super) async fn rotate(Call { app, body: request, .. }: Call<Nothing, RotateRequest>) -> Result<Response, Problem> {
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

pub(super) async fn show(PathId(id): PathId, Call { app, .. }: Call) -> Result<Response, Problem> {
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
    PathId(id): PathId,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, params, .. }: Call<EndParams>,
) -> Result<Response, Problem> {
    let reason = match params.reason.as_deref() {
        Some(text) => {
            text.parse().map_err(|error: ParseReasonError| Problem::parameter("reason", &error.to_string()))?
        }
        None => Reason::SignedOut,
    };
    let ending = Ending { reason, by: None, note: params.note };
    operation.settle(&app.sessions, &ending).await?;
    operation.is_about_to_end(&[id]);
    let (ended_now, ended) = match app.sessions.end(id, &ending).await? {
        EndAnswer::EndedNow(ended) => (true, ended),
        EndAnswer::EndedBefore(ended) => (operation.ended().contains(&id), ended),
        EndAnswer::Unknown(_) => return Err(Problem::unknown_session()),
    };
    let clear_cookie = clear_cookie(&app.sessions, ended.reason);
    Ok(ok(&EndedView { ended_now, reason: ended.reason.code(), clear_cookie }))
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

pub(super) async fn list(Call { app, params, .. }: Call<ListParams>) -> Result<Response, Problem> {
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
        limit => Err(Problem::parameter("limit", &format!("{limit} is not between 1 and 500"))),
    }
}
