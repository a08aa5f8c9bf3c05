//! Lists, and forgetting.

use std::sync::Arc;

use super::{
    audit,
    fault::Fault,
    format::{Part, Stored},
    layout::{self, Dated, Due, UserDigest},
    tables::{self, Within, whole},
};
use crate::{
    clock::Timestamp,
    error::Result,
    record::Record,
    store::{
        Cursor, Page, Query,
        slots::{Forget, List, Listed, Slot},
    },
    token::SessionId,
};

/// So many slots are looked at for a page, so that a query that matches few does not read them all while others wait.
const LOOK: usize = 1000;

/// What a page begins behind, read before the directory is locked.
pub(super) enum After {
    Nothing,
    Place(Dated<SessionId>),
    Id(SessionId),
    Name(String),
    DueUser(Dated<UserDigest>),
}

impl After {
    pub(super) fn of(what: &List, cursor: Option<&Cursor>) -> Result<Self> {
        let Some(cursor) = cursor else { return Ok(Self::Nothing) };
        Ok(match what {
            List::Sessions(Query { user: Some(_), .. }, _) | List::Due(_) => {
                Self::Place(cursor.as_str().parse().map_err(|()| Cursor::invalid())?)
            }
            List::Sessions(..) | List::Everything => Self::Id(cursor.parse()?),
            List::Users => Self::Name(cursor.name()?),
            List::DueUsers(_) => Self::DueUser(cursor.as_str().parse().map_err(|()| Cursor::invalid())?),
        })
    }
}

/// A page. What is damaged is left out: doctor tells of it.
pub(super) fn list(within: Within<'_>, what: &List, after: &After, limit: usize) -> Result<Page<Listed>, Fault> {
    match what {
        List::Sessions(query @ Query { user: Some(user), .. }, now) => of_user(within, user, query, *now, after, limit),
        List::Sessions(query, now) => anywhere(within, after, limit, |id| {
            let record = within.listed(id)?.filter(|record| shows(query, *now, record));
            Ok(record.map(|record| Listed::Session(Slot::Open(record))))
        }),
        List::Everything => anywhere(within, after, limit, |id| {
            Ok(whole(within.stored(id, Part::All))?.flatten().map(|stored| Listed::Session(stored.slot)))
        }),
        List::Due(now) => {
            let after = if let After::Place(after) = after { Some(after) } else { None };
            let due = tables::due(within.view, Due::Session, after, *now, limit.saturating_add(1))?;
            due_page(due, limit, |id| Ok(within.listed(*id)?.map(|record| Listed::Session(Slot::Open(record)))))
        }
        List::DueUsers(now) => {
            let after = if let After::DueUser(after) = after { Some(after) } else { None };
            let due = tables::due(within.view, Due::User, after, *now, limit.saturating_add(1))?;
            due_page(due, limit, |digest| user(within, digest))
        }
        List::Users => users(within, after, limit),
    }
}

/// Open slots of a user, newest first, at most so many.
pub(super) fn heads_of(within: Within<'_>, user: &str, limit: usize) -> Result<Vec<Arc<Record>>, Fault> {
    let mut heads = Vec::new();
    for marker in within.sessions_of(&within.digest(user))? {
        if heads.len() == limit {
            break;
        }
        heads.extend(within.listed(marker.name)?);
    }
    Ok(heads)
}

/// Forgets what is old; says whether there may be more.
pub(super) fn forget(within: Within<'_>, forget: &Forget, portion: usize) -> Result<bool, Fault> {
    let view = within.view;
    let due = tables::due::<SessionId>(view, Due::Ended, None, forget.ended_before, portion + 1)?;
    let more = due.len() > portion;
    for marker in due.into_iter().take(portion) {
        let stored = whole(within.stored(marker.name, Part::Head))?.flatten();
        if matches!(stored, Some(Stored { slot: Slot::Ended(slot), .. }) if slot.ended.at == marker.at) {
            view.remove(layout::session(marker.name));
        }
        view.remove(Due::Ended.marker(marker.at, marker.name));
    }
    let (_, more_entries) = audit::forget(view, forget.audit_before, portion)?;
    Ok(more || more_entries)
}

fn shows(query: &Query, now: Timestamp, record: &Record) -> bool {
    record.info.expiry(now).is_none() && query.matches(&record.info)
}

fn of_user(
    within: Within<'_>,
    user: &str,
    query: &Query,
    now: Timestamp,
    after: &After,
    limit: usize,
) -> Result<Page<Listed>, Fault> {
    let mut items = Vec::new();
    let mut last: Option<Dated<SessionId>> = None;
    for place in within.sessions_of(&within.digest(user))? {
        if matches!(after, After::Place(after) if place >= *after) {
            continue;
        }
        let Some(record) = within.listed(place.name)?.filter(|record| shows(query, now, record)) else { continue };
        if items.len() == limit {
            return Ok(Page { items, next: last.map(|last| Cursor::new(last.to_string())) });
        }
        items.push(Listed::Session(Slot::Open(record)));
        last = Some(place);
    }
    Ok(Page { items, next: None })
}

/// What `shown` makes of slots, in the order of their ids.
fn anywhere(
    within: Within<'_>,
    after: &After,
    limit: usize,
    shown: impl Fn(SessionId) -> Result<Option<Listed>, Fault>,
) -> Result<Page<Listed>, Fault> {
    let after = if let After::Id(after) = after { Some(*after) } else { None };
    let (mut items, mut looked_at, mut last) = (Vec::new(), 0, after);
    for byte in after.map_or(0, |after| after.as_bytes()[0])..=u8::MAX {
        let names = within.view.list(&layout::sessions(byte))?;
        let mut ids: Vec<_> = names.iter().filter_map(|name| layout::session_named(name)).collect();
        ids.retain(|id| after.is_none_or(|after| *id > after));
        ids.sort_unstable();
        for id in ids {
            if items.len() == limit || looked_at == LOOK {
                return Ok(Page { items, next: last.map(|last| Cursor::new(last.to_string())) });
            }
            items.extend(shown(id)?);
            looked_at += 1;
            last = Some(id);
        }
    }
    Ok(Page { items, next: None })
}

/// A page of what is due, of which there may be more.
fn due_page<N: std::fmt::Display>(
    mut due: Vec<Dated<N>>,
    limit: usize,
    listed: impl Fn(&N) -> Result<Option<Listed>, Fault>,
) -> Result<Page<Listed>, Fault> {
    let more = due.len() > limit;
    due.truncate(limit);
    let mut items = Vec::new();
    for due in &due {
        items.extend(listed(&due.name)?);
    }
    let next = due.last().filter(|_| more).map(|last| Cursor::new(last.to_string()));
    Ok(Page { items, next })
}

fn user(within: Within<'_>, digest: &UserDigest) -> Result<Option<Listed>, Fault> {
    Ok(whole(within.user_at(digest))?.flatten().map(|(name, slot)| Listed::User(name, slot)))
}

/// In the order of their digests.
fn users(within: Within<'_>, after: &After, limit: usize) -> Result<Page<Listed>, Fault> {
    let after = if let After::Name(name) = after { Some(within.digest(name)) } else { None };
    let (mut items, mut last) = (Vec::new(), None);
    for byte in after.as_ref().map_or(0, UserDigest::first_byte)..=u8::MAX {
        let names = within.view.list(&layout::users(byte))?;
        let mut digests: Vec<UserDigest> = names.iter().filter_map(|name| name.parse().ok()).collect();
        digests.retain(|digest| after.as_ref().is_none_or(|after| digest > after));
        digests.sort_unstable();
        for digest in digests {
            let Some(Listed::User(name, slot)) = user(within, &digest)? else { continue };
            if items.len() == limit {
                return Ok(Page { items, next: last.as_deref().map(Cursor::behind) });
            }
            last = Some(Arc::clone(&name));
            items.push(Listed::User(name, slot));
        }
    }
    Ok(Page { items, next: None })
}
