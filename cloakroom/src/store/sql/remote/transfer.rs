//! Moving sessions in and out of a database server.
//!
//! No routine of the server's does this: what moves is whole rows, many in a statement, and what becomes of them is decided
//! here, in one transaction that has locked the sessions which are there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Arg, Dialect, SqlStore,
    answers::{Answers, entry_of_session},
    connections::{Access, Transaction},
    writes::columns,
};
use crate::{
    Data, Json, PartitionKey, Record, Result, SessionId,
    store::{
        BoxFuture, Cursor, Imported, Item, Loaded, Page, Tombstone, Transfer, UserFence,
        sql::rows::pack_predecessors,
        transfer::{After, check_places, has_users, holds_others},
    },
};

impl<D: Dialect> Transfer for SqlStore<D> {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        Box::pin(async move {
            let after = Arc::new(After::parse(after)?);
            let behind = Arc::clone(&after);
            let items = self.transaction(Access::Read, move |tx| {
                let behind = Arc::clone(&behind);
                Box::pin(async move { export(tx, &behind, limit).await })
            });
            Ok(after.page(items.await?, limit))
        })
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        Box::pin(async move {
            check_places(items, &self.key)?;
            let items: Arc<[Item]> = items.into();
            self.transaction(Access::Write, move |tx| {
                let items = Arc::clone(&items);
                Box::pin(async move { import(tx, &items).await })
            })
            .await
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
            self.transaction(Access::Write, move |tx| {
                let stored = stored.clone();
                Box::pin(async move { adopt(tx, &stored).await })
            })
            .await?;
            self.key.adopt(key);
            Ok(())
        })
    }
}

async fn export<D: Dialect>(tx: &mut Transaction<'_, D>, after: &After, limit: usize) -> Result<Vec<Item>> {
    let behind = |id: &Option<SessionId>| Arg::Bytes(Some(id.map_or_else(Vec::new, |id| id.as_bytes().to_vec())));
    match after {
        After::Session(id) => {
            let select = "SELECT 'session' AS kind, s.* FROM ~session AS s WHERE id > ? ORDER BY id LIMIT ?";
            let heads = tx.run(select, &[behind(id), Arg::count(limit)]).await?;
            Ok(with_data(tx, &heads).await?.into_iter().map(|record| Item::Session(record.into())).collect())
        }
        After::Ended(id) => {
            let select = "SELECT 'tombstone' AS kind, t.* FROM ~tombstone AS t WHERE id > ? ORDER BY id LIMIT ?";
            let tombstones = tx.run(select, &[behind(id), Arg::count(limit)]).await?;
            tombstones.iter().map(|answer| Ok(Item::Ended(answer.tombstone()?.into()))).collect()
        }
        After::Fence(user) => {
            // The places of a statement have one value each.
            let of_table = [
                Arg::text(user.as_deref().unwrap_or("")),
                Arg::text(user.as_deref().unwrap_or("")),
                Arg::Bool(user.is_none()),
                Arg::count(limit),
            ];
            let args: Vec<_> = of_table.iter().chain(&of_table).chain(&of_table[3..]).cloned().collect();
            let fences = tx.run(FENCES, &args).await?;
            fences.iter().map(|answer| Ok(Item::Fence(answer.fence()?))).collect()
        }
    }
}

const FENCES: &str = "SELECT fenced.user_id, \
        CASE WHEN EXISTS (SELECT 1 FROM ~disabled_user AS d WHERE d.user_id = fenced.user_id) \
             THEN TRUE ELSE FALSE END AS disabled, \
        (SELECT f.ended_before FROM ~user_fence AS f WHERE f.user_id = fenced.user_id) AS ended_before \
    FROM (SELECT a.user_id FROM (SELECT user_id FROM ~disabled_user \
                                 WHERE user_id >= ? AND (user_id > ? OR ?) ORDER BY user_id LIMIT ?) AS a \
          UNION SELECT b.user_id FROM (SELECT user_id FROM ~user_fence \
                                       WHERE user_id >= ? AND (user_id > ? OR ?) ORDER BY user_id LIMIT ?) AS b) \
        AS fenced \
    ORDER BY fenced.user_id LIMIT ?";

/// The records of sessions, in their order.
async fn with_data<D: Dialect>(tx: &mut Transaction<'_, D>, heads: &Answers<D>) -> Result<Vec<Record>> {
    let heads = heads.iter().map(|answer| answer.head()).collect::<Result<Vec<_>>>()?;
    let mut data: HashMap<SessionId, Vec<(Arc<str>, Json)>> = HashMap::new();
    for heads in heads.chunks(MOST_IDS) {
        let ids: Vec<_> = heads.iter().map(|head| Arg::id(head.info.id)).collect();
        let select =
            format!("SELECT session, data_key, value FROM ~session_data WHERE session IN ({})", places(ids.len()));
        for answer in tx.run(&select, &ids).await?.iter() {
            let (id, key, value) = entry_of_session(&answer)?;
            data.entry(id).or_default().push((key, value));
        }
    }
    let records = heads.into_iter().map(|head| {
        let data: Data = data.remove(&head.info.id).unwrap_or_default().into_iter().collect();
        head.with_data(data)
    });
    Ok(records.collect())
}

async fn import<D: Dialect>(tx: &mut Transaction<'_, D>, items: &[Item]) -> Result<Vec<Imported>> {
    let ids: Vec<_> = items.iter().filter_map(Item::session_id).collect();
    let there = whatever_is(tx, &ids).await?;
    let fences = fences_of(tx, items).await?;
    let mut imported = Vec::with_capacity(items.len());
    let (mut gone, mut records, mut tombstones, mut united) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for item in items {
        let under_id = item.session_id().and_then(|id| there.get(&id)).unwrap_or(&Loaded::Unknown);
        let done = match item {
            Item::Session(record) => {
                let done = Imported::of_session(record, under_id);
                records.extend(Some(&**record).filter(|_| done.writes()));
                done
            }
            Item::Ended(tombstone) => {
                let done = Imported::of_tombstone(tombstone, under_id);
                tombstones.extend(Some(&**tombstone).filter(|_| done.writes()));
                done
            }
            Item::Fence(fence) => {
                let (fence, done) = fence.united_with(fences.get(&fence.user));
                united.extend(Some(fence).filter(|_| done.writes()));
                done
            }
        };
        if done == Imported::Updated {
            gone.extend(item.session_id());
        }
        imported.push(done);
    }
    delete(tx, &gone).await?;
    insert_sessions(tx, &records).await?;
    insert_tombstones(tx, &tombstones).await?;
    insert_fences(tx, &united).await?;
    Ok(imported)
}

/// What is stored under ids, expired or not. Sessions are locked first: one that is not there by then and has no
/// tombstone afterwards never was.
async fn whatever_is<D: Dialect>(tx: &mut Transaction<'_, D>, ids: &[SessionId]) -> Result<HashMap<SessionId, Loaded>> {
    let mut found = HashMap::new();
    for ids in ids.chunks(MOST_IDS) {
        let args: Vec<_> = ids.iter().map(|id| Arg::id(*id)).collect();
        let places = places(args.len());
        let select =
            format!("SELECT 'session' AS kind, s.* FROM ~session AS s WHERE id IN ({places}) ORDER BY id FOR UPDATE");
        let heads = tx.run(&select, &args).await?;
        for record in with_data(tx, &heads).await? {
            found.insert(record.info.id, Loaded::Live(record.into()));
        }
        let select = format!("SELECT 'tombstone' AS kind, t.* FROM ~tombstone AS t WHERE id IN ({places})");
        for answer in tx.run(&select, &args).await?.iter() {
            let tombstone = answer.tombstone()?;
            found.entry(tombstone.ended.id).or_insert_with(|| Loaded::Ended(tombstone.into()));
        }
    }
    Ok(found)
}

async fn fences_of<D: Dialect>(tx: &mut Transaction<'_, D>, items: &[Item]) -> Result<BTreeMap<Arc<str>, UserFence>> {
    let users = items.iter().filter_map(|item| match item {
        Item::Fence(fence) => Some(Arg::text(&fence.user)),
        Item::Session(_) | Item::Ended(_) => None,
    });
    let users: Vec<_> = users.collect();
    let mut found = BTreeMap::new();
    for users in users.chunks(MOST_IDS) {
        let places = places(users.len());
        let select = format!(
            "SELECT user_id, TRUE AS disabled, NULL AS ended_before FROM ~disabled_user WHERE user_id IN ({places})"
        );
        let disabled = tx.run(&select, users).await?;
        let select =
            format!("SELECT user_id, FALSE AS disabled, ended_before FROM ~user_fence WHERE user_id IN ({places})");
        let ended = tx.run(&select, users).await?;
        for answer in disabled.iter().chain(ended.iter()) {
            let fence = answer.fence()?;
            let united = fence.united_with(found.get(&fence.user)).0;
            found.insert(Arc::clone(&united.user), united);
        }
    }
    Ok(found)
}

async fn delete<D: Dialect>(tx: &mut Transaction<'_, D>, ids: &[SessionId]) -> Result<()> {
    for ids in ids.chunks(MOST_IDS) {
        let args: Vec<_> = ids.iter().map(|id| Arg::id(*id)).collect();
        let places = places(args.len());
        tx.run(&format!("DELETE FROM ~session_data WHERE session IN ({places})"), &args).await?;
        tx.run(&format!("DELETE FROM ~session WHERE id IN ({places})"), &args).await?;
    }
    Ok(())
}

async fn insert_sessions<D: Dialect>(tx: &mut Transaction<'_, D>, records: &[&Record]) -> Result<()> {
    let rows = records.iter().map(|record| {
        let mut row = columns(record);
        row.push(("reap_at", Arg::maybe_at(record.info.expires_at())));
        row
    });
    insert(tx, "session", D::SESSION_COLUMNS, rows.collect()).await?;
    let values = records.iter().flat_map(|record| {
        record.data.iter().map(|(key, value)| {
            vec![
                ("session", Arg::id(record.info.id)),
                ("data_key", Arg::text(key)),
                ("value", Arg::text(value.as_str())),
            ]
        })
    });
    insert(tx, "session_data", &[], values.collect()).await
}

async fn insert_tombstones<D: Dialect>(tx: &mut Transaction<'_, D>, tombstones: &[&Tombstone]) -> Result<()> {
    let rows = tombstones.iter().map(|Tombstone { ended, secrets }| {
        vec![
            ("id", Arg::id(ended.id)),
            ("user_id", Arg::maybe_text(ended.user.as_ref())),
            ("ended_at", Arg::at(ended.at)),
            ("reason", Arg::text(ended.reason.code())),
            ("by_whom", Arg::maybe_text(ended.by.as_ref())),
            ("note", Arg::maybe_text(ended.note.as_ref())),
            ("secret", Arg::digest(&secrets.current)),
            ("secret_issued_at", Arg::at(secrets.issued_at)),
            ("rotations", Arg::Int(Some(secrets.rotations.into()))),
            ("predecessors", Arg::Bytes(Some(pack_predecessors(secrets)))),
        ]
    });
    insert(tx, "tombstone", &[], rows.collect()).await
}

/// A fence may have been set by somebody else meanwhile: the stricter one stays.
async fn insert_fences<D: Dialect>(tx: &mut Transaction<'_, D>, fences: &[UserFence]) -> Result<()> {
    for UserFence { user, disabled, ended_before } in fences {
        if *disabled {
            let disable = format!("INSERT INTO ~disabled_user (user_id) VALUES (?) {}", D::KEEP_DISABLED);
            tx.run(&disable, &[Arg::text(user)]).await?;
        }
        if let Some(at) = ended_before {
            let fence =
                format!("INSERT INTO ~user_fence (user_id, ended_before) VALUES (?, ?) {}", D::KEEP_LATER_FENCE);
            tx.run(&fence, &[Arg::text(user), Arg::at(*at)]).await?;
        }
    }
    Ok(())
}

async fn adopt<D: Dialect>(tx: &mut Transaction<'_, D>, key: &PartitionKey) -> Result<()> {
    // Of two that adopt at the same time the second one waits here, and then sees what the first one has put in.
    tx.run("SELECT value FROM ~meta WHERE name = 'partition_key' FOR UPDATE", &[]).await?;
    for table in ["session", "tombstone", "disabled_user", "user_fence"] {
        if !tx.run(&format!("SELECT 1 FROM ~{table} LIMIT 1"), &[]).await?.is_empty() {
            return Err(holds_others());
        }
    }
    let key = Arg::Bytes(Some(key.as_bytes().to_vec()));
    tx.run("UPDATE ~meta SET value = ? WHERE name = 'partition_key'", &[key]).await?;
    Ok(())
}

type Row = Vec<(&'static str, Arg)>;

/// So many ids are named in one statement.
const MOST_IDS: usize = 1000;

/// A statement has room for 65,535 values, and a server takes 16 MiB at once unless told otherwise.
const MOST_VALUES: usize = 16_000;
const MOST_BYTES: usize = 2 << 20;

/// Inserts rows of the same columns, as many in a statement as it may have. `more` are columns with a value that the
/// server knows.
async fn insert<D: Dialect>(
    tx: &mut Transaction<'_, D>,
    table: &str,
    more: &[(&str, &str)],
    rows: Vec<Row>,
) -> Result<()> {
    let mut rows = rows.into_iter().peekable();
    while let Some(first) = rows.peek() {
        let columns: Vec<_> = first.iter().map(|(name, _)| *name).chain(more.iter().map(|(name, _)| *name)).collect();
        let values: Vec<_> = first.iter().map(|_| "?").chain(more.iter().map(|(_, value)| *value)).collect();
        let (columns, values) = (columns.join(", "), format!("({})", values.join(", ")));
        let (mut args, mut count, mut bytes) = (Vec::new(), 0, 0);
        while let Some(row) = rows.next_if(|row| args.len() + row.len() <= MOST_VALUES && bytes < MOST_BYTES) {
            bytes += row.iter().map(|(_, arg)| arg.size()).sum::<usize>();
            args.extend(row.into_iter().map(|(_, arg)| arg));
            count += 1;
        }
        let statement = format!("INSERT INTO ~{table} ({columns}) VALUES {}", vec![values.as_str(); count].join(", "));
        tx.run(&statement, &args).await?;
    }
    Ok(())
}

fn places(count: usize) -> String {
    vec!["?"; count].join(", ")
}
