//! Moving sessions in and out of memory.

use std::sync::Arc;

use super::{MemoryStore, SHARDS, Shard, shard_number};
use crate::{
    PartitionKey, Result, SessionId, Timestamp,
    store::{
        BoxFuture, Cursor, Imported, Item, Loaded, Page, Transfer, UserFence,
        transfer::{After, check_places, has_users, holds_others},
    },
};

impl Transfer for MemoryStore {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        Box::pin(async move {
            let after = After::parse(after)?;
            let items = match &after {
                After::Session(behind) => self.gather(*behind, limit, |shard, behind| {
                    let records = shard.live.values().filter(|record| behind.is_none_or(|id| record.info.id > id));
                    records.cloned().map(Item::Session).collect()
                }),
                After::Ended(behind) => self.gather(*behind, limit, |shard, behind| {
                    let tombstones = shard.beside.ended.values();
                    let tombstones = tombstones.filter(|tombstone| behind.is_none_or(|id| tombstone.ended.id > id));
                    tombstones.cloned().map(Item::Ended).collect()
                }),
                After::Fence(behind) => self.fences(behind.as_deref(), limit),
            };
            Ok(after.page(items, limit))
        })
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        Box::pin(async move {
            check_places(items, &self.key)?;
            Ok(items.iter().map(|item| self.import_one(item)).collect())
        })
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if !self.key.differs_from(key)? {
                return Ok(());
            }
            if has_users(self).await? {
                return Err(holds_others());
            }
            let shards: Vec<_> = (0..SHARDS).map(|number| self.shard_at(number)).collect();
            if !shards.iter().all(|shard| shard.is_empty()) {
                return Err(holds_others());
            }
            self.key.adopt(key);
            Ok(())
        })
    }
}

impl MemoryStore {
    /// Items from shards in order, those of each in the order of their ids.
    fn gather(
        &self,
        behind: Option<SessionId>,
        limit: usize,
        of_shard: impl Fn(&Shard, Option<SessionId>) -> Vec<Item>,
    ) -> Vec<Item> {
        let first = behind.map_or(0, |id| shard_number(id.partition()));
        let mut gathered = Vec::new();
        for number in first..SHARDS {
            let mut items = of_shard(&self.shard_at(number), behind.filter(|_| number == first));
            items.sort_unstable_by_key(Item::session_id);
            gathered.extend(items);
            if gathered.len() >= limit {
                gathered.truncate(limit);
                break;
            }
        }
        gathered
    }

    /// In the order of the users.
    fn fences(&self, behind: Option<&str>, limit: usize) -> Vec<Item> {
        let mut fences: Vec<UserFence> = Vec::new();
        for number in 0..SHARDS {
            let shard = self.shard_at(number);
            let users = shard.beside.users.names().filter(|user| behind.is_none_or(|behind| &***user > behind));
            fences.extend(users.filter_map(|user| shard.fence(user)));
        }
        fences.sort_unstable_by(|one, other| one.user.cmp(&other.user));
        fences.into_iter().take(limit).map(Item::Fence).collect()
    }

    fn import_one(&self, item: &Item) -> Imported {
        match item {
            Item::Session(record) => {
                let id = record.info.id;
                let mut shard = self.shard(id);
                let imported = Imported::of_session(record, &shard.whatever_is(id));
                if imported.writes() {
                    shard.remove(id);
                    shard.insert((**record).clone());
                }
                imported
            }
            Item::Ended(tombstone) => {
                let id = tombstone.ended.id;
                let mut shard = self.shard(id);
                let imported = Imported::of_tombstone(tombstone, &shard.whatever_is(id));
                if imported.writes() {
                    shard.remove(id);
                    shard.insert_tombstone((**tombstone).clone());
                }
                imported
            }
            Item::Fence(fence) => {
                let mut shard = self.shard_at(shard_number(self.key.partition_of(&fence.user)));
                let (united, imported) = fence.united_with(shard.fence(&fence.user).as_ref());
                if imported.writes() {
                    shard.put_fence(united);
                }
                imported
            }
        }
    }
}

impl Shard {
    fn is_empty(&self) -> bool {
        self.live.is_empty()
            && self.beside.ended.is_empty()
            && self.beside.users.is_empty()
            && self.beside.directory.is_empty()
    }

    /// What is stored under an id, expired or not.
    fn whatever_is(&self, id: SessionId) -> Loaded {
        match (self.live.get(id), self.beside.ended.get(id)) {
            (Some(record), _) => Loaded::Live(Arc::clone(record)),
            (None, Some(tombstone)) => Loaded::Ended(Arc::clone(tombstone)),
            (None, None) => Loaded::Unknown,
        }
    }

    fn fence(&self, name: &Arc<str>) -> Option<UserFence> {
        let user = self.beside.users.get(name).filter(|user| user.disabled || user.ended_before.is_some())?;
        Some(UserFence { user: Arc::clone(name), disabled: user.disabled, ended_before: user.ended_before })
    }

    fn put_fence(&mut self, fence: UserFence) {
        let UserFence { user: name, disabled, ended_before } = fence;
        let user = self.beside.users.get_or_add(&name);
        user.disabled = disabled;
        user.ended_before = ended_before;
        self.forget_fence_later(ended_before, name);
    }

    /// Notes when a fence is forgotten. The notes are in the order of their times.
    fn forget_fence_later(&mut self, ended_before: Option<Timestamp>, name: Arc<str>) {
        if let Some(at) = ended_before {
            let place = self.beside.fences.partition_point(|(other, _)| *other <= at);
            self.beside.fences.insert(place, (at, name));
        }
    }
}
