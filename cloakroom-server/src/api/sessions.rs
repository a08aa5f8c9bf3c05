//! Rotating, showing, listing, counting and ending sessions.

use std::sync::Arc;

use axum::{Extension, response::Response};
use cloakroom::{
    Ending, Error, Found, Reason, Record, Rotate, Token, Visitor,
    client::ClientIp,
    error::ParseReasonError,
    rules::EndAnswer,
    sessions::RotatedToken,
    store::{Cursor, Query},
};
use cloakroom_api::{self as wire, ClientFacts, Counted, EndSession, ListSessions, Nothing};

use super::{
    App,
    call::Call,
    json::{self, PathId, ok},
    operation::{Attempt, Operation},
    problem::{Code, Problem},
    resume::{clear_cookie, for_holder},
    view::{self, Handed},
};

pub(super) async fn rotate(
    Call { app, attempt, body: request, .. }: Call<Nothing, wire::Rotate>,
) -> Result<Response, Problem> {
    let presented = json::token(&request.token)?;
    if request.grace_seconds.is_some_and(|grace| grace > 0) {
        let configured = app.sessions.settings().rotation_grace.as_secs();
        let detail = format!("grace_seconds: give 0, or leave it out for the {configured} that are configured");
        return Err(Problem::field(Code::InvalidField, "grace_seconds", detail));
    }
    let at_once = request.grace_seconds == Some(0);
    if at_once && let Some(again) = rotated_again(&app, attempt.as_ref(), &presented).await? {
        return Ok(again);
    }
    let ip = request.client.as_ref().and_then(ClientFacts::ip);
    let rotated = app.sessions.rotate(Rotate::new(Visitor::new(&presented).ip(ip)).at_once(at_once)).await;
    match rotated.map_err(|error| for_holder(&app.sessions, error))? {
        RotatedToken::Rotated { token, record } => {
            if at_once {
                app.operations.hand(attempt, record.info.id);
            }
            Ok(rotated_to(&app, &token, &record))
        }
        // The winner's answer brings the new cookie; this one's token works until then.
        RotatedToken::Superseded { record } => Ok(ok(&wire::Rotated {
            token: presented.reveal(),
            set_cookie: None,
            cookie: None,
            session: view::session(&record),
        })),
    }
}

fn rotated_to(app: &App, token: &Token, record: &Record) -> Response {
    let Handed { set_cookie, cookie } = Handed::new(&app.sessions, token, &record.info);
    ok(&wire::Rotated {
        token: token.reveal(),
        set_cookie: Some(set_cookie),
        cookie: Some(cookie),
        session: view::session(record),
    })
}

/// The answer of a repeat: the first try's rotation left the caller with a token that is dead.
async fn rotated_again(app: &App, attempt: Option<&Attempt>, spent: &Token) -> Result<Option<Response>, Problem> {
    let Some(session) = app.operations.handed(attempt) else { return Ok(None) };
    match app.sessions.hand_over_again(spent, session).await {
        Ok(handed) => Ok(Some(rotated_to(app, &handed.token, &handed.record))),
        Err(Error::UnknownSession | Error::Ended(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn show(PathId(id): PathId, Call { app, .. }: Call) -> Result<Response, Problem> {
    match app.sessions.get(id).await? {
        Found::Live(record) => Ok(ok(&view::shown(&record))),
        Found::Ended(ended) => Err(Problem::ended(&ended)),
        Found::Unknown => Err(Problem::unknown_session()),
    }
}

pub(super) async fn end(
    PathId(id): PathId,
    Extension(operation): Extension<Arc<Operation>>,
    Call { app, params, .. }: Call<EndSession>,
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
    let (ended_now, ended) = match app.sessions.end(id, &ending).await.map_err(Problem::of_parameter)? {
        EndAnswer::EndedNow(ended) => (true, ended),
        EndAnswer::EndedBefore(ended) => (operation.ended().contains(&id), ended),
        EndAnswer::Unknown(_) => return Err(Problem::unknown_session()),
    };
    let clear_cookie = clear_cookie(&app.sessions, ended.reason);
    Ok(ok(&wire::Ended { ended_now, reason: ended.reason.code().into(), clear_cookie }))
}

pub(super) async fn list(Call { app, params, .. }: Call<ListSessions>) -> Result<Response, Problem> {
    let limit = page_size(params.limit)?;
    let ListSessions { user, impersonated_by, ip, device, .. } = params;
    let query = Query { user, impersonated_by, ip: ip.map(ClientIp::get), device, last_seen_before: None };
    let after = params.cursor.map(Cursor::new);
    let page = app.sessions.find(&query, after.as_ref(), limit).await?;
    let sessions = page.items.iter().map(view::listed).collect();
    Ok(ok(&wire::Listed { sessions, next: page.next.as_ref().map(|next| next.as_str().into()) }))
}

/// How many sessions are counted at most: what is beyond takes too long to be counted on each request.
const MOST_COUNTED: u64 = 10_000;

pub(super) async fn count(Call { app, params, .. }: Call<wire::Count>) -> Result<Response, Problem> {
    let wire::Count { user, impersonated_by, ip, device } = params;
    let query = Query { user, impersonated_by, ip: ip.map(ClientIp::get), device, last_seen_before: None };
    let (mut count, mut after) = (0, None);
    loop {
        let page = app.sessions.find(&query, after.as_ref(), MOST_ON_A_PAGE).await?;
        count += page.items.len() as u64;
        after = page.next;
        if after.is_none() || count >= MOST_COUNTED {
            return Ok(ok(&Counted { count, exact: after.is_none() }));
        }
    }
}

/// How many items a page has at most.
pub(super) const MOST_ON_A_PAGE: usize = 500;

/// How many items a page has: 50 unless asked otherwise.
pub(super) fn page_size(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(50) {
        limit @ 1..=MOST_ON_A_PAGE => Ok(limit),
        limit => Err(Problem::parameter("limit", &format!("{limit} is not between 1 and {MOST_ON_A_PAGE}"))),
    }
}
