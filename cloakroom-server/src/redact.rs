//! Addresses of stores as they may be shown. What is not known to be harmless in one is hidden.

use std::{
    borrow::Cow,
    sync::{PoisonError, RwLock},
};

/// A store's address without what may be a password.
pub(crate) fn address(store: &str) -> String {
    Parsed::of(store).shown
}

/// Whether a store's address holds something that is hidden when it is shown.
pub(crate) fn has_secret(store: &str) -> bool {
    is_known(store) && !Parsed::of(store).hidden.is_empty()
}

/// Whether it begins as addresses of stores do.
pub(crate) fn is_known(store: &str) -> bool {
    let scheme = store.split(':').next().unwrap_or_default();
    SCHEMES.contains(&scheme) || scheme.starts_with("redis")
}

/// Has what is hidden in this address hidden in every text that this program shows from now on: drivers quote addresses in
/// errors and in the log.
pub(crate) fn remember(store: &str) {
    let hidden = Parsed::of(store).hidden.into_iter().filter(|secret| secret.len() >= MIN_LEN);
    let mut remembered = REMEMBERED.write().unwrap_or_else(PoisonError::into_inner);
    for secret in hidden {
        if !remembered.contains(&secret) {
            remembered.push(secret);
        }
    }
    // A part of another must not be replaced first.
    remembered.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
}

/// The text without secrets that are remembered.
pub(crate) fn hidden(text: &str) -> Cow<'_, str> {
    without(text, &REMEMBERED.read().unwrap_or_else(PoisonError::into_inner))
}

static REMEMBERED: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Redis has some more.
const SCHEMES: [&str; 7] = ["memory", "sqlite", "file", "postgres", "postgresql", "mysql", "mariadb"];

/// Shorter ones are parts of ordinary words.
const MIN_LEN: usize = 4;

const HIDDEN: &str = "***";

/// Parameters of addresses that hold no secret.
const HARMLESS: [&str; 22] = [
    "application_name",
    "charset",
    "collation",
    "dbname",
    "host",
    "hostaddr",
    "max_connections",
    "node",
    "port",
    "prefix",
    "schema",
    "ssl-ca",
    "ssl-mode",
    "sslca",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "timeout_ms",
    "tls_ca",
    "tls_cert",
    "user",
    "wait_replicas",
];

struct Parsed {
    shown: String,
    hidden: Vec<String>,
}

impl Parsed {
    fn of(store: &str) -> Self {
        let mut parsed = Self { shown: String::new(), hidden: Vec::new() };
        match store.split_once(':') {
            Some((scheme, rest)) if is_made_of(scheme, "+-.") => parsed.of_scheme(scheme, rest),
            // A path whose scheme was forgotten.
            None if is_made_of(store, "./_-~") => parsed.shown += store,
            _ => parsed.hide(store),
        }
        parsed
    }

    fn of_scheme(&mut self, scheme: &str, rest: &str) {
        self.shown += scheme;
        self.shown.push(':');
        let has_authority = rest.starts_with("//");
        let is_redis = scheme.starts_with("redis");
        if matches!(scheme, "memory" | "sqlite" | "file") {
            if has_authority && rest.split_once('@').is_some_and(|(login, _)| login.contains(':')) {
                return self.hide(rest);
            }
            let (path, parameters) = rest.split_once('?').map_or((rest, None), |(path, rest)| (path, Some(rest)));
            self.shown += path;
            if let Some(parameters) = parameters {
                self.parameters(parameters);
            }
            return;
        }
        if !is_known(scheme) {
            return self.hide(rest);
        }
        let body = rest.trim_start_matches('/');
        self.shown += &rest[..rest.len() - body.len()];
        // A password that was not escaped may hold every delimiter, another @ too.
        let place = match body.rsplit_once('@') {
            Some((login, place)) => {
                self.login(login, is_redis || !has_authority);
                self.shown.push('@');
                place
            }
            None if has_authority => body,
            None => return self.hide(body),
        };
        let (place, parameters) = place.split_once('?').map_or((place, None), |(place, rest)| (place, Some(rest)));
        let (hosts, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        if hosts.split(',').all(is_host) {
            self.shown += hosts;
        } else {
            self.hide(hosts);
        }
        if is_made_of(path, "/._-~") {
            self.shown += path;
        } else {
            self.hide(path);
        }
        if let Some(parameters) = parameters {
            self.parameters(parameters);
        }
    }

    /// `USER`, `USER:PASSWORD`, or what was meant so.
    fn login(&mut self, login: &str, may_be_password_alone: bool) {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, rest)| (user, Some(rest)));
        if !is_made_of(user, "._-~") || (password.is_none() && may_be_password_alone) {
            return self.hide(login);
        }
        self.shown += user;
        if let Some(password) = password {
            self.shown.push(':');
            self.hide(password);
        }
    }

    fn parameters(&mut self, parameters: &str) {
        for (number, parameter) in parameters.split('&').enumerate() {
            self.shown.push(if number == 0 { '?' } else { '&' });
            match parameter.split_once('=') {
                Some((name, value)) if is_made_of(name, "_-") => {
                    self.shown += name;
                    self.shown.push('=');
                    if HARMLESS.contains(&name) && is_made_of(value, "._-~:,/%[]") {
                        self.shown += value;
                    } else {
                        self.hide(value);
                    }
                }
                None if parameter.is_empty() => {}
                _ => self.hide(parameter),
            }
        }
    }

    fn hide(&mut self, secret: &str) {
        if secret.is_empty() {
            return;
        }
        self.shown += HIDDEN;
        // It is told as it was written, as it is meant, and, where a delimiter may be part of it, piece by piece.
        let pieces = secret.split(['@', ':', '/', '?', '&', '=', '#', ';']);
        for secret in pieces.chain([secret]).filter(|secret| !secret.is_empty()) {
            let meant = decoded(secret);
            if meant != secret {
                self.hidden.push(meant);
            }
            self.hidden.push(secret.to_owned());
        }
    }
}

/// Letters, digits and these alone.
fn is_made_of(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// `HOST`, `HOST:PORT`, `[ADDRESS]:PORT`, or a socket's path in percent-encoding.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.') => ("", port),
        Some(_) => return false,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|c| c.is_ascii_digit()));
    is_port && is_made_of(host, "._-%")
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.first_chunk::<2>().filter(|_| *first == b'%');
        let byte = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn without<'a>(text: &'a str, secrets: &[String]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), HIDDEN).into();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t7_a_store_s_password_is_not_shown() {
        for (store, shown) in [
            ("postgres://app:s3cr3t@db/sessions?schema=x", "postgres://app:***@db/sessions?schema=x"),
            ("redis://:p@ss@host:6379", "redis://:***@host:6379"),
            ("postgres://app@db/sessions", "postgres://app@db/sessions"),
            ("postgres://app@/sessions?host=/run/pg", "postgres://app@/sessions?host=/run/pg"),
            ("sqlite:cloakroom.db", "sqlite:cloakroom.db"),
            ("sqlite:///home/a@b/c.db", "sqlite:///home/a@b/c.db"),
            ("file:sessions", "file:sessions"),
            ("memory:", "memory:"),
            ("cloakroom.db", "cloakroom.db"),
            ("redis://host:6379/1", "redis://host:6379/1"),
            ("redis://[::1]:6379?prefix=a:", "redis://[::1]:6379?prefix=a:"),
            ("redis-cluster://h:1?node=a:2,b:3", "redis-cluster://h:1?node=a:2,b:3"),
            ("postgres://db/s?user=app&password=s3cr3t&schema=a", "postgres://db/s?user=app&password=***&schema=a"),
        ] {
            assert_eq!(address(store), shown);
        }
    }

    /// Every way to write one that a person may come upon.
    const FORMS: [&str; 26] = [
        "postgres://app:s3cr3t@db/sessions",
        "postgres:app:s3cr3t@db",
        "postgres:s3cr3t@db",
        "postgres:/app:s3cr3t@db/x",
        "postgres:s3cr3t",
        "postgres://app:s3cr3t",
        "postgres://db/x?pass%77ord=s3cr3t",
        "postgres://db/x?passwd=s3cr3t",
        "postgres://db/x?PGPASSWORD=s3cr3t&schema=a",
        "postgres://db/x?s3cr3t",
        "postgres://db/x?schema=a;password=s3cr3t",
        "postgres://db/x#s3cr3t@",
        "postgres://db/app:s3cr3t",
        "postgres://app:a@s3cr3t@db/x",
        "postgres://app:a/s3cr3t@db/x",
        "postgres://app:a?s3cr3t@db/x",
        "postgres://app:a#s3cr3t@db/x",
        "postgres://app:a&b=s3cr3t@db/x?user=a@b",
        "postgres://a:s3cr3t@h1,b:s3cr3t@h2/db",
        "mysql://app:%733cr3t@db/x",
        "redis://s3cr3t@db",
        "redis-sentinel://:s3cr3t@a:1,b:2/main?sentinel_password=s3cr3t",
        "POSTGRES://app:s3cr3t@db",
        "app:s3cr3t@db",
        "app@s3cr3t",
        "file://app:s3cr3t@host/sessions",
    ];

    #[test]
    fn s3_no_form_of_an_address_shows_its_password() {
        for store in FORMS {
            let shown = address(store);
            assert!(!decoded(&shown).contains("s3cr3t") && shown.contains(HIDDEN), "{store} is shown as {shown}");
        }
    }

    #[test]
    fn s3_what_drivers_say_of_an_address_is_hidden_too() {
        for store in FORMS {
            let secrets = Parsed::of(store).hidden;
            for said in [
                "ignoring unrecognized connect parameter key=pw value=s3cr3t".to_owned(),
                format!("cannot parse {store}"),
                format!("cannot parse {}", decoded(store)),
            ] {
                let told = without(&said, &secrets).into_owned();
                assert!(!told.contains("s3cr3t"), "{store}: {told}");
            }
        }
        assert_eq!(without("the database is down", &Parsed::of(FORMS[0]).hidden), "the database is down");
    }
}
