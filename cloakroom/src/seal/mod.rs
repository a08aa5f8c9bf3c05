//! Seals: what keeps a writer to the database from making a session of their choice, and a reader from seeing what is in
//! one.

mod cipher;
mod mac;

use std::{borrow::Cow, fmt};

use self::cipher::Cipher;
pub(crate) use self::mac::MacKeys;
use crate::{
    data::{Json, JsonRef},
    error::{Error, Result},
    token::SessionId,
};

/// Keys that records are sealed with, each 32 random bytes that are kept away from the database.
///
/// A ring of keys is an order: the first one writes, all of them read. What another than the first one wrote is written anew at the
/// next write.
#[derive(Clone, Default)]
pub struct RecordKeys {
    macs: Option<MacKeys>,
    ciphers: Vec<Cipher>,
}

impl RecordKeys {
    /// A MAC over the head of each record: see [`Builder::record_mac_keys`](crate::Builder::record_mac_keys). A ring without keys
    /// asks for none.
    pub fn mac(mut self, ring: impl IntoIterator<Item = [u8; 32]>) -> Result<Self> {
        self.macs = MacKeys::new(&checked("record_mac_keys", ring)?);
        Ok(self)
    }

    /// Encryption of heads and values: see [`Builder::encryption_keys`](crate::Builder::encryption_keys). A ring without keys asks
    /// for none.
    pub fn encryption(mut self, ring: impl IntoIterator<Item = [u8; 32]>) -> Result<Self> {
        self.ciphers = checked("encryption_keys", ring)?.iter().map(Cipher::new).collect();
        Ok(self)
    }

    /// Whether records are to be sealed at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.macs.is_none() && self.ciphers.is_empty()
    }

    pub(crate) fn macs(&self) -> Option<&MacKeys> {
        self.macs.as_ref()
    }

    /// Whether values are encrypted too.
    pub(crate) fn encrypt(&self) -> bool {
        !self.ciphers.is_empty()
    }

    /// A head as it is stored.
    pub(crate) fn seal_head(&self, id: SessionId, head: String) -> String {
        match (self.ciphers.first(), &self.macs) {
            (Some(first), _) => first.encrypt(&[HEAD, id.as_bytes()], &head),
            (None, Some(macs)) => macs.seal(id, &head),
            (None, None) => head,
        }
    }

    /// A head as it was made; `None` if it was not made with these keys, or for another session.
    pub(crate) fn open_head<'a>(&self, id: SessionId, sealed: &'a str) -> Option<Cow<'a, str>> {
        if self.encrypt() {
            return self.decrypt(&[HEAD, id.as_bytes()], sealed).map(Cow::Owned);
        }
        match &self.macs {
            Some(macs) => macs.open(id, sealed).map(Cow::Borrowed),
            None => Some(sealed.into()),
        }
    }

    /// A value as it is stored, itself a text of JSON.
    pub(crate) fn seal_value(&self, id: SessionId, key: &str, value: &Json) -> Json {
        match self.ciphers.first() {
            Some(first) => {
                let sealed = first.encrypt(&[VALUE, id.as_bytes(), key.as_bytes()], value.as_str());
                Json::from_stored(format!("\"{sealed}\""))
            }
            None => value.clone(),
        }
    }

    /// A value as it was set; `None` if it was not encrypted with these keys, or for another session or key.
    pub(crate) fn open_value(&self, id: SessionId, key: &str, value: JsonRef<'_>) -> Option<Json> {
        if !self.encrypt() {
            return Some(value.to_json());
        }
        let sealed = value.as_str().strip_prefix('"')?.strip_suffix('"')?;
        self.decrypt(&[VALUE, id.as_bytes(), key.as_bytes()], sealed).map(Json::from_stored)
    }

    fn decrypt(&self, place: &cipher::Place<'_>, sealed: &str) -> Option<String> {
        self.ciphers.iter().filter(|cipher| cipher.made(sealed)).find_map(|cipher| cipher.decrypt(place, sealed))
    }
}

const HEAD: &[u8] = b"head";
const VALUE: &[u8] = b"value";

impl fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKeys(hidden)")
    }
}

fn checked(what: &'static str, ring: impl IntoIterator<Item = [u8; 32]>) -> Result<Vec<[u8; 32]>> {
    let ring: Vec<_> = ring.into_iter().collect();
    let problem = |problem: &str| Err(Error::InvalidArgument { what, problem: problem.into() });
    if ring.contains(&[0; 32]) {
        return problem("one is all zeros: make it of 32 random bytes");
    }
    if ring.iter().enumerate().any(|(number, key)| ring[..number].contains(key)) {
        return problem("one is there twice");
    }
    Ok(ring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Partition;

    const HEAD_TEXT: &str = r#"{"user":"anna","created":1}"#;

    fn id() -> SessionId {
        SessionId::generate(Partition::random().unwrap()).unwrap()
    }

    fn macs(ring: &[u8]) -> RecordKeys {
        RecordKeys::default().mac(ring.iter().map(|byte| [*byte; 32])).unwrap()
    }

    fn encryption(ring: &[u8]) -> RecordKeys {
        RecordKeys::default().encryption(ring.iter().map(|byte| [*byte; 32])).unwrap()
    }

    #[test]
    fn t10_a_seal_holds_for_its_head_and_its_session_alone() {
        let id = id();
        for keys in [macs(&[1]), encryption(&[1]), macs(&[1]).encryption([[2; 32]]).unwrap()] {
            let sealed = keys.seal_head(id, HEAD_TEXT.into());
            assert_eq!(keys.open_head(id, &sealed).as_deref(), Some(HEAD_TEXT));
            assert_eq!(keys.open_head(self::id(), &sealed), None, "another session's");
            assert_eq!(keys.open_head(id, HEAD_TEXT), None, "without a seal");
            for place in 0..sealed.len() {
                let mut forged = sealed.clone().into_bytes();
                forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
                assert_eq!(keys.open_head(id, &String::from_utf8(forged).unwrap()), None, "byte {place} of {sealed}");
            }
            for end in 0..sealed.len() {
                assert_eq!(keys.open_head(id, &sealed[..end]), None, "cut off at {end}");
            }
        }
    }

    #[test]
    fn t10_what_is_encrypted_shows_nothing_and_opens_in_its_place_alone() {
        let (id, keys) = (id(), encryption(&[1]));
        let sealed = keys.seal_head(id, HEAD_TEXT.into());
        assert!(!sealed.contains("anna") && !sealed.starts_with('{'), "{sealed}");
        let value = Json::from_stored(r#"{"card":"4111"}"#);
        let stored = keys.seal_value(id, "card", &value);
        assert!(!stored.as_str().contains("4111"), "{stored:?}");
        assert_eq!(stored, keys.seal_value(id, "card", &value), "so stores can compare it");
        assert_eq!(keys.open_value(id, "card", stored.as_ref()), Some(value.clone()));
        assert_eq!(keys.open_value(id, "cart", stored.as_ref()), None, "another key's");
        assert_eq!(keys.open_value(self::id(), "card", stored.as_ref()), None, "another session's");
        assert_eq!(keys.open_value(id, "card", value.as_ref()), None, "plain");
        let as_head = stored.as_str().trim_matches('"');
        assert_eq!(keys.open_head(id, as_head), None, "a value is no head");
    }

    #[test]
    fn t10_the_first_key_writes_and_all_read() {
        let id = id();
        for ring in [macs, encryption] {
            let old = ring(&[1]).seal_head(id, HEAD_TEXT.into());
            let new = ring(&[2]).seal_head(id, HEAD_TEXT.into());
            assert_ne!(old, new);
            let both = ring(&[2, 1]);
            assert_eq!(both.seal_head(id, HEAD_TEXT.into()), new);
            assert_eq!(both.open_head(id, &old).as_deref(), Some(HEAD_TEXT));
            assert_eq!(ring(&[2]).open_head(id, &old), None, "the old key was dropped");
        }
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        for ring in [vec![[0; 32]], vec![[1; 32], [0; 32]], vec![[1; 32], [2; 32], [1; 32]]] {
            assert!(RecordKeys::default().mac(ring.clone()).is_err());
            assert!(RecordKeys::default().encryption(ring).is_err());
        }
        assert!(macs(&[]).is_empty() && encryption(&[]).is_empty());
        assert_eq!(format!("{:?}", encryption(&[0xab])), "RecordKeys(hidden)");
    }

    /// What is stored must open in later versions too. Computed with OpenSSL's AES-SIV.
    #[test]
    fn the_form_of_what_is_stored_stays() {
        let id = SessionId::from_bytes([7; SessionId::LEN]);
        assert_eq!(macs(&[1]).seal_head(id, "{}".into()), "m1.5GfOjIX8648MTorRY1oLID2cT7G3m8jgTfMjbNdvwSE.{}");
        assert_eq!(encryption(&[1]).seal_head(id, "{}".into()), "e1.aR7rycFt.cVGvTj2xHrmZP1u8NKVLtDkB");
        assert_eq!(
            encryption(&[1]).seal_value(id, "k", &Json::from_stored("1")).as_str(),
            "\"e1.aR7rycFt.dZ1_nTq7unnoD6UeNVTaNA0\""
        );
    }
}
