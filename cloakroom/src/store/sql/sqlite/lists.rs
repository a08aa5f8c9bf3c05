//! Lists, the log, and forgetting.

use rusqlite::{Connection, params};

use super::{
    fault::Fault,
    tables::{self, Read, Within, at_most},
};
use crate::{
    clock::Timestamp,
    error::Result,
    record::SessionInfo,
    store::{
        AuditQuery, Cursor, Logged, Page, Query,
        slots::{Forget, List, Listed, Slot},
    },
    token::SessionId,
};

/// So many slots are looked at for one page of those that match.
const SCANNED: usize = 4096;

/// Where a page ended, by a time and then by id.
#[derive(Clone, Copy)]
struct Place(i64, SessionId);

impl Place {
    fn parse(cursor: &Cursor) -> Result<Self> {
        let (time, id) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
        Ok(Self(time.parse().map_err(|_| Cursor::invalid())?, id.parse().map_err(|_| Cursor::invalid())?))
    }

    fn cursor(self) -> Cursor {
        Cursor::new(format!("{}.{}", self.0, self.1))
    }
}

/// What a page begins behind, read before the database is asked.
pub(super) enum After {
    Nothing,
    Place(i64, SessionId),
    Id(SessionId),
    Name(String),
}

impl After {
    pub(super) fn of(what: &List, cursor: Option<&Cursor>) -> Result<Self> {
        let Some(cursor) = cursor else { return Ok(Self::Nothing) };
        Ok(match what {
            List::Sessions(Query { user: Some(_), .. }, _) | List::Due(_) => {
                let Place(time, id) = Place::parse(cursor)?;
                Self::Place(time, id)
            }
            List::Sessions(..) | List::Everything => Self::Id(cursor.parse()?),
            List::Users | List::DueUsers(_) => Self::Name(cursor.name()?),
        })
    }

    fn id(&self) -> &[u8] {
        match self {
            Self::Id(id) | Self::Place(_, id) => id.as_bytes(),
            Self::Nothing | Self::Name(_) => &[],
        }
    }

    fn time(&self, unless: i64) -> i64 {
        if let Self::Place(time, _) = self { *time } else { unless }
    }
}

pub(super) fn list(db: &Connection, what: &List, after: &After, limit: usize) -> Result<Page<Listed>, Fault> {
    let db = Within::new(db);
    match what {
        List::Sessions(query, now) => {
            if let Some(user) = &query.user {
                let found = |time, id: Vec<u8>, count| db.each(tables::OF_USER, params![user, time, id, count], false);
                let place = |slot: &Slot| Place(info(slot).created_at.as_millis(), slot.id());
                let first = Place(after.time(i64::MAX), SessionId::from_bytes([0; SessionId::LEN]));
                let mut behind = (first.0, after.id().to_vec());
                let mut page = Vec::new();
                loop {
                    let slots = found(behind.0, behind.1.clone(), at_most(SCANNED))?;
                    let is_last = slots.len() < SCANNED;
                    if let Some(last) = slots.last() {
                        behind = (last.created_at, last.id.as_bytes().to_vec());
                    }
                    page.extend(shown_of(slots, query, *now));
                    if is_last || page.len() > limit {
                        break;
                    }
                }
                Ok(cut(page, limit, |slot| place(slot).cursor()))
            } else {
                let (mut behind, mut shown, mut scanned) = (after.id().to_vec(), Vec::new(), 0);
                // Where most match, little more is read than the page holds.
                let mut portion = limit.saturating_add(1).min(SCANNED);
                let unfinished = loop {
                    let slots = db.each(tables::AFTER_ID, params![behind, at_most(portion)], false)?;
                    scanned += slots.len();
                    let last = slots.last().filter(|_| slots.len() == portion).map(|read| read.id);
                    shown.extend(shown_of(slots, query, *now));
                    match last {
                        Some(last) if shown.len() <= limit && scanned < SCANNED => behind = last.as_bytes().to_vec(),
                        last => break last.map(|last| Cursor::new(last.to_string())),
                    }
                    portion = (portion * 2).min(SCANNED - scanned);
                };
                let page = cut(shown, limit, id_cursor);
                // The scan ended before the table did: the next page goes on from there.
                Ok(Page { next: page.next.or(unfinished), items: page.items })
            }
        }
        List::Everything => {
            let slots = db.each(tables::AFTER_ID, params![after.id(), at_most(limit.saturating_add(1))], true)?;
            let next = limit.checked_sub(1).and_then(|last| slots.get(last)).filter(|_| slots.len() > limit);
            let next = next.map(|last| Cursor::new(last.id.to_string()));
            let item = |read: Read| match read.slot {
                Ok(slot) => Listed::Session(slot),
                Err(fault) => Listed::Damaged(read.id, fault.told()),
            };
            Ok(Page { items: slots.into_iter().take(limit).map(item).collect(), next })
        }
        List::Due(now) => {
            let (time, id) = (after.time(i64::MIN), after.id());
            let due = params![now.as_millis(), time, id, at_most(limit.saturating_add(1))];
            let places: Vec<(i64, SessionId)> = db.places(tables::DUE_PLACES, due)?;
            let next = places.get(limit).and(limit.checked_sub(1)).map(|last| Place(places[last].0, places[last].1));
            let mut items = Vec::new();
            for (_, id) in places.into_iter().take(limit) {
                match db.bare().slot_of(id, false) {
                    Err(fault) if fault.is_of_a_row() => {}
                    slot => items.extend(slot?.map(Listed::Session)),
                }
            }
            Ok(Page { items, next: next.map(Place::cursor) })
        }
        List::Users | List::DueUsers(_) => {
            let name = if let After::Name(name) = after { Some(name.as_str()) } else { None };
            let count = at_most(limit.saturating_add(1));
            let mut items = match (what, name) {
                (List::DueUsers(now), _) => db.users(tables::DUE_USERS, params![count, now.as_millis(), name])?,
                (_, None) => db.users(tables::FIRST_USERS, params![count])?,
                (_, Some(name)) => db.users(tables::USERS, params![count, name])?,
            };
            let more = items.len() > limit;
            items.truncate(limit);
            let next = items.last().filter(|_| more).map(|last| match last {
                Listed::User(name, _) => Cursor::behind(name),
                Listed::Session(slot) => id_cursor(slot),
                Listed::Damaged(id, _) => Cursor::new(id.to_string()),
            });
            Ok(Page { items, next })
        }
    }
}

pub(super) fn audit(db: &Connection, query: &AuditQuery, after: i64, limit: usize) -> Result<Page<Logged>, Fault> {
    let (db, scanned) = (Within::new(db), SCANNED.max(limit.saturating_add(1)));
    let (entries, last) = match (&query.session, &query.user) {
        (Some(session), _) => {
            db.entries(tables::AUDIT_OF_SESSION, params![after, at_most(scanned), session.as_bytes()], scanned)
        }
        (None, Some(user)) => db.entries(tables::AUDIT_OF_USER, params![after, at_most(scanned), user], scanned),
        (None, None) => {
            let count = limit.saturating_add(1);
            db.entries(tables::AUDIT, params![after, at_most(count)], count)
        }
    }?;
    let mut items: Vec<_> = entries.into_iter().filter(|logged| query.matches(&logged.entry)).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last.cursor.clone()).or(last);
    Ok(Page { items, next })
}

/// Forgets what is old; says whether there may be more.
pub(super) fn forget(db: &Connection, forget: &Forget, portion: usize) -> Result<bool, Fault> {
    let limit = at_most(portion);
    let slots = db.prepare_cached(tables::FORGET_SLOTS)?.execute(params![forget.ended_before.as_millis(), limit])?;
    let entries = db.prepare_cached(tables::FORGET_AUDIT)?.execute(params![forget.audit_before.as_millis(), limit])?;
    Ok(slots >= portion || entries >= portion)
}

fn info(slot: &Slot) -> &SessionInfo {
    match slot {
        Slot::Open(record) => &record.info,
        Slot::Ended(ended) => &ended.record.info,
    }
}

fn shows(query: &Query, now: Timestamp, slot: &Slot) -> bool {
    matches!(slot, Slot::Open(record) if record.info.expiry(now).is_none() && query.matches(&record.info))
}

/// Those of a list, which leaves out what cannot be read.
fn shown_of(slots: Vec<Read>, query: &Query, now: Timestamp) -> impl Iterator<Item = Slot> {
    slots.into_iter().filter_map(|read| read.slot.ok()).filter(move |slot| shows(query, now, slot))
}

fn id_cursor(slot: &Slot) -> Cursor {
    Cursor::new(slot.id().to_string())
}

/// A page of at most `limit`, of what may be more.
fn cut(mut slots: Vec<Slot>, limit: usize, cursor: impl Fn(&Slot) -> Cursor) -> Page<Listed> {
    let more = slots.len() > limit;
    slots.truncate(limit);
    let next = slots.last().filter(|_| more).map(cursor);
    Page { items: slots.into_iter().map(Listed::Session).collect(), next }
}
