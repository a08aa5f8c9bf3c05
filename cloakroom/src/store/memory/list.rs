//! Lists, shard after shard.

use std::{ops::Bound, sync::Arc};

use super::{MemoryStore, SHARDS, Shard, shard_number};
use crate::{
    clock::Timestamp,
    error::Result,
    store::{
        Cursor, Page, Query,
        slots::{List, Listed, Slot},
    },
    token::SessionId,
};

impl MemoryStore {
    pub(super) fn list_now(&self, what: &List, after: Option<&Cursor>, limit: usize) -> Result<Page<Listed>> {
        match what {
            List::Sessions(Query { user: Some(user), .. }, _) => {
                let after = after.map(Place::parse).transpose()?;
                let shard = self.shard_at(self.number_of(user));
                let places = shard.beside.sessions.of(user).rev();
                let behind = places.filter(|place| after.is_none_or(|after| **place < (after.at, after.id)));
                let open = behind.filter_map(|(_, id)| shard.slot(*id)).filter(|slot| what.shows(slot));
                let mut page: Vec<_> = open.take(limit.saturating_add(1)).map(Listed::Session).collect();
                let more = page.len() > limit;
                page.truncate(limit);
                let next = page.last().filter(|_| more).map(Place::of_user).map(Place::cursor);
                Ok(Page { items: page, next })
            }
            List::Sessions(..) | List::Everything => {
                let after: Option<SessionId> = after.map(Cursor::parse).transpose()?;
                let number = after.map_or(0, |id| shard_number(id.partition()));
                let of_shard = |shard: &Shard, after: Option<&SessionId>| {
                    let open = shard.open.values().map(|record| Slot::Open(Arc::clone(record)));
                    let ended = shard.beside.ended.values().map(|slot| Slot::Ended(Arc::clone(slot)));
                    let behind = open.chain(ended).filter(|slot| after.is_none_or(|after| slot.id() > *after));
                    let mut shown: Vec<_> = behind.filter(|slot| what.shows(slot)).collect();
                    shown.sort_unstable_by_key(Slot::id);
                    shown.into_iter().map(|slot| (slot.id(), Listed::Session(slot))).collect()
                };
                Ok(self.gather(number, after, limit, of_shard, |id| Cursor::new(id.to_string())))
            }
            List::Due(now) => {
                let after = after.map(Place::parse).transpose()?;
                let number = after.map_or(0, |place| shard_number(place.id.partition()));
                let of_shard = |shard: &Shard, after: Option<&Place>| {
                    let behind = after.map_or(Bound::Unbounded, |place| Bound::Excluded((place.at, place.id)));
                    let due = shard.beside.due.range((behind, Bound::Unbounded)).take_while(|(at, _)| at <= now);
                    let slot = |(at, id): &_| Some((Place { at: *at, id: *id }, Listed::Session(shard.slot(*id)?)));
                    due.filter_map(slot).take(limit.saturating_add(1)).collect()
                };
                Ok(self.gather(number, after, limit, of_shard, |place| place.cursor()))
            }
            List::DueUsers(now) => self.gather_users(after, limit, |shard, after| {
                let mut due: Vec<_> = shard.beside.due_users.iter().take_while(|(at, _)| at <= now).collect();
                due.sort_unstable_by_key(|(_, name)| name);
                let behind = due.into_iter().map(|(_, name)| name);
                behind.filter(|name| after.is_none_or(|after| ***name > **after)).cloned().collect()
            }),
            List::Users => self.gather_users(after, limit, |shard, after| {
                let behind = after.map_or(Bound::Unbounded, |after| Bound::Excluded(&**after));
                let names = shard.beside.users.range::<str, _>((behind, Bound::Unbounded)).map(|(name, _)| name);
                names.take(limit.saturating_add(1)).cloned().collect()
            }),
        }
    }

    fn gather_users(
        &self,
        after: Option<&Cursor>,
        limit: usize,
        of_shard: impl Fn(&Shard, Option<&Arc<str>>) -> Vec<Arc<str>>,
    ) -> Result<Page<Listed>> {
        let after: Option<Arc<str>> = after.map(Cursor::name).transpose()?.map(Into::into);
        let number = after.as_ref().map_or(0, |name| self.number_of(name));
        let of_shard = |shard: &Shard, after: Option<&Arc<str>>| {
            let slot = |name: Arc<str>| {
                let slot = shard.user(&name)?.clone();
                Some((Arc::clone(&name), Listed::User(name, slot)))
            };
            of_shard(shard, after).into_iter().filter_map(slot).collect()
        };
        Ok(self.gather(number, after, limit, of_shard, |name| Cursor::behind(name)))
    }

    /// The page behind a place, which is in the shard of this number. `of_shard` tells what is behind a place in a shard.
    fn gather<P>(
        &self,
        first: u16,
        after: Option<P>,
        limit: usize,
        of_shard: impl Fn(&Shard, Option<&P>) -> Vec<(P, Listed)>,
        cursor: impl Fn(&P) -> Cursor,
    ) -> Page<Listed> {
        let mut items = Vec::new();
        let mut place = after;
        for number in first..SHARDS {
            let behind = place.as_ref().filter(|_| number == first);
            for (behind, item) in of_shard(&self.shard_at(number), behind) {
                if items.len() >= limit {
                    return Page { items, next: place.as_ref().map(cursor) };
                }
                items.push(item);
                place = Some(behind);
            }
        }
        Page { items, next: None }
    }
}

impl List {
    fn shows(&self, slot: &Slot) -> bool {
        match (self, slot) {
            (Self::Sessions(query, now), Slot::Open(record)) => {
                record.info.expiry(*now).is_none() && query.matches(&record.info)
            }
            (Self::Sessions(..), Slot::Ended(_)) => false,
            (Self::Due(_) | Self::DueUsers(_) | Self::Users | Self::Everything, _) => true,
        }
    }
}

/// A time and a session.
#[derive(Clone, Copy)]
struct Place {
    at: Timestamp,
    id: SessionId,
}

impl Place {
    /// In the list of its user.
    fn of_user(listed: &Listed) -> Self {
        let Listed::Session(Slot::Open(record)) = listed else { unreachable!("lists of a user show open slots") };
        Self { at: record.info.created_at, id: record.info.id }
    }

    fn cursor(self) -> Cursor {
        Cursor::new(format!("{}.{}", self.at.as_millis(), self.id))
    }

    fn parse(cursor: &Cursor) -> Result<Self> {
        let (millis, id) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
        let millis = millis.parse().map_err(|_| Cursor::invalid())?;
        Ok(Self { at: Timestamp::from_millis(millis), id: id.parse().map_err(|_| Cursor::invalid())? })
    }
}
