//! Encryption that is the same every time: AES-256 in SIV mode (RFC 5297), so that a store can still compare what it keeps.

use aes_siv::{KeyInit, siv::Aes256Siv};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// One key, and the name under which what it encrypted is found.
#[derive(Clone)]
pub(super) struct Cipher {
    name: String,
    key: [u8; 64],
}

/// What a text is, and where it belongs: it opens nowhere else.
pub(super) type Place<'a> = [&'a [u8]];

const PREFIX: &str = "e1.";

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let derive = |purpose: &[u8]| -> [u8; 32] {
            let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
            mac.chain_update(purpose).finalize().into_bytes().into()
        };
        let mut whole = [0; 64];
        whole[..32].copy_from_slice(&derive(b"cloakroom encryption 1 siv\0"));
        whole[32..].copy_from_slice(&derive(b"cloakroom encryption 1 ctr\0"));
        Self { name: URL_SAFE_NO_PAD.encode(&derive(b"cloakroom encryption 1 name\0")[..6]), key: whole }
    }

    pub(super) fn encrypt(&self, place: &Place<'_>, plain: &str) -> String {
        let sealed = self.siv().encrypt(place, plain.as_bytes()).expect("it has few parts and fits into memory");
        format!("{PREFIX}{}.{}", self.name, URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Whether it was this key that encrypted a text.
    pub(super) fn made(&self, text: &str) -> bool {
        name(text) == Some(&self.name)
    }

    /// The plain text, if this key made it for this place.
    pub(super) fn decrypt(&self, place: &Place<'_>, text: &str) -> Option<String> {
        let sealed = text.strip_prefix(PREFIX)?.strip_prefix(&self.name)?.strip_prefix('.')?;
        let plain = self.siv().decrypt(place, &URL_SAFE_NO_PAD.decode(sealed).ok()?).ok()?;
        String::from_utf8(plain).ok()
    }

    fn siv(&self) -> Aes256Siv {
        Aes256Siv::new(&self.key.into())
    }
}

fn name(text: &str) -> Option<&str> {
    Some(text.strip_prefix(PREFIX)?.split_once('.')?.0)
}
