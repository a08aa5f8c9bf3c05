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
//! Every browser of today sends the first by itself, over https. So pages need no token, unless it is
//! [asked for](CsrfLayer::require_token).
//!
//! `GET`, `HEAD`, `OPTIONS` and `TRACE` pass: a handler for them must not change anything that matters. A request to change
//! the protocol, as a WebSocket begins, counts as one that changes something.
//!
//! What is refused is answered 403 with a problem document of the code `csrf_refused`, or as
//! [`on_refusal`](crate::web::SessionLayer::on_refusal) of the session layer says; it is logged, and audited where
//! the request has a session. A request that passes without a token costs no call of the store.
//!
//! [`CsrfLayer`] is for tower services, [`CsrfMiddleware`] for actix-web.
//!
#![cfg_attr(feature = "actix", doc = "[`CsrfMiddleware`]: super::CsrfMiddleware")]
#![cfg_attr(
    not(feature = "actix"),
    doc = "[`CsrfMiddleware`]: https://docs.rs/cloakroom/latest/cloakroom/web/struct.CsrfMiddleware.html"
)]
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

use bytes::Bytes;
use http_body::Body;

use super::{
    Refused,
    visit::{Framework, Visit},
};
use crate::session::Session;

mod form;
mod layer;
mod origin;
mod proof;

pub use form::CsrfBody;
pub use layer::{CsrfLayer, CsrfService};

pub(super) use origin::WebOrigin;
pub(super) use proof::Verdict;

/// The header that brings a token.
pub(super) const HEADER: &str = "x-csrf-token";
/// The field of a form that brings a token.
pub(super) const FIELD: &str = "csrf_token";

/// What is asked of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    pub(super) trusted: Vec<WebOrigin>,
    pub(super) token_required: bool,
}

/// The settings of every framework's integration, on a type with its [`Guard`] in an `Arc` named `guard`.
macro_rules! settings {
    ($integration:ty) => {
        impl $integration {
            /// The header that brings a token.
            pub const HEADER: &str = crate::web::csrf::HEADER;
            /// The field of a form (`application/x-www-form-urlencoded`) that brings a token. It is looked for in the first
            /// 64 KiB, so it should come first.
            pub const FIELD: &str = crate::web::csrf::FIELD;

            /// Believes browsers, and tokens.
            pub fn new() -> Self {
                Self::default()
            }

            /// Lets another origin's pages send requests: `https://app.example.com`, with the port where it is not the
            /// usual one. Also the application's own, where a proxy does not pass on the `Host` that the browser sent.
            /// Default: none.
            pub fn trust_origin(mut self, origin: &str) -> crate::error::Result<Self> {
                let origin = crate::web::csrf::WebOrigin::parse(origin)?;
                std::sync::Arc::make_mut(&mut self.guard).trusted.push(origin);
                Ok(self)
            }

            /// Lets requests pass with a valid token alone, whatever the browser says of where they come from. For
            /// applications that must not rely on browsers. Multipart forms then need the header: they are not read.
            pub fn require_token(mut self) -> Self {
                std::sync::Arc::make_mut(&mut self.guard).token_required = true;
                self
            }
        }
    };
}
pub(super) use settings;

/// The body of a request that does not pass by its head, as it came, if a token lets it pass; otherwise the answer.
pub(super) async fn demand_token<F: Framework, B: Body<Data = Bytes>>(
    visit: &Visit<F>,
    request: &F::Request,
    body: B,
    verdict: Verdict,
) -> Result<CsrfBody<B>, F::Answer> {
    let (token, body) = match proof::token_in_header::<F>(request) {
        Some(token) => (Some(token), CsrfBody::unread(body)),
        None if form::is_form::<F>(request) => CsrfBody::find_token(body).await,
        None => (None, CsrfBody::unread(body)),
    };
    // A store that cannot be reached is no forgery.
    let session = visit.session(request).await;
    let session = session.map_err(|error| visit.refuse(request, &Refused::NotLoaded(&error)))?;
    let why = match (token, verdict) {
        (Some(token), _) if session.is_csrf_token_bytes(&token) => return Ok(body),
        (Some(_), _) => Lack::WrongToken,
        (None, Verdict::Foreign) => Lack::OtherSite,
        (None, _) => Lack::NoProof,
    };
    note_refusal::<F>(request, session, why).await;
    Err(visit.refuse(request, &Refused::Forged { advice: why.advice() }))
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

async fn note_refusal<F: Framework>(request: &F::Request, session: &Session, why: Lack) {
    tracing::warn!(
        session = session.id().map(tracing::field::display),
        user = session.user().as_deref(),
        method = %F::method(request),
        path = F::path(request),
        "a request was refused as forged: {}",
        why.code()
    );
    if let Some(info) = session.info() {
        session.sessions().log_refused_request(&info, &format!("a request was refused: {}", why.code())).await;
    }
}
