//! Where a visitor goes on after signing in: the parameter `next`, which must lead nowhere else.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path of this site, with its query: where a visitor goes on after signing in.
///
/// [`SignedIn`](super::SignedIn) sends visitors to the [sign-in page](super::SessionLayer::sign_in_page) with `?next=` and the path
/// they asked for. Anyone can write such a link, so it must be checked before it is followed. As an extractor this is
/// the checked parameter of the request's query, in a form or in JSON a checked field; `/` where it is missing or leads
/// elsewhere. With axum `Option<Next>` tells these apart.
///
#[cfg_attr(feature = "axum", doc = "```")]
#[cfg_attr(not(feature = "axum"), doc = "```ignore")]
/// use axum::response::Redirect;
/// use cloakroom::{Next, Result, Session, SignIn};
///
/// /// `POST /sign-in?next=/account`
/// async fn sign_in(session: Session, next: Next) -> Result<Redirect> {
///     // Check a password first.
///     session.sign_in(SignIn::new("anna")).await?;
///     Ok(Redirect::to(next.as_str()))
/// }
///
/// let next = Next::parse("/account?tab=2").unwrap();
/// assert_eq!(format!("/sign-in?{}", next.to_query()), "/sign-in?next=/account%3Ftab%3D2");
/// assert_eq!(Next::parse("//evil.example/account"), None);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Next(Box<str>);

impl Next {
    /// The name of the query parameter.
    pub const PARAMETER: &str = "next";

    /// How many bytes a path may have, its query included.
    pub const MAX_BYTES: usize = 4096;

    /// The path, if it is one of this site in every reading: it begins with one slash, also once its percent signs and dots are
    /// resolved, and holds no backslash and no control character. Browsers drop tabs and line ends, and take a backslash for a
    /// slash; some proxies decode a path before they pass it on.
    pub fn parse(path: &str) -> Option<Self> {
        (path.len() <= Self::MAX_BYTES && path.starts_with('/') && stays(path))
            .then(|| Self(encoded(path, is_of_url).into()))
    }

    /// The path: visible ASCII, fit for a `Location` header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the query of a link, or of a form's `action`: `next=/account%3Ftab%3D2`.
    pub fn to_query(&self) -> String {
        query(&self.0)
    }

    /// The one parameter of a query, if it is there once and leads nowhere else.
    #[cfg(any(test, feature = "actix", feature = "axum"))]
    pub(super) fn of_query(query: Option<&str>) -> Option<Self> {
        let mut values = query?.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (decoded(name) == Self::PARAMETER.as_bytes()).then_some(value)
        });
        let (value, None) = (values.next()?, values.next()) else { return None };
        Self::parse(str::from_utf8(&decoded(&value.replace('+', " "))).ok()?)
    }
}

impl Default for Next {
    /// `/`.
    fn default() -> Self {
        Self("/".into())
    }
}

/// `next=` and this text.
pub(super) fn query(path: &str) -> String {
    format!("{}={}", Next::PARAMETER, encoded(path, is_unreserved))
}

/// Whether a path leads to this site alone, however often it is decoded on its way.
fn stays(path: &str) -> bool {
    if path.bytes().any(|byte| byte.is_ascii_control()) {
        return false;
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut reading = Cow::Borrowed(path.as_bytes());
    // Whatever is still encoded after that many rounds was made to deceive.
    for round in 0..4 {
        if !begins_with_one_slash(&reading) || (round == 0 && reading.contains(&b'\\')) {
            return false;
        }
        match decode(&reading) {
            None => return true,
            Some(next) => reading = Cow::Owned(next),
        }
    }
    false
}

/// Whether this is a path, and not a host, once backslashes count as slashes and dots are resolved.
fn begins_with_one_slash(path: &[u8]) -> bool {
    let mut segments = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')).skip(1) {
        match segment {
            b"." => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let is_host = segments.len() > 1 && segments[0].is_empty();
    !is_host && !path.iter().any(u8::is_ascii_control)
}

/// With percent signs resolved; none if there is nothing to resolve.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = text.get(at) {
        let escaped = Some(byte).filter(|byte| **byte == b'%').and_then(|_| Some(digit(at + 1)? * 16 + digit(at + 2)?));
        let escaped = escaped.and_then(|value| u8::try_from(value).ok());
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    (decoded.len() < text.len()).then_some(decoded)
}

#[cfg(any(test, feature = "actix", feature = "axum"))]
fn decoded(text: &str) -> Vec<u8> {
    decode(text.as_bytes()).unwrap_or_else(|| text.into())
}

fn encoded(text: &str, stays: fn(u8) -> bool) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if stays(byte) {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string cannot fail");
        }
        encoded
    })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte)
}

/// What may stand in a path and query as it is, and in a page between quotes.
fn is_of_url(byte: u8) -> bool {
    is_unreserved(byte) || b"?#%&=+:;,@!$*()[]".contains(&byte)
}

impl AsRef<str> for Next {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Next {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Next {
    /// Of any text: `/` for one that leads elsewhere.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self::parse(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    /// Where a browser goes on from the sign-in page, by the rules of the WHATWG.
    fn followed(next: &Next) -> Url {
        let page = Url::parse("https://shop.example/sign-in").unwrap();
        page.join(next.as_str()).unwrap()
    }

    fn is_here(next: &Next) -> bool {
        let url = followed(next);
        url.origin().ascii_serialization() == "https://shop.example" && !url.path().starts_with("//")
    }

    #[test]
    fn nothing_that_leads_elsewhere_is_a_next() {
        for hostile in [
            "",
            "account",
            "https://evil.example",
            "HTTPS:evil.example",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "\\/evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "/\r\n/evil.example",
            "\t//evil.example",
            " //evil.example",
            " /account",
            "javascript:alert(1)",
            "data:text/html,x",
            "/\0/evil.example",
            "/account\r\nSet-Cookie: a=b",
            "/%2Fevil.example",
            "/%2f/evil.example",
            "/%5Cevil.example",
            "/%5c%5cevil.example",
            "/%252Fevil.example",
            "/%25252525252Fevil.example",
            "/.//evil.example",
            "/..//evil.example",
            "/a/..//evil.example",
            "/a/../%2Fevil.example",
            "/%2e//evil.example",
            "/%2E%2e/%2fevil.example",
            "/./\\evil.example",
            "/.%5cevil.example/%5c/../..//x",
            "/%0d%0aX:%20y",
            "/%09/evil.example",
            "@evil.example",
            ":80/",
            "?next=/",
            "#/",
            "/a\\b",
            "/\u{7f}",
        ] {
            assert_eq!(Next::parse(hostile), None, "{hostile:?}");
            let query = query(hostile);
            assert_eq!(Next::of_query(Some(&query)), None, "{hostile:?}");
            let field: Next = serde_json::from_value(hostile.into()).unwrap();
            assert_eq!(field, Next::default(), "{hostile:?}");
        }
        assert_eq!(Next::parse(&format!("/{}", "a".repeat(Next::MAX_BYTES))), None);
        for doubled in ["next=/a&next=/b", "next=/a&next=/a", "next", "Next=/a", "nexts=/a", "", "a=next=/a"] {
            assert_eq!(Next::of_query(Some(doubled)), None, "{doubled}");
        }
    }

    #[test]
    fn a_path_of_this_site_is_followed_as_it_was_asked_for() {
        for (path, shown) in [
            ("/", "/"),
            ("/account?tab=2&q=a+b%20c#top", "/account?tab=2&q=a+b%20c#top"),
            ("/search?q=//evil.example\\x", "/search?q=//evil.example%5Cx"),
            ("/a//b", "/a//b"),
            ("/files/a%2Fb", "/files/a%2Fb"),
            ("/100%", "/100%"),
            ("/grün <b>\"'`", "/gr%C3%BCn%20%3Cb%3E%22%27%60"),
            ("/@evil.example:80/..", "/@evil.example:80/.."),
            ("/..", "/.."),
        ] {
            let next = Next::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(next.as_str(), shown);
            assert!(is_here(&next), "{path}");
            assert_eq!(Next::of_query(Some(&format!("a=b&{}&c", next.to_query()))), Some(next.clone()));
            assert_eq!(serde_json::from_str::<Next>(&serde_json::to_string(&next).unwrap()).unwrap(), next);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_passes_stays_on_this_site(
            path in "/?([/\\\\.\\t\\n\\r @:?#]|%2[eEfF0]|%5[cC]|%0[aAdD9]|%25|evil\\.example|https?:|[a-zé]|\\PC){0,12}"
        ) {
            if let Some(next) = Next::parse(&path) {
                prop_assert!(is_here(&next), "{:?} leads to {}", path, followed(&next));
                prop_assert!(next.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(Next::parse(next.as_str()), Some(next.clone()));
                prop_assert_eq!(Next::of_query(Some(&next.to_query())), Some(next));
            }
        }

        #[test]
        fn what_a_browser_asks_for_it_comes_back_to(path in "(/([a-z~.é &+=]|%2[0fF]|%C3%BC){1,8}){1,4}", query in "(\\PC){0,12}") {
            let mut asked = Url::parse("https://shop.example/").unwrap();
            asked.set_path(&path);
            asked.set_query(Some(&query));
            let wanted = &asked[url::Position::BeforePath..];
            if stays(wanted) {
                let next = Next::of_query(Some(&super::query(wanted))).unwrap();
                // Some characters browsers leave as they are, and this encodes.
                prop_assert_eq!(decoded(followed(&next).as_str()), decoded(asked.as_str()));
            }
        }
    }
}
