//! What the visit of one request does, whatever the framework: its session is loaded when somebody asks for it, and
//! when the response leaves, what is pending is stored and the cookie decided.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{CookieConfig, cookie::Presented, problem, refusal::Refused, watch::Watch};
use crate::{
    error::{Error, Result},
    session::{Arrival, CookieOrder, Origin, Session, SessionLock},
    sessions::Sessions,
};

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

/// What differs between frameworks.
pub(super) trait Framework: Sized + 'static {
    /// The head of a request.
    type Request;
    /// A response that takes the place of a handler's.
    type Answer;

    /// A request's method, in the letters it was sent in.
    fn method(request: &Self::Request) -> &str;

    /// The host and port in a request's line, where it names them.
    fn authority(request: &Self::Request) -> Option<&str>;

    /// The path a request is for.
    fn path(request: &Self::Request) -> &str;

    /// The path a request is for, and its query.
    fn path_and_query(request: &Self::Request) -> &str;

    /// The values of a request's headers of this name.
    fn header_values<'a>(request: &'a Self::Request, name: &HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// A request's header of that name.
    fn user_agent(request: &Self::Request) -> Option<HeaderValue>;

    /// Whether an answer sends the visitor elsewhere.
    fn is_redirection(answer: &Self::Answer) -> bool;

    /// A response of ours as an answer.
    fn answer(response: Response<Bytes>) -> Self::Answer;
}

type ClientIp<F> = dyn Fn(&<F as Framework>::Request) -> Option<IpAddr> + Send + Sync;
type OnRefusal<F> = dyn Fn(&Refused<'_>, &<F as Framework>::Request) -> Option<<F as Framework>::Answer> + Send + Sync;
type OnCommitError<F> = dyn Fn(&Error) -> <F as Framework>::Answer + Send + Sync;

/// What the application decided for all visits.
///
/// On cache lines of its own, apart from the count of its holders, which every request changes.
#[repr(align(128))]
pub(super) struct Config<F: Framework> {
    pub(super) sessions: Sessions,
    pub(super) keep_on_server_error: bool,
    pub(super) always_touch: bool,
    pub(super) locking: Locking,
    pub(super) clear_cookies_at_sign_out: bool,
    pub(super) sign_in_page: Option<String>,
    pub(super) cookie: Option<CookieConfig>,
    pub(super) client_ip: Option<Box<ClientIp<F>>>,
    pub(super) on_refusal: Option<Box<OnRefusal<F>>>,
    pub(super) on_commit_error: Box<OnCommitError<F>>,
}

impl<F: Framework> Config<F> {
    /// The defaults.
    pub(super) fn new(sessions: &Sessions) -> Self {
        Self {
            sessions: sessions.clone(),
            keep_on_server_error: false,
            always_touch: false,
            locking: Locking::Explicit,
            clear_cookies_at_sign_out: false,
            sign_in_page: None,
            cookie: None,
            client_ip: None,
            on_refusal: None,
            on_commit_error: Box::new(|error| F::answer(problem::response(error))),
        }
    }

    fn cookie(&self) -> &CookieConfig {
        self.cookie.as_ref().unwrap_or_else(|| self.sessions.cookie())
    }

    /// Whether a session is loaded before any handler asks.
    pub(super) fn loads_early(&self) -> bool {
        self.always_touch || self.locking == Locking::Early
    }
}

impl<F: Framework> fmt::Debug for Config<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("sessions", &self.sessions)
            .field("sign_in_page", &self.sign_in_page)
            .finish_non_exhaustive()
    }
}

/// The settings every framework's integration has, on a type with its [`Config`] in an `Arc` named `config`.
macro_rules! settings {
    ($integration:ty, $request:ty, $answer:ty) => {
        impl $integration {
            /// Where [`SignedIn`](crate::web::SignedIn) sends a visitor who is not, if they ask for a page or send a form: they
            /// come there with `?next=` and the path they asked for, or of the page that the form was on, for the extractor
            /// [`Next`](crate::web::Next); and [`Session::lapsed`](crate::Session::lapsed) there says why they are not signed
            /// in. Scripts (`fetch`, `EventSource`) and programs that ask for no HTML are answered 401 all the same. Default: 401
            /// for all.
            pub fn sign_in_page(self, path: impl Into<String>) -> Self {
                self.configure(|config| config.sign_in_page = Some(path.into()))
            }

            /// Another cookie than that of the [service](crate::Builder::cookie), for a part of the application with sessions
            /// of its own: visitors may hold both. A session is not bound to the cookie that brought it, so this part must
            /// tell its sessions from others by what is in them. Default: the service's.
            pub fn cookie(self, cookie: crate::web::CookieConfig) -> crate::error::Result<Self> {
                cookie.check()?;
                Ok(self.configure(|config| config.cookie = Some(cookie)))
            }

            /// Where a request comes from, for the record of a session that it starts, and for users whom the
            /// [directory](crate::Builder::users) lets in from some networks only. Default: nobody knows. Behind a proxy,
            /// read the header that your proxy sets, and only if the peer is your proxy.
            pub fn client_ip(self, ip: impl Fn(&$request) -> Option<std::net::IpAddr> + Send + Sync + 'static) -> Self {
                self.configure(|config| config.client_ip = Some(Box::new(ip)))
            }

            /// The answer to a request that is refused before its handler runs: by [`SignedIn`](crate::web::SignedIn) and
            /// [`Fresh`](crate::web::Fresh), by the rules against [requests from other sites](crate::web::csrf), or because its
            /// session cannot be loaded. `None` leaves it as it would be: the way to the
            /// [sign-in page](Self::sign_in_page), or `application/problem+json` with 401, 403 or 503.
            pub fn on_refusal(
                self,
                answer: impl Fn(&crate::web::Refused<'_>, &$request) -> Option<$answer> + Send + Sync + 'static,
            ) -> Self {
                self.configure(|config| config.on_refusal = Some(Box::new(answer)))
            }

            /// Whether what is pending is stored although the handler answered 500 or above. Default: it is dropped. With 408
            /// it is dropped in any case: a timeout within the layer answers so, and the handler was cut off half way.
            pub fn keep_on_server_error(self, keep: bool) -> Self {
                self.configure(|config| config.keep_on_server_error = keep)
            }

            /// Whether every request that brings a token counts as use of its session, not just one whose handler asks for
            /// it. Costs a load each. Default false.
            pub fn always_touch(self, always: bool) -> Self {
                self.configure(|config| config.always_touch = always)
            }

            /// When requests take their session's [lock](crate::Session::lock) by themselves. Default
            /// [`Locking::Explicit`](crate::web::Locking::Explicit).
            pub fn locking(self, locking: crate::web::Locking) -> Self {
                self.configure(|config| config.locking = locking)
            }

            /// Whether signing out also asks the browser to delete every cookie of this site, other applications'
            /// included. Default: its cache and storage alone.
            pub fn clear_cookies_at_sign_out(self, clear: bool) -> Self {
                self.configure(|config| config.clear_cookies_at_sign_out = clear)
            }

            /// The answer when what is pending cannot be stored. Default: 401 with the reason if the session ended
            /// meanwhile, 503 with `Retry-After` if the store cannot be reached, 500 otherwise, as
            /// `application/problem+json`.
            pub fn on_commit_error(
                self,
                answer: impl Fn(&crate::error::Error) -> $answer + Send + Sync + 'static,
            ) -> Self {
                self.configure(|config| config.on_commit_error = Box::new(answer))
            }
        }
    };
}
pub(super) use settings;

/// The host, and the port if there is one, that a request is for.
pub(super) fn host<F: Framework>(request: &F::Request) -> Option<&str> {
    let mut hosts = F::header_values(request, &header::HOST);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => str::from_utf8(host).ok(),
        (Some(_), Some(_)) => None,
        // HTTP/2 has it in the request's line.
        (None, _) => F::authority(request),
    }
}

/// One request's visit: its session, once somebody asks for it.
pub(super) struct Visit<F: Framework> {
    config: Arc<Config<F>>,
    arrived: OnceLock<Arrived>,
}

struct Arrived {
    session: Session,
    /// Where the application is mounted, if a header says so.
    path: Option<Box<str>>,
    /// What deletes the other cookies of the name, where there are any.
    strays: Vec<String>,
    lock: Option<Mutex<Option<SessionLock>>>,
}

/// What becomes of a response whose request had a session.
pub(super) struct Leaving<A> {
    /// What takes the response's place: what was pending could not be stored.
    pub(super) instead: Option<A>,
    /// Cookies to set. The response must not be cached then, whatever the application says: a shared cache would hand
    /// one visitor's token to another.
    pub(super) set_cookies: Vec<String>,
    /// The `Clear-Site-Data` to send.
    pub(super) clear_site_data: Option<&'static str>,
    /// Goes with the body, which may still change the session.
    pub(super) watch: Option<Watch>,
}

impl<F: Framework> Visit<F> {
    pub(super) fn new(config: &Arc<Config<F>>) -> Self {
        Self { config: Arc::clone(config), arrived: OnceLock::new() }
    }

    /// What the application decided.
    pub(super) fn config(&self) -> &Config<F> {
        &self.config
    }

    /// For a body that may still get at the session, if there is one by now.
    #[cfg(feature = "actix")]
    pub(super) fn watch(&self) -> Option<Watch> {
        self.arrived.get().map(|arrived| Watch::new(arrived.session.clone(), None))
    }

    /// The session of this request, loaded at the first call.
    pub(super) async fn session(&self, request: &F::Request) -> Result<&Session> {
        if let Some(arrived) = self.arrived.get() {
            return Ok(&arrived.session);
        }
        let presented = self.config.cookie().read_from(F::header_values(request, &header::COOKIE));
        let session = self.load(request, &presented).await?;
        let lock = match self.config.locking {
            Locking::Implicit | Locking::Early if !self.config.sessions.is_read_only() => {
                Some(Mutex::new(Some(session.lock().await?)))
            }
            // Where nobody can write there is nobody to exclude.
            Locking::Explicit | Locking::Implicit | Locking::Early => None,
        };
        let cookie = self.config.cookie();
        let path = cookie.mounted_by(|name| F::header_values(request, name).next()).map(Into::into);
        let strays = match presented {
            Presented::Several(_) => cookie.delete_strays(host::<F>(request), F::path(request), path.as_deref()),
            _ => Vec::new(),
        };
        // Of two who loaded it at the same time both get the first one's.
        Ok(&self.arrived.get_or_init(|| Arrived { session, path, strays, lock }).session)
    }

    async fn load(&self, request: &F::Request, presented: &Presented) -> Result<Session> {
        let sessions = &self.config.sessions;
        let ip = self.config.client_ip.as_ref().and_then(|ip| ip(request));
        let several = matches!(presented, Presented::Several(_));
        let origin = Origin { ip, user_agent: F::user_agent(request), several };
        let arrival = match presented {
            Presented::Nothing => Arrival::Nothing,
            presented => sessions.recognise(presented, ip).await?.into(),
        };
        Ok(Session::arrive(sessions, arrival, origin))
    }

    /// Stores what is pending, and says what becomes of the response, which has this status; `None` where nobody asked
    /// for the session. `held` is whether somebody still holds this visit, and so may get at its session.
    #[cfg(feature = "actix")]
    pub(super) async fn leave(&self, status: StatusCode, held: bool) -> Option<Leaving<F::Answer>> {
        // Boxed, so that requests which change nothing do not make room for it.
        let stored = if self.must_store(status) { Box::pin(self.store(held)).await } else { Ok(()) };
        self.depart(status, held, stored)
    }

    /// Whether something is to be [stored](Self::store) before a response of this status [departs](Self::depart).
    pub(super) fn must_store(&self, status: StatusCode) -> bool {
        !self.failed(status) && self.arrived.get().is_some_and(|arrived| arrived.session.is_dirty())
    }

    pub(super) async fn store(&self, held: bool) -> Result<()> {
        let Some(Arrived { session, .. }) = self.arrived.get() else { return Ok(()) };
        if held || session.holders() > 1 { session.commit().await } else { session.commit_at_last().await }
    }

    /// What becomes of the response once what is pending was `stored`.
    pub(super) fn depart(&self, status: StatusCode, held: bool, stored: Result<()>) -> Option<Leaving<F::Answer>> {
        let Arrived { session, path, strays, lock } = self.arrived.get()?;
        let config = &self.config;
        if self.failed(status) {
            session.discard();
        }
        let lock = lock.as_ref().and_then(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (mut cookie, signed_out) = session.seal();
        let mut watch = None;
        let mut instead = None;
        match stored {
            // Whoever holds it beside this visit may change it while the body is under way.
            Ok(()) if held || session.holders() > 1 => watch = Some(Watch::new(session.clone(), lock)),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "the session's changes could not be stored");
                if let Error::Ended(ended) = &error {
                    let keep = config.sessions.has_fresh_successor(ended);
                    cookie = if keep { CookieOrder::Keep } else { CookieOrder::Delete };
                }
                instead = Some((config.on_commit_error)(&error));
            }
        }
        // Where a redirect leads, the visitor is told why they are signed out: until then the browser keeps the token.
        if matches!(cookie, CookieOrder::Delete)
            && instead.as_ref().map_or(status.is_redirection(), F::is_redirection)
            && session.lapsed().is_some()
        {
            cookie = CookieOrder::Keep;
        }
        let mut set_cookies: Vec<_> = self.set_cookie(cookie, path.as_deref()).into_iter().collect();
        if !set_cookies.is_empty() {
            // Last the one that counts.
            set_cookies.splice(0..0, strays.iter().cloned());
        }
        Some(Leaving { instead, set_cookies, clear_site_data: signed_out.then(|| self.clear_site_data()), watch })
    }

    /// Whether the handler failed, or the answer is not the handler's own: a timeout cut it off.
    fn failed(&self, status: StatusCode) -> bool {
        status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() && !self.config.keep_on_server_error
    }

    fn set_cookie(&self, order: CookieOrder, path: Option<&str>) -> Option<String> {
        let cookie = self.config.cookie();
        match order {
            CookieOrder::Keep => None,
            CookieOrder::Set(token, info) => Some(cookie.set(&token, &info, self.config.sessions.now(), path)),
            CookieOrder::Delete => Some(cookie.delete(path)),
        }
    }

    fn clear_site_data(&self) -> &'static str {
        if self.config.clear_cookies_at_sign_out { r#""cache", "storage", "cookies""# } else { r#""cache", "storage""# }
    }
}
