//! What changes nothing.

use std::{collections::HashMap, fmt::Write, sync::Arc, time::Duration};

use sqlx::postgres::PgRow;
use tokio::time::{Instant, sleep};

use super::{
    PostgresStore,
    engine::Server,
    rows::{HEAD, KNOWN, SLOT, get},
    statement::{Arg, Statement},
    texts::Texts,
};
use crate::{
    clock::Timestamp,
    error::Result,
    store::{
        AuditQuery, Cursor, Logged, Page, Query, head,
        slots::{Ask, Found, List, Listed, Slot},
        sql::{
            fault::Kind,
            lists::{SCANNED, page, place_by_id, place_by_time, place_of_due_user, scanned_page},
            loads::{Load, Read},
            pool::{CALL_TIMEOUT, Pool},
            rows::{self, now, replaced},
        },
    },
    token::SessionId,
};

/// Reads sessions of one server.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) pool: Arc<Pool<Server>>,
    pub(super) texts: Arc<Texts>,
}

impl Read for Reader {
    type Engine = Server;

    fn pool(&self) -> &Arc<Pool<Server>> {
        &self.pool
    }

    fn statement(&self, ids: &[SessionId]) -> Statement {
        match ids {
            [only] => Statement { text: Arc::clone(&self.texts.load), args: vec![Arg::id(*only)] },
            many => {
                let ids = Arg::ids(many.iter().copied());
                Statement { text: Arc::clone(&self.texts.load_many), args: vec![ids] }
            }
        }
    }

    fn slots(&self, ids: &[SessionId], rows: &Vec<PgRow>) -> Result<HashMap<SessionId, Result<Slot>>> {
        let slot = |row| match ids {
            [only] => Ok((*only, rows::slot(row, 0, *only))),
            _ => rows::id(row, 9).map(|id| (id, rows::slot(row, 0, id))),
        };
        rows.iter().map(slot).collect()
    }
}

impl PostgresStore {
    pub(super) async fn look_at(&self, asks: &[Ask]) -> Result<Vec<Found>> {
        if let [Ask::Session(id)] = asks {
            return Ok(vec![Found::Session(self.loads.submit_one(Load::new(*id), CALL_TIMEOUT).await?)]);
        }
        let (mut sessions, mut heads, mut users, mut of, mut most, mut places, mut tries) = Default::default();
        let mut found = Vec::with_capacity(asks.len());
        // Where in `found` the answer to each ask of a kind stands.
        let mut order: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, ask) in asks.iter().enumerate() {
            let (kind, empty) = match ask {
                Ask::Session(id) => (push(&mut sessions, *id, "session"), Found::Session(None)),
                Ask::Head(id) => (push(&mut heads, *id, "head"), Found::Session(None)),
                Ask::User(user) => (push(&mut users, Some(Arc::clone(user)), "user"), Found::User(None)),
                Ask::HeadsOf(user, limit) => {
                    push(&mut most, Some(i64::try_from(*limit).unwrap_or(i64::MAX)), "");
                    (push(&mut of, Some(Arc::clone(user)), "heads of"), Found::Heads(Vec::new()))
                }
                Ask::Try(partition, digest) => {
                    push(&mut places, partition.to_bytes().to_vec(), "");
                    (push(&mut tries, digest.as_bytes().to_vec(), "try"), Found::Try(None))
                }
            };
            order.entry(kind).or_default().push(place);
            found.push(empty);
        }
        let args = vec![
            Arg::ids(sessions),
            Arg::ids(heads),
            Arg::Texts(users),
            Arg::Texts(of),
            Arg::Ints(most),
            Arg::ByteLists(places),
            Arg::ByteLists(tries),
            self.key_arg(),
        ];
        // Which answers miss a session whose head cannot be read.
        let mut damaged: Vec<(usize, SessionId)> = Vec::new();
        for row in &self.query(&self.texts.read, args).await? {
            let kind: &str = get(row, 11)?;
            if kind == "replaced" {
                return Err(replaced());
            }
            let place = usize::try_from(rows::number(row, 10)? - 1).ok();
            let place = place.and_then(|place| order.get(kind)?.get(place)).copied();
            let Some((place, found)) = place.and_then(|place| Some((place, found.get_mut(place)?))) else { continue };
            match found {
                Found::User(user) => *user = Some(rows::user(row, 0)?),
                Found::Try(id) => *id = Some(rows::id(row, 9)?),
                Found::Session(slot) if kind == "session" => *slot = Some(rows::slot(row, 0, rows::id(row, 9)?)?),
                found => {
                    let id = rows::id(row, 9)?;
                    match rows::bare_slot(row, 0, id) {
                        Ok(slot) => add_head(found, slot),
                        Err(_) => damaged.push((place, id)),
                    }
                }
            }
        }
        let known = self.known(damaged.iter().map(|(_, id)| *id)).await?;
        for (place, id) in damaged {
            if let (Some(found), Some(slot)) = (found.get_mut(place), known.get(&id)) {
                add_head(found, slot.clone());
            }
        }
        for found in &mut found {
            if let Found::Heads(heads) = found {
                heads.sort_unstable_by_key(|record| std::cmp::Reverse((record.info.created_at, record.info.id)));
            }
        }
        Ok(found)
    }

    pub(super) async fn list_page(&self, what: &List, after: Option<&Cursor>, limit: usize) -> Result<Page<Listed>> {
        match what {
            List::Sessions(query, at) => match &query.user {
                Some(user) => self.list_of_user(user, query, after, limit, *at).await,
                None => self.list_anywhere(query, after, limit, *at).await,
            },
            List::Due(at) => {
                let (due, id) = after.map_or(Ok((i64::MIN, Vec::new())), place_by_time)?;
                let text = format!(
                    "SELECT {HEAD}, s.id, s.due_at FROM ~slot AS s \
                     WHERE s.due_at <= $1 AND (s.due_at, s.id) > ($2, $3) ORDER BY s.due_at, s.id LIMIT $4"
                );
                let args = vec![
                    Arg::Int(Some(now(*at))),
                    Arg::Int(Some(due)),
                    Arg::Bytes(Some(id)),
                    Arg::count(limit.saturating_add(1)),
                ];
                let rows = self.query(&self.texts.own(&text), args).await?;
                let damaged = rows
                    .iter()
                    .filter_map(|row| rows::id(row, 9).ok().filter(|id| rows::bare_slot(row, 0, *id).is_err()));
                let known = self.known(damaged).await?;
                let due = |row: &PgRow| {
                    let id = rows::id(row, 9)?;
                    Ok(known.get(&id).cloned().map_or_else(|| rows::bare_slot(row, 0, id), Ok)).and_then(rows::listed)
                };
                page(&rows, limit, due, |row| Ok(format!("{}.{}", rows::number(row, 10)?, rows::id(row, 9)?)))
            }
            List::Everything => {
                let after = after.map_or(Ok(Vec::new()), place_by_id)?;
                let text = format!("SELECT {SLOT}, s.id FROM ~slot AS s WHERE s.id > $1 ORDER BY s.id LIMIT $2");
                let rows = self
                    .query(&self.texts.own(&text), vec![Arg::Bytes(Some(after)), Arg::count(limit.saturating_add(1))])
                    .await?;
                let item = |row: &PgRow| {
                    let id = rows::id(row, 9)?;
                    rows::listed_with_damage(id, rows::slot(row, 0, id)).map(Some)
                };
                page(&rows, limit, item, |row| Ok(rows::id(row, 9)?.to_string()))
            }
            List::Users => {
                let text = format!(
                    "SELECT {USER} FROM ~account AS s WHERE s.user_id >= $1 AND (s.user_id > $1 OR $2) \
                     ORDER BY s.user_id LIMIT $3"
                );
                let from = after.map_or(Ok(String::new()), Cursor::name)?;
                let args = vec![Arg::text(from), Arg::Bool(after.is_none()), Arg::count(limit.saturating_add(1))];
                let rows = self.query(&self.texts.own(&text), args).await?;
                page(&rows, limit, listed_user, |row| Ok(Cursor::behind(get(row, 8)?).as_str().to_owned()))
            }
            List::DueUsers(at) => {
                let text = format!(
                    "SELECT {USER} FROM ~account AS s WHERE s.due_at <= $1 AND (s.due_at, s.user_id) > ($2, $3) \
                     ORDER BY s.due_at, s.user_id LIMIT $4"
                );
                let (due, user) = after.map_or(Ok((i64::MIN, String::new())), place_of_due_user)?;
                let args = vec![
                    Arg::Int(Some(now(*at))),
                    Arg::Int(Some(due)),
                    Arg::text(user),
                    Arg::count(limit.saturating_add(1)),
                ];
                let rows = self.query(&self.texts.own(&text), args).await?;
                page(&rows, limit, listed_user, |row| {
                    Ok(format!("{}.{}", rows::number(row, 1)?, Cursor::behind(get(row, 8)?).as_str()))
                })
            }
        }
    }

    async fn list_of_user(
        &self,
        user: &Arc<str>,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        at: Timestamp,
    ) -> Result<Page<Listed>> {
        let (before, before_id) = after.map_or(Ok((i64::MAX, Vec::new())), place_by_time)?;
        let mut args = vec![
            Arg::Int(Some(now(at))),
            Arg::Text(Some(Arc::clone(user))),
            Arg::Int(Some(before)),
            Arg::Bytes(Some(before_id)),
            Arg::count(limit.saturating_add(1)),
        ];
        let filter = filter(query, &mut args);
        let text = format!(
            "SELECT {HEAD}, s.id, s.created_at FROM ~slot AS s WHERE s.user_id = $2 AND s.ended_at IS NULL \
             AND (s.created_at, s.id) < ($3, $4) AND {filter} ORDER BY s.created_at DESC, s.id DESC LIMIT $5"
        );
        let rows = self.query(&self.texts.own(&text), args).await?;
        page(&rows, limit, listed, |row| Ok(format!("{}.{}", rows::number(row, 10)?, rows::id(row, 9)?)))
    }

    async fn list_anywhere(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        at: Timestamp,
    ) -> Result<Page<Listed>> {
        let after = after.map_or(Ok(Vec::new()), place_by_id)?;
        let mut args = vec![
            Arg::Int(Some(now(at))),
            Arg::Bytes(Some(after)),
            Arg::count(SCANNED),
            Arg::count(limit.saturating_add(1)),
        ];
        let filter = filter(query, &mut args);
        // The scan may end before the table does: the next page goes on from there.
        let text = format!(
            "(SELECT {HEAD}, s.id, true FROM (SELECT * FROM ~slot WHERE id > $2 ORDER BY id LIMIT $3) AS s \
              WHERE s.ended_at IS NULL AND {filter} ORDER BY s.id LIMIT $4) \
             UNION ALL \
             (SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, id, false FROM ~slot WHERE id > $2 \
              ORDER BY id OFFSET $3 - 1 LIMIT 1)"
        );
        let rows = self.query(&self.texts.own(&text), args).await?;
        let (mut items, mut scanned) = (Vec::new(), None);
        for row in &rows {
            if get::<bool>(row, 10)? {
                items.push((rows::id(row, 9)?, listed(row)?));
            } else {
                scanned = Some(rows::id(row, 9)?);
            }
        }
        Ok(scanned_page(items, limit, scanned))
    }

    pub(super) async fn audit_page(
        &self,
        query: &AuditQuery,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<Logged>> {
        let (place, seq) = after.map_or(Ok((i64::MIN, 0)), place_in_log)?;
        let mut args = vec![Arg::Int(Some(place)), Arg::Int(Some(seq)), Arg::count(limit.saturating_add(1))];
        let mut filter = String::new();
        for (column, arg) in [
            ("session", query.session.map(Arg::id)),
            ("user_id", query.user.as_ref().map(|user| Arg::Text(Some(Arc::clone(user))))),
        ] {
            if let Some(arg) = arg {
                args.push(arg);
                write!(filter, " AND {column} = ${}", args.len()).expect("a string takes everything");
            }
        }
        args.push(Arg::Int(None));
        // What is below every transaction under way that can write here is complete. Those of the whole server are known
        // without looking for them; the last row says how far they let us see, and whether there are entries beyond.
        let horizon = format!(
            "(SELECT log_base + greatest(txid_snapshot_xmin(txid_current_snapshot()), ${}) FROM ~meta)",
            args.len()
        );
        let text = self.texts.own(&format!(
            "(SELECT place, seq, id, session, entry FROM ~audit \
              WHERE (place, seq) > ($1, $2) AND place < {horizon}{filter} ORDER BY place, seq LIMIT $3) \
             UNION ALL \
             SELECT {horizon}, (SELECT max(place) FROM ~audit WHERE place >= {horizon}{filter}), NULL, NULL, NULL"
        ));
        let started = Instant::now();
        let mut awaited = None;
        loop {
            let mut rows = self.query(&text, args.clone()).await?;
            let Some(settled) = rows.pop() else { return Err(replaced()) };
            let (horizon, highest) = (rows::number(&settled, 0)?, get::<Option<i64>>(&settled, 1)?);
            let awaited = *awaited.get_or_insert(highest);
            let is_settled = awaited.is_none_or(|highest| horizon > highest);
            if rows.len() > limit || is_settled || started.elapsed() >= SETTLING {
                return page_of_log(&rows, limit);
            }
            if let Some(last) = args.last_mut() {
                *last = Arg::Int(Some(self.oldest_writer().await?));
            }
            sleep(SETTLING / 500).await;
        }
    }

    /// The number of the oldest transaction under way that may write to the audit log; those with higher numbers are later.
    /// Each locks the table before it has a number, so none is missed: one that is not seen gets a number later than the
    /// one that was the next when the look began.
    async fn oldest_writer(&self) -> Result<i64> {
        let text = self.texts.own(
            "SELECT txid_snapshot_xmax(txid_current_snapshot()), own.transactionid::text::bigint \
             FROM pg_locks AS held JOIN pg_locks AS own ON own.pid = held.pid AND own.locktype = 'transactionid' \
                 AND own.mode = 'ExclusiveLock' \
             WHERE held.locktype = 'relation' AND held.relation = '~audit'::regclass AND held.mode = 'RowExclusiveLock' \
             UNION ALL SELECT txid_snapshot_xmax(txid_current_snapshot()), NULL",
        );
        let mut oldest = i64::MAX;
        for row in &self.query(&text, Vec::new()).await? {
            let next = rows::number(row, 0)?;
            oldest = oldest.min(next);
            if let Some(low) = get::<Option<i64>>(row, 1)? {
                // Locks tell the lower half of a number.
                let whole = (next & !0xffff_ffff) | low;
                oldest = oldest.min(if whole > next { whole - (1 << 32) } else { whole });
            }
        }
        Ok(oldest)
    }

    /// Of sessions whose head cannot be read, what their columns say.
    async fn known(&self, damaged: impl Iterator<Item = SessionId>) -> Result<HashMap<SessionId, Slot>> {
        let damaged: Vec<_> = damaged.collect();
        if damaged.is_empty() {
            return Ok(HashMap::new());
        }
        let text = format!("SELECT {KNOWN}, s.id FROM ~slot AS s WHERE s.id = ANY($1)");
        let rows = self.query(&self.texts.own(&text), vec![Arg::ids(damaged)]).await?;
        rows.iter().map(|row| rows::id(row, 9).and_then(|id| Ok((id, rows::bare_slot(row, 0, id)?)))).collect()
    }

    pub(super) async fn query(&self, text: &Arc<str>, args: Vec<Arg>) -> Result<Vec<PgRow>> {
        self.run(Kind::Read, text, args).await
    }

    pub(super) async fn run(&self, kind: Kind, text: &Arc<str>, args: Vec<Arg>) -> Result<Vec<PgRow>> {
        let text = Arc::clone(text);
        let statement = move |_| Statement { text: Arc::clone(&text), args: args.clone() };
        self.pool.call(kind, statement).await
    }
}

/// A user's slot `s`, as [`rows::user`] reads it, and the name.
const USER: &str = "s.revision, s.due_at, s.signed_in_at, s.signed_in_from, NULL, NULL, NULL, s.settled, s.user_id";

/// How long a page waits for transactions under way that may still write before entries which are there already.
const SETTLING: Duration = Duration::from_secs(1);

fn push<T>(list: &mut Vec<T>, item: T, kind: &'static str) -> &'static str {
    list.push(item);
    kind
}

/// What a session `s` that lives at `$1` must match; its values are added.
fn filter(query: &Query, args: &mut Vec<Arg>) -> String {
    let Query { user: _, impersonated_by, ip, device, last_seen_before } = query;
    let mut filter = "s.seen + s.idle > $1 AND s.ends_at > $1".to_owned();
    let text = |text: &Option<Arc<str>>| text.as_ref().map(|text| Arg::Text(Some(Arc::clone(text))));
    for (condition, arg) in [
        ("s.impersonated_by =", text(impersonated_by)),
        ("s.ip =", ip.map(|ip| Arg::text(ip.to_string()))),
        ("s.device =", text(device)),
        ("s.seen <=", last_seen_before.map(|at| Arg::Int(Some(at.as_millis())))),
    ] {
        if let Some(arg) = arg {
            args.push(arg);
            write!(filter, " AND {condition} ${}", args.len()).expect("a string takes everything");
        }
    }
    filter
}

/// Adds a head to the answer it was asked for.
fn add_head(found: &mut Found, head: Slot) {
    match (found, head) {
        (Found::Session(slot), head) => *slot = Some(head),
        (Found::Heads(heads), Slot::Open(record)) => heads.push(record),
        (Found::Heads(_) | Found::User(_) | Found::Try(_), _) => {}
    }
}

fn listed(row: &PgRow) -> Result<Option<Listed>> {
    rows::listed(rows::slot(row, 0, rows::id(row, 9)?))
}

fn listed_user(row: &PgRow) -> Result<Option<Listed>> {
    Ok(Some(Listed::User(get::<&str>(row, 8)?.into(), rows::user(row, 0)?)))
}

fn page_of_log(rows: &[PgRow], limit: usize) -> Result<Page<Logged>> {
    let place = |row: &PgRow| -> Result<Cursor> {
        Ok(Cursor::new(format!("{}.{}", rows::number(row, 0)?, rows::number(row, 1)?)))
    };
    let mut items = Vec::with_capacity(rows.len());
    for row in rows.iter().take(limit) {
        let entry = head::decode_entry(rows::id(row, 3)?, get(row, 4)?);
        items.extend(head::logged(place(row)?, rows::number(row, 2)?.cast_unsigned(), entry));
    }
    let last = limit.checked_sub(1).and_then(|last| rows.get(last)).filter(|_| rows.len() > limit);
    Ok(Page { items, next: last.map(place).transpose()? })
}

fn place_in_log(cursor: &Cursor) -> Result<(i64, i64)> {
    let (place, seq) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
    let number = |text: &str| text.parse().map_err(|_| Cursor::invalid());
    Ok((number(place)?, number(seq)?))
}
