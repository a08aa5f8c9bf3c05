//! The tower layer: gives every request its session, and tells the client what became of it.
//!
//! The session is loaded when a handler asks for it, and what changed is stored before the response's head is sent.
//! A request whose handler never asks costs no call of the store.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, request};
use tower_layer::Layer;
use tower_service::Service;

use super::{SessionBody, cookie::Presented, problem};
use crate::{
    Error, Result, Session, SessionLock, Sessions,
    session::{Arrival, CookieOrder, Origin},
};

/// Gives every request its session. Made by [`Sessions::layer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionLayer {
    config: Arc<Config>,
}

type ClientIp = dyn Fn(&request::Parts) -> Option<IpAddr> + Send + Sync;
type OnCommitError = dyn Fn(&Error) -> Response<Bytes> + Send + Sync;

/// On cache lines of its own, apart from the count of its holders, which every request changes.
#[repr(align(128))]
struct Config {
    sessions: Sessions,
    keep_on_server_error: bool,
    always_touch: bool,
    locking: Locking,
    clear_cookies_at_sign_out: bool,
    sign_in_page: Option<String>,
    client_ip: Option<Box<ClientIp>>,
    on_commit_error: Box<OnCommitError>,
}

impl Sessions {
    /// The layer that gives every request its session.
    pub fn layer(&self) -> SessionLayer {
        let config = Config {
            sessions: self.clone(),
            keep_on_server_error: false,
            always_touch: false,
            locking: Locking::Explicit,
            clear_cookies_at_sign_out: false,
            sign_in_page: None,
            client_ip: None,
            on_commit_error: Box::new(problem::response),
        };
        SessionLayer { config: Arc::new(config) }
    }
}

impl SessionLayer {
    /// Where [`SignedIn`](super::SignedIn) sends a visitor who is not: they come back with `?next=` and the path they
    /// asked for, and [`Session::lapsed`] there says why they are not. Default: 401.
    pub fn sign_in_page(self, path: impl Into<String>) -> Self {
        self.configure(|config| config.sign_in_page = Some(path.into()))
    }

    /// Where a request comes from, for the record of a session that it starts, and for users whom the
    /// [directory](crate::Builder::users) lets in from some networks only. Default: nobody knows. Behind a proxy,
    /// read the header that your proxy sets, and only if the peer is your proxy.
    pub fn client_ip(self, ip: impl Fn(&request::Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.configure(|config| config.client_ip = Some(Box::new(ip)))
    }

    /// Whether what is pending is stored although the handler answered 500 or above. Default: it is dropped.
    pub fn keep_on_server_error(self, keep: bool) -> Self {
        self.configure(|config| config.keep_on_server_error = keep)
    }

    /// Whether every request that brings a token counts as use of its session, not just one whose handler asks for it.
    /// Costs a load each. Default false.
    pub fn always_touch(self, always: bool) -> Self {
        self.configure(|config| config.always_touch = always)
    }

    /// When requests take their session's [lock](Session::lock) by themselves. Default [`Locking::Explicit`].
    pub fn locking(self, locking: Locking) -> Self {
        self.configure(|config| config.locking = locking)
    }

    /// Whether signing out also asks the browser to delete every cookie of this site, other applications' included.
    /// Default: its cache and storage alone.
    pub fn clear_cookies_at_sign_out(self, clear: bool) -> Self {
        self.configure(|config| config.clear_cookies_at_sign_out = clear)
    }

    /// The answer when what is pending cannot be stored. Default: 401 with the reason if the session ended meanwhile,
    /// 503 with `Retry-After` if the store cannot be reached, 500 otherwise, as `application/problem+json`.
    pub fn on_commit_error(self, answer: impl Fn(&Error) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        self.configure(|config| config.on_commit_error = Box::new(answer))
    }

    fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        let config = Arc::get_mut(&mut self.config);
        change(config.expect("a layer is configured before it is cloned into a service"));
        self
    }
}

/// When requests take their session's lock by themselves. It is given back once the request's changes are stored: before the
/// response's head, or at the end of a body that still holds the session.
///
/// No update is lost without locks, so this is for handlers that must not run twice at a time for one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locking {
    /// Never: a handler that wants it asks.
    #[default]
    Explicit,
    /// When a handler asks for its session.
    Implicit,
    /// Before the handler runs, whether it asks for its session or not.
    Early,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("sessions", &self.sessions)
            .field("sign_in_page", &self.sign_in_page)
            .finish_non_exhaustive()
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
    ResBody: Send,
{
    type Response = Response<SessionBody<ResBody>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let visit = Arc::new(Visit { config: Arc::clone(&self.layer.config), arrived: OnceLock::new() });
        request.extensions_mut().insert(Arc::clone(&visit));
        let early = self.layer.config.locking == Locking::Early;
        if self.layer.config.always_touch || early {
            // The clone may not be ready: the one that was polled must do the work.
            let clone = self.inner.clone();
            let mut inner = std::mem::replace(&mut self.inner, clone);
            return Box::pin(async move {
                let (parts, body) = request.into_parts();
                if let Err(error) = visit.session(&parts).await {
                    tracing::warn!(%error, "the session of a request could not be loaded");
                    if early {
                        return Ok((visit.config.on_commit_error)(&error).map(SessionBody::answer));
                    }
                }
                let response = inner.call(Request::from_parts(parts, body)).await?;
                Ok(visit.leave(response).await)
            });
        }
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            Ok(visit.leave(response).await)
        })
    }
}

/// One request's visit: its session, once somebody asks for it.
pub(super) struct Visit {
    config: Arc<Config>,
    arrived: OnceLock<Arrived>,
}

struct Arrived {
    session: Session,
    /// Where the application is mounted, if a header says so.
    path: Option<Box<str>>,
    lock: Mutex<Option<SessionLock>>,
}

impl Visit {
    #[cfg(feature = "axum")]
    pub(super) fn sign_in_page(&self) -> Option<&str> {
        self.config.sign_in_page.as_deref()
    }

    /// The session of the request these parts are of, loaded at the first call.
    pub(super) async fn session(&self, parts: &request::Parts) -> Result<&Session> {
        if let Some(arrived) = self.arrived.get() {
            return Ok(&arrived.session);
        }
        let session = self.load(parts).await?;
        let lock = match self.config.locking {
            Locking::Implicit | Locking::Early if !self.config.sessions.is_read_only() => Some(session.lock().await?),
            // Where nobody can write there is nobody to exclude.
            Locking::Explicit | Locking::Implicit | Locking::Early => None,
        };
        let path = self.config.sessions.cookie().mounted_at(&parts.headers).map(Into::into);
        // Of two who loaded it at the same time both get the first one's.
        Ok(&self.arrived.get_or_init(|| Arrived { session, path, lock: Mutex::new(lock) }).session)
    }

    async fn load(&self, parts: &request::Parts) -> Result<Session> {
        let sessions = &self.config.sessions;
        let ip = self.config.client_ip.as_ref().and_then(|ip| ip(parts));
        let arrival = match sessions.cookie().read(&parts.headers) {
            Presented::Nothing => Arrival::Nothing,
            Presented::Malformed => {
                tracing::warn!("a session cookie that is not a token was refused");
                Arrival::Unknown
            }
            Presented::Ambiguous => {
                tracing::warn!("several session cookies with different values were refused");
                Arrival::Nothing
            }
            Presented::Token(token) => {
                let found = sessions.resume_from(&token, ip).await?;
                Arrival::with(token, found)
            }
        };
        let origin = Origin { ip, user_agent: parts.headers.get(header::USER_AGENT).cloned() };
        Ok(Session::arrive(sessions, arrival, origin))
    }

    /// Stores what is pending and writes the outcome into the response's head.
    async fn leave<B>(self: Arc<Self>, response: Response<B>) -> Response<SessionBody<B>> {
        let Some(Arrived { session, path, lock }) = self.arrived.get() else {
            return response.map(SessionBody::plain);
        };
        let config = &self.config;
        let failed = response.status().is_server_error() && !config.keep_on_server_error;
        let committed = if failed {
            session.discard();
            Ok(())
        } else if session.is_dirty() {
            // Boxed, so that requests which change nothing do not make room for it.
            Box::pin(session.commit()).await
        } else {
            Ok(())
        };
        let lock = lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut cookie, signed_out) = session.seal();
        // Whoever holds it beside this visit may change it while the body is under way.
        let held = session.holders() > 1 || Arc::strong_count(&self) > 1;
        let mut response = match committed {
            Ok(()) if held => response.map(|body| SessionBody::watched(body, session.clone(), lock)),
            Ok(()) => response.map(SessionBody::plain),
            Err(error) => {
                tracing::warn!(%error, "the session's changes could not be stored");
                if let Error::Ended(ended) = &error {
                    let keep = config.sessions.has_fresh_successor(ended);
                    cookie = if keep { CookieOrder::Keep } else { CookieOrder::Delete };
                }
                (config.on_commit_error)(&error).map(SessionBody::answer)
            }
        };
        // Where a redirect leads, the visitor is told why they are signed out: until then the browser keeps the token.
        let deleted = matches!(cookie, CookieOrder::Delete);
        if deleted && response.status().is_redirection() && session.lapsed().is_some() {
            cookie = CookieOrder::Keep;
        }
        self.write_head(response.headers_mut(), cookie, signed_out, path.as_deref());
        response
    }

    fn write_head(&self, headers: &mut HeaderMap, order: CookieOrder, signed_out: bool, path: Option<&str>) {
        let sessions = &self.config.sessions;
        let cookie = sessions.cookie();
        let set_cookie = match order {
            CookieOrder::Keep => None,
            CookieOrder::Set(token, info) => Some(cookie.set(&token, &info, sessions.now(), path)),
            CookieOrder::Delete => Some(cookie.delete(path)),
        };
        if let Some(set_cookie) = set_cookie {
            let mut value = HeaderValue::try_from(set_cookie).expect("the settings were checked to be printable");
            value.set_sensitive(true);
            headers.append(header::SET_COOKIE, value);
            // A shared cache must not hand one visitor's token to another, whatever the application says.
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if signed_out {
            let what = if self.config.clear_cookies_at_sign_out {
                r#""cache", "storage", "cookies""#
            } else {
                r#""cache", "storage""#
            };
            headers.insert("clear-site-data", HeaderValue::from_static(what));
        }
    }
}
