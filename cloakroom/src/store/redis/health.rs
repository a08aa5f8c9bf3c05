//! What must be true of the servers, looked at when a store is opened and when it is asked whether it can be used.

use redis::{Cmd, Value, cmd};

use super::{
    keys::Keys,
    reply::Reply,
    scripts::{Call, Effect},
    servers::Servers,
};
use crate::{Clock, Error, PartitionKey, Result, SystemClock, Timestamp, store::Schema};

const OLDEST: u32 = 7;
/// Of what is stored; a later one that means something else gets another number.
const LAYOUT: &str = "1";

/// Checks the servers and sets up what every node must share. Answers with the key that places users.
pub(super) async fn prepare(servers: &Servers, keys: &Keys) -> Result<PartitionKey> {
    for server in look_at_all(servers).await? {
        server.check_version()?;
        if let Err(error) = server.check_memory() {
            tracing::warn!(%error, "Redis is set up so that sessions get lost");
        }
    }
    let (meta, slot) = keys.meta();
    let new = PartitionKey::generate()?;
    // Whoever comes first decides, everybody else reads.
    let mut put = cmd("HSETNX");
    put.arg(&meta).arg("partition_key").arg(new.as_bytes());
    let mut put_layout = cmd("HSETNX");
    put_layout.arg(&meta).arg("layout").arg(LAYOUT);
    for put in [put_layout, put] {
        servers.run(&Call::read(slot, put).with(Effect::Repeatable)).await?;
    }
    let (layout, key) = stored(servers, keys).await?;
    match layout {
        Some(layout) if layout == LAYOUT.as_bytes() => {}
        _ => return Err(unusable("it holds sessions of another version of cloakroom: upgrade, or use another prefix")),
    }
    let key = key.and_then(|key| key.try_into().ok());
    key.map(PartitionKey::from_bytes).ok_or_else(|| unusable("it has lost its partition key: restore it from a backup"))
}

/// Which version the layout of what is stored has.
pub(super) async fn schema(servers: &Servers, keys: &Keys) -> Result<Schema> {
    let number = |layout: &str| layout.parse().map_err(|_| unusable("what it says of its layout is no number"));
    let layout = stored(servers, keys).await?.0.map(|layout| String::from_utf8_lossy(&layout).into_owned());
    Ok(Schema { found: layout.as_deref().map(number).transpose()?, latest: number(LAYOUT)? })
}

/// Keeps another key than the one the store was made with.
pub(super) async fn set_partition_key(servers: &Servers, keys: &Keys, key: &PartitionKey) -> Result<()> {
    let (meta, slot) = keys.meta();
    let mut put = cmd("HSET");
    put.arg(&meta).arg("partition_key").arg(key.as_bytes());
    servers.run(&Call::read(slot, put).with(Effect::Repeatable)).await?;
    Ok(())
}

/// Whether the servers can be used now. Of their clocks, the one that is furthest off.
pub(super) async fn check(servers: &Servers, keys: &Keys, partition_key: &PartitionKey) -> Result<Timestamp> {
    let all = look_at_all(servers).await?;
    for server in &all {
        server.check_memory()?;
    }
    if stored(servers, keys).await?.1.as_deref() != Some(&partition_key.as_bytes()[..]) {
        return Err(unusable("it was emptied or replaced while it was in use: restore it, or restart this program"));
    }
    let here = SystemClock.now();
    let clocks = all.into_iter().map(|server| server.time);
    let furthest = clocks.max_by_key(|time| time.as_millis().abs_diff(here.as_millis()));
    furthest.ok_or_else(|| unusable("its cluster has no primary"))
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
        return Err(Error::Unavailable { message: servers.nobody(), source: None });
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

    fn check_version(&self) -> Result<()> {
        let version = self.line("redis_version");
        match version.split('.').next().and_then(|major| major.parse().ok()) {
            Some(OLDEST..) => Ok(()),
            _ => Err(unusable(&format!("Redis {OLDEST} or newer is needed, this is {version}"))),
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

type Bytes = Option<Vec<u8>>;

async fn stored(servers: &Servers, keys: &Keys) -> Result<(Bytes, Bytes)> {
    let (meta, slot) = keys.meta();
    let mut get = cmd("HMGET");
    get.arg(meta).arg("layout").arg("partition_key");
    let mut values = servers.run(&Call::read(slot, get)).await?.array()?.into_iter();
    let mut value = || values.next().unwrap_or_default().optional_bytes();
    Ok((value()?, value()?))
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
        assert!(server("# Server\r\nredis_version:7.0.15\r\n").check_version().is_ok());
        assert!(server("redis_version:10.0.0\r\n").check_version().is_ok());
        let error = server("redis_version:6.2.14\r\n").check_version().unwrap_err().to_string();
        assert!(error.contains("6.2.14") && error.contains("7 or newer"), "{error}");
    }

    #[test]
    fn servers_that_evict_are_refused() {
        assert!(server("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n").check_memory().is_ok());
        assert!(server("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n").check_memory().is_ok());
        let error = server("maxmemory:1000\r\nmaxmemory_policy:volatile-lru\r\n").check_memory().unwrap_err();
        assert!(error.to_string().contains("volatile-lru") && error.to_string().contains("noeviction"), "{error}");
    }
}
