//! Tokens that prove a request comes from a page of ours: made for one session, worth nothing in another.
//!
//! A session's secret is computed from its id under a key of the store, never stored. So it is there from the session's
//! start, the same on every node, and another one after a sign-in. What a page holds is the secret under a mask that
//! is new each time, so that the length of a compressed page tells nothing about it (BREACH).

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    error::{Error, Result},
    token::Digest,
};

/// A session's CSRF token, as a page or a script gets it: 86 characters of base64url, different each time.
///
/// `Debug` hides it. Its place is a form's hidden field or a header.
#[derive(Clone)]
pub struct CsrfToken(String);

impl CsrfToken {
    const MASK_LEN: usize = Digest::LEN;

    /// The text, for a page.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn mask(secret: &Digest) -> Result<Self> {
        let mut bytes = [0; Self::MASK_LEN + Digest::LEN];
        let (mask, masked) = bytes.split_at_mut(Self::MASK_LEN);
        getrandom::fill(mask).map_err(Error::randomness)?;
        for ((masked, mask), secret) in masked.iter_mut().zip(mask).zip(secret.as_bytes()) {
            *masked = *mask ^ *secret;
        }
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The secret beneath the mask of what a client sent, if it has a token's form. To be compared in constant time, as
    /// digests are.
    pub(crate) fn unmask(text: &[u8]) -> Option<Digest> {
        // The decoder estimates its output upwards.
        let mut bytes = [0; Self::MASK_LEN + Digest::LEN + 3];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (mask, rest) = bytes.split_at(Self::MASK_LEN);
        if length != Self::MASK_LEN + Digest::LEN {
            return None;
        }
        let mut secret = [0; Digest::LEN];
        for ((secret, mask), masked) in secret.iter_mut().zip(mask).zip(rest) {
            *secret = *mask ^ *masked;
        }
        Some(Digest::from_bytes(secret))
    }
}

impl fmt::Display for CsrfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for CsrfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CsrfToken(hidden)")
    }
}

impl AsRef<str> for CsrfToken {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<CsrfToken> for String {
    fn from(token: CsrfToken) -> Self {
        token.0
    }
}

impl serde::Serialize for CsrfToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_a_token_is_masked_anew_each_time_and_holds_the_same_secret() {
        let secret = Digest::from_bytes([7; 32]);
        let (one, two) = (CsrfToken::mask(&secret).unwrap(), CsrfToken::mask(&secret).unwrap());
        let shared = one.as_str().bytes().zip(two.as_str().bytes()).filter(|(one, two)| one == two).count();
        assert!(shared < 20, "{shared} of 86 characters are the same");
        for token in [one, two] {
            assert_eq!(token.as_str().len(), 86);
            assert_eq!(CsrfToken::unmask(token.as_str().as_bytes()), Some(secret));
            assert_eq!(format!("{token:?}"), "CsrfToken(hidden)");
        }
    }

    #[test]
    fn f2_what_has_not_a_token_s_form_is_none() {
        let good = CsrfToken::mask(&Digest::from_bytes([7; 32])).unwrap().to_string();
        for bad in ["", "x", &good[1..], &format!("{good}A"), &format!("{good}="), &"A".repeat(100_000), "\0\u{e9}"] {
            assert_eq!(CsrfToken::unmask(bad.as_bytes()), None, "{bad}");
        }
    }
}
