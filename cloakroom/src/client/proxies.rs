//! The client's address, where proxies stand between it and us.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header};

use crate::{
    client::ClientIp,
    error::{Error, Result},
    network::Network,
};

/// The proxies whose word is taken for whom they pass on: each adds the address it was called from to `X-Forwarded-For` or
/// `Forwarded` (RFC 7239).
///
/// The headers are read from the right, from the nearest proxy on, as far as each address is one of these. The
/// first that is not is the client's. What stands left of it is the client's own word and is not looked at; neither are
/// the headers of a peer that is no trusted proxy.
///
/// ```
/// use cloakroom::client::TrustedProxies;
/// use http::HeaderMap;
///
/// let proxies = TrustedProxies::parse("10.0.0.0/8, 2001:db8::7")?;
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.2".parse()?);
/// assert_eq!(proxies.client("10.0.0.1".parse()?, &headers), Some("192.0.2.7".parse()?));
/// // Not from a proxy of ours: the headers are whatever the client made up.
/// assert_eq!(proxies.client("203.0.113.9".parse()?, &headers), Some("203.0.113.9".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct TrustedProxies {
    networks: Vec<Network>,
    read: Read,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Read {
    #[default]
    WhatAgrees,
    Forwarded,
    XForwardedFor,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl TrustedProxies {
    /// The proxies of these networks.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        Self { networks: networks.into_iter().collect(), read: Read::default() }
    }

    /// The proxies of these networks, with commas between: `10.0.0.0/8, 192.0.2.7`.
    pub fn parse(list: &str) -> Result<Self> {
        let networks = list.split(',').map(|network| network.trim().parse::<Network>());
        let networks: std::result::Result<Vec<_>, _> = networks.collect();
        let networks =
            networks.map_err(|error| Error::InvalidArgument { what: "trusted proxies", problem: error.to_string() })?;
        Ok(Self::new(networks))
    }

    /// Reads `Forwarded` alone: the proxies set it, and pass an `X-Forwarded-For` of the client's on.
    pub fn forwarded_only(mut self) -> Self {
        self.read = Read::Forwarded;
        self
    }

    /// Reads `X-Forwarded-For` alone: the proxies set it, and pass a `Forwarded` of the client's on, as most do.
    pub fn x_forwarded_for_only(mut self) -> Self {
        self.read = Read::XForwardedFor;
        self
    }

    /// The client's address, of a request that `peer` sent with these headers.
    ///
    /// `None` where it cannot be told: a proxy hides the address (`unknown`, `_hidden`) or writes what is none; or both
    /// headers are there and name different clients. A proxy that knows one of them passes the other on as the client
    /// made it up, so name the one yours sets. A rule about addresses must take `None` for a stranger.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = ClientIp::from(peer).get();
        if !self.trust(peer) {
            return Some(peer);
        }
        let forwarded = || self.walk(peer, headers, &header::FORWARDED, forwarded_nodes);
        let x_forwarded_for = || self.walk(peer, headers, &X_FORWARDED_FOR, listed_nodes);
        match self.read {
            Read::Forwarded => forwarded(),
            Read::XForwardedFor => x_forwarded_for(),
            Read::WhatAgrees if !headers.contains_key(header::FORWARDED) => x_forwarded_for(),
            Read::WhatAgrees if !headers.contains_key(X_FORWARDED_FOR) => forwarded(),
            Read::WhatAgrees => forwarded().filter(|client| x_forwarded_for() == Some(*client)),
        }
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Follows the hops from the nearest on.
    fn walk(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        name: &HeaderName,
        nodes: fn(&str) -> Option<Vec<Option<IpAddr>>>,
    ) -> Option<IpAddr> {
        let mut nearest = peer;
        // A line that a proxy added stands below the client's.
        for line in headers.get_all(name).iter().rev() {
            for node in nodes(line.to_str().ok()?)?.into_iter().rev() {
                nearest = node?;
                if !self.trust(nearest) {
                    return Some(nearest);
                }
            }
        }
        // Nobody but proxies: the farthest made the request itself.
        Some(nearest)
    }
}

/// The hops of an `X-Forwarded-For`: `None` each that is no address.
#[expect(clippy::unnecessary_wraps, reason = "the other header can be no list at all")]
fn listed_nodes(line: &str) -> Option<Vec<Option<IpAddr>>> {
    Some(line.split(',').map(str::trim).filter(|node| !node.is_empty()).map(address).collect())
}

/// The hops of a `Forwarded` (RFC 7239, section 4): `None` each that hides its address; `None` for all if it is not
/// written as it must be, because then nobody can tell which part of it the client wrote.
fn forwarded_nodes(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut rest = line;
    let mut nodes = Vec::new();
    loop {
        let mut node = None;
        let mut pairs = 0;
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if !rest.starts_with([',', ';']) && !rest.is_empty() {
                let (name, after) = rest.split_once('=')?;
                if name.is_empty() || !name.bytes().all(is_token_byte) {
                    return None;
                }
                let (value, after) = value(after)?;
                rest = after.trim_start_matches([' ', '\t']);
                pairs += 1;
                if name.eq_ignore_ascii_case("for") && node.replace(address(&value)).is_some() {
                    return None;
                }
            }
            match rest.strip_prefix(';') {
                Some(after) => rest = after,
                None => break,
            }
        }
        // Lists may have empty places (RFC 9110, section 5.6.1).
        if pairs > 0 {
            nodes.push(node.flatten());
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Some(nodes),
            None => return None,
        }
    }
}

/// A value, quoted or not, and what stands after it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Addresses with colons must be quoted, and often are not.
        let plain = |byte: u8| is_token_byte(byte) || matches!(byte, b':' | b'[' | b']');
        let end = text.bytes().position(|byte| !plain(byte)).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            char => value.push(char),
        }
    }
    None
}

/// An address, however the proxy writes it.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<ClientIp>().ok().map(ClientIp::get)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies() -> TrustedProxies {
        TrustedProxies::parse("10.0.0.0/8,2001:db8:ffff::/48").unwrap()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_first_hop_that_is_not_ours_is_the_client() {
        const FORWARDED: &str = "forwarded";
        const LISTED: &str = "x-forwarded-for";
        for (lines, client) in [
            (&[][..], Some(PROXY)),
            (&[(LISTED, "192.0.2.7")], Some("192.0.2.7")),
            (&[(LISTED, "6.6.6.6, 192.0.2.7,10.9.9.9 ,  10.0.0.3")], Some("192.0.2.7")),
            (&[(LISTED, "6.6.6.6"), (LISTED, "192.0.2.7, 10.0.0.3")], Some("192.0.2.7")),
            (&[(LISTED, "192.0.2.7, 10.0.0.3"), (LISTED, "10.0.0.4")], Some("192.0.2.7")),
            (&[(LISTED, "10.0.0.9, 10.0.0.3")], Some("10.0.0.9")),
            (&[(LISTED, "192.0.2.7:4711")], Some("192.0.2.7")),
            (&[(LISTED, "[2001:db8::1]:4711")], Some("2001:db8::1")),
            (&[(LISTED, "2001:db8::1")], Some("2001:db8::1")),
            (&[(LISTED, "::ffff:192.0.2.7, ::ffff:10.0.0.3")], Some("192.0.2.7")),
            (&[(LISTED, "garbage, 192.0.2.7")], Some("192.0.2.7")),
            (&[(LISTED, "192.0.2.7, garbage")], None),
            (&[(LISTED, "192.0.2.7, unknown, 10.0.0.3")], None),
            (&[(LISTED, "")], Some(PROXY)),
            (&[(LISTED, "6.6.6.6,,192.0.2.7,")], Some("192.0.2.7")),
            (&[(LISTED, "[192.0.2.7]")], None),
            (&[(FORWARDED, "for=192.0.2.7")], Some("192.0.2.7")),
            (&[(FORWARDED, "For=6.6.6.6, FOR=192.0.2.7;proto=https;by=203.0.113.43")], Some("192.0.2.7")),
            (&[(FORWARDED, r#"for="[2001:db8:cafe::17]:4711""#)], Some("2001:db8:cafe::17")),
            (&[(FORWARDED, r#"for="192.0.2.7:80";host="a,b;for=6.6.6.6""#)], Some("192.0.2.7")),
            (&[(FORWARDED, r#"for="\1\9\2.0.2.7""#)], Some("192.0.2.7")),
            (&[(FORWARDED, "for=192.0.2.7:4711")], Some("192.0.2.7")),
            (&[(FORWARDED, r#"for=192.0.2.7, for="[2001:db8:ffff::1]", for=10.0.0.3"#)], Some("192.0.2.7")),
            (&[(FORWARDED, "for=192.0.2.7, for=_hidden, for=10.0.0.3")], None),
            (&[(FORWARDED, "for=_hidden, for=192.0.2.7")], Some("192.0.2.7")),
            (&[(FORWARDED, r#"for="_gazonk""#)], None),
            (&[(FORWARDED, "for=unknown")], None),
            (&[(FORWARDED, "proto=https")], None),
            (&[(FORWARDED, "for=192.0.2.7;for=192.0.2.7")], None),
            (&[(FORWARDED, "for=192.0.2.7,, ;,")], Some("192.0.2.7")),
            // What a client began cannot swallow what the proxy added.
            (&[(FORWARDED, r#"for=6.6.6.6;x=", for=192.0.2.7"#)], None),
            (&[(FORWARDED, r#"for=6.6.6.6;x=", for="192.0.2.7""#)], None),
            (&[(FORWARDED, r#"for=6.6.6.6;x="\"#), (FORWARDED, "for=192.0.2.7")], Some("192.0.2.7")),
            (&[(FORWARDED, "for = 192.0.2.7")], None),
            (&[(FORWARDED, "192.0.2.7")], None),
            // Both: they must agree, or one of them is the client's.
            (&[(FORWARDED, "for=192.0.2.7"), (LISTED, "192.0.2.7")], Some("192.0.2.7")),
            (&[(FORWARDED, "for=6.6.6.6"), (LISTED, "192.0.2.7")], None),
            (&[(FORWARDED, "for=unknown"), (LISTED, "192.0.2.7")], None),
        ] {
            assert_eq!(proxies().client(ip(PROXY), &headers(lines)), client.map(ip), "{lines:?}");
        }
        let both = headers(&[(FORWARDED, "for=6.6.6.6"), (LISTED, "192.0.2.7")]);
        assert_eq!(proxies().x_forwarded_for_only().client(ip(PROXY), &both), Some(ip("192.0.2.7")));
        assert_eq!(proxies().forwarded_only().client(ip(PROXY), &both), Some(ip("6.6.6.6")));
    }

    #[test]
    fn forged_headers_of_a_peer_that_is_no_proxy_are_ignored() {
        let forged = headers(&[("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")]);
        for peer in ["203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9"] {
            assert_eq!(proxies().client(ip(peer), &forged), Some(ip(peer).to_canonical()));
        }
        assert_eq!(TrustedProxies::default().client(ip(PROXY), &forged), Some(ip(PROXY)), "nobody is trusted");
        let written_as_v6 = proxies().client(ip("::ffff:10.0.0.1"), &headers(&[("x-forwarded-for", "192.0.2.7")]));
        assert_eq!(written_as_v6, Some(ip("192.0.2.7")));
    }

    #[test]
    fn a_bad_list_of_proxies_is_refused_and_names_the_bad_one() {
        for list in ["", "10.0.0.0/8,", "10.0.0.0/8 10.1.0.0/16", "10.0.0.0/8,proxy", "10.0.0.1/8"] {
            let error = TrustedProxies::parse(list).unwrap_err().to_string();
            assert!(error.starts_with("trusted proxies: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_or_lets_a_client_choose_its_address(
            made_up in "([ -~]|for=|\"|, ?|;|\\\\|10\\.0\\.0\\.2|6\\.6\\.6\\.6|\\[::1\\]){0,30}",
            same_line: bool, quoted: bool,
        ) {
            // The proxy adds the true address to whatever the client sent. It may be hidden so, never forged.
            let added = if quoted { "for=\"192.0.2.7\"" } else { "for=192.0.2.7;proto=https" };
            for (name, added) in [("forwarded", added), ("x-forwarded-for", "192.0.2.7")] {
                let lines = if same_line {
                    headers(&[(name, &format!("{made_up}, {added}"))])
                } else {
                    headers(&[(name, &made_up), (name, added)])
                };
                let client = proxies().client(ip(PROXY), &lines);
                prop_assert!(client.is_none() || client == Some(ip("192.0.2.7")), "{:?}: {:?}", lines, client);
            }
        }
    }
}
