//! The session of a user who is signed in.

use std::{ops::Deref, sync::Arc};

use super::refusal::Refused;
use crate::session::Session;

/// The session of a user who is signed in. Others are answered with 401 or, where they ask for a page, sent to the
/// [sign-in page](super::SessionLayer::sign_in_page) if there is one.
///
/// As `Option<SignedIn>` it lets all in.
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

    /// Why there is none of this session.
    pub(super) fn lacking(session: &Session) -> Refused<'static> {
        Refused::NotSignedIn { ended: session.lapsed(), several: !session.rivals().is_empty() }
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
