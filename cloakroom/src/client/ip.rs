//! A client's address, in one spelling.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A client's address: one value for all the ways in which servers, proxies and operators write it.
///
/// An IPv4 address that came over an IPv6 socket (`::ffff:192.0.2.7`) is the IPv4 address it stands for. Read from text, a port,
/// the brackets around an IPv6 address and its zone are not part of it.
///
/// ```
/// use cloakroom::client::ClientIp;
///
/// let ip: ClientIp = "192.0.2.7".parse()?;
/// for spelling in ["::ffff:192.0.2.7", "::ffff:c000:207", "192.0.2.7:4711", "[::ffff:192.0.2.7]:4711"] {
///     assert_eq!(spelling.parse::<ClientIp>()?, ip);
/// }
/// assert_eq!("[fe80::1%eth0]:4711".parse::<ClientIp>()?.to_string(), "fe80::1");
/// # Ok::<(), cloakroom::error::ParseClientIpError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientIp(IpAddr);

impl ClientIp {
    /// The address, IPv4 where it stands for one.
    pub const fn get(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for ClientIp {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl From<ClientIp> for IpAddr {
    fn from(ip: ClientIp) -> Self {
        ip.0
    }
}

/// An address in the spelling that is stored, compared and shown.
pub(crate) fn canonical(address: Option<IpAddr>) -> Option<IpAddr> {
    address.map(|address| ClientIp::from(address).get())
}

/// The text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: write one such as 192.0.2.7 or 2001:db8::1")]
pub struct ParseClientIpError {
    text: String,
}

impl FromStr for ClientIp {
    type Err = ParseClientIpError;

    fn from_str(text: &str) -> Result<Self, ParseClientIpError> {
        let address = read(text).ok_or_else(|| ParseClientIpError { text: text.chars().take(64).collect() })?;
        Ok(address.into())
    }
}

fn read(text: &str) -> Option<IpAddr> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, behind) = bracketed.split_once(']')?;
        return (behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port)).then(|| v6(address))?;
    }
    match text.split_once(':') {
        None => text.parse().ok(),
        Some((address, port)) if is_port(port) && address.contains('.') => address.parse().ok().filter(IpAddr::is_ipv4),
        Some(_) => v6(text),
    }
}

/// An IPv6 address, perhaps with a zone (RFC 4007, section 11), which says something to the machine alone that wrote it.
fn v6(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_zone = |zone: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (1..=64).contains(&zone.len()) && zone.bytes().all(plain)
    };
    zone.is_none_or(is_zone).then(|| address.parse::<Ipv6Addr>().ok())?.map(IpAddr::from)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ClientIp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_one_value() {
        for (address, spellings) in [
            (
                "192.0.2.9",
                &[
                    "::ffff:192.0.2.9",
                    "::FFFF:c000:209",
                    "192.0.2.9:1",
                    "[::ffff:192.0.2.9]",
                    "[::ffff:c000:209]:65535",
                ][..],
            ),
            ("2001:db8::1", &["2001:DB8:0:0::1", "[2001:db8::1]", "[2001:db8::1]:443", "2001:db8::1%eth0"]),
            ("fe80::1", &["fe80::1%eth0", "fe80::1%25en0", "[fe80::1%1]:80", "[fe80::1%br-1.2]"]),
        ] {
            let ip: ClientIp = address.parse().unwrap();
            assert_eq!(ip.to_string(), address);
            for spelling in spellings {
                assert_eq!(spelling.parse::<ClientIp>(), Ok(ip), "{spelling}");
                let json = format!("{spelling:?}");
                assert_eq!(serde_json::from_str::<ClientIp>(&json).unwrap(), ip);
            }
            assert_eq!(ClientIp::from(ip.get()), ip);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_says_what_would_be() {
        for text in [
            "",
            " 192.0.2.9",
            "192.0.2.9 ",
            "1.2.3",
            "192.0.2.9:",
            "192.0.2.9:70000",
            "192.0.2.9:+1",
            "192.0.2.9%eth0",
            "[192.0.2.9]",
            "[192.0.2.9]:1",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:",
            "[::1]:x",
            "::1%",
            "::1%a b",
            "::1%a%b",
            "2001:db8::1:99999",
            "unknown",
            "_hidden",
            "0x7f.1",
            "192.0.2.09",
            "host:80",
        ] {
            let error = text.parse::<ClientIp>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("192.0.2.7"), "{error}");
        }
    }
}
