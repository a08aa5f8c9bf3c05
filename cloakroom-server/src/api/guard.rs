//! What stands before every call that needs an API key: the key, and a bound on the body.

use std::{marker::PhantomData, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use http_body_util::{BodyExt, Limited};

use super::{
    App,
    problem::{Code, Problem},
};
use crate::keys::{Caller, Scope};

/// Lets those with a key in, with their whole body in memory.
pub(super) async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(caller) = app.keys.caller(&parts.headers) else {
        discard(&parts.headers, body, app.bounds.body_timeout).await;
        let detail = "Send the header Authorization: Bearer KEY with an API key of this server.";
        return Problem::new(Code::Unauthorized, detail).into_response();
    };
    let mut response = match read(&parts.headers, body, app.bounds.max_body, app.bounds.body_timeout).await {
        Ok(body) => {
            parts.extensions.insert(caller.clone());
            next.run(Request::from_parts(parts, Body::from(body))).await
        }
        Err(problem) => problem.into_response(),
    };
    response.extensions_mut().insert(caller);
    // Answers hold tokens and personal data.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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

/// A caller whose key has a scope. Each handler takes one, so that none can be reached without.
#[derive(Debug)]
pub(super) struct May<P> {
    pub(super) caller: Caller,
    scope: PhantomData<P>,
}

/// A scope, as a type.
pub(super) trait Permission {
    const SCOPE: Scope;
}

macro_rules! permissions {
    ($($name:ident)+) => {$(
        #[derive(Debug)]
        pub(super) struct $name;

        impl Permission for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+};
}

permissions!(Read Write Admin);

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for May<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = require(parts.extensions.get(), P::SCOPE)?;
        Ok(Self { caller, scope: PhantomData })
    }
}

fn require(caller: Option<&Caller>, scope: Scope) -> Result<Caller, Problem> {
    let Some(caller) = caller else {
        return Err(Problem::new(Code::Unauthorized, "This call needs an API key."));
    };
    if caller.scope < scope {
        let (has, needed) = (caller.scope.name(), scope.name());
        let detail = format!("This call needs a key of scope {needed}; {:?} has scope {has}.", caller.name);
        return Err(Problem::new(Code::ScopeMissing, detail).with("scope", &needed));
    }
    Ok(caller.clone())
}
