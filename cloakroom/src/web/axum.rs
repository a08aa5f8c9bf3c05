//! Extractors for axum: [`Session`], [`SignedIn`], [`Fresh`] and [`Next`].

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Once},
    time::Duration,
};

use axum::extract::ConnectInfo;
use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response as AxumResponse},
};
use bytes::Bytes;
use http::{Response, request::Parts};

use super::{Fresh, Next, Refused, SessionLayer, SignedIn, layer::Tower, problem, visit::Visit};
use crate::{client::TrustedProxies, error::Error, session::Session};

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        Ok(session(visit(parts)?, parts).await?.clone())
    }
}

impl SessionLayer {
    /// Records where a request comes from: the connection's other end or, behind these proxies, whom they name. Needs the
    /// connection's address, which axum gives with `into_make_service_with_connect_info::<SocketAddr>()`. Takes the place
    /// of [`client_ip`](Self::client_ip).
    pub fn trusted_proxies(self, proxies: TrustedProxies) -> Self {
        let told = Once::new();
        self.client_ip(move |parts| {
            let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
            if peer.is_none() {
                told.call_once(|| {
                    problem::tell(
                        "no address is recorded: serve with .into_make_service_with_connect_info::<SocketAddr>()",
                    );
                });
            }
            proxies.client(peer?.0.ip(), &parts.headers)
        })
    }
}

impl<S: Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        let visit = visit(parts)?;
        let session = session(visit, parts).await?;
        SignedIn::of(session).ok_or_else(|| Rejection::answering(visit.refuse(parts, &SignedIn::lacking(session))))
    }
}

impl<S: Sync, const SECONDS: u64> FromRequestParts<S> for Fresh<SECONDS> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let user = <SignedIn as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let max_age = Duration::from_secs(SECONDS);
        match user.require_authenticated_within(max_age) {
            Ok(()) => Ok(Self(user)),
            Err(_) => Err(Rejection::answering(visit(parts)?.refuse(parts, &Refused::NotFresh { max_age }))),
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for SignedIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Rejection> {
        Ok(SignedIn::of(session(visit(parts)?, parts).await?))
    }
}

impl<S: Sync> FromRequestParts<S> for Next {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::of_query(parts.uri.query()).unwrap_or_default())
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Next {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::of_query(parts.uri.query()))
    }
}

/// Why a handler did not get its session.
#[derive(Debug)]
pub struct Rejection(Box<AxumResponse>);

impl Rejection {
    fn answering(response: Response<Bytes>) -> Self {
        Self(Box::new(response.map(Body::from)))
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> AxumResponse {
        *self.0
    }
}

impl IntoResponse for Error {
    /// As a problem document: 401 for a session that ended, 403 and 409 for a refused sign-in, 503 with `Retry-After` while the
    /// store is unavailable, 500 otherwise. Details that are not for the visitor go to the log.
    fn into_response(self) -> AxumResponse {
        problem::logged(&self).map(Body::from)
    }
}

async fn session<'a>(visit: &'a Visit<Tower>, parts: &Parts) -> Result<&'a Session, Rejection> {
    let loaded = visit.session(parts).await;
    loaded.map_err(|error| Rejection::answering(visit.refuse(parts, &Refused::NotLoaded(&error))))
}

fn visit(parts: &Parts) -> Result<&Visit<Tower>, Rejection> {
    let visit = parts.extensions.get::<Arc<Visit<Tower>>>().map(|visit| &**visit);
    visit.ok_or_else(|| {
        Rejection::answering(problem::set_up_wrongly(
            "a handler asks for its session, but no session layer is around it: add .layer(sessions.layer())",
        ))
    })
}
