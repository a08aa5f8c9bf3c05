//! Networks that a user may come from.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::client::ClientIp;

/// One address, or all that begin with the same bits, as CIDR writes them (RFC 4632, RFC 4291).
///
/// An IPv4 address that came over an IPv6 socket (`::ffff:10.1.2.3`) is the IPv4 address it stands for.
///
/// ```
/// # use cloakroom::network::Network;
/// let office: Network = "10.0.0.0/8".parse()?;
/// assert!(office.contains("10.1.2.3".parse().unwrap()));
/// assert!(office.contains("::ffff:10.1.2.3".parse().unwrap()));
/// assert!(!office.contains("11.0.0.1".parse().unwrap()));
///
/// let error = "10.1.2.3/8".parse::<Network>().unwrap_err().to_string();
/// assert!(error.contains("10.0.0.0/8"), "{error}");
/// # Ok::<(), cloakroom::error::ParseNetworkError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// Without bits behind the prefix, and never an IPv4 address in the clothes of an IPv6 one.
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(ClientIp::from(address).get(), self.prefix) == Some(self.first)
    }

    /// The first address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// How many leading bits all addresses share.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    const fn is_one_address(self) -> bool {
        self.prefix == width(self.first)
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let first = ClientIp::from(address).get();
        Self { first, prefix: width(first) }
    }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address without the bits behind the prefix; none if it has fewer than so many.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let behind = width(address).checked_sub(prefix)?;
    Some(match address {
        IpAddr::V4(address) => {
            Ipv4Addr::from_bits(address.to_bits() & u32::MAX.checked_shl(behind.into()).unwrap_or(0)).into()
        }
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & u128::MAX.checked_shl(behind.into()).unwrap_or(0)).into()
        }
    })
}

/// The text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a network: {problem}")]
pub struct ParseNetworkError {
    text: String,
    problem: String,
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let wrong = |problem: String| ParseNetworkError { text: text.chars().take(64).collect(), problem };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong(what_to_write(address)))?;
        let Some(prefix) = prefix else { return Ok(address.into()) };

        let most = width(address);
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let plain = digits && (prefix.len() == 1 || !prefix.starts_with('0'));
        let prefix: u8 = plain
            .then(|| prefix.parse().ok().filter(|prefix| *prefix <= most))
            .flatten()
            .ok_or_else(|| wrong(format!("behind the slash must stand a number from 0 to {most}")))?;
        let first = masked(address, prefix).unwrap_or(address);
        if first != address {
            return Err(wrong(format!(
                "it has bits set behind its prefix; write {first}/{prefix} for the network, or {address} for the address"
            )));
        }
        let first = ClientIp::from(first).get();
        Ok(Self { first, prefix: prefix - (most - width(first)) })
    }
}

/// What to write instead of something that is no address. The beginning of an address, as other systems take it, is the
/// likeliest mistake.
fn what_to_write(text: &str) -> String {
    let octets: Result<Vec<u8>, _> = text.strip_suffix('.').unwrap_or(text).split('.').map(str::parse).collect();
    if let Ok(ip) = text.parse::<ClientIp>() {
        return format!("a network has no port, no brackets and no zone: write {ip}");
    }
    match octets.as_deref() {
        Ok([a]) => format!("for all addresses that begin so write {a}.0.0.0/8"),
        Ok([a, b]) => format!("for all addresses that begin so write {a}.{b}.0.0/16"),
        Ok([a, b, c]) => format!("for all addresses that begin so write {a}.{b}.{c}.0/24"),
        _ => "write an address, such as 192.0.2.7 or 2001:db8::1, or a network, such as 192.0.2.0/24".into(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_one_address() { self.first.fmt(f) } else { write!(f, "{}/{}", self.first, self.prefix) }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({self})")
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn restrict_ip_is_by_address_or_network_and_never_by_the_beginning_of_a_text() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"][..], &["11.0.0.0", "9.255.255.255"][..]),
            ("192.168.1.0/24", &["192.168.1.77"], &["192.168.10.1", "192.168.11.1", "192.168.0.255"]),
            (
                "192.168.1.1",
                &["192.168.1.1", "::ffff:192.168.1.1"],
                &["192.168.1.10", "192.168.1.100", "::192.168.1.1"],
            ),
            ("192.168.1.1/32", &["192.168.1.1"], &["192.168.1.2"]),
            ("10.0.0.128/25", &["10.0.0.128", "10.0.0.255"], &["10.0.0.127"]),
            ("0.0.0.0/0", &["1.2.3.4", "::ffff:1.2.3.4"], &["::1", "2001:db8::1"]),
            ("2001:db8::/32", &["2001:db8::1", "2001:db8:ffff::"], &["2001:db9::", "32.1.13.184"]),
            ("2001:db8::1", &["2001:db8::1"], &["2001:db8::2"]),
            ("2001:db8::8000:0/97", &["2001:db8::8000:1"], &["2001:db8::1"]),
            ("::ffff:10.0.0.0/104", &["10.1.2.3", "::ffff:10.1.2.3"], &["11.0.0.1", "::1"]),
            ("::/0", &["::1", "2001:db8::1"], &["1.2.3.4"]),
        ] {
            for address in inside {
                assert!(network(text).contains(address.parse().unwrap()), "{address} in {text}");
            }
            for address in outside {
                assert!(!network(text).contains(address.parse().unwrap()), "{address} in {text}");
            }
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for text in ["10.0.0.0/8", "192.168.1.1", "2001:db8::/32", "2001:db8::1", "0.0.0.0/0", "::/0"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("192.168.1.1/32").to_string(), "192.168.1.1");
        assert_eq!(network("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
        assert_eq!(Network::from("::ffff:10.0.0.1".parse::<IpAddr>().unwrap()), network("10.0.0.1"));
    }

    #[test]
    fn a_mistake_is_named_with_what_to_write() {
        for (text, wanted) in [
            ("10.1.2.3/8", "write 10.0.0.0/8"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("::ffff:10.1.2.3/104", "write ::ffff:10.0.0.0/104"),
            ("192.168.", "write 192.168.0.0/16"),
            ("10", "write 10.0.0.0/8"),
            ("192.168.1", "write 192.168.1.0/24"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/08", "from 0 to 32"),
            ("10.0.0.0/8/8", "from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "from 0 to 32"),
            ("2001:db8::/129", "from 0 to 128"),
            ("2001:db8::/-1", "from 0 to 128"),
            ("", "such as 192.0.2.0/24"),
            (" 10.0.0.0/8", "such as 192.0.2.0/24"),
            ("10.0.0.0/8 ", "from 0 to 32"),
            ("010.0.0.0/8", "such as 192.0.2.0/24"),
            ("10.0.0.0/8,11.0.0.0/8", "from 0 to 32"),
            ("fe80::1%eth0", "no zone: write fe80::1"),
            ("[2001:db8::1]", "no brackets and no zone: write 2001:db8::1"),
            ("192.0.2.7:443", "no port, no brackets and no zone: write 192.0.2.7"),
            ("example.com", "such as 192.0.2.0/24"),
            ("256.0.0.1", "such as 192.0.2.0/24"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains(wanted), "{text}: {error}");
        }
    }
}
