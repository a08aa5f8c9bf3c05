//! The tower layer: gives every request its session, and tells the client what became of it.
//!
//! The session is loaded when a handler asks for it, and what changed is stored before the response's head is sent.
//! A request whose handler never asks costs no call of the store.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, header, request,
    uri::{Authority, PathAndQuery},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Locking, SessionBody,
    visit::{Config, Framework, Visit, settings},
};
use crate::{error::Result, sessions::Sessions};

/// Gives every request its session. Made by [`Sessions::layer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionLayer {
    config: Arc<Config<Tower>>,
}

impl Sessions {
    /// The layer that gives every request its session.
    pub fn layer(&self) -> SessionLayer {
        SessionLayer { config: Arc::new(Config::new(self)) }
    }
}

settings!(SessionLayer, request::Parts, Response<Bytes>);

impl SessionLayer {
    fn configure(mut self, change: impl FnOnce(&mut Config<Tower>)) -> Self {
        let config = Arc::get_mut(&mut self.config);
        change(config.expect("a layer is configured before it is cloned into a service"));
        self
    }
}

/// Requests and responses as tower services know them.
pub(super) struct Tower;

impl Framework for Tower {
    type Request = request::Parts;
    type Answer = Response<Bytes>;

    fn method(parts: &request::Parts) -> &str {
        parts.method.as_str()
    }

    fn authority(parts: &request::Parts) -> Option<&str> {
        parts.uri.authority().map(Authority::as_str)
    }

    fn path(parts: &request::Parts) -> &str {
        parts.uri.path()
    }

    fn path_and_query(parts: &request::Parts) -> &str {
        parts.uri.path_and_query().map_or("/", PathAndQuery::as_str)
    }

    fn header_values<'a>(parts: &'a request::Parts, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        parts.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn user_agent(parts: &request::Parts) -> Option<HeaderValue> {
        parts.headers.get(header::USER_AGENT).cloned()
    }

    fn is_redirection(answer: &Response<Bytes>) -> bool {
        answer.status().is_redirection()
    }

    fn answer(response: Response<Bytes>) -> Response<Bytes> {
        response
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService { inner, layer: self.clone() }
    }
}

/// A service whose requests have sessions.
#[derive(Clone, Debug)]
pub struct SessionService<S> {
    inner: S,
    layer: SessionLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SessionService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    ReqBody: Send + 'static,
    ResBody: Send + 'static,
{
    type Response = Response<SessionBody<ResBody>>;
    type Error = S::Error;
    type Future = SessionFuture<S::Future, ResBody, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let visit = Arc::new(Visit::new(&self.layer.config));
        request.extensions_mut().insert(Arc::clone(&visit));
        if self.layer.config.loads_early() {
            // The clone may not be ready: the one that was polled must do the work.
            let clone = self.inner.clone();
            let mut inner = std::mem::replace(&mut self.inner, clone);
            return SessionFuture::whole(async move {
                let (parts, body) = request.into_parts();
                if let Err(error) = visit.session(&parts).await {
                    tracing::warn!(%error, "the session of a request could not be loaded");
                    if visit.config().locking == Locking::Early {
                        return Ok((visit.config().on_commit_error)(&error).map(SessionBody::answer));
                    }
                }
                let response = inner.call(Request::from_parts(parts, body)).await?;
                Ok(store_and_depart(visit, response).await)
            });
        }
        SessionFuture::handling(self.inner.call(request), visit)
    }
}

pin_project! {
    /// The response of a [`SessionService`].
    pub struct SessionFuture<F, B, E> {
        #[pin]
        step: Step<F, B, E>,
    }
}

type Whole<B, E> = Pin<Box<dyn Future<Output = Result<Response<SessionBody<B>>, E>> + Send>>;

pin_project! {
    #[project = StepProjection]
    enum Step<F, B, E> {
        Handling { #[pin] inner: F, visit: Option<Arc<Visit<Tower>>> },
        // Boxed, so that requests which change nothing do not make room for it.
        Storing { whole: Whole<B, E> },
    }
}

impl<F, B, E> SessionFuture<F, B, E> {
    fn handling(inner: F, visit: Arc<Visit<Tower>>) -> Self {
        Self { step: Step::Handling { inner, visit: Some(visit) } }
    }

    fn whole(whole: impl Future<Output = Result<Response<SessionBody<B>>, E>> + Send + 'static) -> Self {
        Self { step: Step::Storing { whole: Box::pin(whole) } }
    }
}

impl<F, B, E> Future for SessionFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Send + 'static,
{
    type Output = Result<Response<SessionBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let (response, visit) = match self.as_mut().project().step.project() {
                StepProjection::Storing { whole } => return whole.as_mut().poll(context),
                StepProjection::Handling { inner, visit } => {
                    let response = ready!(inner.poll(context))?;
                    (response, visit.take().expect("a future is not polled after it is ready"))
                }
            };
            if !visit.must_store(response.status()) {
                return Poll::Ready(Ok(depart(&visit, response, Ok(()))));
            }
            let whole = Self::whole(async move { Ok(store_and_depart(visit, response).await) });
            self.set(whole);
        }
    }
}

impl<F, B, E> fmt::Debug for SessionFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionFuture")
    }
}

async fn store_and_depart<B>(visit: Arc<Visit<Tower>>, response: Response<B>) -> Response<SessionBody<B>> {
    let stored = if visit.must_store(response.status()) { visit.store(is_held(&visit)).await } else { Ok(()) };
    depart(&visit, response, stored)
}

/// Whether somebody beside the layer may get at the visit's session.
fn is_held(visit: &Arc<Visit<Tower>>) -> bool {
    Arc::strong_count(visit) > 1
}

fn depart<B>(visit: &Arc<Visit<Tower>>, response: Response<B>, stored: Result<()>) -> Response<SessionBody<B>> {
    let Some(leaving) = visit.depart(response.status(), is_held(visit), stored) else {
        return response.map(SessionBody::plain);
    };
    let mut response = match (leaving.instead, leaving.watch) {
        (Some(answer), _) => answer.map(SessionBody::answer),
        (None, Some(watch)) => response.map(|body| SessionBody::watched(body, watch)),
        (None, None) => response.map(SessionBody::plain),
    };
    let headers = response.headers_mut();
    for set_cookie in leaving.set_cookies {
        let mut value = HeaderValue::try_from(set_cookie).expect("the settings were checked to be printable");
        value.set_sensitive(true);
        headers.append(header::SET_COOKIE, value);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(what) = leaving.clear_site_data {
        headers.insert("clear-site-data", HeaderValue::from_static(what));
    }
    response
}
