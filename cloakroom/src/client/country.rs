//! The country an address is used in, by a database in MaxMind's format.

use std::{fmt, fs, net::IpAddr, path::Path, sync::Arc};

use maxminddb::{Reader, path};

use crate::{
    client::ClientIp,
    error::{Error, Result},
};

/// An open database, all of it in memory.
pub(crate) struct Countries(Reader<Vec<u8>>);

impl Countries {
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let wrong = |problem: String| Error::InvalidArgument {
            what: "country database",
            problem: format!("{} {problem}", file.display()),
        };
        let bytes = fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let reader = Reader::from_source(bytes).map_err(|error| {
            wrong(format!(
                "is no database in MaxMind's format ({error}); it takes a .mmdb file, such as GeoLite2-Country"
            ))
        })?;
        Ok(Self(reader))
    }

    /// The two letters of ISO 3166-1, where the database knows the address.
    pub(crate) fn of(&self, address: IpAddr) -> Option<Arc<str>> {
        let found = self.0.lookup(ClientIp::from(address).get());
        let code = found.and_then(|found| found.decode_path::<&str>(&path!["country", "iso_code"]));
        match code {
            Ok(code) => code.filter(|code| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())),
            Err(error) => {
                tracing::warn!(%error, "an address cannot be looked up in the country database");
                None
            }
        }
        .map(Into::into)
    }
}

impl fmt::Debug for Countries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Countries").field(&self.0.metadata().database_type).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of these networks, written as MaxMind's specification 2.0 says.
    fn database(networks: &[(&str, &str)]) -> Vec<u8> {
        // Each node's two sides: nothing, another node, or a place in the data.
        #[derive(Clone, Copy)]
        enum Side {
            Nothing,
            Node(usize),
            Data(usize),
        }
        let (mut nodes, mut data) = (vec![[Side::Nothing; 2]], Vec::new());
        for (network, country) in networks {
            let (first, prefix) = network.split_once('/').unwrap();
            let prefix: usize = prefix.parse().unwrap();
            let (bits, length) = match first.parse().unwrap() {
                IpAddr::V4(first) => (u128::from(first.to_bits()), 96 + prefix),
                IpAddr::V6(first) => (first.to_bits(), prefix),
            };
            let mut node = 0;
            for bit in 0..length {
                let side = usize::from(bits >> (127 - bit) & 1 == 1);
                if bit + 1 == length {
                    nodes[node][side] = Side::Data(data.len());
                } else if let Side::Node(next) = nodes[node][side] {
                    node = next;
                } else {
                    nodes.push([Side::Nothing; 2]);
                    nodes[node][side] = Side::Node(nodes.len() - 1);
                    node = nodes.len() - 1;
                }
            }
            data.extend(map(&[("country", map(&[("iso_code", text(country))]))]));
        }
        let mut bytes = Vec::new();
        for side in nodes.iter().flatten() {
            let number = match side {
                Side::Nothing => nodes.len(),
                Side::Node(node) => *node,
                Side::Data(place) => nodes.len() + 16 + place,
            };
            bytes.extend(&u32::try_from(number).unwrap().to_be_bytes()[1..]);
        }
        bytes.extend([0; 16]);
        bytes.extend(data);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        let count = u32::try_from(nodes.len()).unwrap();
        bytes.extend(map(&[
            ("node_count", [&[0xc4], &count.to_be_bytes()[..]].concat()),
            ("record_size", number(24)),
            ("ip_version", number(6)),
            ("database_type", text("Test-Country")),
            ("languages", vec![0x00, 0x04]),
            ("binary_format_major_version", number(2)),
            ("binary_format_minor_version", number(0)),
            ("build_epoch", vec![0x01, 0x02, 1]),
            ("description", map(&[])),
        ]));
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = vec![0x40 | u8::try_from(text.len()).unwrap()];
        assert!(text.len() < 29);
        bytes.extend(text.bytes());
        bytes
    }

    fn number(number: u16) -> Vec<u8> {
        [&[0xa2], &number.to_be_bytes()[..]].concat()
    }

    fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![0xe0 | u8::try_from(entries.len()).unwrap()];
        for (key, value) in entries {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Countries> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("countries.mmdb");
        fs::write(&file, bytes).unwrap();
        Countries::open(&file)
    }

    #[test]
    fn an_address_has_the_country_of_its_network() {
        let countries = open(&database(&[
            ("192.0.2.0/24", "DE"),
            ("198.51.100.0/25", "CH"),
            ("2001:db8::/32", "FR"),
            ("203.0.113.0/24", "no code"),
        ]));
        let countries = countries.unwrap();
        for (address, country) in [
            ("192.0.2.7", Some("DE")),
            ("::ffff:192.0.2.7", Some("DE")),
            ("198.51.100.127", Some("CH")),
            ("198.51.100.128", None),
            ("2001:db8::1", Some("FR")),
            ("2001:db9::1", None),
            ("127.0.0.1", None),
            ("203.0.113.1", None),
        ] {
            assert_eq!(countries.of(address.parse().unwrap()).as_deref(), country, "{address}");
        }
    }

    #[test]
    fn what_is_no_database_is_refused_and_a_damaged_one_knows_nothing() {
        for bytes in [&b""[..], b"192.0.2.0/24,DE", b"\xab\xcd\xefMaxMind.com"] {
            let error = open(bytes).unwrap_err().to_string();
            assert!(error.contains("country database") && error.contains(".mmdb"), "{error}");
        }
        let missing = Countries::open(Path::new("/nowhere/countries.mmdb")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/countries.mmdb cannot be read"), "{missing}");
        let mut bytes = database(&[("192.0.2.0/24", "DE")]);
        let data = bytes.windows(7).position(|window| window == b"country").unwrap();
        bytes[data - 1] = 0xff;
        if let Ok(countries) = open(&bytes) {
            assert_eq!(countries.of("192.0.2.7".parse().unwrap()), None);
        }
    }
}
