//! The session of somebody who is signed in, and what everybody else is answered.

use std::{fmt::Write, ops::Deref, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{next, problem};
use crate::{Error, Session};

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
    pub(super) fn of(session: &Session) -> Option<Self> {
        let user = session.user()?;
        Some(Self { session: session.clone(), user })
    }

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

/// What is asked for, by somebody who must sign in for it.
pub(super) struct Asking<'a> {
    /// Whether the request only reads, so that it can be repeated after a sign-in.
    pub(super) reads: bool,
    /// Path and query of what they asked for.
    pub(super) wanted: &'a str,
    pub(super) sign_in_page: Option<&'a str>,
}

impl Asking<'_> {
    /// The answer to somebody who is not signed in: 401, or where there is a sign-in page and they can come back, a
    /// redirect to it.
    pub(super) fn sign_in(&self, session: &Session) -> Response<Bytes> {
        self.redirect(None).unwrap_or_else(|| match session.lapsed() {
            Some(ended) => problem::response(&Error::from(ended)),
            None if session.rivals().is_empty() => {
                problem::plain(StatusCode::UNAUTHORIZED, "not_signed_in", "Sign in first.")
            }
            None => problem::plain(
                StatusCode::UNAUTHORIZED,
                "not_signed_in",
                "The browser holds the cookies of several sessions, so none is believed. Sign in again.",
            ),
        })
    }

    /// The answer to somebody who must prove once more who they are.
    pub(super) fn sign_in_again(&self, error: &Error, max_age: u64) -> Response<Bytes> {
        self.redirect(Some(max_age)).unwrap_or_else(|| problem::response(error))
    }

    /// To the sign-in page, and from there back to what was asked for.
    fn redirect(&self, max_age: Option<u64>) -> Option<Response<Bytes>> {
        let page = self.sign_in_page.filter(|_| self.reads)?;
        let mut location = String::from(page);
        location.push(if page.contains('?') { '&' } else { '?' });
        location.push_str(&next::query(self.wanted));
        if let Some(max_age) = max_age {
            write!(location, "&max_age={max_age}").expect("writing to a string cannot fail");
        }
        let Ok(location) = HeaderValue::try_from(location) else {
            tracing::error!(page, "the sign-in page is not an address");
            return Some(problem::set_up_wrongly());
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SEE_OTHER;
        response.headers_mut().insert(header::LOCATION, location);
        Some(response)
    }
}
