//! Starting sessions.

use std::{net::IpAddr, sync::Arc};

use axum::response::Response;
use cloakroom::{
    Client, Data, Ended, Found, Json, JsonRef, Limit, Reason, Record, SignIn, Started, Visitor, client::ClientIp,
};
use cloakroom_api::{self as wire, ClientFacts, End, Level, Nothing, TokenText};
use http::{HeaderMap, StatusCode};

use super::{
    App,
    call::Call,
    json,
    operation::{Attempt, IDEMPOTENCY_KEY},
    patch::idle,
    problem::Problem,
    view::{self, Handed},
};

pub(super) async fn start(
    headers: HeaderMap,
    Call { app, attempt, body: request, .. }: Call<Nothing, wire::Start>,
) -> Result<Response, Problem> {
    let given = json::entries(&request.data, "data", &app.sessions)?;
    let ip = request.client.as_ref().and_then(ClientFacts::ip);
    let fresh_data = request.fresh_data;
    let replaces = request.replaces.clone();
    let mut start = asked(request)?;
    let replaced = replaced(&app, replaces.as_ref(), ip).await?;
    if let Some(key) = idempotency_key(attempt.as_ref(), &headers) {
        start = start.idempotency_key(key);
    }
    let before = match &replaced {
        Replaced::Nothing => None,
        Replaced::Living(record) => Some(Arc::clone(record)),
        // The first try took its place, and has what was in it.
        Replaced::Taken => first_try(&app, attempt.as_ref(), &start).await?,
    };
    let carried = before.filter(|record| !fresh_data && start.may_carry_over(&record.info));
    start = start.data(merged(carried.as_deref(), given));
    if let Replaced::Living(record) = &replaced {
        start = start.in_place_of(&record.info);
    }
    let started = app.sessions.start(start).await?;
    app.operations.hand(attempt, started.record.info.id);
    Ok(answer(&app, &started))
}

/// A session that was started, for those who get its token.
pub(super) fn answer(app: &App, started: &Started) -> Response {
    let Handed { set_cookie, cookie } = Handed::new(&app.sessions, &started.token, &started.record.info);
    let view = wire::Started {
        token: started.token.reveal(),
        set_cookie,
        cookie,
        session: view::session(&started.record),
        ended: started.ended.iter().map(|ended| ended.id).collect(),
    };
    json::answer(StatusCode::CREATED, &view)
}

/// A call that has one is recognised by it, so that it was found to be text.
pub(super) fn idempotency_key(attempt: Option<&Attempt>, headers: &HeaderMap) -> Option<String> {
    attempt.and_then(|_| headers.get(IDEMPOTENCY_KEY)?.to_str().ok()).map(ToOwned::to_owned)
}

/// Where a visitor is.
pub(super) fn client(facts: Option<ClientFacts>) -> Client {
    let ClientFacts { ip, user_agent, device, country } = facts.unwrap_or_default();
    Client { ip: ip.map(ClientIp::get), user_agent, device, country }
}

/// What became of the session that the new one takes the place of.
enum Replaced {
    /// There is none, or it has no place to take.
    Nothing,
    Living(Arc<Record>),
    /// Another session took its place.
    Taken,
}

/// A token that opens nothing is a mistake that would otherwise leave a session behind.
async fn replaced(app: &App, text: Option<&TokenText>, ip: Option<IpAddr>) -> Result<Replaced, Problem> {
    let Some(text) = text else { return Ok(Replaced::Nothing) };
    let unknown = || Problem::unknown_session().with("field", &"replaces");
    let token = text.token().ok_or_else(unknown)?;
    match app.sessions.resume(Visitor::new(&token).ip(ip).touch(false)).await? {
        Found::Live(record) => Ok(Replaced::Living(record)),
        Found::Ended(Ended { reason: Reason::Replaced, .. }) => Ok(Replaced::Taken),
        Found::Ended(_) => Ok(Replaced::Nothing),
        Found::Unknown => Err(unknown()),
    }
}

/// The living session that an earlier try of this very call started, by this process or by another.
async fn first_try(app: &App, attempt: Option<&Attempt>, start: &SignIn) -> Result<Option<Arc<Record>>, Problem> {
    if let Some(id) = app.operations.handed(attempt)
        && let Found::Live(record) = app.sessions.get(id).await?
    {
        return Ok(Some(record));
    }
    Ok(app.sessions.earlier_try(start).await?)
}

/// What was there before, and over it what is given: built in one go.
fn merged(carried: Option<&Record>, given: Vec<(Arc<str>, Json)>) -> Data {
    let own = |(key, value): (&str, JsonRef<'_>)| (Arc::from(key), value.to_json());
    carried.into_iter().flat_map(|record| record.data.iter()).map(own).chain(given).collect()
}

/// All but its data, and what it replaces.
fn asked(request: wire::Start) -> Result<SignIn, Problem> {
    let idle = idle(request.idle_seconds, request.idle_milliseconds)?;
    let mut start = match request.user {
        Some(user) => SignIn::new(user),
        None => SignIn::anonymous(),
    };
    start = start.remember(request.remember).client(client(request.client));
    if let Some(name) = request.full_name {
        start = start.full_name(name);
    }
    if let Some(user_type) = request.user_type {
        start = start.user_type(user_type);
    }
    if let Some(user) = request.audit_user {
        start = start.audit_user(user);
    }
    if let Some(methods) = request.methods {
        start = start.methods(methods);
    }
    if let Some(Level(level)) = request.level {
        start = start.authenticated_level(level);
    }
    if let Some(idle) = idle {
        start = start.idle_timeout(idle);
    }
    start = match request.ends_at {
        Some(End::At(end)) => start.ends_at(end),
        Some(End::Never) => start.never_ends(),
        None => start,
    };
    if let Some(wire::Limit { max, when_full }) = request.limit {
        start = start.limit(Limit { max, when_full });
    }
    Ok(start)
}
