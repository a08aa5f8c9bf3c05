//! Encrypted connections: whom we trust, and what we show of ourselves.

use redis::{Client, ConnectionInfo, RedisError, RedisResult};

use super::address::refuse;
use crate::error::Result;

/// Certificates, from files that an address names.
#[cfg(feature = "tls")]
#[derive(Clone, Default)]
pub(super) struct Tls {
    /// Whom to trust in place of those whom the system trusts.
    trusted: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

#[cfg(feature = "tls")]
impl Tls {
    #[allow(clippy::unnecessary_wraps, reason = "without the feature it fails")]
    pub(super) fn new() -> Result<Self> {
        // The driver takes what the process uses, and panics if that is not settled.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may settle it at the same moment: just as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Ok(Self::default())
    }

    pub(super) fn trust(&mut self, file: &str) -> Result<()> {
        let text = read("tls_ca", file)?;
        if memchr::memmem::find(&text, b"-----BEGIN CERTIFICATE-----").is_none() {
            return Err(refuse(&format!("tls_ca={file} holds no certificate")));
        }
        self.trusted = Some(text);
        Ok(())
    }

    pub(super) fn present(&mut self, file: &str) -> Result<()> {
        self.certificate = Some(read("tls_cert", file)?);
        Ok(())
    }

    pub(super) fn sign_with(&mut self, file: &str) -> Result<()> {
        self.key = Some(read("tls_key", file)?);
        Ok(())
    }

    /// Whether the files belong together and can be read.
    pub(super) fn check(&self) -> Result<()> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err(refuse("tls_cert= and tls_key= go together"));
        }
        let somewhere =
            redis::ConnectionAddr::TcpTls { host: "host".into(), port: 1, insecure: false, tls_params: None };
        let info = redis::IntoConnectionInfo::into_connection_info(somewhere);
        let client = info.and_then(|info| self.client(info));
        client.map(drop).map_err(|error| refuse(&format!("its certificates cannot be used: {error}")))
    }

    pub(super) fn client(&self, info: ConnectionInfo) -> RedisResult<Client> {
        let both = self.certificate.clone().zip(self.key.clone());
        let client_tls = both.map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
        Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert: self.trusted.clone() })
    }
}

#[cfg(feature = "tls")]
fn read(parameter: &str, file: &str) -> Result<Vec<u8>> {
    let text = std::fs::read(file).map_err(|error| refuse(&format!("{parameter}={file} cannot be read: {error}")))?;
    if memchr::memmem::find(&text, b"-----BEGIN ").is_none() {
        return Err(refuse(&format!("{parameter}={file} is no PEM file")));
    }
    Ok(text)
}

/// Why a handshake failed that will fail again, in words.
#[cfg(feature = "tls")]
pub(super) fn distrust(error: &RedisError) -> Option<String> {
    use std::{error::Error, sync::Arc};

    // The driver hands out what it shares.
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    let io = shared.downcast_ref::<std::io::Error>()?;
    match io.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => Some(format!(
            "the certificate of Redis is not to be trusted ({why}): see that it is for the host in the address and that \
             tls_ca names who signed it"
        )),
        rustls::Error::AlertReceived(alert) => Some(format!(
            "Redis refused the encrypted connection ({alert:?}): see whether it wants tls_cert and tls_key"
        )),
        _ => None,
    }
}

/// There are none: nothing makes one.
#[cfg(not(feature = "tls"))]
#[derive(Clone)]
pub(super) enum Tls {}

#[cfg(not(feature = "tls"))]
impl Tls {
    pub(super) fn new() -> Result<Self> {
        Err(refuse("TLS needs the feature \"tls\" of the crate cloakroom: cargo add cloakroom --features tls"))
    }

    pub(super) fn trust(&mut self, _file: &str) -> Result<()> {
        match *self {}
    }

    pub(super) fn present(&mut self, _file: &str) -> Result<()> {
        match *self {}
    }

    pub(super) fn sign_with(&mut self, _file: &str) -> Result<()> {
        match *self {}
    }

    pub(super) fn check(&self) -> Result<()> {
        match *self {}
    }

    pub(super) fn client(&self, _info: ConnectionInfo) -> RedisResult<Client> {
        match *self {}
    }
}

#[cfg(not(feature = "tls"))]
pub(super) fn distrust(_error: &RedisError) -> Option<String> {
    None
}
