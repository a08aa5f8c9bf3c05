//! Refuses requests that another site makes a signed-in browser send (cross-site request forgery).
//!
//! A browser sends the session cookie along whoever wrote the form. So a request that changes something must show that it
//! comes from a page of ours. Any one of these does:
//!
//! | | |
//! |---|---|
//! | `Sec-Fetch-Site` | says `same-origin`, or `none`: the person did it themselves |
//! | `Origin` | is one of the [trusted](CsrfLayer::trust_origin), or, from a browser that sends no `Sec-Fetch-Site`, names the host that the request is for |
//! | a [token](crate::Session::csrf_token) | in the header `X-CSRF-Token` or the form field `csrf_token` |
//!
//! Every browser of today sends the first by itself, over https. So pages need no token, unless the layer
//! [asks for it](CsrfLayer::require_token).
//!
#![cfg_attr(feature = "axum", doc = "```")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! use axum::{Router, routing::post};
//! use cloakroom::{Sessions, web::CsrfLayer};
//! # use axum::{body::Body, http::{Request, StatusCode}};
//! # use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sessions = Sessions::open("memory:").await?;
//! let app: Router = Router::new()
//!     .route("/order", post(|| async { "ordered" }))
//!     .layer(CsrfLayer::new()) // Within the session layer, so before it.
//!     .layer(sessions.layer());
//!
//! let send = |site: &str| {
//!     let request = Request::post("/order").header("Sec-Fetch-Site", site).body(Body::empty());
//!     app.clone().oneshot(request.unwrap())
//! };
//! assert_eq!(send("same-origin").await?.status(), StatusCode::OK);
//! assert_eq!(send("cross-site").await?.status(), StatusCode::FORBIDDEN);
//! # Ok(()) }
//! ```

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{SessionBody, layer::Tower, problem, visit::Visit};
use crate::{Result, Session};

mod form;
mod origin;
mod proof;

pub use form::CsrfBody;

use origin::WebOrigin;
use proof::Verdict;

/// Refuses requests that another site makes a signed-in browser send: see [the module](self).
///
/// Goes within the [session layer](super::SessionLayer). Whoever is refused is answered 403 with a problem document of the
/// code `csrf_refused`; it is logged, and audited where the request has a session. A request that passes without
/// a token costs no call of the store.
///
/// `GET`, `HEAD`, `OPTIONS` and `TRACE` pass: a handler for them must not change anything that matters. A request to change
/// the protocol, as a WebSocket begins, counts as one that changes something. Calls that no browser makes (a payment
/// provider's, say) belong on a router of their own, beside this layer.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CsrfLayer {
    guard: Arc<Guard>,
}

/// What is asked of a request.
#[derive(Clone, Debug, Default)]
struct Guard {
    trusted: Vec<WebOrigin>,
    token_required: bool,
}

impl CsrfLayer {
    /// The header that brings a token.
    pub const HEADER: &str = "x-csrf-token";
    /// The field of a form (`application/x-www-form-urlencoded`) that brings a token. It is looked for in the first 64 KiB,
    /// so it should come first.
    pub const FIELD: &str = "csrf_token";

    /// Believes browsers, and tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets another origin's pages send requests: `https://app.example.com`, with the port where it is not the usual one.
    /// Also the application's own, where a proxy does not pass on the `Host` that the browser sent. Default: none.
    pub fn trust_origin(mut self, origin: &str) -> Result<Self> {
        Arc::make_mut(&mut self.guard).trusted.push(WebOrigin::parse(origin)?);
        Ok(self)
    }

    /// Lets requests pass with a valid token alone, whatever the browser says of where they come from. For applications
    /// that must not rely on browsers. Multipart forms then need the header: the layer does not read them.
    pub fn require_token(mut self) -> Self {
        Arc::make_mut(&mut self.guard).token_required = true;
        self
    }
}

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
        let verdict = self.guard.judge(&parts);
        if matches!(verdict, Verdict::Pass) {
            let response = self.inner.call(Request::from_parts(parts, CsrfBody::unread(body)));
            return Box::pin(async move { Ok(response.await?.map(SessionBody::plain)) });
        }
        // The clone may not be ready: the one that was polled must do the work.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let (token, body) = match proof::token_in_header(&parts) {
                Some(token) => (Some(token), CsrfBody::unread(body)),
                None if form::is_form(&parts.headers) => CsrfBody::find_token(body).await,
                None => (None, CsrfBody::unread(body)),
            };
            if let Err(refused) = check_token(&parts, token.as_deref(), &verdict).await {
                return Ok(refused.map(SessionBody::answer));
            }
            Ok(inner.call(Request::from_parts(parts, body)).await?.map(SessionBody::plain))
        })
    }
}

async fn check_token(parts: &request::Parts, token: Option<&[u8]>, verdict: &Verdict) -> Result<(), Response<Bytes>> {
    let Some(visit) = parts.extensions.get::<Arc<Visit<Tower>>>() else {
        tracing::error!("the CSRF layer is not within a session layer: add .layer(sessions.layer()) after it");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Err(problem::plain(status, "server_error", "The server is set up wrongly."));
    };
    // A store that cannot be reached is no forgery.
    let session = visit.session(parts).await.map_err(|error| {
        tracing::error!(%error, "a CSRF token could not be checked");
        problem::response(&error)
    })?;
    match token {
        Some(token) if session.is_csrf_token_bytes(token) => Ok(()),
        presented => {
            let why = match (presented, verdict) {
                (Some(_), _) => Lack::WrongToken,
                (None, Verdict::Foreign) => Lack::OtherSite,
                (None, _) => Lack::NoProof,
            };
            note_refusal(parts, session, why).await;
            Err(problem::plain(StatusCode::FORBIDDEN, "csrf_refused", why.advice()))
        }
    }
}

/// What a request lacks that is refused.
#[derive(Clone, Copy, Debug)]
enum Lack {
    WrongToken,
    OtherSite,
    NoProof,
}

impl Lack {
    fn code(self) -> &'static str {
        match self {
            Self::WrongToken => "the CSRF token is not this session's",
            Self::OtherSite => "it comes from another site",
            Self::NoProof => "nothing shows where it comes from",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::WrongToken => {
                "The CSRF token is not one of this session: it changes when somebody signs in or out. Load the page \
                 again, and send what you sent before."
            }
            Self::OtherSite => {
                "This request changes something and comes from another site. Send it from a page of this site, or send \
                 the session's CSRF token in the header X-CSRF-Token or the form field csrf_token."
            }
            Self::NoProof => {
                "This request changes something, and nothing shows that it comes from this site. Send the session's CSRF \
                 token in the header X-CSRF-Token or the form field csrf_token."
            }
        }
    }
}

async fn note_refusal(parts: &request::Parts, session: &Session, why: Lack) {
    tracing::warn!(
        session = session.id().map(tracing::field::display),
        user = session.user().as_deref(),
        method = %parts.method,
        path = parts.uri.path(),
        "a request was refused as forged: {}",
        why.code()
    );
    if let Some(info) = session.info() {
        session.sessions().log_refused_request(&info, &format!("a request was refused: {}", why.code())).await;
    }
}
