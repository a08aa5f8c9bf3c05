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
use http::{Method, Response, request::Parts};

use super::{Fresh, Next, SessionLayer, SignedIn, layer::Tower, problem, signed_in::Asking, visit::Visit};
use crate::{Error, Session, TrustedProxies};

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        let visit = visit(parts)?;
        Ok(visit.session(parts).await?.clone())
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
                    tracing::warn!(
                        "no address is recorded: serve with .into_make_service_with_connect_info::<SocketAddr>()"
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
        let session = visit.session(parts).await?;
        SignedIn::of(session).ok_or_else(|| Rejection::answering(asking(visit, parts).sign_in(session)))
    }
}

impl<S: Sync, const SECONDS: u64> FromRequestParts<S> for Fresh<SECONDS> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let user = <SignedIn as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        match user.require_authenticated_within(Duration::from_secs(SECONDS)) {
            Ok(()) => Ok(Self(user)),
            Err(error) => Err(Rejection::answering(asking(visit(parts)?, parts).sign_in_again(&error, SECONDS))),
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for SignedIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Rejection> {
        Ok(SignedIn::of(visit(parts)?.session(parts).await?))
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

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Self(Box::new(error.into_response()))
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

/// What is asked for, by somebody who must sign in for it.
fn asking<'a>(visit: &'a Visit<Tower>, parts: &'a Parts) -> Asking<'a> {
    Asking {
        reads: parts.method == Method::GET || parts.method == Method::HEAD,
        wanted: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        sign_in_page: visit.config().sign_in_page.as_deref(),
    }
}

fn visit(parts: &Parts) -> Result<&Visit<Tower>, Rejection> {
    let visit = parts.extensions.get::<Arc<Visit<Tower>>>().map(|visit| &**visit);
    visit.ok_or_else(|| {
        tracing::error!(
            "a handler asks for its session, but no session layer is around it: add .layer(sessions.layer())"
        );
        Rejection::answering(problem::set_up_wrongly())
    })
}
