//! Values of settings: read the same way from a flag, a variable of the environment and a line of the file, where a mistake is
//! told with its line.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use cloakroom::{Error, client::TrustedProxies, period::parse_period};
use serde::{Deserialize, Deserializer, de::Error as _};
use tracing_subscriber::{EnvFilter, filter};

/// Where to listen: `7600`, `ADDRESS:PORT` or `NAME:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Address(SocketAddr),
    Name(String, u16),
}

impl Default for Listen {
    fn default() -> Self {
        Self::on_loopback(7600)
    }
}

impl Listen {
    fn on_loopback(port: u16) -> Self {
        Self::Address((Ipv4Addr::LOCALHOST, port).into())
    }

    /// The addresses that are meant, the best first.
    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Address(address) => Ok(vec![*address]),
            Self::Name(name, port) => {
                let mut addresses: Vec<_> = (name.as_str(), *port).to_socket_addrs()?.collect();
                // Clients that are told a name try IPv4 in any case, and old ones nothing else.
                addresses.sort_by_key(SocketAddr::is_ipv6);
                Ok(addresses)
            }
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Ok(port) = text.parse() {
            return Ok(Self::on_loopback(port));
        }
        let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_".contains(&c));
        // What looks like an address is a mistyped one.
        let looks_like_address = name.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        match port.parse() {
            Ok(port) if is_name(name) && !looks_like_address => Ok(Self::Name(name.to_owned(), port)),
            _ => Err(format!(
                "{text:?} is nothing to listen on: write a port, such as 7600, or an address or name and a port, such as \
                 127.0.0.1:7600, [::1]:7600 or localhost:7600"
            )),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// A time span, such as `90m` or `1:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

impl FromStr for Period {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_period(text).map(Self)
    }
}

/// A time span, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound(pub(crate) Option<Duration>);

impl FromStr for Bound {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "none" { Ok(Self(None)) } else { parse_period(text).map(|period| Self(Some(period))) }
    }
}

/// Addresses and networks, with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxies(pub(crate) TrustedProxies);

impl FromStr for Proxies {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        TrustedProxies::parse(text).map(Self)
    }
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFilter(String);

impl LogFilter {
    pub(crate) fn filter(&self) -> Result<EnvFilter, filter::ParseError> {
        // A driver's warnings about an address quote it.
        let driver = "sqlx_postgres::options=error,sqlx_mysql::options=error";
        EnvFilter::builder().parse(format!("{driver},{}", self.0))
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let filter = Self(text.to_owned());
        match filter.filter() {
            Ok(_) => Ok(filter),
            Err(error) => Err(format!("{error}; write a level, such as info, or cloakroom=debug")),
        }
    }
}

macro_rules! from_text {
    ($($name:ident)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}

from_text!(Period Bound Proxies LogFilter);

/// A port may stand there as a number.
impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = Listen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port, or an address and a port")
            }

            fn visit_i64<E: serde::de::Error>(self, port: i64) -> Result<Listen, E> {
                port.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Listen, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_enough_and_names_are_looked_up() {
        for (text, shown) in [
            ("7600", "127.0.0.1:7600"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:7600", "[::1]:7600"),
            ("localhost:7600", "localhost:7600"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), shown);
        }
        let addresses = "localhost:7600".parse::<Listen>().unwrap().addresses().unwrap();
        assert!(addresses[0].ip().is_loopback() && addresses[0].port() == 7600, "{addresses:?}");
        for wrong in
            ["", ":7600", "localhost", "127.0.0.1", "127.0.0.1:99999", "127.0.0:7600", "70000", "a b:1", "::1:7600"]
        {
            let error = wrong.parse::<Listen>().unwrap_err();
            assert!(error.contains("localhost:7600"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_port_in_the_file_may_be_a_number() {
        #[derive(Deserialize)]
        struct File {
            listen: Listen,
        }

        let port = |text: &str| toml::from_str::<File>(text).map(|file| file.listen.to_string());
        assert_eq!(port("listen = 80").unwrap(), "127.0.0.1:80");
        assert!(port("listen = '::1'").unwrap_err().to_string().contains("line 1"));
        assert!(port("listen = -1").is_err());
    }
}
