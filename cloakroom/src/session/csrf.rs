//! Proofs that a request comes from a page of the session's own.

use super::Session;
use crate::{csrf::CsrfToken, error::Result};

impl Session {
    /// The session's CSRF token, for a form or a script: see [`web::csrf`](crate::web::csrf). Each call masks it anew;
    /// all of them hold until the session ends or its user signs in, across rotations.
    ///
    /// A visitor who has no session yet gets one, so ask before the response's head is sent: after it, that is
    /// [`Error::HeadSent`](crate::Error::HeadSent).
    pub async fn csrf_token(&self) -> Result<CsrfToken> {
        let id = match self.id() {
            Some(id) => id,
            None => self.start_anonymous().await?,
        };
        CsrfToken::mask(&self.0.sessions.csrf_secret(id))
    }

    /// Whether this text is a CSRF token of this session, for where the layer does not look: a part of a multipart form,
    /// a first message on a WebSocket. Takes the same time wherever it differs.
    pub fn is_csrf_token(&self, text: &str) -> bool {
        self.is_csrf_token_bytes(text.as_bytes())
    }

    pub(crate) fn is_csrf_token_bytes(&self, text: &[u8]) -> bool {
        let (Some(id), Some(secret)) = (self.id(), CsrfToken::unmask(text)) else { return false };
        self.0.sessions.csrf_secrets(id).any(|own| own == secret)
    }
}
