//! Origins, as browsers name them in the header `Origin`.

use http::uri::Authority;

use crate::error::{Error, Result};

/// A scheme, a host and a port, in the one spelling that browsers use: lower case, the scheme's own port left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::web) struct WebOrigin {
    https: bool,
    host: Box<str>,
    port: u16,
}

impl WebOrigin {
    /// An origin from the settings.
    pub(in crate::web) fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|problem| Error::InvalidArgument {
            what: "trusted origin",
            problem: format!("{:?} {problem}", text.chars().take(100).collect::<String>()),
        })
    }

    /// An origin as a browser sent it; `None` for `null` and for what is none.
    pub(super) fn sent(text: &str) -> Option<Self> {
        Self::read(text).ok()
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let (https, authority) = if let Some(rest) = strip_prefix_ignoring_case(text, "https://") {
            (true, rest)
        } else if let Some(rest) = strip_prefix_ignoring_case(text, "http://") {
            (false, rest)
        } else {
            return Err("must begin with https:// or http://, such as https://app.example.com");
        };
        if authority.contains(['/', '?', '#', '@', '\\']) {
            return Err("must end after the host or port: an origin has no path, and nobody signs in to it");
        }
        if authority.contains('*') {
            return Err("holds a *: name each origin");
        }
        if !authority.is_ascii() {
            return Err("must be written as browsers send it, international names as xn--…");
        }
        let wrong = "has no valid host and port, such as app.example.com:8443";
        let (host, port) = split(authority).ok_or(wrong)?;
        Ok(Self { https, host, port: port.unwrap_or(if https { 443 } else { 80 }) })
    }

    /// Whether this origin is at a host and port. The scheme cannot be told: behind a proxy it is not that of the connection.
    pub(super) fn is_at(&self, authority: &str) -> bool {
        let Some((host, port)) = split(authority) else { return false };
        host == self.host && port.unwrap_or(if self.https { 443 } else { 80 }) == self.port
    }
}

/// A host in lower case, and its port if it has one.
fn split(authority: &str) -> Option<(Box<str>, Option<u16>)> {
    let parsed: Authority = authority.parse().ok()?;
    if parsed.as_str().contains('@') || parsed.host().is_empty() || parsed.host().ends_with(':') {
        return None;
    }
    let port = match authority.strip_prefix(parsed.host())? {
        "" => None,
        rest => {
            let digits = rest.strip_prefix(':')?;
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
            Some(digits.parse().ok().filter(|_| plain)?)
        }
    };
    Some((parsed.host().to_ascii_lowercase().into(), port))
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_meaning_however_it_is_spelled() {
        for (one, other, same) in [
            ("https://shop.example", "HTTPS://Shop.Example:443", true),
            ("http://shop.example", "http://shop.example:80", true),
            ("https://shop.example", "http://shop.example", false),
            ("https://shop.example", "https://shop.example:8443", false),
            ("https://shop.example", "https://evil-shop.example", false),
            ("https://[2001:db8::1]", "https://[2001:DB8::1]:443", true),
        ] {
            assert_eq!(WebOrigin::parse(one).unwrap() == WebOrigin::parse(other).unwrap(), same, "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_and_says_what_would_be() {
        for (text, said) in [
            ("", "must begin with https://"),
            ("null", "must begin with https://"),
            ("*", "must begin with https://"),
            ("shop.example", "must begin with https://"),
            ("ftp://shop.example", "must begin with https://"),
            ("https://shop.example/", "no path"),
            ("https://shop.example/path", "no path"),
            ("https://anna@shop.example", "nobody signs in"),
            ("https://*.shop.example", "name each origin"),
            ("https://müller.example", "xn--"),
            ("https://", "valid host"),
            ("https://:443", "valid host"),
            ("https://shop.example:", "valid host"),
            ("https://shop.example:0443", "valid host"),
            ("https://shop.example:99999", "valid host"),
            ("https://shop example", "valid host"),
            ("https://[::1", "valid host"),
        ] {
            let error = WebOrigin::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert_eq!(WebOrigin::sent(text), None);
        }
    }
}
