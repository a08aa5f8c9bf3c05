//! The session cookie, without a framework: how it is written, read and deleted.
//!
//! The rules are those of RFC 6265bis and, for the `__Http-` and `__Host-Http-` prefixes, of the layered-cookies draft.
//!
//! ```
//! use cloakroom::web::CookieConfig;
//!
//! let cookie = CookieConfig::default();
//! assert_eq!(cookie.name(), "__Host-session");
//! assert_eq!(cookie.delete(None), "__Host-session=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
//! // A prefix is a promise to the browser: settings that break it are refused.
//! assert!(CookieConfig::default().domain("example.com").check().is_err());
//! assert!(CookieConfig::new("__Secure-session").domain("example.com").check().is_ok());
//! ```

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::SessionInfo,
    token::Token,
};

/// The cookie's name and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[expect(clippy::struct_excessive_bools, reason = "they are the cookie's attributes, each on or off by itself")]
pub struct CookieConfig {
    name: String,
    path: String,
    path_header: Option<HeaderName>,
    domain: Option<String>,
    secure: bool,
    http_only: bool,
    same_site: SameSite,
    same_site_none: bool,
    partitioned: bool,
    persistent: bool,
}

/// When the browser sends the cookie along with requests that other sites cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Never.
    Strict,
    /// With top-level navigation by safe methods.
    Lax,
    /// Always. Needs `Secure`, and [`CookieConfig::allow_cross_site`].
    None,
}

/// What a cookie says beside its name, its value and its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieAttributes<'a> {
    /// The path it is sent for.
    pub path: &'a str,
    /// The domain it is sent to, with all below it; `None` for the host that set it alone.
    pub domain: Option<&'a str>,
    /// Whether it is sent over https alone.
    pub secure: bool,
    /// Whether scripts cannot read it.
    pub http_only: bool,
    /// When it is sent along with requests that other sites cause.
    pub same_site: SameSite,
    /// Whether it is another one for each site that embeds the page.
    pub partitioned: bool,
}

impl Default for CookieConfig {
    /// `__Host-session`; `Secure`, `HttpOnly`, `SameSite=Lax`, `Path=/`; gone with the browser unless the session is to be
    /// remembered.
    fn default() -> Self {
        Self::new("__Host-session")
    }
}

impl CookieConfig {
    /// The longest `Max-Age` that browsers honour (RFC 6265bis, section 5.5).
    pub const MAX_AGE: Duration = Duration::from_hours(400 * 24);

    /// The default attributes under another name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            path: "/".into(),
            path_header: None,
            domain: None,
            secure: true,
            http_only: true,
            same_site: SameSite::Lax,
            same_site_none: false,
            partitioned: false,
            persistent: false,
        }
    }

    /// For plain http on hosts other than localhost, while developing: named `session` and not `Secure`, so anyone on the
    /// network can read it. Never in production.
    pub fn for_development() -> Self {
        Self::new("session").secure(false)
    }

    /// The path the cookie is sent for. Default `/`.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// A request header that holds the path instead, set by a proxy that knows where the application is mounted.
    /// A header that is missing or no path leaves [`path`](Self::path) in force. Default none.
    pub fn path_header(mut self, header: HeaderName) -> Self {
        self.path_header = Some(header);
        self
    }

    /// Sends the cookie to this domain and all below it. Default: to the host that set it alone.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Whether the cookie is sent over https alone. Default true.
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Whether scripts in the page cannot read the cookie. Default true, and hardly ever a reason to change it.
    pub fn http_only(mut self, http_only: bool) -> Self {
        self.http_only = http_only;
        self
    }

    /// When the cookie is sent along with requests that other sites cause. Default [`SameSite::Lax`].
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Consents to [`SameSite::None`]: every site can make signed-in requests, so each that changes something must check
    /// where it comes from.
    pub fn allow_cross_site(mut self) -> Self {
        self.same_site_none = true;
        self
    }

    /// Whether an embedded page has a cookie of its own for each site that embeds it (CHIPS). Default false.
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.partitioned = partitioned;
        self
    }

    /// Whether every session's cookie outlives the browser, not just a remembered one's. Default false.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The attributes, for integrations that write the cookie themselves.
    pub fn attributes(&self) -> CookieAttributes<'_> {
        CookieAttributes {
            path: &self.path,
            domain: self.domain.as_deref(),
            secure: self.secure,
            http_only: self.http_only,
            same_site: self.same_site,
            partitioned: self.partitioned,
        }
    }

    /// The `Max-Age` of a session's cookie; `None` for one that goes with the browser.
    pub fn max_age(&self, info: &SessionInfo, now: Timestamp) -> Option<Duration> {
        let remembered = self.persistent || info.remember;
        // The idle deadline moves with use and the server decides it; the cookie need only last until the end.
        remembered.then(|| info.ends_at.map_or(Self::MAX_AGE, |end| end.since(now)).min(Self::MAX_AGE))
    }

    /// Whether the settings agree with each other and with the name's prefix.
    pub fn check(&self) -> Result<()> {
        let wrong = |problem: &str| {
            Err(Error::InvalidArgument { what: "cookie", problem: format!("{:?}: {problem}", self.name) })
        };
        let prefix = Prefix::of(&self.name);
        if self.name.is_empty() || !self.name.bytes().all(is_token_byte) {
            return wrong("the name must be letters, digits and !#$%&'*+-.^_`|~");
        }
        if self.name.len() + Token::TEXT_LEN > MAX_PAIR_BYTES {
            return wrong("name and value must fit into 4096 bytes");
        }
        if !is_path(&self.path) {
            return wrong("the path must start with / and hold no control character and no semicolon");
        }
        if !self.domain.as_deref().is_none_or(is_domain) {
            return wrong("the domain must be a host name, such as example.com");
        }
        if prefix.needs_secure() && !self.secure {
            return wrong("a name with this prefix needs Secure");
        }
        if prefix.needs_http_only() && !self.http_only {
            return wrong("a name with this prefix needs HttpOnly");
        }
        if prefix.needs_host() && (self.domain.is_some() || self.path != "/" || self.path_header.is_some()) {
            return wrong("a name with the prefix __Host- allows no domain and no path but /; use __Secure- instead");
        }
        if self.same_site == SameSite::None && !(self.secure && self.same_site_none) {
            return wrong("SameSite=None needs Secure and allow_cross_site()");
        }
        if self.partitioned && !self.secure {
            return wrong("Partitioned needs Secure");
        }
        Ok(())
    }

    /// The `Set-Cookie` value that hands out `token`. `path` is where the application [is mounted](Self::mounted_at),
    /// if that is not the configured path.
    pub fn set(&self, token: &Token, info: &SessionInfo, now: Timestamp, path: Option<&str>) -> String {
        let max_age = self.max_age(info, now).map(|left| left.as_secs());
        self.write(&token.reveal(), max_age, path)
    }

    /// The `Set-Cookie` value that deletes the cookie, attributes as they were when it was set.
    pub fn delete(&self, path: Option<&str>) -> String {
        self.write("", Some(0), path)
    }

    /// What a request's cookies hold, for [`Sessions::recognise`](crate::Sessions::recognise).
    ///
    /// The name is compared exactly, capitals included. Cookies of that name with one and the same value count as one.
    pub fn read(&self, headers: &HeaderMap) -> Presented {
        self.read_from(headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes))
    }

    /// The token in a request's `Cookie` headers.
    pub(super) fn read_from<'a>(&self, headers: impl Iterator<Item = &'a [u8]>) -> Presented {
        let mut first: Option<&[u8]> = None;
        let mut others: Vec<(&[u8], Token)> = Vec::new();
        let mut differ = false;
        for header in headers {
            let mut rest = header;
            while !rest.is_empty() {
                let (pair, behind) = split_at_byte(rest, b';');
                rest = behind.unwrap_or_default();
                let (name, Some(value)) = split_at_byte(pair, b'=') else { continue };
                let (name, value) = (name.trim_ascii(), value.trim_ascii());
                if name != self.name.as_bytes() || first == Some(value) {
                    continue;
                }
                if first.is_none() {
                    first = Some(value);
                    continue;
                }
                differ = true;
                if others.len() < Presented::MOST
                    && let Some(token) = Token::parse_bytes(value)
                    && !others.iter().any(|(other, _)| *other == value)
                {
                    others.push((value, token));
                }
            }
        }
        let Some(first) = first else { return Presented::Nothing };
        match (Token::parse_bytes(first), differ) {
            (Some(token), false) => Presented::Token(token),
            (None, _) if others.is_empty() => Presented::Malformed,
            (first, _) => {
                let others = others.into_iter().map(|(_, token)| token);
                Presented::Several(first.into_iter().chain(others).take(Presented::MOST).collect())
            }
        }
    }

    /// The path that a request's [path header](Self::path_header) names, if there is such a header and it is a path.
    pub fn mounted_at<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        self.mounted_by(|name| headers.get(name).map(HeaderValue::as_bytes))
    }

    /// The same, from what `look_up` says is the value of a header.
    pub(super) fn mounted_by<'a>(&self, look_up: impl FnOnce(&HeaderName) -> Option<&'a [u8]>) -> Option<&'a str> {
        let path = str::from_utf8(look_up(self.path_header.as_ref()?)?).ok()?;
        Some(path).filter(|path| is_path(path))
    }

    /// The `Set-Cookie` values that delete other cookies of the name in the browser of a request for this host and path: those
    /// of its parent domains and of the paths above it, as earlier settings or another application may have left them. What
    /// does not belong to the host, the browser leaves alone. At most 24.
    pub fn delete_strays(&self, host: Option<&str>, request_path: &str, path: Option<&str>) -> Vec<String> {
        let own_path = path.unwrap_or(&self.path);
        let mut paths = vec![own_path];
        let mut domains = vec![None];
        if !Prefix::of(&self.name).needs_host() {
            let ends =
                request_path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([request_path.len()]);
            paths.push("/");
            paths.extend(ends.map(|end| &request_path[..end]).filter(|path| is_path(path)).take(2));
            paths.sort_unstable();
            paths.dedup();
            domains.extend(self.domain.as_deref().map(Some));
            domains.extend(host.map(with_parents).unwrap_or_default().into_iter().map(Some));
            domains.sort_unstable();
            domains.dedup();
        }
        let others = domains.into_iter().flat_map(|domain| paths.iter().map(move |path| (domain, *path)));
        let others = others.filter(|place| *place != (self.domain.as_deref(), own_path));
        let mut strays: Vec<_> = others.map(|(domain, path)| self.write_at(domain, path, "", Some(0))).collect();
        if self.secure {
            let twin = Self { partitioned: !self.partitioned, ..self.clone() };
            strays.push(twin.delete(path));
        }
        strays
    }

    fn write(&self, value: &str, max_age: Option<u64>, path: Option<&str>) -> String {
        self.write_at(self.domain.as_deref(), path.unwrap_or(&self.path), value, max_age)
    }

    fn write_at(&self, domain: Option<&str>, path: &str, value: &str, max_age: Option<u64>) -> String {
        let mut cookie = format!("{}={value}; Path={path}", self.name);
        if let Some(domain) = domain {
            cookie.push_str("; Domain=");
            cookie.push_str(domain);
        }
        if let Some(seconds) = max_age {
            write!(cookie, "; Max-Age={seconds}").expect("writing to a string cannot fail");
        }
        for (set, attribute) in [
            (self.secure, "; Secure"),
            (self.http_only, "; HttpOnly"),
            (self.same_site == SameSite::Strict, "; SameSite=Strict"),
            (self.same_site == SameSite::Lax, "; SameSite=Lax"),
            (self.same_site == SameSite::None, "; SameSite=None"),
            (self.partitioned, "; Partitioned"),
        ] {
            if set {
                cookie.push_str(attribute);
            }
        }
        cookie
    }
}

/// What a request's cookies hold.
#[derive(Clone, Debug)]
pub enum Presented {
    /// No cookie of the name.
    Nothing,
    /// Cookies of the name, and the value of none is a token.
    Malformed,
    /// A token. Whether it opens anything is for [`Sessions::recognise`](crate::Sessions::recognise) to say.
    Token(Token),
    /// Cookies of the name with different values, and those that are tokens: at least one, and at most
    /// [`MOST`](Self::MOST).
    Several(Vec<Token>),
}

impl Presented {
    /// How many different tokens of one request are looked at.
    pub const MOST: usize = 4;
}

/// Name and value together may have as many bytes (RFC 6265bis, section 5.6).
const MAX_PAIR_BYTES: usize = 4096;

/// What a name's beginning promises. Browsers recognise prefixes whatever their capitals, so settings are checked that
/// way too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    Secure,
    Host,
    Http,
    HostHttp,
}

impl Prefix {
    fn of(name: &str) -> Self {
        let starts_with =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if starts_with("__Host-Http-") {
            Self::HostHttp
        } else if starts_with("__Host-") {
            Self::Host
        } else if starts_with("__Http-") {
            Self::Http
        } else if starts_with("__Secure-") {
            Self::Secure
        } else {
            Self::None
        }
    }

    fn needs_secure(self) -> bool {
        self != Self::None
    }

    fn needs_http_only(self) -> bool {
        matches!(self, Self::Http | Self::HostHttp)
    }

    fn needs_host(self) -> bool {
        matches!(self, Self::Host | Self::HostHttp)
    }
}

/// What is before the first such byte, and what is behind it.
fn split_at_byte(text: &[u8], byte: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(byte, text) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= 1024
        && path.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b';')
}

/// A host, without its port, and the domains above it, as far as each may have cookies: at most 4. None of an address.
fn with_parents(host: &str) -> Vec<&str> {
    let host = host.split_once(':').map_or(host, |(host, _)| host).trim_end_matches('.');
    let is_name = is_domain(host) && host.parse::<std::net::Ipv4Addr>().is_err();
    let mut domains: Vec<_> = Some(host).filter(|host| is_name && host.contains('.')).into_iter().collect();
    while let Some((_, parent)) = domains.last().and_then(|domain: &&str| domain.split_once('.'))
        && parent.contains('.')
        && domains.len() < 4
    {
        domains.push(parent);
    }
    domains
}

fn is_domain(domain: &str) -> bool {
    let labels = domain.strip_prefix('.').unwrap_or(domain);
    !labels.is_empty()
        && labels.len() <= 253
        && labels
            .split('.')
            .all(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
}
