//! Refusals of requests before their handlers ran, suited to who asks: a person is shown a page, a program is told a code.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{
    Next, next, problem,
    visit::{Framework, Visit, host},
};
use crate::{ended::Ended, error::Error};

/// Why a request was refused before its handler ran: what
/// [`SessionLayer::on_refusal`](super::SessionLayer::on_refusal) is asked about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refused<'a> {
    /// [`SignedIn`](crate::SignedIn) asks for a user, and none is signed in.
    NotSignedIn {
        /// How the session ended whose token the request came with, if it came with such a token.
        ended: Option<Ended>,
        /// Whether the browser holds the cookies of several living sessions, of which none is believed.
        several: bool,
    },
    /// [`Fresh`](crate::Fresh) asks for a user who authenticated lately, and the one who is signed in did not.
    NotFresh {
        /// How long ago it may be.
        max_age: Duration,
    },
    /// [`CsrfLayer`](super::CsrfLayer) asks for a sign that the request comes from a page of this site.
    Forged {
        /// What the client may do about it.
        advice: &'static str,
    },
    /// The session could not be loaded: the store is unavailable, or the directory of users refuses the address.
    NotLoaded(&'a Error),
}

impl Refused<'_> {
    /// The status of the answer, unless the visitor is sent to the [sign-in page](super::SessionLayer::sign_in_page).
    pub fn status(&self) -> StatusCode {
        self.response().status()
    }

    /// As a problem document (RFC 9457): 401, 403 or 503 with a stable code.
    fn response(&self) -> Response<Bytes> {
        let not_signed_in = |detail| problem::plain(StatusCode::UNAUTHORIZED, "not_signed_in", detail);
        match self {
            Self::NotSignedIn { ended: Some(ended), .. } => problem::response(&Error::from(ended.clone())),
            Self::NotSignedIn { several: true, .. } => {
                not_signed_in("The browser holds the cookies of several sessions, so none is believed. Sign in again.")
            }
            Self::NotSignedIn { .. } => not_signed_in("Sign in first."),
            Self::NotFresh { max_age } => {
                problem::response(&Error::ReauthenticationRequired { max_age: Some(*max_age), level: None })
            }
            Self::Forged { advice } => problem::plain(StatusCode::FORBIDDEN, "csrf_refused", advice),
            Self::NotLoaded(error) => problem::response(error),
        }
    }
}

impl<F: Framework> Visit<F> {
    /// The answer to a request that is refused: the application's own, the way to the sign-in page, or a problem document.
    pub(super) fn refuse(&self, request: &F::Request, refused: &Refused<'_>) -> F::Answer {
        if let Refused::NotLoaded(error) = refused {
            problem::log(error);
        }
        let own = self.config().on_refusal.as_ref().and_then(|answer| answer(refused, request));
        own.unwrap_or_else(|| F::answer(self.way_to_sign_in(request, refused).unwrap_or_else(|| refused.response())))
    }

    /// To the sign-in page, and from there back: for a person who has asked for a page, and can sign in and ask again.
    fn way_to_sign_in(&self, request: &F::Request, refused: &Refused<'_>) -> Option<Response<Bytes>> {
        let max_age = match refused {
            Refused::NotSignedIn { .. } => None,
            Refused::NotFresh { max_age } => Some(max_age.as_secs()),
            Refused::Forged { .. } | Refused::NotLoaded(_) => return None,
        };
        let page = self.config().sign_in_page.as_deref().filter(|_| is_navigation::<F>(request))?;
        let mut location = String::from(page);
        let mut separator = if page.contains('?') { '&' } else { '?' };
        let mut add = |parameter: &str| {
            write!(location, "{separator}{parameter}").expect("writing to a string cannot fail");
            separator = '&';
        };
        if let Some(next) = wanted::<F>(request) {
            add(&next);
        }
        if let Some(max_age) = max_age {
            add(&format!("max_age={max_age}"));
        }
        let Ok(location) = HeaderValue::try_from(location) else {
            return Some(problem::set_up_wrongly("the sign-in page is not an address: see sign_in_page"));
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SEE_OTHER;
        response.headers_mut().insert(header::LOCATION, location);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }
}

/// Whether a person will see the answer as a page: not a script, whose redirected request would be answered by a page it
/// cannot use. Browsers say so by themselves over https; else whether HTML is asked for decides.
fn is_navigation<F: Framework>(request: &F::Request) -> bool {
    let [mode, requested_with] = ["sec-fetch-mode", "x-requested-with"].map(HeaderName::from_static);
    if F::header_values(request, &mode).any(|mode| mode != b"navigate")
        || F::header_values(request, &requested_with).next().is_some()
    {
        return false;
    }
    F::header_values(request, &header::ACCEPT).any(|accept| {
        let mut types = accept.split(|byte| *byte == b',').map(|part| part.split(|byte| *byte == b';').next());
        types.any(|media_type| {
            let media_type = media_type.unwrap_or_default().trim_ascii();
            [&b"text/html"[..], b"application/xhtml+xml"].iter().any(|html| media_type.eq_ignore_ascii_case(html))
        })
    })
}

/// Where the visitor wanted to go, as a parameter: the page they asked for, or where they sent a form, the page it was on.
fn wanted<F: Framework>(request: &F::Request) -> Option<String> {
    if matches!(F::method(request), "GET" | "HEAD") {
        return Some(next::query(F::path_and_query(request)));
    }
    let referer = str::from_utf8(F::header_values(request, &header::REFERER).next()?).ok()?;
    let (_, behind) = referer.split_once("://")?;
    let (authority, _) = behind.split_once('/')?;
    let is_own = host::<F>(request)?.eq_ignore_ascii_case(authority);
    let path = Next::parse(&behind[authority.len()..]).filter(|_| is_own)?;
    Some(path.to_query())
}
