//! Encrypted connections, with a certificate that can be replaced while the server runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use crate::private::{self, PrivateFileError};

/// A certificate and its key. Cheap to clone: clones share them.
#[derive(Clone, Debug)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

/// Why a certificate is not used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of certificates cannot be read.
    #[error("the certificates in {} cannot be read: {source}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key's file cannot be read, or is not private.
    #[error("the key of the certificate is not used: {0}")]
    Key(#[from] PrivateFileError),
    /// A file does not hold what it should, or the two do not belong together.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Tls {
    /// Reads PEM: the certificate with those that lead to its authority behind it, and its private key, whose file must be its
    /// owner's alone.
    pub fn read(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(config(certificates, key)?)))))
    }

    /// Reads both again, for connections from now on. If that fails, those before still count.
    pub fn read_again(&self, certificates: &Path, key: &Path) -> Result<(), TlsError> {
        let config = Arc::new(config(certificates, key)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The certificates in a file, as PEM. There is one at least.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = std::fs::read(path).map_err(|source| TlsError::Read { path: path.into(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let unusable = |problem: String| TlsError::Unusable { path: path.into(), problem };
    let found = found.map_err(|error| unusable(format!("it is not PEM: {error}")))?;
    if found.is_empty() { Err(unusable("there is no CERTIFICATE in it".into())) } else { Ok(found) }
}

fn config(chain: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let unusable = |path: &Path, problem: String| TlsError::Unusable { path: path.into(), problem };
    let certificates = certificates(chain)?;
    let text = private::read(key)?;
    let key_der = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|error| unusable(key, format!("there is no PRIVATE KEY in it: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(chain, error.to_string()))?;
    let built = builder.with_no_client_auth().with_single_cert(certificates, key_der);
    let mut config = built.map_err(|error| unusable(chain, format!("with the key in {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
