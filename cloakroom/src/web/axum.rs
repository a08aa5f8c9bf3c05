//! Extractors for axum: [`Session`] and [`SignedIn`].

use std::{
    fmt::Write,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Once},
};

use axum::extract::ConnectInfo;
use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};

use super::{SessionLayer, layer::Visit, problem};
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

/// The session of somebody who is signed in. Anybody else is answered with 401, or sent to the
/// [sign-in page](super::SessionLayer::sign_in_page).
///
/// As `Option<SignedIn>` it lets anybody in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    session: Session,
    user: Arc<str>,
}

impl SignedIn {
    /// Who is signed in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Their session.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl Deref for SignedIn {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl<S: Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        let visit = visit(parts)?;
        let session = visit.session(parts).await?.clone();
        match session.user() {
            Some(user) => Ok(Self { session, user }),
            None => Err(not_signed_in(&session, parts, visit.sign_in_page())),
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for SignedIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Rejection> {
        let session = visit(parts)?.session(parts).await?.clone();
        Ok(session.user().map(|user| Self { session, user }))
    }
}

/// Why a handler did not get its session.
#[derive(Debug)]
pub struct Rejection(Box<Response>);

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Self(Box::new(error.into_response()))
    }
}

impl From<&Error> for Rejection {
    fn from(error: &Error) -> Self {
        Self(Box::new(problem::response(error).map(Body::from)))
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl IntoResponse for Error {
    /// As a problem document: 401 for a session that ended, 403 and 409 for a refused sign-in, 503 with `Retry-After` while the
    /// store is unavailable, 500 otherwise. Details that are not for the visitor go to the log.
    fn into_response(self) -> Response {
        let response = problem::response(&self);
        if response.status().is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "a session could not be used");
        }
        response.map(Body::from)
    }
}

fn visit(parts: &Parts) -> Result<&Visit, Rejection> {
    let visit = parts.extensions.get::<Arc<Visit>>().map(|visit| &**visit);
    visit.ok_or_else(|| Rejection(Box::new(no_layer())))
}

fn not_signed_in(session: &Session, parts: &Parts, page: Option<&str>) -> Rejection {
    let Some(page) = page.filter(|_| parts.method == Method::GET || parts.method == Method::HEAD) else {
        return match session.lapsed() {
            Some(ended) => Rejection::from(Error::from(ended)),
            None => Rejection(Box::new(
                problem::plain(StatusCode::UNAUTHORIZED, "not_signed_in", "Sign in first.").map(Body::from),
            )),
        };
    };
    Rejection(Box::new(redirect(page, parts, None)))
}

/// The answer to somebody who must prove once more who they are.
pub(super) fn ask_again(error: Error, parts: &Parts, max_age: u64) -> Rejection {
    let page = visit(parts).ok().and_then(Visit::sign_in_page);
    match page.filter(|_| parts.method == Method::GET || parts.method == Method::HEAD) {
        Some(page) => Rejection(Box::new(redirect(page, parts, Some(max_age)))),
        None => error.into(),
    }
}

/// To the sign-in page, and from there back to what was asked for.
fn redirect(page: &str, parts: &Parts, max_age: Option<u64>) -> Response {
    let wanted = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut location = String::from(page);
    location.push_str(if page.contains('?') { "&next=" } else { "?next=" });
    for byte in wanted.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => location.push(byte.into()),
            _ => write!(location, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    if let Some(max_age) = max_age {
        write!(location, "&max_age={max_age}").expect("writing to a string cannot fail");
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    match HeaderValue::try_from(location) {
        Ok(location) => response.headers_mut().insert(header::LOCATION, location),
        Err(_) => return no_layer(),
    };
    response
}

/// A handler asked for a session, but there is no [`SessionLayer`](super::SessionLayer) around it.
fn no_layer() -> Response {
    tracing::error!("a handler asks for its session, but no session layer is around it: add .layer(sessions.layer())");
    problem::plain(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "The server is set up wrongly.").map(Body::from)
}
