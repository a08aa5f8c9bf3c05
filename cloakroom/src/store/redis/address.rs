//! Addresses: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]` and `redis-cluster://…?node=HOST:PORT,…`.

use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::{Error, Result};

/// Where the servers are, and how to talk to them.
#[derive(Clone)]
pub(super) struct Address {
    /// The servers named. A cluster tells of the others.
    pub(super) servers: Vec<ConnectionInfo>,
    pub(super) cluster: bool,
    pub(super) prefix: String,
    /// How many replicas must have a creation, rotation or ending before it is answered.
    pub(super) wait_replicas: u32,
    /// How long a call may take, with all its tries.
    pub(super) timeout: Duration,
}

impl Address {
    const PREFIX: &str = "cloakroom:";
    const TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let cluster = match scheme {
            "redis" => false,
            "redis-cluster" => true,
            "rediss" => {
                return Err(refuse("TLS is not supported: use a tunnel, such as stunnel, or a private network"));
            }
            _ => return Err(refuse("it begins with redis:// or redis-cluster://")),
        };
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, server) = place.rsplit_once('@').map_or(("", place), |(user, server)| (user, server));
        let (host, database) = server.split_once('/').unwrap_or((server, ""));
        if host.is_empty() {
            return Err(refuse("it names no host"));
        }
        if cluster && !matches!(database, "" | "0") {
            return Err(refuse("a cluster has no databases: leave out what follows the slash"));
        }
        let mut address = Self {
            servers: vec![connection(user, host, database)?],
            cluster,
            prefix: Self::PREFIX.into(),
            wait_replicas: 0,
            timeout: Self::TIMEOUT,
        };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "prefix" => address.prefix = prefix(value)?,
                "wait_replicas" => address.wait_replicas = number(name, value)?,
                "timeout_ms" => address.timeout = Duration::from_millis(number(name, value)?.max(1).into()),
                "node" if cluster => {
                    for host in value.split(',').filter(|host| !host.is_empty()) {
                        address.servers.push(connection(user, host, database)?);
                    }
                }
                _ => {
                    let known = "prefix, wait_replicas, timeout_ms and, of a cluster, node";
                    return Err(refuse(&format!("{name:?} is none of its parameters, which are {known}")));
                }
            }
        }
        Ok(address)
    }
}

fn connection(user: &str, host: &str, database: &str) -> Result<ConnectionInfo> {
    let at = if user.is_empty() { "" } else { "@" };
    let url = format!("redis://{user}{at}{host}/{database}");
    url.into_connection_info().map_err(|error| refuse(&error.to_string()))
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
fn refuse(problem: &str) -> Error {
    Error::StoreUrl(format!(
        "this address of a Redis cannot be used: {problem}; write redis://HOST:PORT \
         or redis-cluster://HOST:PORT?node=HOST:PORT,HOST:PORT"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_where_and_how() {
        let plain = Address::parse("redis://db.example").unwrap();
        assert_eq!(plain.servers[0].addr().to_string(), "db.example:6379");
        assert_eq!((plain.cluster, plain.prefix.as_str(), plain.wait_replicas), (false, "cloakroom:", 0));
        assert_eq!(plain.timeout, Duration::from_secs(5));

        let url = "redis://anna:s%40cret@127.0.0.1:7000/3?prefix=shop:&wait_replicas=2&timeout_ms=300";
        let full = Address::parse(url).unwrap();
        let settings = full.servers[0].redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("anna"), Some("s@cret"), 3));
        assert_eq!((full.prefix.as_str(), full.wait_replicas, full.timeout.as_millis()), ("shop:", 2, 300));

        let cluster = Address::parse("redis-cluster://:pw@a:1?node=b:2,c:3&node=d:4").unwrap();
        let servers: Vec<_> = cluster.servers.iter().map(|server| server.addr().to_string()).collect();
        assert_eq!(servers, ["a:1", "b:2", "c:3", "d:4"]);
        assert!(cluster.servers.iter().all(|server| server.redis_settings().password() == Some("pw")));
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for (url, problem) in [
            ("redis://", "no host"),
            ("rediss://h", "TLS"),
            ("redis://u:hunter2@", "no host"),
            ("redis://h:port", "redis://HOST:PORT"),
            ("redis-cluster://h:1/2", "no databases"),
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
