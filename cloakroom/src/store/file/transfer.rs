//! Moving sessions in and out of the directory.

use std::sync::Arc;

use super::{
    FileStore,
    fault::Fault,
    format::{self, StoredFence},
    layout, open, tables,
    transaction::Transaction,
};
use crate::{
    PartitionKey, Result, SessionId,
    store::{
        BoxFuture, Cursor, Imported, Item, Loaded, Page, Tombstone, Transfer, UserFence,
        transfer::{After, check_places, has_users, holds_others},
    },
};

impl Transfer for FileStore {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        Box::pin(async move {
            let (after, key) = (After::parse(after)?, self.key.clone());
            self.read(move |directory| Ok(after.page(export(directory, &key, &after, limit)?, limit))).await
        })
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        Box::pin(async move {
            check_places(items, &self.key)?;
            let (items, key) = (items.to_vec(), self.key.clone());
            self.write(move |directory| items.iter().map(|item| import(directory, &key, item)).collect()).await
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
            let stored = key.clone();
            if !self.write(move |directory| adopt(directory, &stored)).await? {
                return Err(holds_others());
            }
            self.key.adopt(key);
            Ok(())
        })
    }
}

fn export(directory: &Transaction<'_>, key: &PartitionKey, after: &After, limit: usize) -> Result<Vec<Item>, Fault> {
    let mut items = Vec::new();
    match after {
        After::Session(behind) => {
            for id in ids_behind(directory, *behind, limit, layout::sessions)? {
                items.extend(tables::session(directory, id)?.map(|stored| Item::Session(Arc::new(stored.record))));
            }
        }
        After::Ended(behind) => {
            for id in ids_behind(directory, *behind, limit, layout::tombstones)? {
                items.extend(tables::tombstone(directory, id)?.map(|tombstone| Item::Ended(Arc::new(tombstone))));
            }
        }
        After::Fence(behind) => items = fences(directory, key, behind.as_deref(), limit)?,
    }
    Ok(items)
}

/// The first ids behind one, of those that files in directories of ids are named after.
fn ids_behind(
    directory: &Transaction<'_>,
    behind: Option<SessionId>,
    limit: usize,
    place: fn(u8) -> String,
) -> Result<Vec<SessionId>, Fault> {
    let mut found: Vec<SessionId> = Vec::new();
    for byte in behind.map_or(0, |id| id.as_bytes()[0])..=u8::MAX {
        let names = directory.list(&place(byte))?;
        let ids = names.iter().filter_map(|name| layout::session_named(name));
        let mut ids: Vec<_> = ids.filter(|id| behind.is_none_or(|behind| *id > behind)).collect();
        ids.sort_unstable();
        found.extend(ids);
        if found.len() >= limit {
            found.truncate(limit);
            break;
        }
    }
    Ok(found)
}

/// In the order of the users' digests.
fn fences(
    directory: &Transaction<'_>,
    key: &PartitionKey,
    behind: Option<&str>,
    limit: usize,
) -> Result<Vec<Item>, Fault> {
    let behind = behind.map(|user| tables::digest_of(key, user));
    let mut items = Vec::new();
    let mut firsts = directory.list(layout::USERS)?;
    firsts.sort_unstable();
    for first in firsts {
        let mut users: Vec<layout::UserDigest> = directory
            .list(&format!("{}/{first}", layout::USERS))?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        users.sort_unstable();
        for user in users.into_iter().filter(|user| behind.as_ref().is_none_or(|behind| user > behind)) {
            if let Some(fence) = user_fence(tables::fence(directory, &user)?) {
                items.push(Item::Fence(fence));
            }
            if items.len() == limit {
                return Ok(items);
            }
        }
    }
    Ok(items)
}

fn user_fence(stored: StoredFence) -> Option<UserFence> {
    let StoredFence { user, disabled, ended_before } = stored;
    Some(UserFence { user: user?, disabled, ended_before })
}

fn import(directory: &mut Transaction<'_>, key: &PartitionKey, item: &Item) -> Result<Imported, Fault> {
    Ok(match item {
        Item::Session(record) => {
            let id = record.info.id;
            let imported = Imported::of_session(record, &whatever_is(directory, id)?);
            if imported.writes() {
                remove(directory, key, id)?;
                tables::insert(directory, key, record);
            }
            imported
        }
        Item::Ended(tombstone) => {
            let id = tombstone.ended.id;
            let imported = Imported::of_tombstone(tombstone, &whatever_is(directory, id)?);
            if imported.writes() {
                remove(directory, key, id)?;
                tables::put_tombstone(directory, tombstone);
            }
            imported
        }
        Item::Fence(fence) => {
            let user = tables::digest_of(key, &fence.user);
            let stored = tables::fence(directory, &user)?;
            let (united, imported) = fence.united_with(user_fence(stored.clone()).as_ref());
            if imported.writes() {
                let UserFence { user: name, disabled, ended_before } = united;
                let after = StoredFence { user: Some(name), disabled, ended_before };
                tables::set_fence(directory, &user, &stored, &after);
            }
            imported
        }
    })
}

/// What is stored under an id, expired or not.
fn whatever_is(directory: &Transaction<'_>, id: SessionId) -> Result<Loaded, Fault> {
    if let Some(stored) = tables::session(directory, id)? {
        return Ok(Loaded::Live(Arc::new(stored.record)));
    }
    let tombstone: Option<Tombstone> = tables::tombstone(directory, id)?;
    Ok(tombstone.map_or(Loaded::Unknown, |tombstone| Loaded::Ended(Arc::new(tombstone))))
}

fn remove(directory: &mut Transaction<'_>, key: &PartitionKey, id: SessionId) -> Result<(), Fault> {
    match tables::session(directory, id)? {
        Some(stored) => tables::remove(directory, key, &stored),
        None => Ok(()),
    }
}

/// Says whether the key will be stored.
fn adopt(directory: &mut Transaction<'_>, key: &PartitionKey) -> Result<bool, Fault> {
    for byte in 0..=u8::MAX {
        for place in [layout::sessions(byte), layout::tombstones(byte)] {
            if directory.list(&place)?.iter().any(|name| layout::session_named(name).is_some()) {
                return Ok(false);
            }
        }
        if directory.list(&layout::directory(byte))?.iter().any(|name| layout::user_named(name).is_some()) {
            return Ok(false);
        }
    }
    for first in directory.list(layout::USERS)? {
        for user in directory.list(&format!("{}/{first}", layout::USERS))? {
            if !directory.list(&format!("{}/{first}/{user}", layout::USERS))?.is_empty() {
                return Ok(false);
            }
        }
    }
    directory.write(layout::FORMAT.into(), format::encode(&open::format(key)));
    Ok(true)
}
