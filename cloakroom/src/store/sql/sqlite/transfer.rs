//! Moving sessions in and out of the file.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::{SqliteStore, fault::Fault, open, tables};
use crate::{
    PartitionKey, Record, Result, SessionId, Timestamp,
    store::{
        BoxFuture, Cursor, Imported, Item, Loaded, Page, Transfer, UserFence,
        transfer::{After, check_places, has_users, holds_others},
    },
};

impl Transfer for SqliteStore {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        Box::pin(async move {
            let after = After::parse(after)?;
            self.read(move |db| Ok(after.page(export(db, &after, limit)?, limit))).await
        })
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        Box::pin(async move {
            check_places(items, &self.key)?;
            let items = items.to_vec();
            self.write(move |db| items.iter().map(|item| import(db, item)).collect()).await
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
            if !self.write(move |db| adopt(db, &stored)).await? {
                return Err(holds_others());
            }
            self.key.adopt(key);
            Ok(())
        })
    }
}

const SESSIONS: &str = "SELECT id FROM session WHERE id > ?1 ORDER BY id LIMIT ?2";

const TOMBSTONES: &str = "SELECT id FROM tombstone WHERE id > ?1 ORDER BY id LIMIT ?2";

/// `?2` tells whether the user `?1` is among them.
const FENCES: &str = "SELECT user_id, EXISTS (SELECT 1 FROM disabled_user AS d WHERE d.user_id = fenced.user_id), \
        (SELECT ended_before FROM user_fence AS f WHERE f.user_id = fenced.user_id) \
    FROM (SELECT * FROM (SELECT user_id FROM disabled_user \
                         WHERE user_id >= ?1 AND (user_id > ?1 OR ?2) ORDER BY user_id LIMIT ?3) \
          UNION SELECT * FROM (SELECT user_id FROM user_fence \
                               WHERE user_id >= ?1 AND (user_id > ?1 OR ?2) ORDER BY user_id LIMIT ?3)) AS fenced \
    ORDER BY user_id LIMIT ?3";

/// In the partition of another session: ids begin with theirs.
const FORGET_TRY: &str =
    "UPDATE session SET idempotency = NULL WHERE idempotency = ?1 AND substr(id, 1, 2) = substr(?2, 1, 2)";

const HOLDS_ANYTHING: &str = "SELECT EXISTS (SELECT 1 FROM session) OR EXISTS (SELECT 1 FROM tombstone) \
    OR EXISTS (SELECT 1 FROM disabled_user) OR EXISTS (SELECT 1 FROM user_fence)";

fn export(db: &Connection, after: &After, limit: usize) -> Result<Vec<Item>, Fault> {
    let most = tables::at_most(limit);
    let bytes = |id: &Option<SessionId>| id.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    let mut items = Vec::new();
    match after {
        After::Session(behind) => {
            for id in tables::ids(db, SESSIONS, params![bytes(behind), most])? {
                items.extend(record(db, id)?.map(Item::Session));
            }
        }
        After::Ended(behind) => {
            for id in tables::ids(db, TOMBSTONES, params![bytes(behind), most])? {
                items.extend(tables::tombstone(db, id)?.map(|tombstone| Item::Ended(Arc::new(tombstone))));
            }
        }
        After::Fence(behind) => {
            let mut select = db.prepare_cached(FENCES)?;
            let rows = select.query_map(params![behind.as_deref().unwrap_or(""), behind.is_none(), most], |row| {
                Ok(Item::Fence(UserFence {
                    user: row.get(0)?,
                    disabled: row.get(1)?,
                    ended_before: row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis),
                }))
            })?;
            items = rows.collect::<Result<_, _>>()?;
        }
    }
    Ok(items)
}

fn import(db: &Connection, item: &Item) -> Result<Imported, Fault> {
    Ok(match item {
        Item::Session(incoming) => {
            let id = incoming.info.id;
            let imported = Imported::of_session(incoming, &whatever_is(db, id)?);
            if imported.writes() {
                tables::delete_session(db, id)?;
                if let Some(key) = &incoming.idempotency {
                    // The session of an earlier try ended where this one comes from, and its tombstone follows.
                    db.prepare_cached(FORGET_TRY)?.execute(params![key.as_bytes(), id.as_bytes()])?;
                }
                tables::insert_session(db, incoming)?;
            }
            imported
        }
        Item::Ended(tombstone) => {
            let id = tombstone.ended.id;
            let imported = Imported::of_tombstone(tombstone, &whatever_is(db, id)?);
            if imported.writes() {
                tables::delete_session(db, id)?;
                tables::insert_tombstone(db, tombstone)?;
            }
            imported
        }
        Item::Fence(fence) => {
            let (disabled, ended_before) = tables::fence(db, &fence.user)?;
            let there = UserFence { user: Arc::clone(&fence.user), disabled, ended_before };
            let (united, imported) = fence.united_with((disabled || ended_before.is_some()).then_some(&there));
            if imported.writes() {
                put_fence(db, &united)?;
            }
            imported
        }
    })
}

/// What is stored under an id, expired or not.
fn whatever_is(db: &Connection, id: SessionId) -> Result<Loaded, Fault> {
    if let Some(record) = record(db, id)? {
        return Ok(Loaded::Live(record));
    }
    let tombstone = tables::tombstone(db, id)?;
    Ok(tombstone.map_or(Loaded::Unknown, |tombstone| Loaded::Ended(Arc::new(tombstone))))
}

fn record(db: &Connection, id: SessionId) -> Result<Option<Arc<Record>>, Fault> {
    let Some(head) = tables::head(db, id)? else { return Ok(None) };
    Ok(Some(Arc::new(head.with_data(tables::data(db, id)?))))
}

fn put_fence(db: &Connection, fence: &UserFence) -> Result<(), Fault> {
    let UserFence { user, disabled, ended_before } = fence;
    if *disabled {
        db.prepare_cached("INSERT OR IGNORE INTO disabled_user (user_id) VALUES (?1)")?.execute([user])?;
    }
    if let Some(at) = ended_before {
        let set = "INSERT OR REPLACE INTO user_fence (user_id, ended_before) VALUES (?1, ?2)";
        db.prepare_cached(set)?.execute(params![user, at.as_millis()])?;
    }
    Ok(())
}

/// Says whether the key is stored.
fn adopt(db: &Connection, key: &PartitionKey) -> Result<bool, Fault> {
    if db.prepare_cached(HOLDS_ANYTHING)?.query_row([], |row| row.get(0))? {
        return Ok(false);
    }
    open::set_partition_key(db, key)?;
    Ok(true)
}
