//! Which server owns which slot.

use std::sync::Arc;

use redis::Value;

use super::keys::SLOTS;

/// Which server owns which slot, as far as we know.
#[derive(Clone, Debug)]
pub(super) struct ClusterMap {
    owners: Vec<Option<u16>>,
    servers: Vec<Arc<str>>,
}

impl ClusterMap {
    /// One server owns everything.
    pub(super) fn of_one(server: Arc<str>) -> Self {
        Self { owners: vec![Some(0); usize::from(SLOTS)], servers: vec![server] }
    }

    pub(super) fn empty() -> Self {
        Self { owners: vec![None; usize::from(SLOTS)], servers: Vec::new() }
    }

    /// Reads the answer to `CLUSTER SLOTS` of the server at `asked`.
    pub(super) fn read(answer: &Value, asked: &str) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let mut map = Self::empty();
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range.as_slice() else {
                return None;
            };
            let server = server_named(primary, asked)?;
            for slot in *first..=*last {
                map.set_owner(u16::try_from(slot).ok().filter(|slot| *slot < SLOTS)?, &server);
            }
        }
        Some(map)
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<str>> {
        self.owners[usize::from(slot)].map(|owner| &self.servers[usize::from(owner)])
    }

    pub(super) fn set_owner(&mut self, slot: u16, server: &Arc<str>) {
        let known = self.servers.iter().position(|known| known == server);
        let owner = known.unwrap_or_else(|| {
            self.servers.push(Arc::clone(server));
            self.servers.len() - 1
        });
        self.owners[usize::from(slot)] = u16::try_from(owner).ok();
    }

    /// A slot of each server that owns any.
    pub(super) fn slot_of_each(&self) -> Vec<u16> {
        let mut seen = vec![false; self.servers.len()];
        let slots = (0..SLOTS).filter(|slot| {
            self.owners[usize::from(*slot)].is_some_and(|owner| !std::mem::replace(&mut seen[usize::from(owner)], true))
        });
        slots.collect()
    }

    pub(super) fn servers(&self) -> &[Arc<str>] {
        &self.servers
    }
}

/// A server that does not know its own name leaves it out: it is the one that was asked.
fn server_named(primary: &[Value], asked: &str) -> Option<Arc<str>> {
    let [host, Value::Int(port), ..] = primary else { return None };
    let host = match host {
        Value::BulkString(host) => str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        Value::Nil => "",
        _ => return None,
    };
    let host = if matches!(host, "" | "?") { asked.rsplit_once(':')?.0 } else { host };
    Some(format!("{host}:{port}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(map: &ClusterMap, slot: u16) -> Option<&str> {
        map.owner(slot).map(|owner| &**owner)
    }

    #[test]
    fn the_answer_of_cluster_slots_is_read() {
        let node = |host: &str, port| {
            Value::Array(vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString("id".into())])
        };
        let range = |first, last, node: Value| {
            Value::Array(vec![Value::Int(first), Value::Int(last), node, Value::Array(vec![])])
        };
        let answer = Value::Array(vec![
            range(0, 99, node("10.0.0.1", 7000)),
            range(200, 16_383, node("", 7001)),
            range(100, 100, node("10.0.0.1", 7000)),
        ]);
        let mut map = ClusterMap::read(&answer, "seed:7001").unwrap();
        assert_eq!(owner(&map, 0), Some("10.0.0.1:7000"));
        assert_eq!(owner(&map, 100), Some("10.0.0.1:7000"));
        assert_eq!(owner(&map, 101), None);
        assert_eq!(owner(&map, 16_383), Some("seed:7001"));
        assert_eq!(map.slot_of_each(), [0, 200]);
        map.set_owner(101, &"new:1".into());
        assert_eq!((owner(&map, 101), map.slot_of_each().len()), (Some("new:1"), 3));
        assert!(ClusterMap::read(&Value::Okay, "seed:1").is_none());
    }
}
