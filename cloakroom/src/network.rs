//! Networks by their addresses: where a user may come from, and which proxies are believed.

use std::{fmt, net::IpAddr, str::FromStr};

/// One address or all addresses of a network, of either family: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
///
/// An IPv4 address counts as itself where it comes written as IPv6 (`::ffff:192.0.2.7`), as it does from a socket that
/// listens to both.
///
/// ```
/// use cloakroom::Network;
///
/// let office: Network = "192.0.2.0/24".parse()?;
/// assert!(office.contains("192.0.2.200".parse()?));
/// assert!(office.contains("::ffff:192.0.2.200".parse()?));
/// assert!(!office.contains("192.0.3.1".parse()?));
/// // What could mean two things is refused.
/// let error = "192.0.2.1/24".parse::<Network>().unwrap_err();
/// assert!(error.to_string().contains("192.0.2.0/24"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Never IPv4 written as IPv6; every bit after the prefix is zero.
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network whose addresses share the first `prefix` bits of `first`, all other bits of which must be zero.
    pub fn new(first: IpAddr, prefix: u8) -> Result<Self, ParseNetworkError> {
        let written = || format!("{first}/{prefix}");
        let (longest, family) = if first.is_ipv4() { (32, "IPv4") } else { (128, "IPv6") };
        if prefix > longest {
            let problem = format!("an {family} prefix has at most {longest} bits");
            return Err(ParseNetworkError { text: written(), problem });
        }
        let cut = mask(first, prefix);
        if cut != first {
            let problem = format!("{first} is not the first address of its network; write {cut}/{prefix} or {first}");
            return Err(ParseNetworkError { text: written(), problem });
        }
        Ok(match first.to_canonical() {
            mapped @ IpAddr::V4(_) if first.is_ipv6() && prefix >= 96 => Self { first: mapped, prefix: prefix - 96 },
            _ => Self { first, prefix },
        })
    }

    /// Whether the address is one of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && mask(address, self.prefix) == self.first
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// How many leading bits all addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let first = address.to_canonical();
        Self { first, prefix: if first.is_ipv4() { 32 } else { 128 } }
    }
}

/// The text is neither an address nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a network: {problem}")]
pub struct ParseNetworkError {
    text: String,
    problem: String,
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem: &str| {
            let text = text.chars().take(64).collect();
            ParseNetworkError { text, problem: problem.to_owned() }
        };
        let example = "write an address such as 192.0.2.7 or a network such as 10.0.0.0/8 or 2001:db8::/32";
        let Some((first, prefix)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_| wrong(example))?;
            return Ok(address.into());
        };
        let first = first.parse().map_err(|_| wrong(example))?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || (prefix.len() > 1 && prefix.starts_with('0')) {
            return Err(wrong("after the / comes the number of bits that count, such as /24"));
        }
        Self::new(first, prefix.parse().unwrap_or(u8::MAX)).map_err(|error| wrong(&error.problem))
    }
}

impl fmt::Display for Network {
    /// As it is parsed; a single address without its prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::from(self.first) {
            return fmt::Display::fmt(&self.first, f);
        }
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({self})")
    }
}

impl serde::Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The address with every bit after the prefix cleared.
fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_its_addresses_from_the_first_to_the_last() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
            ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.6", "::192.0.2.7"]),
            ("192.0.2.6/31", ["192.0.2.6", "192.0.2.7"], ["192.0.2.5", "192.0.2.8"]),
            ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "::1"]),
            ("::/0", ["::", "2001:db8::1"], ["0.0.0.0", "::ffff:1.2.3.4"]),
            ("2001:db8::/33", ["2001:db8::", "2001:db8:7fff:ffff::1"], ["2001:db8:8000::", "2001:db7::"]),
            ("::ffff:10.0.0.0/104", ["10.0.0.0", "10.1.2.3"], ["11.0.0.0", "::1"]),
        ] {
            let network = network(text);
            for address in inside {
                assert!(network.contains(address.parse().unwrap()), "{address} is in {text}");
            }
            for address in outside {
                assert!(!network.contains(address.parse().unwrap()), "{address} is not in {text}");
            }
        }
    }

    #[test]
    fn a_network_is_written_as_it_is_read() {
        for text in ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1", "0.0.0.0/0", "::/0"] {
            assert_eq!(network(text).to_string(), text);
            let json = serde_json::to_string(&network(text)).unwrap();
            assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network(text));
        }
        assert_eq!(network("192.0.2.7/32").to_string(), "192.0.2.7");
        assert_eq!(network("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_network_is_refused_and_says_what_would_be() {
        let long = format!("{}/8", "1".repeat(10_000));
        for (text, said) in [
            ("", "write an address"),
            ("office", "write an address"),
            ("10.0.0", "write an address"),
            ("10.0.0.0/", "number of bits"),
            ("10.0.0.0/+8", "number of bits"),
            ("10.0.0.0/08", "number of bits"),
            ("10.0.0.0/8/8", "number of bits"),
            ("10.0.0.0/255.0.0.0", "number of bits"),
            ("10.0.0.0/33", "at most 32 bits"),
            ("10.0.0.0/99999999999", "at most 32 bits"),
            ("::/129", "at most 128 bits"),
            ("10.0.0.1/8", "write 10.0.0.0/8 or 10.0.0.1"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            (" 10.0.0.0/8", "write an address"),
            ("fe80::1%eth0", "write an address"),
            (&long, "write an address"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(error.len() < 300, "{error}");
        }
    }
}
