//! The middleware and the extractors for actix-web.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web::get};
//! use cloakroom::{Result, Session, Sessions};
//!
//! async fn home(session: Session) -> Result<String> {
//!     let visits = session.modify_now("visits", |n: Option<u32>| n.unwrap_or(0) + 1).await?;
//!     Ok(format!("visit {visits}"))
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//!     let sessions = Sessions::open("sqlite:sessions.db").await?;
//!     let middleware = sessions.middleware();
//!     let server = HttpServer::new(move || App::new().wrap(middleware.clone()).route("/", get().to(home)));
//!     server.bind("127.0.0.1:3000")?.run().await?;
//!     sessions.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! Open the sessions before the server, in `main`: their upkeep runs on the runtime they are opened on, and all workers
//! share them. Opened in the closure that makes the `App`, each worker would have a service of its own, whose upkeep
//! ends with that worker.

mod csrf;
mod extract;

use std::{
    cell::RefCell,
    fmt,
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError,
    body::{BodySize, BoxBody, EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform},
    error::InternalError,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, USER_AGENT},
        uri::{Authority, PathAndQuery},
    },
};
use bytes::Bytes;
use pin_project_lite::pin_project;

use super::{
    Locking, problem,
    visit::{Config, Framework, Leaving, Visit, settings},
    watch::Watch,
};
use crate::{error::Error, sessions::Sessions};

pub use csrf::{CsrfMiddleware, CsrfService};

/// Gives every request its session. Made by [`Sessions::middleware`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionMiddleware {
    config: Arc<Config<Actix>>,
}

impl Sessions {
    /// The middleware that gives every request its session, for actix-web's `App::wrap`.
    pub fn middleware(&self) -> SessionMiddleware {
        SessionMiddleware { config: Arc::new(Config::new(self)) }
    }
}

settings!(SessionMiddleware, HttpRequest, HttpResponse);

impl SessionMiddleware {
    fn configure(mut self, change: impl FnOnce(&mut Config<Actix>)) -> Self {
        let config = Arc::get_mut(&mut self.config);
        change(config.expect("a middleware is configured before it is cloned"));
        self
    }
}

/// Requests and responses as actix-web knows them.
struct Actix;

impl Framework for Actix {
    type Request = HttpRequest;
    type Answer = HttpResponse;

    fn method(request: &HttpRequest) -> &str {
        request.method().as_str()
    }

    fn authority(request: &HttpRequest) -> Option<&str> {
        request.uri().authority().map(Authority::as_str)
    }

    fn path(request: &HttpRequest) -> &str {
        request.path()
    }

    fn path_and_query(request: &HttpRequest) -> &str {
        request.uri().path_and_query().map_or("/", PathAndQuery::as_str)
    }

    fn header_values<'a>(request: &'a HttpRequest, name: &http::HeaderName) -> impl Iterator<Item = &'a [u8]> {
        request.headers().get_all(name.as_str()).map(HeaderValue::as_bytes)
    }

    fn user_agent(request: &HttpRequest) -> Option<http::HeaderValue> {
        http::HeaderValue::from_bytes(request.headers().get(USER_AGENT)?.as_bytes()).ok()
    }

    fn is_redirection(answer: &HttpResponse) -> bool {
        answer.status().is_redirection()
    }

    fn answer(response: http::Response<Bytes>) -> HttpResponse {
        answer(response)
    }
}

impl<S, B> Transform<S, ServiceRequest> for SessionMiddleware
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<SessionBody<B>>;
    type Error = actix_web::Error;
    type Transform = SessionService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(SessionService { inner: Rc::new(inner), middleware: self.clone() }))
    }
}

/// A service whose requests have sessions.
#[derive(Debug)]
pub struct SessionService<S> {
    inner: Rc<S>,
    middleware: SessionMiddleware,
}

impl<S, B> Service<ServiceRequest> for SessionService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<SessionBody<B>>;
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let config = &self.middleware.config;
        let guest = Rc::new(Guest { visit: Visit::new(config), failure: RefCell::default() });
        actix_web::HttpMessage::extensions_mut(&request).insert(Rc::clone(&guest));
        if config.loads_early() {
            let inner = Rc::clone(&self.inner);
            return Box::pin(async move {
                if let Err(error) = guest.visit.session(request.request()).await {
                    tracing::warn!(%error, "the session of a request could not be loaded");
                    if guest.visit.config().locking == Locking::Early {
                        let answer = (guest.visit.config().on_commit_error)(&error);
                        return Ok(request.into_response(answer.map_body(|_, body| SessionBody::answer(body))));
                    }
                }
                guest.leave(inner.call(request).await).await
            });
        }
        let response = self.inner.call(request);
        Box::pin(async move { guest.leave(response.await).await })
    }
}

/// The visit of one request, as its handler gets at it.
struct Guest {
    visit: Visit<Actix>,
    /// Why the session could not be loaded when it was last asked for.
    failure: RefCell<Option<Rc<Error>>>,
}

impl Guest {
    async fn leave<B: MessageBody + 'static>(
        &self,
        response: Result<ServiceResponse<B>, actix_web::Error>,
    ) -> Result<ServiceResponse<SessionBody<B>>, actix_web::Error> {
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(self.leave_with(error).await),
        };
        let status = http_status(response.status());
        // actix-web's Option and Result take any extractor's error for nobody. That the store cannot be asked does not
        // mean that nobody is there.
        let failure = self.failure.take().filter(|_| !status.is_server_error());
        if let Some(error) = failure {
            let answer = (self.visit.config().on_commit_error)(&error);
            return Ok(response.into_response(answer.map_body(|_, body| SessionBody::answer(body))));
        }
        let Some(mut leaving) = self.visit.leave(status, false).await else {
            return Ok(response.map_body(|_, body| SessionBody::watched(body, Watch::nothing())));
        };
        let mut response = if let Some(answer) = leaving.instead.take() {
            response.into_response(answer.map_body(|_, body| SessionBody::answer(body)))
        } else {
            // A body that holds the request can still ask for the session.
            let watch = leaving.watch.take().or_else(|| self.visit.watch()).unwrap_or_else(Watch::nothing);
            response.map_body(|_, body| SessionBody::watched(body, watch))
        };
        write_head(response.headers_mut(), leaving);
        Ok(response)
    }

    /// An inner middleware's error is made a response outside of all of them: what this one has to say goes along.
    async fn leave_with(&self, error: actix_web::Error) -> actix_web::Error {
        let status = http_status(error.as_response_error().status_code());
        let Some(mut leaving) = self.visit.leave(status, false).await else { return error };
        let instead = leaving.instead.take();
        if instead.is_none() && leaving.set_cookies.is_empty() && leaving.clear_site_data.is_none() {
            return error;
        }
        let mut response = instead.unwrap_or_else(|| error.error_response());
        write_head(response.headers_mut(), leaving);
        InternalError::from_response(error, response).into()
    }
}

fn write_head(headers: &mut HeaderMap, leaving: Leaving<HttpResponse>) {
    for set_cookie in leaving.set_cookies {
        let mut value = HeaderValue::try_from(set_cookie).expect("the settings were checked to be printable");
        value.set_sensitive(true);
        headers.append(SET_COOKIE, value);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(what) = leaving.clear_site_data {
        headers.insert(HeaderName::from_static("clear-site-data"), HeaderValue::from_static(what));
    }
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        actix_status(problem::response(self).status())
    }

    /// As a problem document: 401 for a session that ended, 403 and 409 for a refused sign-in, 503 with `Retry-After` while the
    /// store is unavailable, 500 otherwise. Details that are not for the visitor go to the log.
    fn error_response(&self) -> HttpResponse {
        answer(problem::logged(self))
    }
}

/// A response of ours as one of actix-web's, which builds on an older version of the crate `http`.
fn answer(response: http::Response<Bytes>) -> HttpResponse {
    let (head, body) = response.into_parts();
    let mut answer = HttpResponseBuilder::new(actix_status(head.status));
    for (name, value) in &head.headers {
        answer.append_header((name.as_str(), value.as_bytes()));
    }
    answer.body(body)
}

fn actix_status(status: http::StatusCode) -> StatusCode {
    StatusCode::from_u16(status.as_u16()).expect("both versions count from 100 to 999")
}

fn http_status(status: StatusCode) -> http::StatusCode {
    http::StatusCode::from_u16(status.as_u16()).expect("both versions count from 100 to 999")
}

pin_project! {
    /// The body of a response from a [`SessionService`]: the inner service's, and what it still changes in the session
    /// is stored at its end, or when it is dropped.
    pub struct SessionBody<B> {
        #[pin]
        body: EitherBody<B>,
        watch: Watch,
    }
}

impl<B: MessageBody + 'static> SessionBody<B> {
    fn watched(body: B, watch: Watch) -> Self {
        Self { body: EitherBody::left(body), watch }
    }

    fn answer(body: BoxBody) -> Self {
        Self { body: EitherBody::right(body), watch: Watch::nothing() }
    }
}

impl<B: MessageBody + 'static> MessageBody for SessionBody<B> {
    type Error = actix_web::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.project();
        if !this.watch.is_storing()
            && let Some(part) = ready!(this.body.poll_next(context))
        {
            return Poll::Ready(Some(part.map_err(Into::into)));
        }
        ready!(this.watch.poll_commit(context));
        Poll::Ready(None)
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        if self.watch.is_on() {
            return Err(self);
        }
        let Self { body, watch } = self;
        body.try_into_bytes().map_err(|body| Self { body, watch })
    }
}

impl<B> fmt::Debug for SessionBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBody").field("watched", &self.watch.is_on()).finish_non_exhaustive()
    }
}
