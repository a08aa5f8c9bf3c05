//! What changes nothing.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use sqlx::mysql::MySqlRow;

use super::{
    MysqlStore,
    engine::{Answer, Arg, Server, Statement},
    text::{HEAD, SLOT, USER, bytes, ids, literal, lives, own},
    transact::tried,
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
            rows::{self, SqlRow, damaged, now, number, replaced},
        },
    },
    token::SessionId,
};

/// Reads sessions of one server.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) pool: Arc<Pool<Server>>,
    load: Arc<str>,
}

impl Reader {
    pub(super) fn new(pool: &Arc<Pool<Server>>) -> Self {
        let load = own(&pool.engine().namespace, &format!("SELECT {SLOT} FROM ~slot WHERE id = ?"));
        Self { pool: Arc::clone(pool), load }
    }
}

impl Read for Reader {
    type Engine = Server;

    fn pool(&self) -> &Arc<Pool<Server>> {
        &self.pool
    }

    fn statement(&self, all: &[SessionId]) -> Statement {
        match all {
            [only] => Statement::Prepared { text: Arc::clone(&self.load), args: vec![Arg::id(*only)] },
            many => {
                let name = &self.pool.engine().namespace;
                let text = format!(
                    "SELECT {SLOT},id FROM {name}_slot FORCE INDEX(PRIMARY) WHERE id IN ({})",
                    ids(many.iter().copied())
                );
                Statement::Text(text.into())
            }
        }
    }

    fn slots(&self, all: &[SessionId], answer: &Answer) -> Result<HashMap<SessionId, Result<Slot>>> {
        let slot = |row| match all {
            [only] => Ok((*only, rows::slot(row, 0, *only))),
            _ => rows::id(row, COLUMNS).map(|id| (id, rows::slot(row, 0, id))),
        };
        answer.rows.iter().map(slot).collect()
    }
}

/// How many columns [`SLOT`] has.
const COLUMNS: usize = 16;

impl MysqlStore {
    /// All asks as one statement, so at one moment.
    pub(super) async fn look_at(&self, asks: &[Ask]) -> Result<Vec<Found>> {
        if let [Ask::Session(id)] = asks {
            return Ok(vec![Found::Session(self.loads.submit_one(Load::new(*id), CALL_TIMEOUT).await?)]);
        }
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let name = &self.pool.engine().namespace;
        let key = bytes(self.key.as_bytes());
        // The first row says that the place of the sessions is the same.
        let mut text = format!(
            "SELECT -1,value,0,0,0,'','','',0,'','',0,0,0,'','','','' FROM {name}_meta WHERE name='partition_key' AND value={key}"
        );
        for (place, ask) in asks.iter().enumerate() {
            let select = match ask {
                Ask::Session(id) => {
                    format!("SELECT {place},id,{SLOT} FROM {name}_slot WHERE id={}", super::text::id(*id))
                }
                Ask::Head(id) => format!("SELECT {place},id,{HEAD} FROM {name}_slot WHERE id={}", super::text::id(*id)),
                Ask::User(user) => {
                    format!("SELECT {place},'',{USER} FROM {name}_account WHERE user_id={}", literal(user.as_bytes()))
                }
                Ask::HeadsOf(user, limit) => format!(
                    "SELECT {place},id,{HEAD} FROM {name}_slot WHERE user_id={} AND ended_at IS NULL \
                     ORDER BY created_at DESC,id DESC LIMIT {limit}",
                    literal(user.as_bytes())
                ),
                Ask::Try(partition, digest) => format!(
                    "SELECT {place},id,{HEAD} FROM {name}_slot WHERE {}",
                    tried(&bytes(&partition.to_bytes()), &bytes(digest.as_bytes()))
                ),
            };
            write!(text, " UNION ALL ({select})").expect("a string takes everything");
        }
        let mut found: Vec<_> = asks.iter().map(nothing).collect();
        let mut is_same = false;
        for row in &self.text(Kind::Read, text.into()).await?.rows {
            let Ok(place) = usize::try_from(number(row, 0)?) else {
                is_same = true;
                continue;
            };
            let (Some(found), ask) = (found.get_mut(place), asks.get(place)) else { continue };
            match found {
                Found::User(user) => *user = Some(rows::user(row, 2)?),
                Found::Session(slot) => {
                    let (id, with_data) = (rows::id(row, 1)?, matches!(ask, Some(Ask::Session(_))));
                    *slot = Some(if with_data { rows::slot(row, 2, id)? } else { rows::bare_slot(row, 2, id)? });
                }
                Found::Heads(heads) => {
                    if let Slot::Open(record) = rows::bare_slot(row, 2, rows::id(row, 1)?)? {
                        heads.push(record);
                    }
                }
                Found::Try(id) => *id = Some(rows::id(row, 1)?),
            }
        }
        if !is_same {
            return Err(replaced());
        }
        for found in &mut found {
            if let Found::Heads(heads) = found {
                heads.sort_unstable_by_key(|record| std::cmp::Reverse((record.info.created_at, record.info.id)));
            }
        }
        Ok(found)
    }

    pub(super) async fn list_page(&self, what: &List, after: Option<&Cursor>, limit: usize) -> Result<Page<Listed>> {
        let more = Arg::count(limit.saturating_add(1));
        match what {
            List::Sessions(query, at) => match &query.user {
                Some(user) => self.list_of_user(user, query, after, limit, *at).await,
                None => self.list_anywhere(query, after, limit, *at).await,
            },
            List::Due(at) => {
                let (due, id) = after.map_or(Ok((i64::MIN, Vec::new())), place_by_time)?;
                let text = format!(
                    "SELECT {HEAD}, id, due_at FROM ~slot FORCE INDEX (slot_by_due) \
                     WHERE due_at <= ? AND due_at >= ? AND (due_at > ? OR id > ?) ORDER BY due_at, id LIMIT ?"
                );
                let args = vec![Arg::Int(now(*at)), Arg::Int(due), Arg::Int(due), Arg::Bytes(id), more];
                let rows = self.query(&text, args).await?.rows;
                let due = |row: &MySqlRow| rows::listed(rows::bare_slot(row, 0, rows::id(row, COLUMNS)?));
                page(&rows, limit, due, place_in_time)
            }
            List::Everything => {
                let after = after.map_or(Ok(Vec::new()), place_by_id)?;
                let text = format!("SELECT {SLOT}, id FROM ~slot WHERE id > ? ORDER BY id LIMIT ?");
                let rows = self.query(&text, vec![Arg::Bytes(after), more]).await?.rows;
                let item = |row: &MySqlRow| {
                    let id = rows::id(row, COLUMNS)?;
                    rows::listed_with_damage(id, rows::slot(row, 0, id)).map(Some)
                };
                page(&rows, limit, item, |row| Ok(rows::id(row, COLUMNS)?.to_string()))
            }
            List::Users => {
                let text = format!(
                    "SELECT {USER} FROM ~account WHERE user_id >= ? AND (user_id > ? OR ?) ORDER BY user_id LIMIT ?"
                );
                let from = Arg::text(&after.map_or(Ok(String::new()), Cursor::name)?);
                let args = vec![from.clone(), from, Arg::Int(i64::from(after.is_none())), more];
                let rows = self.query(&text, args).await?.rows;
                page(&rows, limit, listed_user, |row| Ok(Cursor::behind(&user_of(row)?).as_str().to_owned()))
            }
            List::DueUsers(at) => {
                let text = format!(
                    "SELECT {USER} FROM ~account FORCE INDEX (account_by_due) \
                     WHERE due_at <= ? AND due_at >= ? AND (due_at > ? OR user_id > ? OR ?) ORDER BY due_at, user_id LIMIT ?"
                );
                let (due, user) = after.map_or(Ok((i64::MIN, String::new())), place_of_due_user)?;
                let is_first = Arg::Int(i64::from(after.is_none()));
                let args = vec![Arg::Int(now(*at)), Arg::Int(due), Arg::Int(due), Arg::text(&user), is_first, more];
                let rows = self.query(&text, args).await?.rows;
                page(&rows, limit, listed_user, |row| {
                    Ok(format!("{}.{}", number(row, 1)?, Cursor::behind(&user_of(row)?).as_str()))
                })
            }
        }
    }

    async fn list_of_user(
        &self,
        user: &str,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        at: Timestamp,
    ) -> Result<Page<Listed>> {
        let (before, before_id) = after.map_or(Ok((i64::MAX, Vec::new())), place_by_time)?;
        let text = format!(
            "SELECT {HEAD},id,created_at FROM {}_slot FORCE INDEX (slot_by_user) \
             WHERE user_id={} AND created_at<={before} AND (created_at<{before} OR id<{}) AND {} \
             ORDER BY created_at DESC,id DESC LIMIT {}",
            self.pool.engine().namespace,
            literal(user.as_bytes()),
            bytes(&before_id),
            filter(query, at),
            limit.saturating_add(1)
        );
        let rows = self.text(Kind::Read, text.into()).await?.rows;
        page(&rows, limit, listed, place_in_time)
    }

    async fn list_anywhere(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        at: Timestamp,
    ) -> Result<Page<Listed>> {
        let name = &self.pool.engine().namespace;
        let after = bytes(&after.map_or(Ok(Vec::new()), place_by_id)?);
        // The scan may end before the table does: the next page goes on from there.
        let text = format!(
            "SET @scanned=NULL;SELECT id INTO @scanned FROM {name}_slot WHERE id>{after} ORDER BY id LIMIT {},1;\
             SELECT @scanned;SELECT {HEAD},id FROM {name}_slot FORCE INDEX(PRIMARY) \
             WHERE id>{after} AND id<=COALESCE(@scanned,{}) AND {} ORDER BY id LIMIT {}",
            SCANNED - 1,
            bytes(&[0xff; SessionId::LEN]),
            filter(query, at),
            limit.saturating_add(1)
        );
        let rows = self.text(Kind::Read, text.into()).await?.rows;
        let Some((first, rest)) = rows.split_first() else { return Err(damaged("a list")) };
        let scanned = first.bytes(0)?.map(|_| rows::id(first, 0)).transpose()?;
        let items = rest.iter().map(|row| Ok((rows::id(row, COLUMNS)?, listed(row)?))).collect::<Result<_>>()?;
        Ok(scanned_page(items, limit, scanned))
    }

    pub(super) async fn audit_page(
        &self,
        query: &AuditQuery,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<Logged>> {
        let after = after.map_or(Ok(0), |cursor| cursor.as_str().parse::<i64>().map_err(|_| Cursor::invalid()))?;
        let (begin, name) = (self.pool.engine().begin(), &self.pool.engine().namespace);
        let session = query.session.map(|session| format!(" AND session={}", super::text::id(session)));
        let user = query.user.as_ref().map(|user| format!(" AND user_id={}", literal(user.as_bytes())));
        let index = match (&session, &user) {
            (Some(_), _) => "audit_by_session",
            (None, Some(_)) => "audit_by_user",
            (None, None) => "PRIMARY",
        };
        // The gate is closed for a moment: what has a number by then is committed.
        let text = format!(
            "{begin}SELECT name INTO @gate FROM {name}_meta WHERE name='gate' FOR UPDATE;\
             SELECT MAX(seq) INTO @settled FROM {name}_audit;COMMIT;\
             SELECT seq,id,session,entry FROM {name}_audit FORCE INDEX({index}) WHERE seq>{after} AND seq<=@settled{}{} \
             ORDER BY seq LIMIT {}",
            session.unwrap_or_default(),
            user.unwrap_or_default(),
            limit.saturating_add(1)
        );
        let rows = self.text(Kind::Read, text.into()).await?.rows;
        let logged = |row: &MySqlRow| {
            let entry = row.text(3)?.ok_or_else(|| damaged("an audit entry"))?;
            let entry = head::decode_entry(rows::id(row, 2)?, entry);
            Ok(head::logged(Cursor::new(number(row, 0)?.to_string()), number(row, 1)?.cast_unsigned(), entry))
        };
        let items = rows.iter().take(limit).filter_map(|row| logged(row).transpose()).collect::<Result<Vec<_>>>()?;
        let last = limit.checked_sub(1).and_then(|last| rows.get(last)).filter(|_| rows.len() > limit);
        let next = last.map(|row| number(row, 0).map(|seq| Cursor::new(seq.to_string())));
        Ok(Page { items, next: next.transpose()? })
    }

    async fn query(&self, text: &str, args: Vec<Arg>) -> Result<Answer> {
        let text = own(&self.pool.engine().namespace, text);
        let statement = move |_| Statement::Prepared { text: Arc::clone(&text), args: args.clone() };
        self.pool.call(Kind::Read, statement).await
    }

    pub(super) async fn text(&self, kind: Kind, text: Arc<str>) -> Result<Answer> {
        self.pool.call(kind, move |_| Statement::Text(Arc::clone(&text))).await
    }
}

fn nothing(ask: &Ask) -> Found {
    match ask {
        Ask::Session(_) | Ask::Head(_) => Found::Session(None),
        Ask::User(_) => Found::User(None),
        Ask::HeadsOf(..) => Found::Heads(Vec::new()),
        Ask::Try(..) => Found::Try(None),
    }
}

/// What a session that lives must match.
fn filter(query: &Query, at: Timestamp) -> String {
    let Query { user: _, impersonated_by, ip, device, last_seen_before } = query;
    let mut filter = lives(now(at));
    for (column, text) in [
        ("impersonated_by", impersonated_by.as_deref()),
        ("ip", ip.map(|ip| ip.to_string()).as_deref()),
        ("device", device.as_deref()),
    ] {
        if let Some(text) = text {
            write!(filter, " AND {column}={}", literal(text.as_bytes())).expect("a string takes everything");
        }
    }
    if let Some(at) = last_seen_before {
        write!(filter, " AND seen<={}", at.as_millis()).expect("a string takes everything");
    }
    filter
}

fn place_in_time(row: &MySqlRow) -> Result<String> {
    Ok(format!("{}.{}", number(row, COLUMNS + 1)?, rows::id(row, COLUMNS)?))
}

fn listed(row: &MySqlRow) -> Result<Option<Listed>> {
    rows::listed(rows::slot(row, 0, rows::id(row, COLUMNS)?))
}

fn listed_user(row: &MySqlRow) -> Result<Option<Listed>> {
    Ok(Some(Listed::User(user_of(row)?.into(), rows::user(row, 0)?)))
}

fn user_of(row: &MySqlRow) -> Result<String> {
    Ok(row.text(8)?.unwrap_or_default().to_owned())
}
