//! The rules as a tower layer.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{CsrfBody, Guard, Verdict, demand_token, settings};
use crate::web::{SessionBody, layer::Tower, problem, visit::Visit};

/// Refuses requests that another site makes a signed-in browser send: see [the module](super).
///
/// Goes within the [session layer](crate::web::SessionLayer). Calls that no browser makes (a payment provider's, say)
/// belong on a router of their own, beside this layer.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CsrfLayer {
    guard: Arc<Guard>,
}

settings!(CsrfLayer);

impl<S> Layer<S> for CsrfLayer {
    type Service = CsrfService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CsrfService { inner, guard: Arc::clone(&self.guard) }
    }
}

/// A service that other sites cannot use through a visitor's browser. Made by [`CsrfLayer`].
#[derive(Clone, Debug)]
pub struct CsrfService<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for CsrfService<S>
where
    S: Service<Request<CsrfBody<ReqBody>>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    ReqBody: Body<Data = Bytes> + Send + 'static,
    ReqBody::Error: Send,
{
    type Response = Response<SessionBody<ResBody>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let verdict = self.guard.judge::<Tower>(&parts);
        if matches!(verdict, Verdict::Pass) {
            let response = self.inner.call(Request::from_parts(parts, CsrfBody::unread(body)));
            return Box::pin(async move { Ok(response.await?.map(SessionBody::plain)) });
        }
        // The clone may not be ready: the one that was polled must do the work.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let Some(visit) = parts.extensions.get::<Arc<Visit<Tower>>>() else {
                let refusal = problem::set_up_wrongly(
                    "the CSRF layer is not within a session layer: add .layer(sessions.layer()) after it",
                );
                return Ok(refusal.map(SessionBody::answer));
            };
            match demand_token(visit, &parts, body, verdict).await {
                Ok(body) => Ok(inner.call(Request::from_parts(parts, body)).await?.map(SessionBody::plain)),
                Err(refusal) => Ok(refusal.map(SessionBody::answer)),
            }
        })
    }
}
