//! Settings: flags over the environment over `cloakroom.toml`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use cloakroom::{
    Assurance, Builder, Lifetimes, Limit, Sessions, WhenFull,
    client::TrustedProxies,
    store::{MemoryStore, NearCache},
    web::CookieConfig,
};
use serde::Deserialize;

use crate::{
    Bounds, Tls, TlsError,
    assertion::{self, AssertionKeyError, AssertionKeys},
    keys::{self, ApiKey, ApiKeys, KeyError, PrivateFileError, Scope},
    policy::Policies,
    record_keys::{self, RecordKeyError},
    redact, stores,
};

mod file;
mod values;

use file::{check_private, parse, place};
pub(crate) use values::{Bound, Listen, LogFilter, Period, Proxies};

/// Settings that are a line each, by name.
macro_rules! settings {
    ($($(#[$doc:meta])+ $name:ident: $type:ty;)+) => {
        /// The settings of `cloakroom serve`, each as a flag, as a variable of the environment and as a line of the file.
        #[derive(Clone, Debug, Default, Args, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct Settings {
            $($(#[$doc])+ $name: Option<$type>,)+
            /// `[[keys]]`: name, scope, sha256. In the file alone.
            #[arg(skip)]
            keys: Vec<ApiKey>,
            /// `[policies.NAME]`: what forward authentication asks for. In the file alone.
            #[arg(skip)]
            policies: Policies,
            /// Where settings stand that come from the file.
            #[arg(skip)]
            #[serde(skip)]
            places: BTreeMap<&'static str, String>,
        }

        impl Settings {
            /// These settings, and those of a file for what they leave open.
            fn over(self, other: Self, place: impl Fn(&str) -> String) -> Self {
                let mut places = BTreeMap::new();
                $(if self.$name.is_none() && other.$name.is_some() {
                    places.insert(stringify!($name), place(stringify!($name)));
                })+
                Self { $($name: self.$name.or(other.$name),)+ keys: other.keys, policies: other.policies, places }
            }
        }
    };
}

settings! {
    /// Where to listen: a port, ADDRESS:PORT or NAME:PORT [default: 127.0.0.1:7600]. Port 0 takes a free one
    #[arg(long, env = "CLOAKROOM_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Listen;
    /// Where Envoy's filter ext_authz is answered over gRPC: a port, ADDRESS:PORT or NAME:PORT [default: nowhere]
    #[arg(long, env = "CLOAKROOM_GRPC_LISTEN", value_name = "ADDRESS:PORT")]
    grpc_listen: Listen;
    /// Where sessions live: memory:, sqlite:FILE, file:DIRECTORY, postgres://…, mysql://…, redis://…, or @FILE for an address in
    /// a file [default: sqlite:cloakroom.db]
    #[arg(long, env = "CLOAKROOM_STORE", value_name = "URL")]
    store: String;
    /// What is logged, such as info or warn,cloakroom=debug [default: info]
    #[arg(long, env = "CLOAKROOM_LOG", value_name = "FILTER")]
    log: LogFilter;
    /// How it is logged [default: text]
    #[arg(long, env = "CLOAKROOM_LOG_FORMAT", value_name = "FORMAT")]
    log_format: LogFormat;
    /// How long a session may go unused, such as 90m, 1h30m or 1:30 [default: 1h]
    #[arg(long, env = "CLOAKROOM_IDLE", value_name = "TIME")]
    idle: Period;
    /// How long a signed-in session lives at most, or "none" [default: 24h]
    #[arg(long, env = "CLOAKROOM_ABSOLUTE", value_name = "TIME")]
    absolute: Bound;
    /// The same as --idle, for sessions to be remembered [default: 10d]
    #[arg(long, env = "CLOAKROOM_REMEMBER_IDLE", value_name = "TIME")]
    remember_idle: Period;
    /// The same as --absolute, for sessions to be remembered [default: 30d]
    #[arg(long, env = "CLOAKROOM_REMEMBER_ABSOLUTE", value_name = "TIME")]
    remember_absolute: Bound;
    /// How long a session may go unused that starts on a telephone or tablet [default: --idle]
    #[arg(long, env = "CLOAKROOM_MOBILE_IDLE", value_name = "TIME")]
    mobile_idle: Period;
    /// How long it lives at most, or "none" [default: --absolute]
    #[arg(long, env = "CLOAKROOM_MOBILE_ABSOLUTE", value_name = "TIME")]
    mobile_absolute: Bound;
    /// A file in MaxMind's format that says in which country an address is used [default: none]
    #[arg(long, env = "CLOAKROOM_COUNTRY_DATABASE", value_name = "FILE")]
    country_database: PathBuf;
    /// The level of NIST SP 800-63B-4 whose bounds hold, and whose lifetimes are the defaults [default: none]
    #[arg(long, env = "CLOAKROOM_ASSURANCE", value_name = "LEVEL")]
    assurance: Level;
    /// How many sessions a user may have [default: any number]
    #[arg(long, env = "CLOAKROOM_SESSION_LIMIT", value_name = "N")]
    session_limit: u32;
    /// What a sign-in beyond the limit does [default: evict]
    #[arg(long, env = "CLOAKROOM_WHEN_FULL", value_name = "WHAT")]
    when_full: Full;
    /// The cookie's name [default: __Host-session]
    #[arg(long, env = "CLOAKROOM_COOKIE_NAME", value_name = "NAME")]
    cookie_name: String;
    /// Sends the cookie to this domain and all below it; the default name is then __Secure-session
    #[arg(long, env = "CLOAKROOM_COOKIE_DOMAIN", value_name = "DOMAIN")]
    cookie_domain: String;
    /// For development on plain http: the cookie is not Secure, and its default name is session
    #[arg(long, env = "CLOAKROOM_COOKIE_DEV", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    cookie_dev: bool;
    /// Whether sessions that are used are kept in memory, as long as the store's server tells what changes [default: false]
    #[arg(long, env = "CLOAKROOM_NEAR_CACHE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    near_cache: bool;
    /// Serves what is stored and changes nothing, as on a copy of the store or a standby
    #[arg(long, env = "CLOAKROOM_READ_ONLY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    read_only: bool;
    /// The proxies before the server, as addresses and networks with commas between: they are believed where clients come from
    #[arg(long, env = "CLOAKROOM_TRUSTED_PROXIES", value_name = "NETWORKS")]
    trusted_proxies: Proxies;
    /// Lets no user sign in who is not in the directory of users
    #[arg(long, env = "CLOAKROOM_ONLY_KNOWN_USERS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    only_known_users: bool;
    /// The keys that sign what /auth says, as PEM, the one that signs first [default: cloakroom-assertions.pem beside a store on
    /// this machine]
    #[arg(long, env = "CLOAKROOM_ASSERTION_KEYS", value_name = "FILE")]
    assertion_keys: PathBuf;
    /// A file with the keys that seal records against writers to the database, one a line as 64 hexadecimal digits, the first to
    /// write with [default: none, and rows are believed]
    #[arg(long, env = "CLOAKROOM_RECORD_MAC_KEYS", value_name = "FILE")]
    record_mac_keys: PathBuf;
    /// A file with the keys that encrypt records, one a line as 64 hexadecimal digits, the first to write with [default: none, and
    /// nothing is encrypted]
    #[arg(long, env = "CLOAKROOM_ENCRYPTION_KEYS", value_name = "FILE")]
    encryption_keys: PathBuf;
    /// A file with an API key of scope admin, beside those in the settings file; read again on SIGHUP
    #[arg(long, env = "CLOAKROOM_API_KEY_FILE", value_name = "FILE")]
    api_key_file: PathBuf;
    /// The certificate for TLS, as PEM, with those that lead to its authority behind it; read again on SIGHUP. [default: none,
    /// and plain HTTP]
    #[arg(long, env = "CLOAKROOM_TLS_CERTIFICATE", value_name = "FILE")]
    tls_certificate: PathBuf;
    /// Its private key, as PEM
    #[arg(long, env = "CLOAKROOM_TLS_KEY", value_name = "FILE")]
    tls_key: PathBuf;
    /// How many wrong API keys a client may send in a minute [default: 20]; ten times as many from all together
    #[arg(long, env = "CLOAKROOM_KEY_ATTEMPTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    key_attempts: u32;
    /// How many connections are open at once [default: 10000, or what the limit on open files allows]
    #[arg(long, env = "CLOAKROOM_MAX_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32;
    /// How long a connection stays open between requests [default: 75s]. Longer than the proxy before it keeps its own
    #[arg(long, env = "CLOAKROOM_KEEP_ALIVE", value_name = "TIME")]
    keep_alive: Period;
    /// How long a request's head may take to arrive [default: 30s]
    #[arg(long, env = "CLOAKROOM_HEAD_TIMEOUT", value_name = "TIME")]
    head_timeout: Period;
    /// How long its body may take [default: 10s]
    #[arg(long, env = "CLOAKROOM_BODY_TIMEOUT", value_name = "TIME")]
    body_timeout: Period;
    /// How long a client may read nothing of its answer [default: 30s]
    #[arg(long, env = "CLOAKROOM_WRITE_TIMEOUT", value_name = "TIME")]
    write_timeout: Period;
    /// How long requests in flight may take to finish at the end [default: 10s]
    #[arg(long, env = "CLOAKROOM_SHUTDOWN_GRACE", value_name = "TIME")]
    shutdown_grace: Period;
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
    #[error("the settings file {} {problem}", path.display())]
    Unsafe { path: PathBuf, problem: String },
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    File { path: PathBuf, line: usize, column: usize, message: String },
    /// Settings that do not go together, and where those stand that come from the file.
    #[error("{source}{places}")]
    Together { source: cloakroom::Error, places: String },
    #[error(transparent)]
    Sessions(cloakroom::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    AssertionKey(#[from] AssertionKeyError),
    #[error(transparent)]
    RecordKey(#[from] RecordKeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the settings tls_certificate and tls_key go together: give both, or neither for plain HTTP")]
    HalfTls,
    #[error(transparent)]
    PrivateFile(#[from] PrivateFileError),
    #[error(
        "the store {store} is not on this machine, and no API key is configured: make one with `cloakroom key`, and set \
         CLOAKROOM_API_KEY or add it to {DEFAULT_FILE}"
    )]
    NoKey { store: String },
}

impl Settings {
    /// These settings, and those of the file for what they leave open. The store's address is looked up if it is in a file.
    pub(crate) fn over_file(self, path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        let mut settings = match fs::read_to_string(file) {
            Ok(text) => {
                check_private(file)?;
                let settings = parse(file, &text)?;
                self.over(settings, |name| place(file, &text, name))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => self,
            Err(source) => return Err(ConfigError::Read { path: file.into(), source }),
        };
        settings.store = settings.store.as_deref().map(stores::address).transpose()?;
        Ok(settings)
    }

    /// Finds mistakes before anything is made or bound. Each value by itself was looked at when it was read; this is about
    /// what they are together.
    pub(crate) fn check(&self, key: Option<&str>) -> Result<(), ConfigError> {
        let store = MemoryStore::new().map_err(ConfigError::Sessions)?;
        let built = self.builder(Sessions::builder(Arc::new(store)).without_upkeep())?.build();
        built.map_err(|source| self.together(source))?;
        if let Some(file) = &self.assertion_keys {
            AssertionKeys::read(file)?;
        }
        self.tls()?;
        let is_remote = redact::is_known(self.store()) && embedded_directory(self.store()).is_none();
        if self.configured_keys(key)?.is_empty() && is_remote {
            return Err(ConfigError::NoKey { store: redact::address(self.store()) });
        }
        Ok(())
    }

    pub(crate) fn listen(&self) -> Listen {
        self.listen.clone().unwrap_or_default()
    }

    pub(crate) fn grpc_listen(&self) -> Option<&Listen> {
        self.grpc_listen.as_ref()
    }

    pub(crate) fn store(&self) -> &str {
        self.store.as_deref().unwrap_or("sqlite:cloakroom.db")
    }

    pub(crate) fn log(&self) -> LogFilter {
        self.log.clone().unwrap_or_default()
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
    pub(crate) fn trusted_proxies(&self) -> Option<TrustedProxies> {
        self.trusted_proxies.clone().map(|Proxies(proxies)| proxies)
    }

    /// The files of the certificate and its key, if connections are encrypted.
    pub(crate) fn tls_files(&self) -> Result<Option<(&Path, &Path)>, ConfigError> {
        match (&self.tls_certificate, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            _ => Err(ConfigError::HalfTls),
        }
    }

    pub(crate) fn tls(&self) -> Result<Option<Tls>, ConfigError> {
        let Some((certificate, key)) = self.tls_files()? else { return Ok(None) };
        Ok(Some(Tls::read(certificate, key)?))
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let defaults = Bounds::default();
        let or = |period: Option<Period>, default| period.map_or(default, |Period(period)| period);
        Bounds {
            key_attempts: self.key_attempts.unwrap_or(defaults.key_attempts),
            max_connections: self.max_connections.map_or(defaults.max_connections, |max| max as usize),
            keep_alive: or(self.keep_alive, defaults.keep_alive),
            head_timeout: or(self.head_timeout, defaults.head_timeout),
            body_timeout: or(self.body_timeout, defaults.body_timeout),
            write_timeout: or(self.write_timeout, defaults.write_timeout),
            shutdown_grace: or(self.shutdown_grace, defaults.shutdown_grace),
            ..defaults
        }
    }

    /// Opens the store and serves sessions from it.
    pub(crate) async fn sessions(&self) -> Result<Sessions, ConfigError> {
        let store = stores::open_to_serve(self.store()).await.map_err(ConfigError::Sessions)?;
        self.builder(Sessions::builder(store))?.build().map_err(|source| self.together(source))
    }

    fn builder(&self, builder: Builder) -> Result<Builder, ConfigError> {
        let read_only = self.read_only == Some(true);
        let mut builder = builder.stored_users().lifetimes(self.lifetimes()).cookie(self.cookie()).read_only(read_only);
        if self.near_cache == Some(true) {
            builder = builder.near_cache(Some(NearCache::default()));
        }
        if self.only_known_users == Some(true) {
            builder = builder.only_known_users();
        }
        if let Some(mobile) = self.mobile_lifetimes() {
            builder = builder.mobile_lifetimes(mobile);
        }
        if let Some(file) = &self.country_database {
            builder = builder.country_database(file);
        }
        if let Some(limit) = self.limit() {
            builder = builder.limit(limit);
        }
        if let Some(file) = &self.record_mac_keys {
            builder = builder.record_mac_keys(record_keys::read(file)?);
        }
        if let Some(file) = &self.encryption_keys {
            builder = builder.encryption_keys(record_keys::read(file)?);
        }
        Ok(builder)
    }

    fn together(&self, source: cloakroom::Error) -> ConfigError {
        let cloakroom::Error::InvalidArgument { what, .. } = &source else { return ConfigError::Sessions(source) };
        let words: Vec<_> = what.split([' ', '_']).collect();
        let is_about = |name: &str| words.iter().any(|word| name.contains(word));
        let places =
            self.places.iter().filter(|(name, _)| is_about(name)).map(|(name, place)| format!("{name}: {place}"));
        let places = places.collect::<Vec<_>>().join("; ");
        let places = if places.is_empty() { places } else { format!(" ({places})") };
        ConfigError::Together { source, places }
    }

    /// Those of telephones and tablets, if they have any of their own.
    fn mobile_lifetimes(&self) -> Option<Lifetimes> {
        if self.mobile_idle.is_none() && self.mobile_absolute.is_none() {
            return None;
        }
        let lifetimes = self.lifetimes();
        Some(Lifetimes {
            idle: self.mobile_idle.map_or(lifetimes.idle, |Period(idle)| idle),
            absolute: self.mobile_absolute.map_or(lifetimes.absolute, |Bound(absolute)| absolute),
            ..lifetimes
        })
    }

    fn lifetimes(&self) -> Lifetimes {
        let defaults = match self.assurance {
            None => Lifetimes::default(),
            Some(Level::Aal1) => Lifetimes::nist(Assurance::Aal1),
            Some(Level::Aal2) => Lifetimes::nist(Assurance::Aal2),
            Some(Level::Aal3) => Lifetimes::nist(Assurance::Aal3),
        };
        let (period, bound) = (|Period(period)| period, |Bound(bound)| bound);
        Lifetimes {
            idle: self.idle.map_or(defaults.idle, period),
            absolute: self.absolute.map_or(defaults.absolute, bound),
            remember_idle: self.remember_idle.map_or(defaults.remember_idle, period),
            remember_absolute: self.remember_absolute.map_or(defaults.remember_absolute, bound),
            assurance: defaults.assurance,
        }
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

    /// The keys that count: those that are configured, with the one of the environment. With a store on this machine and
    /// none, the one in a file beside it, which is made if it is not there, and that file's path.
    pub(crate) fn keys(&self, from_environment: Option<&str>) -> Result<(ApiKeys, Option<PathBuf>), ConfigError> {
        let keys = self.configured_keys(from_environment)?;
        if !keys.is_empty() {
            return Ok((ApiKeys::new(keys), None));
        }
        let Some(directory) = embedded_directory(self.store()) else {
            return Err(ConfigError::NoKey { store: redact::address(self.store()) });
        };
        let (key, path) = keys::embedded(&directory)?;
        Ok((ApiKeys::new(vec![key]), Some(path)))
    }

    fn configured_keys(&self, from_environment: Option<&str>) -> Result<Vec<ApiKey>, ConfigError> {
        let mut keys = self.keys.clone();
        if let Some(text) = from_environment.filter(|text| !text.is_empty()) {
            keys.push(ApiKey::new("CLOAKROOM_API_KEY", Scope::Admin, text)?);
        }
        if let Some(file) = &self.api_key_file {
            keys.push(ApiKey::new("api_key_file", Scope::Admin, &keys::read(file)?)?);
        }
        Ok(keys)
    }
}

/// The directory beside a store on this machine.
fn embedded_directory(store: &str) -> Option<PathBuf> {
    if store.starts_with("memory:") {
        return Some(PathBuf::new());
    }
    stores::path(store).map(|path| path.parent().map(Path::to_path_buf).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn flags_go_over_the_file() {
        let flags = Settings { store: Some("memory:".into()), ..Settings::default() };
        let settings = flags.over(read("store = 'sqlite:a.db'\nidle = '0:30'"), |name| format!("line of {name}"));
        assert_eq!(settings.store(), "memory:");
        assert_eq!(settings.lifetimes().idle, Duration::from_mins(30));
        assert_eq!(settings.listen().to_string(), "127.0.0.1:7600");
        assert_eq!(settings.places, BTreeMap::from([("idle", "line of idle".to_owned())]));
    }

    #[test]
    fn the_documentation_lists_every_setting_with_its_flag_and_variable() {
        let documentation = include_str!("../../../docs/server.md");
        let command = Settings::augment_args(clap::Command::new("serve"));
        let mut count = 0;
        for argument in command.get_arguments() {
            let name = argument.get_id().as_str();
            let (flag, variable) = (name.replace('_', "-"), format!("CLOAKROOM_{}", name.to_uppercase()));
            assert_eq!(argument.get_env().unwrap(), variable.as_str());
            let row = format!("| `--{flag}` | `{variable}` | `{name}` |");
            assert!(documentation.contains(&row), "docs/server.md has no row {row}");
            count += 1;
        }
        assert!(count > 20, "{count}");
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
        let lifetimes = settings.lifetimes();
        assert_eq!(lifetimes.assurance, Some(Assurance::Aal2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = Settings { store: Some("memory:".into()), ..settings };
        assert!(runtime.block_on(settings.sessions()).is_err());
    }

    #[test]
    fn phones_have_lifetimes_of_their_own_if_they_are_given_any() {
        assert_eq!(read("idle = '0:30'").mobile_lifetimes(), None);
        let mobile = read("absolute = '10:00'\nmobile_idle = '30d'").mobile_lifetimes().unwrap();
        assert_eq!((mobile.idle, mobile.absolute), (Duration::from_hours(720), Some(Duration::from_hours(10))));
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
    fn t7_a_refusal_does_not_show_the_store_s_password() {
        let refused = read("store = 'postgres://app:s3cr3t@db/sessions'").keys(None).unwrap_err();
        assert!(!refused.to_string().contains("s3cr3t"));
    }

    #[test]
    fn settings_that_do_not_go_together_are_told_with_their_lines() {
        for (text, told) in [
            ("\nassurance = 'aal2'\nidle = '2h'", "(idle: a.toml, line 3)"),
            ("cookie_dev = true\ncookie_name = '__Host-a'", "cookie_name: a.toml, line 2"),
            ("country_database = '/nowhere/countries.mmdb'", "country_database: a.toml, line 1"),
            ("session_limit = 0", "session_limit: a.toml, line 1"),
        ] {
            let file = Path::new("a.toml");
            let settings = Settings::default().over(parse(file, text).unwrap(), |name| place(file, text, name));
            let error = settings.check(None).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
