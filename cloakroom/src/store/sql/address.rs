//! Addresses of database servers.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// An address, taken apart.
pub(super) struct Address<O> {
    /// What is the driver's.
    pub(super) options: O,
    pub(super) namespace: Namespace,
    pub(super) max_connections: u32,
}

impl<O: FromStr<Err = sqlx::Error>> Address<O> {
    /// Takes our own parameters out of an address and leaves the rest to the driver. `server` is what the kind of server is
    /// called, `parameter` what the place of the sessions is called there.
    pub(super) fn parse(url: &str, server: &str, parameter: &str) -> Result<Self> {
        let mut namespace = Namespace::default();
        let mut max_connections = DEFAULT_CONNECTIONS;
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((name, value)) if name == parameter => namespace = Namespace::new(value)?,
                Some(("max_connections", value)) => {
                    let count = value.parse().ok().filter(|count| (1..=10_000).contains(count));
                    max_connections = count.ok_or_else(|| {
                        Error::StoreUrl(format!("max_connections={value}: write a number from 1 to 10000"))
                    })?;
                }
                _ => rest.push(pair),
            }
        }
        let driver_url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let options = driver_url.parse().map_err(|error: sqlx::Error| {
            // The address may hold a password, so it is not shown.
            Error::StoreUrl(format!("the address of {server} cannot be used: {error}"))
        })?;
        Ok(Self { options, namespace, max_connections })
    }
}

impl<O> fmt::Debug for Address<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.namespace)
    }
}

/// So many connections at most, unless told otherwise.
const DEFAULT_CONNECTIONS: u32 = 10;

/// What sets our tables apart from others in the same database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace(String);

impl Namespace {
    const MAX_LEN: usize = 32;

    pub(super) fn new(name: &str) -> Result<Self> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
        if name.len() > Self::MAX_LEN || !starts_well || !name.bytes().all(plain) || name.starts_with("pg_") {
            return Err(Error::StoreUrl(format!(
                "{name:?} cannot name the place of the sessions: use a to z, 0 to 9 and _, at most {}, not beginning with \
                 a digit or pg_",
                Self::MAX_LEN
            )));
        }
        Ok(Self(name.to_owned()))
    }

    #[cfg(feature = "postgres")]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("cloakroom".to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}
