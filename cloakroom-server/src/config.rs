//! Settings: flags over the environment over `cloakroom.toml`.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use cloakroom::{
    Assurance, Lifetimes, Sessions, TrustedProxies, parse_period,
    store::{self, Limit, WhenFull},
    web::CookieConfig,
};
use serde::Deserialize;

use crate::{
    assertion::{self, AssertionKeyError, AssertionKeys},
    keys::{self, ApiKey, ApiKeys, KeyError, Scope},
    policy::Policies,
};

/// The settings of `cloakroom serve`, each as a flag, as a variable of the environment and as a line of the file.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where to listen [default: 127.0.0.1:7600]. Port 0 takes a free one
    #[arg(long, env = "CLOAKROOM_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where sessions live: memory:, sqlite:FILE, file:DIRECTORY, postgres://…, mysql://…, redis://… [default: sqlite:cloakroom.db]
    #[arg(long, env = "CLOAKROOM_STORE", value_name = "URL")]
    store: Option<String>,
    /// What is logged, such as info or warn,cloakroom=debug [default: info]
    #[arg(long, env = "CLOAKROOM_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How it is logged [default: text]
    #[arg(long, env = "CLOAKROOM_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// How long a session may go unused, as HH:MM or HH:MM:SS [default: 1:00]
    #[arg(long, env = "CLOAKROOM_IDLE", value_name = "HH:MM")]
    idle: Option<String>,
    /// How long a signed-in session lives at most, or "none" [default: 24:00]
    #[arg(long, env = "CLOAKROOM_ABSOLUTE", value_name = "HH:MM")]
    absolute: Option<String>,
    /// The same as --idle, for sessions to be remembered [default: 240:00]
    #[arg(long, env = "CLOAKROOM_REMEMBER_IDLE", value_name = "HH:MM")]
    remember_idle: Option<String>,
    /// The same as --absolute, for sessions to be remembered [default: 720:00]
    #[arg(long, env = "CLOAKROOM_REMEMBER_ABSOLUTE", value_name = "HH:MM")]
    remember_absolute: Option<String>,
    /// How long a session may go unused that starts on a telephone or tablet [default: --idle]
    #[arg(long, env = "CLOAKROOM_MOBILE_IDLE", value_name = "HH:MM")]
    mobile_idle: Option<String>,
    /// How long it lives at most, or "none" [default: --absolute]
    #[arg(long, env = "CLOAKROOM_MOBILE_ABSOLUTE", value_name = "HH:MM")]
    mobile_absolute: Option<String>,
    /// A file in MaxMind's format that says in which country an address is used [default: none]
    #[arg(long, env = "CLOAKROOM_COUNTRY_DATABASE", value_name = "FILE")]
    country_database: Option<PathBuf>,
    /// The level of NIST SP 800-63B-4 whose bounds hold, and whose lifetimes are the defaults [default: none]
    #[arg(long, env = "CLOAKROOM_ASSURANCE", value_name = "LEVEL")]
    assurance: Option<Level>,
    /// How many sessions a user may have [default: any number]
    #[arg(long, env = "CLOAKROOM_SESSION_LIMIT", value_name = "N")]
    session_limit: Option<u32>,
    /// What a sign-in beyond the limit does [default: evict]
    #[arg(long, env = "CLOAKROOM_WHEN_FULL", value_name = "WHAT")]
    when_full: Option<Full>,
    /// The cookie's name [default: __Host-session]
    #[arg(long, env = "CLOAKROOM_COOKIE_NAME", value_name = "NAME")]
    cookie_name: Option<String>,
    /// Sends the cookie to this domain and all below it; the default name is then __Secure-session
    #[arg(long, env = "CLOAKROOM_COOKIE_DOMAIN", value_name = "DOMAIN")]
    cookie_domain: Option<String>,
    /// For development on plain http: the cookie is not Secure, and its default name is session
    #[arg(long, env = "CLOAKROOM_COOKIE_DEV", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    cookie_dev: Option<bool>,
    /// Serves what is stored and changes nothing, as on a copy of the store or a standby
    #[arg(long, env = "CLOAKROOM_READ_ONLY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    read_only: Option<bool>,
    /// The proxies that ask /auth, as addresses and networks with commas between: they are believed where visitors come from
    #[arg(long, env = "CLOAKROOM_TRUSTED_PROXIES", value_name = "NETWORKS")]
    trusted_proxies: Option<String>,
    /// Lets nobody sign in who is not in the directory of users
    #[arg(long, env = "CLOAKROOM_ONLY_KNOWN_USERS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    only_known_users: Option<bool>,
    /// The keys that sign what /auth says, as PEM, the one that signs first [default: cloakroom-assertions.pem beside a store on this machine]
    #[arg(long, env = "CLOAKROOM_ASSERTION_KEYS", value_name = "FILE")]
    assertion_keys: Option<PathBuf>,
    /// `[[keys]]`: name, scope, sha256. In the file alone.
    #[arg(skip)]
    keys: Vec<ApiKey>,
    /// `[policies.NAME]`: what forward authentication asks for. In the file alone.
    #[arg(skip)]
    policies: Policies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Aal1,
    Aal2,
    Aal3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Full {
    Evict,
    Refuse,
}

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "cloakroom.toml";

/// A setting is wrong: which, and what would be right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the settings file {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the settings file {} has a mistake:\n{message}", path.display())]
    File { path: PathBuf, message: String },
    #[error("the setting {name}: {source}")]
    Setting { name: &'static str, source: cloakroom::Error },
    #[error(transparent)]
    Sessions(cloakroom::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    AssertionKey(#[from] AssertionKeyError),
    #[error(
        "the store {store} is not on this machine, and no API key is configured: make one with `cloakroom key`, and set \
         CLOAKROOM_API_KEY or add it to {DEFAULT_FILE}"
    )]
    NoKey { store: String },
}

impl Settings {
    /// These settings, and those of the file for what they leave open.
    pub(crate) fn over_file(self, path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => return Ok(self),
            Err(source) => return Err(ConfigError::Read { path: file.into(), source }),
        };
        let settings = toml::from_str(&text)
            .map_err(|error| ConfigError::File { path: file.into(), message: error.to_string() })?;
        Ok(self.over(settings))
    }

    fn over(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            store: self.store.or(other.store),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            idle: self.idle.or(other.idle),
            absolute: self.absolute.or(other.absolute),
            remember_idle: self.remember_idle.or(other.remember_idle),
            remember_absolute: self.remember_absolute.or(other.remember_absolute),
            mobile_idle: self.mobile_idle.or(other.mobile_idle),
            mobile_absolute: self.mobile_absolute.or(other.mobile_absolute),
            country_database: self.country_database.or(other.country_database),
            assurance: self.assurance.or(other.assurance),
            session_limit: self.session_limit.or(other.session_limit),
            when_full: self.when_full.or(other.when_full),
            cookie_name: self.cookie_name.or(other.cookie_name),
            cookie_domain: self.cookie_domain.or(other.cookie_domain),
            cookie_dev: self.cookie_dev.or(other.cookie_dev),
            read_only: self.read_only.or(other.read_only),
            trusted_proxies: self.trusted_proxies.or(other.trusted_proxies),
            only_known_users: self.only_known_users.or(other.only_known_users),
            assertion_keys: self.assertion_keys.or(other.assertion_keys),
            policies: other.policies,
            keys: if self.keys.is_empty() { other.keys } else { self.keys },
        }
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7600)))
    }

    pub(crate) fn store(&self) -> &str {
        self.store.as_deref().unwrap_or("sqlite:cloakroom.db")
    }

    pub(crate) fn log(&self) -> &str {
        self.log.as_deref().unwrap_or("info")
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The keys that sign assertions. Beside a store on this machine they are made at the first start; one elsewhere has none
    /// unless they are named.
    pub(crate) fn assertion_keys(&self) -> Result<Option<AssertionKeys>, AssertionKeyError> {
        if let Some(file) = &self.assertion_keys {
            return AssertionKeys::read(file).map(Some);
        }
        let Some(directory) = embedded_directory(self.store()) else { return Ok(None) };
        let changes_nothing = self.read_only == Some(true);
        if changes_nothing && !directory.join(assertion::keys::FILE_NAME).exists() {
            return Ok(None);
        }
        AssertionKeys::embedded(&directory).map(|(keys, _)| Some(keys))
    }

    pub(crate) fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or(LogFormat::Text)
    }

    /// The proxies that are believed, if any.
    pub(crate) fn trusted_proxies(&self) -> Result<Option<TrustedProxies>, ConfigError> {
        let wrong = |source| ConfigError::Setting { name: "trusted_proxies", source };
        self.trusted_proxies.as_deref().map(TrustedProxies::parse).transpose().map_err(wrong)
    }

    /// Opens the store and serves sessions from it.
    pub(crate) async fn sessions(&self) -> Result<Sessions, ConfigError> {
        // Mistakes in settings are told before a database is made.
        let lifetimes = self.lifetimes()?;
        let mobile_lifetimes = self.mobile_lifetimes()?;
        let cookie = self.cookie();
        cookie.check().map_err(ConfigError::Sessions)?;
        let store = store::open(self.store()).await.map_err(ConfigError::Sessions)?;
        let read_only = self.read_only == Some(true);
        let mut builder =
            Sessions::builder(store).stored_users().lifetimes(lifetimes).cookie(cookie).read_only(read_only);
        if self.only_known_users == Some(true) {
            builder = builder.only_known_users();
        }
        if let Some(mobile) = mobile_lifetimes {
            builder = builder.mobile_lifetimes(mobile);
        }
        if let Some(file) = &self.country_database {
            builder = builder.country_database(file);
        }
        if let Some(limit) = self.limit() {
            builder = builder.limit(limit);
        }
        builder.build().map_err(ConfigError::Sessions)
    }

    /// Those of telephones and tablets, if they have any of their own.
    fn mobile_lifetimes(&self) -> Result<Option<Lifetimes>, ConfigError> {
        if self.mobile_idle.is_none() && self.mobile_absolute.is_none() {
            return Ok(None);
        }
        let lifetimes = self.lifetimes()?;
        let idle = period("mobile_idle", self.mobile_idle.as_deref(), lifetimes.idle)?;
        let absolute = bound("mobile_absolute", self.mobile_absolute.as_deref(), lifetimes.absolute)?;
        Ok(Some(Lifetimes { idle, absolute, ..lifetimes }))
    }

    fn lifetimes(&self) -> Result<Lifetimes, ConfigError> {
        let defaults = match self.assurance {
            None => Lifetimes::default(),
            Some(Level::Aal1) => Lifetimes::nist(Assurance::Aal1),
            Some(Level::Aal2) => Lifetimes::nist(Assurance::Aal2),
            Some(Level::Aal3) => Lifetimes::nist(Assurance::Aal3),
        };
        Ok(Lifetimes {
            idle: period("idle", self.idle.as_deref(), defaults.idle)?,
            absolute: bound("absolute", self.absolute.as_deref(), defaults.absolute)?,
            remember_idle: period("remember_idle", self.remember_idle.as_deref(), defaults.remember_idle)?,
            remember_absolute: bound(
                "remember_absolute",
                self.remember_absolute.as_deref(),
                defaults.remember_absolute,
            )?,
            assurance: defaults.assurance,
        })
    }

    fn limit(&self) -> Option<Limit> {
        let when_full = match self.when_full {
            Some(Full::Refuse) => WhenFull::Refuse,
            Some(Full::Evict) | None => WhenFull::Evict,
        };
        self.session_limit.map(|max| Limit { max, when_full })
    }

    fn cookie(&self) -> CookieConfig {
        let for_development = self.cookie_dev == Some(true);
        let default_name = match &self.cookie_domain {
            _ if for_development => "session",
            Some(_) => "__Secure-session",
            None => "__Host-session",
        };
        let mut cookie = CookieConfig::new(self.cookie_name.as_deref().unwrap_or(default_name));
        if let Some(domain) = &self.cookie_domain {
            cookie = cookie.domain(domain);
        }
        cookie.secure(!for_development)
    }

    /// The keys that are configured. With a store on this machine and none, the one in a file beside it, and that file's
    /// path.
    pub(crate) fn keys(&self, from_environment: Option<&str>) -> Result<(ApiKeys, Option<PathBuf>), ConfigError> {
        let mut keys = self.keys.clone();
        if let Some(text) = from_environment.filter(|text| !text.is_empty()) {
            keys.push(ApiKey::new("CLOAKROOM_API_KEY", Scope::Admin, text)?);
        }
        if !keys.is_empty() {
            return Ok((ApiKeys::new(keys), None));
        }
        let Some(directory) = embedded_directory(self.store()) else {
            return Err(ConfigError::NoKey { store: without_password(self.store()) });
        };
        let (key, path) = keys::embedded(&directory)?;
        Ok((ApiKeys::new(vec![key]), Some(path)))
    }
}

fn period(name: &'static str, text: Option<&str>, default: Duration) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    parse_period(text).map_err(|source| ConfigError::Setting { name, source })
}

fn bound(name: &'static str, text: Option<&str>, default: Option<Duration>) -> Result<Option<Duration>, ConfigError> {
    match text {
        Some("none") => Ok(None),
        None => Ok(default),
        Some(_) => period(name, text, Duration::ZERO).map(Some),
    }
}

/// A store's address as it may be shown: a password in it is not.
pub(crate) fn without_password(store: &str) -> String {
    let (place, parameters) = store.split_once('?').unwrap_or((store, ""));
    let mut shown = without_password_of_user(place);
    for (number, parameter) in parameters.split('&').filter(|parameter| !parameter.is_empty()).enumerate() {
        let name = parameter.split('=').next().unwrap_or_default();
        shown.push(if number == 0 { '?' } else { '&' });
        shown += if name.to_ascii_lowercase().contains("password") { "password=***" } else { parameter };
    }
    shown
}

fn without_password_of_user(store: &str) -> String {
    let Some((scheme, rest)) = store.split_once("://") else { return store.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // What comes before the last @ may hold others, unescaped.
    let Some((user, host)) = authority.rsplit_once('@') else { return store.to_owned() };
    match user.split_once(':') {
        Some((user, _password)) => format!("{scheme}://{user}:***@{host}{path}"),
        None => store.to_owned(),
    }
}

/// The directory beside a store on this machine.
fn embedded_directory(store: &str) -> Option<PathBuf> {
    match store.split_once(':')? {
        ("memory", _) => Some(PathBuf::new()),
        ("sqlite" | "file", file) => {
            let file = file.strip_prefix("//").unwrap_or(file);
            Some(Path::new(file).parent().map(Path::to_path_buf).unwrap_or_default())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn flags_go_over_the_file() {
        let flags = Settings { store: Some("memory:".into()), ..Settings::default() };
        let settings = flags.over(read("store = 'sqlite:a.db'\nidle = '0:30'"));
        assert_eq!(settings.store(), "memory:");
        assert_eq!(settings.lifetimes().unwrap().idle, Duration::from_mins(30));
        assert_eq!(settings.listen().port(), 7600);
    }

    #[test]
    fn unknown_settings_are_refused_by_name() {
        let error = toml::from_str::<Settings>("idel = '1:00'").unwrap_err().to_string();
        assert!(error.contains("idel") && error.contains("line 1"), "{error}");
        let error = toml::from_str::<Settings>("[[keys]]\nname='a'\nscope='root'\nsha256=''").unwrap_err().to_string();
        assert!(error.contains("root") && error.contains("admin"), "{error}");
    }

    #[test]
    fn x3_a_level_bounds_what_else_is_set() {
        let settings = read("assurance = 'aal2'\nidle = '2:00'");
        let lifetimes = settings.lifetimes().unwrap();
        assert_eq!(lifetimes.assurance, Some(Assurance::Aal2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = Settings { store: Some("memory:".into()), ..settings };
        assert!(runtime.block_on(settings.sessions()).is_err());
    }

    #[test]
    fn phones_have_lifetimes_of_their_own_if_they_are_given_any() {
        assert_eq!(read("idle = '0:30'").mobile_lifetimes().unwrap(), None);
        let mobile = read("absolute = '10:00'\nmobile_idle = '720:00'").mobile_lifetimes().unwrap().unwrap();
        assert_eq!((mobile.idle, mobile.absolute), (Duration::from_hours(720), Some(Duration::from_hours(10))));
        let error = read("mobile_absolute = '1'").mobile_lifetimes().unwrap_err().to_string();
        assert!(error.contains("mobile_absolute"), "{error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for wrong in ["assurance = 'aal2'\nmobile_idle = '2:00'", "country_database = '/nowhere/countries.mmdb'"] {
            let settings = Settings { store: Some("memory:".into()), ..read(wrong) };
            assert!(runtime.block_on(settings.sessions()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn c1_cookie_names_follow_what_they_promise() {
        assert_eq!(read("").cookie().name(), "__Host-session");
        assert_eq!(read("cookie_domain = 'example.com'").cookie().name(), "__Secure-session");
        assert_eq!(read("cookie_dev = true").cookie().name(), "session");
        assert!(read("cookie_dev = true\ncookie_name = '__Host-a'").cookie().check().is_err());
    }

    #[test]
    fn a_store_elsewhere_needs_a_configured_key() {
        let settings = read("store = 'postgres://db/sessions'");
        assert!(matches!(settings.keys(None), Err(ConfigError::NoKey { .. })));
        let text = keys::generate().unwrap();
        assert!(settings.keys(Some(&text)).is_ok());
        assert!(settings.keys(Some("guessable")).is_err());
        assert_eq!(embedded_directory("sqlite:///var/lib/a.db"), Some("/var/lib".into()));
        assert_eq!(embedded_directory("sqlite:a.db"), Some("".into()));
        assert_eq!(embedded_directory("file:/var/lib/sessions"), Some("/var/lib".into()));
    }

    #[test]
    fn t7_a_store_s_password_is_not_shown() {
        for (store, shown) in [
            ("postgres://app:s3cr3t@db/sessions?x=1", "postgres://app:***@db/sessions?x=1"),
            ("redis://:p@ss@host:6379", "redis://:***@host:6379"),
            ("postgres://app@db/sessions", "postgres://app@db/sessions"),
            ("sqlite:cloakroom.db", "sqlite:cloakroom.db"),
            ("redis://host:6379", "redis://host:6379"),
            ("postgres://db/s?user=app&password=s3cr3t&schema=a", "postgres://db/s?user=app&password=***&schema=a"),
        ] {
            assert_eq!(without_password(store), shown);
        }
        let refused = read("store = 'postgres://app:s3cr3t@db/sessions'").keys(None).unwrap_err();
        assert!(!refused.to_string().contains("s3cr3t"));
    }

    #[test]
    fn mistakes_in_lifetimes_name_the_setting() {
        let error = read("absolute = 'a day'").lifetimes().unwrap_err().to_string();
        assert!(error.contains("absolute") && error.contains("HH:MM"), "{error}");
        assert_eq!(read("absolute = 'none'").lifetimes().unwrap().absolute, None);
    }
}
