//! The keys that sign assertions, and what is published of them.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::private::{self, PrivateFileError};

/// The keys of a server. The first signs, all are published: applications know a key before it signs, and as long as what it
/// signed is good.
#[derive(Debug)]
pub struct AssertionKeys {
    signing: SigningKey,
    jwks: String,
}

struct SigningKey {
    pair: EcdsaKeyPair,
    kid: String,
}

/// The file that holds the keys beside a store of this machine.
pub const FILE_NAME: &str = "cloakroom-assertions.pem";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum AssertionKeyError {
    /// The file cannot be read, or is not private.
    #[error("the keys for assertions are not used: {0}")]
    File(#[from] PrivateFileError),
    /// The file cannot be made.
    #[error("the key for assertions cannot be written to {}: {source}; make the directory writable", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no key, or one that cannot be used.
    #[error(
        "no keys for assertions: {0}; make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    Damaged(String),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Randomness,
}

impl AssertionKeys {
    /// Private keys for P-256 in PKCS#8, as PEM, one after another.
    pub fn from_pem(text: &str) -> Result<Self, AssertionKeyError> {
        let damaged = |why: &dyn fmt::Display| AssertionKeyError::Damaged(why.to_string());
        let mut keys = Vec::new();
        for der in PrivatePkcs8KeyDer::pem_slice_iter(text.as_bytes()) {
            let der = der.map_err(|error| damaged(&format_args!("it is not PEM: {error:?}")))?;
            let pair = pair(der.secret_pkcs8_der())
                .map_err(|error| damaged(&format_args!("key {}: {error}", keys.len() + 1)))?;
            keys.push(SigningKey { kid: thumbprint(&pair), pair });
        }
        let published: Vec<_> = keys.iter().map(SigningKey::published).collect();
        let jwks = json!({ "keys": published }).to_string();
        let signing = keys.into_iter().next().ok_or_else(|| damaged(&"there is no PRIVATE KEY in PKCS#8 in it"))?;
        Ok(Self { signing, jwks })
    }

    /// The keys of a store on this machine: read from `cloakroom-assertions.pem` in `directory`, made there at the first start.
    pub fn embedded(directory: &Path) -> Result<(Self, PathBuf), AssertionKeyError> {
        let path = directory.join(FILE_NAME);
        if let Err(error) = private::write_new(&path, &generate()?)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(AssertionKeyError::Write { path, source: error });
        }
        Ok((Self::read(&path)?, path))
    }

    /// The keys in a file, which must be its owner's alone.
    pub fn read(path: &Path) -> Result<Self, AssertionKeyError> {
        Self::from_pem(&private::read(path)?)
    }

    /// The public keys, as RFC 7517 has them.
    pub(crate) fn jwks(&self) -> &str {
        &self.jwks
    }

    /// A JWS in its compact form, with ES256. `None` if the operating system gives no random bytes.
    pub(crate) fn sign(&self, claims: &[u8]) -> Option<String> {
        let head = json!({ "alg": "ES256", "kid": self.signing.kid, "typ": "JWT" }).to_string();
        let mut text = URL_SAFE_NO_PAD.encode(head);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut text);
        let signature = self.signing.pair.sign(&SystemRandom::new(), text.as_bytes()).ok()?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Some(text)
    }
}

impl SigningKey {
    fn published(&self) -> serde_json::Value {
        let [x, y] = coordinates(&self.pair);
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": self.kid })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A new key, as PEM.
pub fn generate() -> Result<String, AssertionKeyError> {
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let text = STANDARD.encode(made.map_err(|_| AssertionKeyError::Randomness)?);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")))
}

fn pair(der: &[u8]) -> Result<EcdsaKeyPair, ring::error::KeyRejected> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
}

/// As RFC 7638 computes it.
fn thumbprint(pair: &EcdsaKeyPair) -> String {
    let [x, y] = coordinates(pair);
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)))
}

fn coordinates(pair: &EcdsaKeyPair) -> [String; 2] {
    // The form of a point that is not compressed: 4, x, y.
    let point = pair.public_key().as_ref();
    [&point[1..33], &point[33..]].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_first_key_signs_and_all_are_published() {
        let [old, new] = [(); 2].map(|()| generate().unwrap());
        let before = AssertionKeys::from_pem(&old).unwrap();
        let between = AssertionKeys::from_pem(&format!("{old}\n{new}")).unwrap();
        let after = AssertionKeys::from_pem(&format!("{new}{old}")).unwrap();
        assert_eq!(before.signing.kid, between.signing.kid);
        assert_ne!(before.signing.kid, after.signing.kid);
        let published = |keys: &AssertionKeys| serde_json::from_str::<Value>(keys.jwks()).unwrap()["keys"].clone();
        assert_eq!(published(&between)[0], published(&before)[0]);
        assert_eq!(published(&between)[1]["kid"], after.signing.kid);
        assert!(!between.jwks().contains("\"d\""), "no private key is published");

        let signed = after.sign(b"{}").unwrap();
        let (message, signature) = signed.rsplit_once('.').unwrap();
        let point = after.signing.pair.public_key().as_ref();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_and_says_how_to_make_one() {
        let rsa = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n";
        for text in ["", "nonsense", rsa, sec1, "-----BEGIN PRIVATE KEY-----\n%%\n-----END PRIVATE KEY-----\n"] {
            let error = AssertionKeys::from_pem(text).unwrap_err().to_string();
            assert!(error.contains("openssl genpkey"), "{text}: {error}");
        }
        let text = generate().unwrap();
        let keys = AssertionKeys::from_pem(&text).unwrap();
        assert!(!format!("{keys:?}").contains(&text.lines().nth(1).unwrap()[..20]));
    }

    #[test]
    fn s1_the_embedded_key_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (first, path) = AssertionKeys::embedded(directory.path()).unwrap();
        let (second, _) = AssertionKeys::embedded(directory.path()).unwrap();
        assert_eq!(first.signing.kid, second.signing.kid);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(&path, "").unwrap();
        assert!(matches!(AssertionKeys::embedded(directory.path()), Err(AssertionKeyError::Damaged(_))));
    }
}
