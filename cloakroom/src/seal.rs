//! Seals: a MAC over what a record says of whose session it is and until when, so that who can write to the database
//! cannot make or change that.
//!
//! The same keys make the digests of secrets, so that nobody without them can put the digest of a secret of their own
//! into somebody's row.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::{Assurance, Digest, Fields, Json, JsonRef, SessionId, SessionInfo, Timestamp, Token, data::entry_size};

/// The key of a sealed record's data under which its seal is kept. No application can use it: it holds a control
/// character.
pub(crate) const SEAL_KEY: &str = "\u{1}mac";

/// Makes and checks seals. A key that is no longer current still checks.
pub(crate) struct Seals {
    current: Key,
    earlier: Vec<Key>,
}

/// One key serves several purposes: what was made for one must never pass for another.
#[derive(Clone, Copy)]
enum Purpose {
    Record,
    Secret,
    Csrf,
}

struct Key(Hmac<Sha256>);

impl Seals {
    /// How many bytes of data a seal takes, key and value.
    pub(crate) fn size() -> usize {
        entry_size(SEAL_KEY, text(&Digest::from_bytes([0; Digest::LEN])).as_str())
    }

    pub(crate) fn new(current: &[u8; 32], earlier: &[[u8; 32]]) -> Self {
        Self { current: Key::new(current), earlier: earlier.iter().map(Key::new).collect() }
    }

    /// The seal of a record.
    pub(crate) fn seal(&self, info: &SessionInfo) -> Json {
        text(&self.current.mac(Purpose::Record, &covered(info)))
    }

    /// Whether `seal` was made over this record.
    pub(crate) fn made(&self, seal: JsonRef<'_>, info: &SessionInfo) -> bool {
        let covered = covered(info);
        self.keys().any(|key| {
            let made = text(&key.mac(Purpose::Record, &covered));
            made.as_str().as_bytes().ct_eq(seal.as_str().as_bytes()).into()
        })
    }

    /// What is kept of a token's secret.
    pub(crate) fn digest(&self, token: &Token) -> Digest {
        self.current.mac(Purpose::Secret, &secret(token))
    }

    /// What may be kept of a token's secret: under the current key, then under earlier ones.
    pub(crate) fn digests(&self, token: &Token) -> impl Iterator<Item = Digest> {
        let secret = secret(token);
        self.keys().map(move |key| key.mac(Purpose::Secret, &secret))
    }

    /// The secret beneath a session's CSRF tokens: under the current key, then under earlier ones.
    pub(crate) fn csrf_secrets(&self, id: SessionId) -> impl Iterator<Item = Digest> {
        self.keys().map(move |key| key.mac(Purpose::Csrf, id.as_bytes()))
    }

    /// Whether a record whose fields change needs another seal.
    pub(crate) fn covers(fields: &Fields) -> bool {
        let Fields { full_name: _, user_type, idle_timeout, ends_at } = fields;
        user_type.is_some() || idle_timeout.is_some() || ends_at.is_some()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(&self.earlier)
    }
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seals(hidden)")
    }
}

impl Key {
    fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    fn mac(&self, purpose: Purpose, message: &[u8]) -> Digest {
        let purpose: &[u8] = match purpose {
            Purpose::Record => b"cloakroom record 1\0",
            Purpose::Secret => b"cloakroom secret 1\0",
            Purpose::Csrf => b"cloakroom csrf 1\0",
        };
        let mac = self.0.clone().chain_update(purpose).chain_update(message);
        Digest::from_bytes(mac.finalize().into_bytes().into())
    }
}

/// A seal as it is kept: always of one length.
fn text(mac: &Digest) -> Json {
    Json::from_stored(format!("\"{}\"", URL_SAFE_NO_PAD.encode(mac.as_bytes())))
}

/// The secret with the id it belongs to: its digest in another session's row opens nothing.
fn secret(token: &Token) -> Vec<u8> {
    [&token.id().as_bytes()[..], token.digest().as_bytes()].concat()
}

/// What a seal is made over, no two records alike: every part says whether it is there and how long it is.
fn covered(info: &SessionInfo) -> Vec<u8> {
    let SessionInfo {
        id,
        user,
        full_name: _,
        user_type,
        created_at,
        last_seen_at: _,
        idle_timeout,
        ends_at,
        authenticated_at,
        methods,
        level,
        remember,
        client: _,
        impersonated_by,
        returns_to,
        audit_user,
        version: _,
    } = info;
    let mut bytes = Vec::with_capacity(256);
    bytes.extend(id.as_bytes());
    for name in [user, user_type, methods, impersonated_by, audit_user] {
        part(&mut bytes, name.as_deref().map(str::as_bytes));
    }
    // As stores keep it.
    let idle_millis = idle_timeout.map(|idle| i64::try_from(idle.as_millis()).unwrap_or(i64::MAX));
    let times = [Some(*created_at), *authenticated_at, *ends_at].map(|time| time.map(Timestamp::as_millis));
    for number in times.into_iter().chain([idle_millis]) {
        part(&mut bytes, number.map(i64::to_be_bytes).as_ref().map(|bytes| &bytes[..]));
    }
    part(&mut bytes, returns_to.as_ref().map(|id| &id.as_bytes()[..]));
    bytes.push(level.map_or(0, Assurance::number));
    bytes.push(u8::from(*remember));
    bytes
}

fn part(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
    bytes.push(u8::from(part.is_some()));
    if let Some(part) = part {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Client, Partition};

    fn info() -> SessionInfo {
        SessionInfo {
            id: SessionId::generate(Partition::random().unwrap()).unwrap(),
            user: Some("anna".into()),
            full_name: None,
            user_type: None,
            created_at: Timestamp::from_millis(1000),
            last_seen_at: Timestamp::from_millis(2000),
            idle_timeout: Some(Duration::from_millis(500)),
            ends_at: None,
            authenticated_at: Some(Timestamp::from_millis(1000)),
            methods: Some("pwd".into()),
            level: Some(Assurance::Aal1),
            remember: false,
            client: Client::default(),
            impersonated_by: None,
            returns_to: None,
            audit_user: None,
            version: 0,
        }
    }

    #[test]
    fn t10_a_seal_holds_for_its_record_alone() {
        let seals = Seals::new(&[1; 32], &[]);
        let genuine = info();
        let seal = seals.seal(&genuine);
        assert!(seals.made(seal.as_ref(), &genuine));
        let forgeries: [fn(&mut SessionInfo); 15] = [
            |info| info.id = SessionId::generate(info.id.partition()).unwrap(),
            |info| info.user = Some("ann".into()),
            |info| info.user = None,
            |info| info.user_type = Some("admin".into()),
            // The same bytes under other names.
            |info| info.user_type = info.user.take(),
            |info| info.impersonated_by = Some("".into()),
            |info| info.audit_user = Some("ben".into()),
            |info| info.returns_to = Some(info.id),
            |info| info.methods = Some("pwd otp".into()),
            |info| info.level = Some(Assurance::Aal2),
            |info| info.level = None,
            |info| info.created_at = Timestamp::from_millis(1001),
            // The same numbers under other names.
            |info| (info.ends_at, info.authenticated_at) = (info.authenticated_at, info.ends_at),
            |info| info.idle_timeout = None,
            |info| info.remember = true,
        ];
        for (number, forge) in forgeries.into_iter().enumerate() {
            let mut forged = genuine.clone();
            forge(&mut forged);
            assert!(!seals.made(seal.as_ref(), &forged), "forgery {number}");
        }
    }

    #[test]
    fn t10_a_seal_outlives_what_stores_change_by_themselves() {
        let seals = Seals::new(&[1; 32], &[]);
        let mut used = info();
        let seal = seals.seal(&used);
        used.last_seen_at = Timestamp::from_millis(3000);
        used.version = 7;
        used.idle_timeout = Some(Duration::from_micros(500_900));
        assert!(seals.made(seal.as_ref(), &used));
    }

    #[test]
    fn t10_a_seal_of_another_key_does_not_hold_unless_it_is_an_earlier_one() {
        let info = info();
        let old = Seals::new(&[1; 32], &[]).seal(&info);
        assert!(!Seals::new(&[2; 32], &[]).made(old.as_ref(), &info));
        assert!(Seals::new(&[2; 32], &[[1; 32]]).made(old.as_ref(), &info));
    }
}
