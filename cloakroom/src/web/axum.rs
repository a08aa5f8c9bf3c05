//! Extractors for axum: [`Session`] and [`SignedIn`].

use std::sync::Arc;

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response as AxumResponse},
};
use bytes::Bytes;
use http::{Method, Response, request::Parts};

use super::{SignedIn, layer::Tower, problem, signed_in::Stranger, visit::Visit};
use crate::{Error, Session};

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        let visit = visit(parts)?;
        Ok(visit.session(parts).await?.clone())
    }
}

impl<S: Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        let visit = visit(parts)?;
        let session = visit.session(parts).await?;
        SignedIn::of(session).ok_or_else(|| {
            let reads = parts.method == Method::GET || parts.method == Method::HEAD;
            let wanted = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let stranger = Stranger { session, reads, wanted };
            Rejection::answering(stranger.turned_away(visit.config().sign_in_page.as_deref()))
        })
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for SignedIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Rejection> {
        Ok(SignedIn::of(visit(parts)?.session(parts).await?))
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

fn visit(parts: &Parts) -> Result<&Visit<Tower>, Rejection> {
    let visit = parts.extensions.get::<Arc<Visit<Tower>>>().map(|visit| &**visit);
    visit.ok_or_else(|| {
        tracing::error!(
            "a handler asks for its session, but no session layer is around it: add .layer(sessions.layer())"
        );
        Rejection::answering(problem::set_up_wrongly())
    })
}
