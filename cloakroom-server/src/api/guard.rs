//! What stands before every call: the API key and its scope, and a bound on the body.

use std::{net::IpAddr, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use http_body_util::{BodyExt, Limited};

use super::{
    App, call,
    problem::{Code, Problem},
    routes::{self, Route},
    work,
};
use crate::{
    keys::{Caller, Scope, Verdict},
    server::Peer,
};

/// Goes with a call that the console makes for an operator, who showed the key when they signed in. No request brings one.
#[derive(Clone, Debug)]
pub(crate) struct Admitted(pub(crate) Caller);

/// Lets those in whose key may make this call, with their whole body in memory.
pub(super) async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    // Without one, the answer is that the path does not take the method.
    let Some(route) = routes::of(&request) else { return next.run(request).await };
    let (mut parts, body) = request.into_parts();
    let caller = match (route.scope, parts.extensions.remove()) {
        (None, _) => None,
        (Some(_), Some(Admitted(caller))) => Some(caller),
        (Some(_), None) => match caller(&app, &parts) {
            Ok(caller) => caller,
            Err(refused) => return *refused,
        },
    };
    let mut response = match check(route, caller.as_ref(), &parts.headers) {
        Ok(()) => match read(&parts.headers, body, app.bounds.max_body, app.bounds.body_timeout).await {
            Ok(body) => {
                if let Some(caller) = &caller {
                    parts.extensions.insert(caller.clone());
                }
                let request = work::Request { route, caller: caller.clone(), parts, body };
                work::carry_out(&app, request, next).await
            }
            Err(problem) => problem.into_response(),
        },
        Err(problem) => {
            discard(&parts.headers, body, app.bounds.body_timeout).await;
            problem.into_response()
        }
    };
    if let Some(caller) = caller {
        response.extensions_mut().insert(caller);
    }
    // Answers hold tokens and personal data, unless a call says that it is public.
    let said = response.headers().get(header::CACHE_CONTROL);
    if !said.is_some_and(|said| said.as_bytes().starts_with(b"public")) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn check(route: &Route, caller: Option<&Caller>, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(scope) = route.scope {
        require(caller, scope)?;
    }
    call::check_encoding(headers)
}

pub(super) fn require(caller: Option<&Caller>, scope: Scope) -> Result<(), Problem> {
    let Some(caller) = caller else {
        let detail = "Send the header Authorization: Bearer KEY with an API key of this server.";
        return Err(Problem::new(Code::Unauthorized, detail));
    };
    if caller.scope < scope {
        let (has, needed) = (caller.scope.name(), scope.name());
        let detail = format!("This call needs a key of scope {needed}; {:?} has scope {has}.", caller.name);
        return Err(Problem::new(Code::ScopeMissing, detail).with("scope", &needed));
    }
    Ok(())
}

/// The caller that the request's key names, if it is one of ours. After too many that are not, nothing else is looked at.
fn caller(app: &App, parts: &Parts) -> Result<Option<Caller>, Box<Response>> {
    let client = client(app, parts);
    match judge(app, client, &parts.headers) {
        Verdict::Admitted(caller) => Ok(Some(caller)),
        Verdict::Missing | Verdict::Refused { .. } => Ok(None),
        Verdict::TooMany { wait, .. } => Err(Box::new(too_many(wait))),
    }
}

/// Judges the key of a request from `client`, and tells the log of those that are refused.
pub(crate) fn judge(app: &App, client: Option<IpAddr>, headers: &HeaderMap) -> Verdict {
    let verdict = app.attempts.judge(&app.keys, client, headers, app.sessions.now());
    let client = || client.map_or_else(|| "hidden by a proxy".to_owned(), |address| address.to_canonical().to_string());
    match verdict {
        Verdict::Refused { unlogged } => {
            tracing::warn!(client = client(), unlogged, "a request with a wrong API key was refused");
        }
        Verdict::TooMany { first: true, .. } => {
            tracing::warn!(client = client(), "too many wrong API keys: the client is refused until it has waited");
        }
        _ => {}
    }
    verdict
}

/// Where a request comes from, as far as it is known.
pub(crate) fn client(app: &App, parts: &Parts) -> Option<IpAddr> {
    let Peer(peer) = *parts.extensions.get()?;
    match &app.trusted_proxies {
        Some(proxies) => proxies.client(peer, &parts.headers),
        None => Some(peer),
    }
}

/// Neither the body nor another request is waited for on this connection.
fn too_many(wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let detail = format!("Too many requests with wrong API keys came from this address. Try again in {seconds} s.");
    let mut response = Problem::new(Code::TooManyKeys, detail).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn read(headers: &HeaderMap, mut body: Body, limit: usize, timeout: Duration) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("The body may have {limit} bytes.");
        Problem::new(Code::BodyTooLarge, detail).with("limit", &limit)
    };
    if declared_length(headers).is_some_and(|length| length > limit as u64) {
        discard(headers, body, timeout).await;
        return Err(too_large());
    }
    match tokio::time::timeout(timeout, Limited::new(&mut body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            discard(headers, body, timeout).await;
            Err(too_large())
        }
        Ok(Err(_)) => Err(Problem::new(Code::MalformedJson, "The body broke off.")),
        Err(_) => Err(Problem::new(Code::RequestTimeout, format!("The body did not arrive within {timeout:?}."))),
    }
}

/// So much of an unwanted body is read and dropped, so that a client that sends all of it first still gets its answer
/// instead of a connection that is cut.
const MOST_DISCARDED: usize = 64 << 20;

pub(super) async fn discard(headers: &HeaderMap, body: Body, timeout: Duration) {
    // Such a client waits for our consent before it sends anything; not reading withholds it.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut body = Limited::new(body, MOST_DISCARDED);
    let drain = async { while let Some(Ok(_)) = body.frame().await {} };
    // Late or too much: the connection is cut after all.
    tokio::time::timeout(timeout, drain).await.unwrap_or_default();
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
