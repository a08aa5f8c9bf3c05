//! What must be true of the servers, looked at when a store is opened and when it is asked whether it can be used.

use redis::{Cmd, Value, cmd};

use super::{
    Inner,
    calls::{Call, Effect},
    keys,
    keys::{Keys, OfGroup, groups},
    read::STORE,
    reply::Reply,
    servers::Servers,
    transaction::{Body, Fit},
};
use crate::{
    clock::{Clock, SystemClock, Timestamp},
    error::{Error, Result},
    store::Schema,
    token::PartitionKey,
};

const OLDEST: u32 = 7;
/// Of what is stored; a later one that means something else gets another number.
const LAYOUT: &str = "1";

/// What each group is marked with: an emptied server has no such mark, another store's another one.
pub(super) fn identity(key: &PartitionKey) -> String {
    let digest = key.keyed_digest(b"store").as_bytes()[..9].to_vec();
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, digest)
}

/// What a store is that does not know us any more.
pub(super) fn emptied() -> Error {
    let message = "Redis, or one of its servers, was emptied or replaced while it was in use, so nothing there is read or \
                   written: restore it; or go on without what was lost: restart this program, and in a cluster let \
                   cloakroom doctor --repair mark the groups anew";
    Error::Unavailable { message: message.into(), source: None }
}

/// Checks the servers and sets up what every node must share. Answers with the key that places users. Writes nothing where
/// that was done before, so that a replica can be opened for reading.
pub(super) async fn prepare(servers: &Servers, keys: &Keys) -> Result<PartitionKey> {
    for server in look_at_all(servers).await? {
        server.check_engine()?;
        if let Err(error) = server.check_memory() {
            tracing::warn!(%error, "Redis is set up so that sessions get lost");
        }
    }
    let mut meta = Meta::read(servers, keys).await?;
    if meta.partition_key.is_none() {
        // Made by others a moment ago, or left over.
        let marked = marks(servers, keys, groups()).await?.into_iter().any(|mark| mark.is_some());
        meta = Meta::read(servers, keys).await?;
        if marked && meta.partition_key.is_none() {
            return Err(unusable(&format!(
                "it has lost its partition key, the field partition_key of {}meta: restore it from a backup, or delete all \
                 keys that begin with {}",
                keys.prefix(),
                keys.prefix()
            )));
        }
    }
    if meta.partition_key.is_none() {
        // Whoever comes first decides, the others read.
        let new = PartitionKey::generate()?;
        Meta::put(servers, keys, "HSETNX", &[b"layout", LAYOUT.as_bytes()]).await?;
        Meta::put(servers, keys, "HSETNX", &[b"partition_key", new.as_bytes()]).await?;
        meta = Meta::read(servers, keys).await?;
    }
    if meta.layout.as_deref() != Some(LAYOUT.as_bytes()) {
        return Err(unusable("it holds sessions of another version of cloakroom: upgrade, or use another prefix"));
    }
    let key = meta.partition_key.and_then(|key| key.try_into().ok()).map(PartitionKey::from_bytes);
    let key = key.ok_or_else(|| unusable("its partition key is damaged: restore it from a backup"))?;
    if !meta.is_marked {
        mark_groups(servers, keys, &key, "HSETNX").await?;
    }
    let expected = identity(&key);
    for mark in marks(servers, keys, servers.group_of_each()).await? {
        match mark {
            Some(mark) if mark == expected.as_bytes() => {}
            Some(_) => {
                return Err(unusable(&format!(
                    "its partition key, the field partition_key of {}meta, is another one than when it was made: restore \
                     it from a backup",
                    keys.prefix()
                )));
            }
            None => tracing::warn!("a server of the Redis Cluster was emptied: see cloakroom doctor"),
        }
    }
    Ok(key)
}

/// Marks all groups as this store's.
pub(super) async fn mark_groups(servers: &Servers, keys: &Keys, key: &PartitionKey, put: &'static str) -> Result<()> {
    let identity = identity(key);
    let calls = groups().map(|group| {
        let of_group = keys.of_group(OfGroup::Seen, group);
        let (mut mark, mut look) = (cmd(put), cmd("HGET"));
        mark.arg(&of_group).arg(STORE).arg(&identity);
        look.arg(&of_group).arg(STORE);
        Call::read_all(keys::slot_of_group(group), vec![mark, look]).with(Effect::Repeatable)
    });
    for answer in servers.run_all(calls).await? {
        if answer.array()?.pop().unwrap_or_default().optional_bytes()?.as_deref() != Some(identity.as_bytes()) {
            return Err(unusable("part of it belongs to another store: use another prefix"));
        }
    }
    Meta::put(servers, keys, "HSET", &[b"marked", b"1"]).await
}

/// What these groups are marked with.
pub(super) async fn marks(
    servers: &Servers,
    keys: &Keys,
    groups: impl IntoIterator<Item = u16>,
) -> Result<Vec<Option<Vec<u8>>>> {
    let calls = groups.into_iter().map(|group| {
        let mut look = cmd("HGET");
        look.arg(keys.of_group(OfGroup::Seen, group)).arg(STORE);
        Call::read(keys::slot_of_group(group), look)
    });
    let marks = servers.run_all(calls).await?.into_iter().map(|mark| Ok(mark.optional_bytes()?));
    marks.collect()
}

/// Which version the layout of what is stored has.
pub(super) async fn schema(servers: &Servers, keys: &Keys) -> Result<Schema> {
    let number = |layout: &str| layout.parse().map_err(|_| unusable("what it says of its layout is no number"));
    let layout = Meta::read(servers, keys).await?.layout.map(|layout| String::from_utf8_lossy(&layout).into_owned());
    Ok(Schema { found: layout.as_deref().map(number).transpose()?, latest: number(LAYOUT)? })
}

/// Keeps another key than the one the store was made with.
pub(super) async fn set_partition_key(servers: &Servers, keys: &Keys, key: &PartitionKey) -> Result<()> {
    Meta::put(servers, keys, "HSET", &[b"partition_key", key.as_bytes()]).await?;
    mark_groups(servers, keys, key, "HSET").await
}

impl Inner {
    /// Whether all servers can be used now: each is written to, by the script that changes are made by. Of their clocks, the
    /// one that is furthest off.
    pub(super) async fn ping(&self) -> Result<Timestamp> {
        let all = look_at_all(&self.servers).await?;
        for server in &all {
            server.check_memory()?;
        }
        let meta = Meta::read(&self.servers, &self.keys).await?;
        if meta.partition_key.as_deref() != Some(&self.partition_key.as_bytes()[..]) {
            return Err(emptied());
        }
        let here = SystemClock.now();
        let writes = self.servers.group_of_each().into_iter().map(|group| {
            let mut body = Body::of_store(here);
            body.command("HSET", OfGroup::Seen, &[b"ping", here.as_millis().to_string().as_bytes()]);
            self.call(group, &body, Fit::WithRoom).at_once()
        });
        for answer in self.servers.run_all(writes).await? {
            if answer != Value::Array(Vec::new()) {
                return Err(emptied());
            }
        }
        let clocks = all.into_iter().map(|server| server.time);
        let furthest = clocks.max_by_key(|time| time.as_millis().abs_diff(here.as_millis()));
        furthest.ok_or_else(|| unusable("its cluster has no primary"))
    }
}

/// The clocks of all servers.
pub(super) async fn clocks(servers: &Servers) -> Result<Vec<Timestamp>> {
    let calls = servers.slot_of_each().await.into_iter().map(|slot| Call::read(slot, cmd("TIME")));
    let times = servers.run_all(calls).await?.into_iter().map(time);
    let times: Vec<_> = times.collect::<Result<_>>()?;
    if times.is_empty() { Err(unusable("its cluster has no primary")) } else { Ok(times) }
}

pub(super) struct Server {
    info: String,
    time: Timestamp,
}

pub(super) async fn look_at_all(servers: &Servers) -> Result<Vec<Server>> {
    // One server has no slots to find it by, nor needs any.
    let slots = servers.slot_of_each().await;
    if slots.is_empty() {
        return Err(Error::Unavailable { message: servers.none_found(), source: None });
    }
    let ask = |command: fn() -> Cmd| {
        let slots = slots.clone();
        servers.run_all(slots.into_iter().map(move |slot| Call::read(slot, command())))
    };
    let infos = ask(|| cmd("INFO")).await?;
    let times = ask(|| cmd("TIME")).await?;
    let read = |(info, at): (Value, Value)| Ok(Server { info: info.text()?, time: time(at)? });
    infos.into_iter().zip(times).map(read).collect()
}

impl Server {
    #[cfg(test)]
    pub(super) fn of_info(info: String) -> Self {
        Self { info, time: Timestamp::EPOCH }
    }

    pub(super) fn line(&self, name: &str) -> &str {
        let lines = self.info.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| *found == name).map(|(_, value)| value.trim()).next().unwrap_or_default()
    }

    /// Others speak the language and mean something else: scripts that are not atomic, commands that are missing, answers
    /// that differ.
    fn check_engine(&self) -> Result<()> {
        const FOREIGN: [(&str, &str); 6] = [
            ("dragonfly_version", "Dragonfly"),
            ("garnet_version", "Garnet"),
            ("kvrocks_version", "Apache Kvrocks"),
            ("mvcc_depth", "KeyDB"),
            ("pika_version", "Pika"),
            ("redict_version", "Redict"),
        ];
        let named = FOREIGN.iter().find(|(line, _)| !self.line(line).is_empty()).map(|(_, name)| *name);
        let other = Some(self.line("server_name")).filter(|name| !matches!(*name, "" | "redis" | "valkey"));
        if let Some(name) = named.or(other) {
            return Err(unusable(&format!(
                "this is {name}, which speaks as Redis does and was never tested: use Redis {OLDEST} or newer, or Valkey"
            )));
        }
        let version = self.line("redis_version");
        match version.split('.').next().and_then(|major| major.parse().ok()) {
            Some(OLDEST..) => Ok(()),
            _ => Err(unusable(&format!("Redis {OLDEST} or newer is needed, this is {version}"))),
        }
    }

    /// What it is.
    pub(super) fn engine(&self) -> String {
        match self.line("valkey_version") {
            "" => format!("Redis {}", self.line("redis_version")),
            version => format!("Valkey {version}"),
        }
    }

    fn check_memory(&self) -> Result<()> {
        match (self.line("maxmemory"), self.line("maxmemory_policy")) {
            ("0" | "", _) | (_, "noeviction" | "") => Ok(()),
            (limit, policy) => Err(unusable(&format!(
                "when it has used {limit} bytes it drops whatever {policy} says, sessions and indexes alike: \
                 set maxmemory-policy to noeviction"
            ))),
        }
    }
}

/// What is known of the store as a whole.
struct Meta {
    layout: Option<Vec<u8>>,
    partition_key: Option<Vec<u8>>,
    /// Whether all groups are marked.
    is_marked: bool,
}

impl Meta {
    async fn read(servers: &Servers, keys: &Keys) -> Result<Self> {
        let (meta, slot) = keys.meta();
        let mut get = cmd("HMGET");
        get.arg(meta).arg("layout").arg("partition_key").arg("marked");
        let mut values = servers.run(&Call::read(slot, get)).await?.array()?.into_iter();
        let mut value = || values.next().unwrap_or_default().optional_bytes();
        Ok(Self { layout: value()?, partition_key: value()?, is_marked: value()?.is_some() })
    }

    async fn put(servers: &Servers, keys: &Keys, command: &str, field: &[&[u8]]) -> Result<()> {
        let (meta, slot) = keys.meta();
        let mut put = cmd(command);
        put.arg(&meta).arg(field);
        servers.run(&Call::read(slot, put).with(Effect::Repeatable)).await?;
        Ok(())
    }
}

/// Seconds and microseconds.
fn time(answer: Value) -> Result<Timestamp> {
    let mut parts = answer.array()?.into_iter();
    let mut part = || parts.next().unwrap_or_default().number::<i64>();
    let (seconds, micros) = (part()?, part()?);
    Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
}

fn unusable(problem: &str) -> Error {
    Error::Store { message: format!("Redis: {problem}"), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(info: &str) -> Server {
        Server::of_info(info.into())
    }

    #[test]
    fn old_servers_are_refused() {
        assert!(server("# Server\r\nredis_version:7.0.15\r\n").check_engine().is_ok());
        assert!(server("redis_version:10.0.0\r\n").check_engine().is_ok());
        let valkey = server("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n");
        assert!(valkey.check_engine().is_ok());
        assert_eq!(valkey.engine(), "Valkey 8.0.1");
        let error = server("redis_version:6.2.14\r\n").check_engine().unwrap_err().to_string();
        assert!(error.contains("6.2.14") && error.contains("7 or newer"), "{error}");
    }

    #[test]
    fn other_engines_are_refused_by_name() {
        for (info, name) in [
            ("redis_version:7.4.0\r\ndragonfly_version:df-v1.30.0\r\n", "Dragonfly"),
            ("redis_version:6.3.4\r\nmvcc_depth:0\r\n", "KeyDB"),
            ("garnet_version:1.0.60\r\nredis_version:7.2.5\r\n", "Garnet"),
            ("redis_version:7.0.0\r\nkvrocks_version:2.9.0\r\n", "Kvrocks"),
            ("redis_version:7.2.4\r\nserver_name:futuredb\r\n", "futuredb"),
        ] {
            let error = server(info).check_engine().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("use Redis 7"), "{error}");
        }
    }

    #[test]
    fn servers_that_evict_are_refused() {
        assert!(server("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n").check_memory().is_ok());
        assert!(server("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n").check_memory().is_ok());
        let error = server("maxmemory:1000\r\nmaxmemory_policy:volatile-lru\r\n").check_memory().unwrap_err();
        assert!(error.to_string().contains("volatile-lru") && error.to_string().contains("noeviction"), "{error}");
    }
}
