//! What the client holds, and the handle everybody else may see.
//!
//! A [`Token`] is a [`SessionId`] followed by a 32-byte secret, in base64url. The id opens nothing and is safe in
//! logs, URLs and consoles; the secret is shown once, to the client, and only its SHA-256 [`Digest`] is kept.
//!
//! ```
//! use cloakroom::{SessionId, Token, store::Partition};
//!
//! let token = Token::generate(SessionId::generate(Partition::random()?)?)?;
//! let text = token.reveal();
//! assert_eq!(text.len(), Token::TEXT_LEN);
//! assert!(text.starts_with(&token.id().to_string()));
//! assert!(!format!("{token:?}").contains(&text[SessionId::TEXT_LEN..]));
//! assert_eq!(Token::parse(&text).unwrap().id(), token.id());
//! # Ok::<(), cloakroom::Error>(())
//! ```

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::error::Error;

/// Which sessions live together: all sessions of one signed-in user share the partition derived from that user, so
/// that limits stay atomic on a clustered or partitioned backend. Anonymous sessions are spread at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u16);

impl Partition {
    /// How many groups stores fold partitions into, so that a sweep polls few places.
    pub const GROUPS: u16 = 1024;

    /// A partition for a session without a user.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 2];
        fill_random(&mut bytes)?;
        Ok(Self(u16::from_be_bytes(bytes)))
    }

    /// The partition that a keyed digest falls into.
    pub(crate) fn of_digest(digest: &Digest) -> Self {
        Self(u16::from_be_bytes([digest.0[0], digest.0[1]]))
    }

    /// The partition's number: the first two bytes of the ids in it.
    pub fn to_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// The group a store keeps this partition in: `0 .. GROUPS`.
    pub fn group(self) -> u16 {
        self.0 % Self::GROUPS
    }
}

/// Derives partitions from users. The key lies in the store's own meta data, so that every node derives the same
/// partition and nobody without the store can tell users from ids.
#[derive(Clone)]
pub struct PartitionKey {
    key: [u8; 32],
    /// Has taken in the key, which is half of the work for a short text.
    mac: Hmac<Sha256>,
}

impl PartitionKey {
    /// A new key, for a store that has none yet.
    pub fn generate() -> Result<Self, Error> {
        let mut key = [0; 32];
        fill_random(&mut key)?;
        Ok(Self::from_bytes(key))
    }

    /// A key as the store kept it.
    pub fn from_bytes(key: [u8; 32]) -> Self {
        let mac = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
        Self { key, mac }
    }

    /// The key's bytes, for the store to keep.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.key
    }

    /// The partition of all sessions of `user`.
    pub fn partition_of(&self, user: &str) -> Partition {
        Partition::of_digest(&self.keyed_digest(user.as_bytes()))
    }

    /// HMAC-SHA-256 of `text` under this key.
    pub fn keyed_digest(&self, text: &[u8]) -> Digest {
        let mut mac = self.mac.clone();
        mac.update(text);
        Digest(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartitionKey(hidden)")
    }
}

/// The public handle of a session and its key in the store: stable from start to end, across rotations.
///
/// 18 bytes: 2 of [`Partition`], 16 random. As text, 24 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; SessionId::LEN]);

impl SessionId {
    /// Length in bytes.
    pub const LEN: usize = 18;
    /// Length as text.
    pub const TEXT_LEN: usize = 24;

    /// A new id in `partition`.
    pub fn generate(partition: Partition) -> Result<Self, Error> {
        let mut bytes = [0; Self::LEN];
        bytes[..2].copy_from_slice(&partition.0.to_be_bytes());
        fill_random(&mut bytes[2..])?;
        Ok(Self(bytes))
    }

    /// An id as a store kept it.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The id's bytes, for a store to keep.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The partition this session lives in.
    pub fn partition(&self) -> Partition {
        Partition(u16::from_be_bytes([self.0[0], self.0[1]]))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; Self::TEXT_LEN];
        URL_SAFE_NO_PAD.encode_slice(self.0, &mut text).expect("18 bytes are 24 characters");
        f.pad(str::from_utf8(&text).expect("base64url is ASCII"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The text is not a session id: 24 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session id: it must be 24 characters of base64url (A-Z a-z 0-9 - _)")]
pub struct ParseSessionIdError;

impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The decoder estimates its output upwards, so the buffer is one group larger than the id.
        let mut bytes = [0; Self::LEN + 3];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(Self::LEN) => Ok(Self(bytes[..Self::LEN].try_into().expect("the length was just matched"))),
            _ => Err(ParseSessionIdError),
        }
    }
}

impl serde::Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What the client holds: the session's id and a secret that proves it may use it.
///
/// `Debug` hides the secret, and there is neither `Display` nor `Serialize`: the only way to its text is
/// [`reveal`](Self::reveal), which belongs in the cookie or the answer to the client and nowhere else.
#[derive(Clone)]
pub struct Token {
    id: SessionId,
    secret: [u8; Token::SECRET_LEN],
}

impl Token {
    pub(crate) const SECRET_LEN: usize = 32;
    const LEN: usize = SessionId::LEN + Token::SECRET_LEN;
    /// Length as text: 24 characters of id, 43 of secret.
    pub const TEXT_LEN: usize = 67;

    /// A new token for the session `id`, its secret from the operating system's generator.
    pub fn generate(id: SessionId) -> Result<Self, Error> {
        Self::generate_with(id, getrandom::fill)
    }

    fn generate_with(
        id: SessionId,
        fill: impl FnOnce(&mut [u8]) -> Result<(), getrandom::Error>,
    ) -> Result<Self, Error> {
        let mut secret = [0; Self::SECRET_LEN];
        fill(&mut secret).map_err(Error::randomness)?;
        Ok(Self { id, secret })
    }

    /// A token that stands for what another system's client holds.
    #[cfg(any(feature = "axum-login", feature = "testing", feature = "tower-sessions"))]
    pub(crate) fn from_parts(id: SessionId, secret: [u8; Self::SECRET_LEN]) -> Self {
        Self { id, secret }
    }

    /// Reads a token from text; `None` if it is not exactly the form [`reveal`](Self::reveal) writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_bytes(text.as_bytes())
    }

    pub(crate) fn parse_bytes(text: &[u8]) -> Option<Self> {
        if text.len() != Self::TEXT_LEN {
            return None;
        }
        let mut bytes = [0; Self::LEN + 3];
        // The engine refuses non-zero trailing bits, so every accepted text has exactly one spelling.
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        if length != Self::LEN {
            return None;
        }
        let (id, secret) = bytes[..Self::LEN].split_at(SessionId::LEN);
        Some(Self { id: SessionId(id.try_into().ok()?), secret: secret.try_into().ok()? })
    }

    /// The public part.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// SHA-256 of the secret: all that is ever stored of it.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.secret).into())
    }

    /// The token's text, secret included. Hand it to the client; never log, store or forward it.
    pub fn reveal(&self) -> String {
        let mut bytes = [0; Self::LEN];
        bytes[..SessionId::LEN].copy_from_slice(&self.id.0);
        bytes[SessionId::LEN..].copy_from_slice(&self.secret);
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, secret hidden)", self.id)
    }
}

/// SHA-256 of a secret. Comparison takes the same time wherever two digests differ.
#[derive(Clone, Copy)]
pub struct Digest([u8; Digest::LEN]);

impl Digest {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// A digest as a store kept it.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes, for a store to keep.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        // Words instead of bytes: every resumption compares, and each step of a comparison in constant time costs.
        let words =
            |digest: &Self| <[_; 4]>::try_from(digest.0.as_chunks().0).map(|words| words.map(u64::from_ne_bytes));
        let (own, other) = (words(self).expect("it has four"), words(other).expect("it has four"));
        own.ct_eq(&other).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(Error::randomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::generate(SessionId::generate(Partition::random().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn t1_generate_id_carries_256_random_bits_and_never_repeats() {
        assert_eq!(URL_SAFE_NO_PAD.decode(token().reveal()).unwrap().len(), 18 + 32);
        let mut seen = std::collections::HashSet::new();
        let id = SessionId::generate(Partition::random().unwrap()).unwrap();
        for _ in 0..1_000_000 {
            assert!(seen.insert(Token::generate(id).unwrap().secret));
        }
    }

    #[test]
    fn t1_a_failing_generator_is_an_error_never_a_weak_token() {
        let id = SessionId::generate(Partition::random().unwrap()).unwrap();
        let failing = |_: &mut [u8]| Err(getrandom::Error::UNSUPPORTED);
        assert!(matches!(Token::generate_with(id, failing), Err(Error::Randomness { .. })));
    }

    #[test]
    fn t5_every_flipped_bit_of_the_text_is_another_token_or_none() {
        let original = token();
        let text = original.reveal();
        for position in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[position] ^= 1 << bit;
                let Ok(flipped) = String::from_utf8(bytes) else { continue };
                if let Some(parsed) = Token::parse(&flipped) {
                    assert!(parsed.id() != original.id() || parsed.digest() != original.digest(), "{flipped}");
                }
            }
        }
    }

    #[test]
    fn t4_malformed_tokens_are_no_tokens() {
        let good = token().reveal();
        for bad in [
            String::new(),
            "x".repeat(8192),
            format!("{}\0", &good[1..]),
            format!("{}\r\n", &good[2..]),
            format!("{}é", &good[2..]),
            format!("{good}="),
            good.replace(&good[..1], "+"),
        ] {
            assert!(Token::parse(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_user_has_one_partition_under_one_key() {
        let key = PartitionKey::generate().unwrap();
        assert_eq!(key.partition_of("anna"), key.partition_of("anna"));
        let spread: std::collections::HashSet<_> = (0..1000).map(|n| key.partition_of(&n.to_string())).collect();
        assert!(spread.len() > 900);
        let other = PartitionKey::generate().unwrap();
        assert!((0..100).any(|n| key.partition_of(&n.to_string()) != other.partition_of(&n.to_string())));
    }

    #[test]
    fn an_id_survives_text_and_json() {
        let id = token().id();
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<SessionId>(&json).unwrap(), id);
        assert_eq!("short".parse::<SessionId>(), Err(ParseSessionIdError));
    }
}
