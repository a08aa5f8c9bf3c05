//! Addresses: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `redis-cluster://…?node=HOST:PORT,…` and
//! `redis-sentinel://HOST:PORT,HOST:PORT/NAME[/DATABASE]`; `rediss` in front where they are reached over TLS.

use std::{sync::Arc, time::Duration};

use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisResult};

use super::tls::Tls;
use crate::error::{Error, Result};

/// Where the servers are, and how to talk to them.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) layout: Layout,
    /// The servers named, as hosts and ports: sentinels if there are any. They tell of the others.
    pub(super) named: Vec<Arc<str>>,
    login: RedisConnectionInfo,
    sentinels_login: RedisConnectionInfo,
    tls: Option<Tls>,
    pub(super) prefix: String,
    /// How many replicas must have a creation, rotation or ending before it is answered.
    pub(super) wait_replicas: u32,
    /// How long a call may take, with all its tries.
    pub(super) timeout: Duration,
}

/// How servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    One,
    Cluster,
    /// One primary at a time, which sentinels know by this name.
    Sentinels(String),
}

impl Address {
    const PREFIX: &str = "cloakroom:";
    const TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, servers) = place.rsplit_once('@').map_or(("", place), |(user, servers)| (user, servers));
        let (hosts, path) = servers.split_once('/').unwrap_or((servers, ""));
        let (layout, database) = match scheme.strip_prefix("rediss").or_else(|| scheme.strip_prefix("redis")) {
            Some("") => (Layout::One, path),
            Some("-cluster") if matches!(path, "" | "0") => (Layout::Cluster, ""),
            Some("-cluster") => return Err(refuse("a cluster has no databases: leave out what follows the slash")),
            Some("-sentinel") => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                (Layout::Sentinels(primary_name(name)?), database)
            }
            _ => {
                return Err(refuse(
                    "it begins with redis://, redis-cluster:// or redis-sentinel://, or with rediss in their place",
                ));
            }
        };
        let hosts: Vec<_> = match layout {
            Layout::Sentinels(_) => hosts.split(',').collect(),
            Layout::One | Layout::Cluster => vec![hosts],
        };
        let named = hosts.iter().map(|host| host_and_port(host, &layout)).collect::<Result<_>>()?;
        let mut address = Self {
            layout,
            named,
            login: login(user, database)?,
            sentinels_login: RedisConnectionInfo::default(),
            tls: scheme.starts_with("rediss").then(Tls::new).transpose()?,
            prefix: Self::PREFIX.into(),
            wait_replicas: 0,
            timeout: Self::TIMEOUT,
        };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            address.set(parameter.split_once('=').unwrap_or((parameter, "")), user)?;
        }
        address.tls.as_ref().map_or(Ok(()), Tls::check)?;
        Ok(address)
    }

    fn set(&mut self, (name, value): (&str, &str), user: &str) -> Result<()> {
        match (name, &self.layout, &mut self.tls) {
            ("prefix", ..) => self.prefix = prefix(value)?,
            ("wait_replicas", ..) => self.wait_replicas = number(name, value)?,
            ("timeout_ms", ..) => self.timeout = Duration::from_millis(number(name, value)?.max(1).into()),
            ("node", layout @ Layout::Cluster, _) => {
                for host in value.split(',').filter(|host| !host.is_empty()) {
                    self.named.push(host_and_port(host, layout)?);
                }
            }
            ("sentinel_login", Layout::Sentinels(_), _) => match value {
                "same" => self.sentinels_login = login(user, "")?,
                "none" => self.sentinels_login = RedisConnectionInfo::default(),
                _ => return Err(refuse("sentinel_login= is same or none")),
            },
            ("tls_ca", _, Some(tls)) => tls.trust(value)?,
            ("tls_cert", _, Some(tls)) => tls.present(value)?,
            ("tls_key", _, Some(tls)) => tls.sign_with(value)?,
            ("tls_ca" | "tls_cert" | "tls_key", _, None) => {
                return Err(refuse(&format!("{name}= is for TLS: write rediss in place of redis")));
            }
            _ => {
                return Err(refuse(&format!(
                    "{name:?} is none of its parameters, which are prefix, wait_replicas, timeout_ms; of a cluster node; \
                     of sentinels sentinel_login; with TLS tls_ca, tls_cert, tls_key"
                )));
            }
        }
        Ok(())
    }

    /// How to reach a server, one of those named or another. Entered as the address says.
    pub(super) fn client(&self, server: &str) -> Option<RedisResult<Client>> {
        self.client_as(server, &self.login)
    }

    pub(super) fn client_of_sentinel(&self, server: &str) -> Option<RedisResult<Client>> {
        self.client_as(server, &self.sentinels_login)
    }

    fn client_as(&self, server: &str, login: &RedisConnectionInfo) -> Option<RedisResult<Client>> {
        let (host, port) = server.rsplit_once(':')?;
        let (host, port) = (host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?);
        let entered = |addr: ConnectionAddr| Ok(addr.into_connection_info()?.set_redis_settings(login.clone()));
        Some(match &self.tls {
            None => entered(ConnectionAddr::Tcp(host, port)).and_then(Client::open),
            Some(tls) => {
                let addr = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
                entered(addr).and_then(|info| tls.client(info))
            }
        })
    }
}

/// A host and its port, the usual one if it names none.
fn host_and_port(text: &str, layout: &Layout) -> Result<Arc<str>> {
    if text.is_empty() {
        return Err(refuse("it names no host"));
    }
    let has_port = text.rsplit_once(']').map_or(text, |(_, port)| port).contains(':');
    let usual = if matches!(layout, Layout::Sentinels(_)) { 26_379 } else { 6379 };
    let whole = if has_port { text.to_owned() } else { format!("{text}:{usual}") };
    Ok(connection_info(&format!("redis://{whole}"))?.addr().to_string().into())
}

fn login(user: &str, database: &str) -> Result<RedisConnectionInfo> {
    let at = if user.is_empty() { "" } else { "@" };
    Ok(connection_info(&format!("redis://{user}{at}host/{database}"))?.redis_settings().clone())
}

fn connection_info(url: &str) -> Result<ConnectionInfo> {
    url.into_connection_info().map_err(|error| refuse(&error.to_string()))
}

fn primary_name(name: &str) -> Result<String> {
    // What Redis takes for one.
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(refuse(
            "behind the sentinels' hosts comes the name they know the primary by, of A-Z a-z 0-9 . - _, such as \
             redis-sentinel://HOST:PORT,HOST:PORT/mymaster",
        ));
    }
    Ok(name.into())
}

fn prefix(value: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":_-.".contains(c);
    if value.is_empty() || value.len() > 64 || !value.chars().all(allowed) {
        return Err(refuse("a prefix has 1 to 64 of the characters A-Z a-z 0-9 : _ - ."));
    }
    Ok(value.into())
}

fn number(name: &str, value: &str) -> Result<u32> {
    value.parse().map_err(|_| refuse(&format!("{name}= wants a whole number")))
}

/// The address itself is not shown: there may be a password in it.
pub(super) fn refuse(problem: &str) -> Error {
    Error::StoreUrl(format!(
        "this address of a Redis cannot be used: {problem}; write redis://HOST:PORT, \
         redis-cluster://HOST:PORT?node=HOST:PORT,HOST:PORT or redis-sentinel://HOST:PORT,HOST:PORT/NAME"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(address: &Address, server: &str) -> ConnectionInfo {
        address.client(server).unwrap().unwrap().get_connection_info().clone()
    }

    #[test]
    fn addresses_say_where_and_how() {
        let plain = Address::parse("redis://db.example").unwrap();
        assert_eq!(plain.named, ["db.example:6379"].map(Arc::from));
        assert_eq!((plain.layout, plain.prefix.as_str(), plain.wait_replicas), (Layout::One, "cloakroom:", 0));
        assert_eq!(plain.timeout, Duration::from_secs(5));

        let url = "redis://anna:s%40cret@127.0.0.1:7000/3?prefix=shop:&wait_replicas=2&timeout_ms=300";
        let full = Address::parse(url).unwrap();
        let settings = info(&full, "127.0.0.1:7000").redis_settings().clone();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("anna"), Some("s@cret"), 3));
        assert_eq!((full.prefix.as_str(), full.wait_replicas, full.timeout.as_millis()), ("shop:", 2, 300));

        let cluster = Address::parse("redis-cluster://:pw@a:1?node=b:2,c:3&node=d:4").unwrap();
        assert_eq!((cluster.layout.clone(), cluster.named.len()), (Layout::Cluster, 4));
        assert_eq!(cluster.named, ["a:1", "b:2", "c:3", "d:4"].map(Arc::from));
        assert_eq!(info(&cluster, "elsewhere:5").redis_settings().password(), Some("pw"));

        let six = Address::parse("redis://[::1]:7000").unwrap();
        assert!(matches!(info(&six, &six.named[0]).addr(), ConnectionAddr::Tcp(host, 7000) if host == "::1"));
    }

    #[test]
    fn sentinels_are_named_with_what_they_call_the_primary() {
        let url = "redis-sentinel://:pw@a,b:7/mymaster/2";
        let address = Address::parse(url).unwrap();
        assert_eq!(address.layout, Layout::Sentinels("mymaster".into()));
        assert_eq!(address.named, ["a:26379", "b:7"].map(Arc::from));
        let settings = info(&address, "primary:6379").redis_settings().clone();
        assert_eq!((settings.password(), settings.db()), (Some("pw"), 2));
        let login = |address: &Address| {
            let client = address.client_of_sentinel("a:26379").unwrap().unwrap();
            let settings = client.get_connection_info().redis_settings().clone();
            (settings.password().map(ToOwned::to_owned), settings.db())
        };
        assert_eq!(login(&address), (None, 0), "the password is the servers'");
        let same = Address::parse(&format!("{url}?sentinel_login=same")).unwrap();
        assert_eq!(login(&same), (Some("pw".into()), 0));
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for (url, problem) in [
            ("redis://", "no host"),
            ("redis://u:hunter2@", "no host"),
            ("redis://h:port", "redis://HOST:PORT"),
            ("redis-tower://h:1", "begins with"),
            ("redis-cluster://h:1/2", "no databases"),
            ("redis-sentinel://h:1", "name they know the primary by"),
            ("redis-sentinel://h:1/my%20master", "name they know the primary by"),
            ("redis-sentinel://h:1,/mymaster", "no host"),
            ("redis-sentinel://h:1/mymaster/two", "redis-sentinel://HOST:PORT"),
            ("redis-sentinel://h:1/mymaster?node=a:1", "none of its parameters"),
            ("redis-sentinel://u:hunter2@h:1/mymaster?sentinel_login=yes", "same or none"),
            ("redis://h?sentinel_login=same", "none of its parameters"),
            ("redis://h?tls_ca=ca.pem", "rediss"),
            ("redis://h?node=a:1", "none of its parameters"),
            ("redis://h?prefix=a{b", "characters"),
            ("redis://h?prefix=", "characters"),
            ("redis://u:hunter2@h?wait_replicas=many", "whole number"),
        ] {
            let error = Address::parse(url).err().expect(url).to_string();
            assert!(error.contains(problem) && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
