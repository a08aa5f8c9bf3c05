//! MACs: over the head of a record, so that a writer to the database cannot make or change one, and in place of plain
//! digests of secrets.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::token::{Digest, SessionId, Token};

/// Makes and checks MACs. The first key makes them, all check.
#[derive(Clone)]
pub(crate) struct MacKeys(Vec<Key>);

/// One key serves several purposes: what was made for one must never pass for another.
#[derive(Clone, Copy)]
enum Purpose {
    Head,
    Secret,
    Csrf,
}

#[derive(Clone)]
struct Key(Hmac<Sha256>);

impl MacKeys {
    /// `None` without a key.
    pub(super) fn new(ring: &[[u8; 32]]) -> Option<Self> {
        (!ring.is_empty()).then(|| Self(ring.iter().map(Key::new).collect()))
    }

    /// A head with the MAC before it.
    pub(super) fn seal(&self, id: SessionId, head: &str) -> String {
        format!("{PREFIX}{}.{head}", text(&self.current().mac(Purpose::Head, &bound(id, head))))
    }

    /// The head, if a MAC of it by one of the keys is before it.
    pub(super) fn open<'a>(&self, id: SessionId, sealed: &'a str) -> Option<&'a str> {
        let (mac, head) = sealed.strip_prefix(PREFIX)?.split_once('.')?;
        let covered = bound(id, head);
        let made = |key: &Key| text(&key.mac(Purpose::Head, &covered)).as_bytes().ct_eq(mac.as_bytes()).into();
        self.0.iter().any(made).then_some(head)
    }

    /// What is kept of a token's secret.
    pub(crate) fn digest(&self, token: &Token) -> Digest {
        self.current().mac(Purpose::Secret, &secret(token))
    }

    /// What may be kept of a token's secret: under the current key, then under earlier ones.
    pub(crate) fn digests(&self, token: &Token) -> impl Iterator<Item = Digest> {
        let secret = secret(token);
        self.0.iter().map(move |key| key.mac(Purpose::Secret, &secret))
    }

    /// The secret beneath a session's CSRF tokens: under the current key, then under earlier ones.
    pub(crate) fn csrf_secrets(&self, id: SessionId) -> impl Iterator<Item = Digest> {
        self.0.iter().map(move |key| key.mac(Purpose::Csrf, id.as_bytes()))
    }

    fn current(&self) -> &Key {
        &self.0[0]
    }
}

const PREFIX: &str = "m1.";

impl Key {
    fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    fn mac(&self, purpose: Purpose, message: &[u8]) -> Digest {
        let purpose: &[u8] = match purpose {
            Purpose::Head => b"cloakroom head 1\0",
            Purpose::Secret => b"cloakroom secret 1\0",
            Purpose::Csrf => b"cloakroom csrf 1\0",
        };
        let mac = self.0.clone().chain_update(purpose).chain_update(message);
        Digest::from_bytes(mac.finalize().into_bytes().into())
    }
}

fn text(mac: &Digest) -> String {
    URL_SAFE_NO_PAD.encode(mac.as_bytes())
}

/// The head with the id it belongs to, which always has the same length: in another session's slot the MAC does not hold.
fn bound(id: SessionId, head: &str) -> Vec<u8> {
    [&id.as_bytes()[..], head.as_bytes()].concat()
}

/// The secret with the id it belongs to: its digest in another session's row opens nothing.
fn secret(token: &Token) -> Vec<u8> {
    [&token.id().as_bytes()[..], token.digest().as_bytes()].concat()
}
