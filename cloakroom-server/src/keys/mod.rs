//! API keys: who may call, and how much they may do. Only digests of keys are kept.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloakroom::store::Digest;
use http::{HeaderMap, header};
use ring::hmac;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::private;
pub use crate::private::PrivateFileError;

mod attempts;

pub(crate) use attempts::{Attempts, Verdict};

/// How much a key may do. Each scope includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Resume and read sessions, list them, read the audit log.
    Read,
    /// Start, change, rotate and end sessions.
    Write,
    /// End sessions of others, run the reaper.
    Admin,
}

impl Scope {
    /// The name in settings and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// The keys a server takes.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<ApiKey>);

/// The keys of a running server, which can be replaced without a restart. Cheap to clone: clones share them.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(Arc<RwLock<Arc<ApiKeys>>>);

impl KeyRing {
    /// These keys, until they are replaced.
    pub fn new(keys: ApiKeys) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    /// From the next request on these keys count, and no others.
    pub fn replace(&self, keys: ApiKeys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// What shows, beside `statement`, that the holder of a key made it: for others there is nothing to be had from it, and it
    /// is worth nothing once the key is not taken any more.
    pub(crate) fn sign(&self, caller: &Caller, statement: &[u8]) -> Option<String> {
        let keys = self.current();
        let mut keys = keys.0.iter().filter(|key| key.name == caller.name && key.scope == caller.scope);
        Some(URL_SAFE_NO_PAD.encode(keys.next()?.sign(statement)))
    }

    /// Whose key of this name signed the statement.
    pub(crate) fn signer(&self, name: &str, statement: &[u8], signature: &str) -> Option<Caller> {
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let keys = self.current();
        let mut keys = keys.0.iter().filter(|key| &*key.name == name);
        let key = keys.find(|key| hmac::verify(&key.hmac(), statement, &signature).is_ok())?;
        Some(Caller { name: Arc::clone(&key.name), scope: key.scope })
    }

    fn current(&self) -> Arc<ApiKeys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl From<ApiKeys> for KeyRing {
    fn from(keys: ApiKeys) -> Self {
        Self::new(keys)
    }
}

/// A key as it is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    name: Arc<str>,
    scope: Scope,
    #[serde(rename = "sha256", deserialize_with = "digest_from_hex")]
    digest: Digest,
}

/// Whose key a request carried.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: Arc<str>,
    pub(crate) scope: Scope,
}

impl ApiKeys {
    /// These keys.
    pub fn new(keys: Vec<ApiKey>) -> Self {
        Self(keys)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whose key the request carries, if it is one of these.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, key) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return None;
        }
        let digest = digest_of(key.trim_ascii());
        // Every key is compared, each in constant time, so that timing tells nothing about any.
        let mut found = None;
        for key in &self.0 {
            if key.digest == digest {
                found = Some(key);
            }
        }
        found.map(|key| Caller { name: Arc::clone(&key.name), scope: key.scope })
    }
}

impl ApiKey {
    /// The key `text`, which is not kept.
    pub fn new(name: impl Into<Arc<str>>, scope: Scope, text: &str) -> Result<Self, KeyError> {
        if text.len() < MIN_LEN || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(KeyError::Weak);
        }
        Ok(Self { name: name.into(), scope, digest: digest_of(text.as_bytes()) })
    }

    /// What only those can compute who know the key, or the settings that hold its digest.
    fn sign(&self, statement: &[u8]) -> hmac::Tag {
        hmac::sign(&self.hmac(), statement)
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.digest.as_bytes())
    }

    /// The digest as settings hold it.
    pub fn sha256(&self) -> String {
        self.digest.as_bytes().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }
}

/// A new key's text, 256 random bits. Show it once.
pub fn generate() -> Result<String, KeyError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(KeyError::Randomness)?;
    Ok(format!("ck_{}", URL_SAFE_NO_PAD.encode(secret)))
}

/// The key of the embedded store: read from `cloakroom.key` in `directory`, made there at the first start.
pub fn embedded(directory: &Path) -> Result<(ApiKey, PathBuf), KeyError> {
    let path = directory.join(FILE_NAME);
    let text = match read(&path) {
        Err(error) if error.is_not_found() => {
            let text = generate()?;
            match private::write_new(&path, &format!("{text}\n")) {
                Ok(()) => text,
                // Another server that starts at the same moment made it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(&path)?,
                Err(source) => return Err(KeyError::Write { path, source }),
            }
        }
        found => found?,
    };
    let key =
        ApiKey::new("cloakroom.key", Scope::Admin, &text).map_err(|_| KeyError::Damaged { path: path.clone() })?;
    Ok((key, path))
}

/// The key in a file, which must be its owner's alone: no other account may read it, and the owner is who runs this.
pub fn read(path: &Path) -> Result<String, PrivateFileError> {
    Ok(private::read(path)?.trim().to_owned())
}

/// The file that holds the embedded store's key.
pub const FILE_NAME: &str = "cloakroom.key";

/// Shorter texts could be guessed, and their digest lies in settings files.
const MIN_LEN: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Too easy to guess.
    #[error("an API key must have at least {MIN_LEN} characters, all visible ASCII: make one with `cloakroom key`")]
    Weak,
    /// The file cannot be read, or is not private.
    #[error("the API key is not used: {0}")]
    File(#[from] PrivateFileError),
    /// The file cannot be made.
    #[error(
        "the API key cannot be written to {}: {source}; make the directory writable, or set CLOAKROOM_API_KEY",
        path.display()
    )]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds no key.
    #[error("{} holds no API key: delete it, and the next start makes a new one", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Randomness(getrandom::Error),
}

fn digest_of(key: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(key).into())
}

fn digest_from_hex<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_digest(&text).ok_or_else(|| serde::de::Error::custom("sha256 must be 64 hexadecimal digits"))
}

fn parse_digest(text: &str) -> Option<Digest> {
    if text.len() != 2 * Digest::LEN || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; Digest::LEN];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Digest::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn bearer(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_request_is_known_by_its_key_alone() {
        let (read, admin) = (generate().unwrap(), generate().unwrap());
        let keys = ApiKeys::new(vec![
            ApiKey::new("shop", Scope::Read, &read).unwrap(),
            ApiKey::new("ops", Scope::Admin, &admin).unwrap(),
        ]);
        assert_eq!(&*keys.caller(&bearer(&format!("Bearer {read}"))).unwrap().name, "shop");
        assert_eq!(keys.caller(&bearer(&format!("bearer {admin}"))).unwrap().scope, Scope::Admin);
        for wrong in ["", "Bearer", "Bearer ", "Basic abc", &format!("Bearer {read}x"), &read] {
            assert!(keys.caller(&bearer(wrong)).is_none(), "{wrong:?}");
        }
        let mut twice = bearer(&format!("Bearer {read}"));
        twice.append(header::AUTHORIZATION, format!("Bearer {admin}").parse().unwrap());
        assert!(keys.caller(&twice).is_none());
        assert!(keys.caller(&HeaderMap::new()).is_none());
    }

    #[test]
    fn only_the_digest_is_kept() {
        let text = generate().unwrap();
        let key = ApiKey::new("shop", Scope::Write, &text).unwrap();
        assert!(!format!("{key:?}").contains(&text[3..]));
        let settings = format!("name = 'shop'\nscope = 'write'\nsha256 = '{}'", key.sha256());
        let read: ApiKey = toml::from_str(&settings).unwrap();
        assert_eq!(read.digest, key.digest);
        assert!(toml::from_str::<ApiKey>(&settings.replace("sha256 = '", "sha256 = 'x")).is_err());
    }

    #[test]
    fn weak_keys_are_refused() {
        assert!(ApiKey::new("shop", Scope::Read, "secret").is_err());
        assert!(ApiKey::new("shop", Scope::Read, &"a b".repeat(20)).is_err());
    }

    /// Each with a part of what is said of it.
    #[cfg(unix)]
    #[test]
    fn s3_a_key_file_that_others_may_use_is_refused_with_the_remedy() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (_, file) = embedded(directory.path()).unwrap();
        for (mode, is_fine) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false), (0o620, false)]
        {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            match read(&file) {
                Ok(_) => assert!(is_fine, "{mode:o}"),
                Err(error) => {
                    let told = error.to_string();
                    assert!(!is_fine && told.contains(&format!("{mode:o}")) && told.contains("chmod 600"), "{told}");
                }
            }
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

        symlink(&file, path("link")).unwrap();
        assert!(read(&path("link")).unwrap_err().to_string().contains("symbolic link"));
        // It would wait for a writer.
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(path("fifo")).status().unwrap();
        assert!(made.success());
        assert!(read(&path("fifo")).unwrap_err().to_string().contains("FIFO"));
        assert!(read(directory.path()).unwrap_err().to_string().contains("directory"));
        assert!(read(&path("none")).unwrap_err().is_not_found());

        // Giving a file away takes a privilege.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
            let told = read(&file).unwrap_err().to_string();
            assert!(told.contains("uid 65534") && told.contains("sudo -u"), "{told}");
        }
    }

    #[test]
    fn the_embedded_key_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (first, path) = embedded(directory.path()).unwrap();
        let (second, _) = embedded(directory.path()).unwrap();
        assert_eq!(first.digest, second.digest);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(&path, "").unwrap();
        assert!(matches!(embedded(directory.path()), Err(KeyError::Damaged { .. })));
    }
}
