//! Lists: of a user, of all, of what is due, group by group.

use std::cmp::Ordering;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::{Cmd, Value, cmd};

use super::{
    Inner,
    keys::{OfGroup, Place, groups},
    read::{self, Part},
    reply::{Damaged, Hash, Reply},
    slot,
};
use crate::{
    clock::Timestamp,
    error::Result,
    store::{
        Cursor, Page, Query,
        slots::{List, Listed, Slot},
    },
    token::{Partition, SessionId},
};

/// So many sessions are looked at for one page of those that match.
const LOOKED_AT: usize = 1000;

/// So many groups are asked at the same time, when those before were empty.
const GROUPS_AT_ONCE: usize = 128;

impl Inner {
    pub(super) async fn list(&self, what: &List, after: Option<&Cursor>, limit: usize) -> Result<Page<Listed>> {
        match what {
            List::Sessions(query, now) => match &query.user {
                Some(user) => self.list_of_user(user, query, after, limit, *now).await,
                None => self.list_of_all(query, after, limit, *now).await,
            },
            List::Due(now) => {
                let (members, next) = self.due(OfGroup::Due, *now, after, limit).await?;
                let ids = members.into_iter().map(|id| Value::BulkString(id).id()).collect::<Result<Vec<_>, _>>()?;
                let slots = self.slots(&ids, Part::Bare).await?.into_iter();
                let open =
                    slots.filter_map(|slot| read::open(slot.ok()?)).map(|record| Listed::Session(Slot::Open(record)));
                Ok(Page { items: open.collect(), next })
            }
            List::DueUsers(now) => {
                let (names, next) = self.due(OfGroup::UsersDue, *now, after, limit).await?;
                Ok(Page { items: self.users_named(names).await?, next })
            }
            List::Users => {
                let after =
                    after.map_or(Ok(Spot::start(OfGroup::Names)), |after| Spot::parse(OfGroup::Names, after))?;
                let (spots, end) = self.walk(after, limit).await?;
                let next = spots.last().filter(|_| !end).map(Spot::cursor);
                let names = spots.into_iter().filter_map(|spot| spot.member).collect();
                Ok(Page { items: self.users_named(names).await?, next })
            }
            List::Everything => {
                let after = after.map_or(Ok(Spot::start(OfGroup::Seen)), |after| Spot::parse(OfGroup::Seen, after))?;
                let (spots, end) = self.walk(after, limit).await?;
                let next = spots.last().filter(|_| !end).map(Spot::cursor);
                let ids = spots.into_iter().filter_map(|spot| spot.member).map(|id| Value::BulkString(id).id());
                let ids = ids.collect::<Result<Vec<_>, _>>()?;
                let slots = self.slots(&ids, Part::Whole).await?;
                let item = |(slot, id): (Result<Option<Slot>>, &SessionId)| match slot {
                    Ok(slot) => slot.map(Listed::Session),
                    Err(error) => Some(Listed::Damaged(*id, read::told(&error))),
                };
                Ok(Page { items: slots.into_iter().zip(&ids).filter_map(item).collect(), next })
            }
        }
    }

    async fn list_of_user(
        &self,
        user: &str,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<Listed>> {
        let group = self.partition_key.partition_of(user).group();
        let [from, mut to] = Place::all_of(user, &self.partition_key);
        let mut last = None;
        if let Some(after) = after {
            let place = Value::BulkString(decoded(after.as_str())?).place().map_err(|_| Cursor::invalid())?;
            if !place.belongs_to(user, &self.partition_key) {
                return Err(Cursor::invalid());
            }
            to = place.beyond();
            last = Some(place);
        }
        let cursor =
            |place: &Option<Place>| place.as_ref().map(|place| Cursor::new(URL_SAFE_NO_PAD.encode(place.as_bytes())));
        let (mut items, mut looked_at) = (Vec::new(), 0);
        loop {
            // One more than fits tells whether more follow.
            let count = (limit - items.len() + 1).min(LOOKED_AT);
            let found = self.list_of(group, [&from, &to], count).await?;
            let end = found.len() < count;
            looked_at += found.len();
            for (place, slot) in found {
                if let Some(listed) = matching(slot, query, now) {
                    if items.len() == limit {
                        return Ok(Page { items, next: cursor(&last) });
                    }
                    items.push(listed);
                }
                to = place.beyond();
                last = Some(place);
            }
            if end || looked_at >= LOOKED_AT {
                return Ok(Page { items, next: cursor(&last).filter(|_| !end) });
            }
        }
    }

    async fn list_of_all(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<Listed>> {
        let mut last = after.map_or(Ok(Spot::start(OfGroup::Index)), |after| Spot::parse(OfGroup::Index, after))?;
        let (mut items, mut looked_at) = (Vec::new(), 0);
        loop {
            let (spots, end) = self.walk(last.clone(), (limit - items.len() + 1).min(LOOKED_AT)).await?;
            looked_at += spots.len();
            let members = spots.iter().filter_map(|spot| spot.member.as_deref());
            let places = members.map(|member| Place::from_bytes(member).ok_or(Damaged("a place")));
            let ids = places.map(|place| place.map(|place| place.id())).collect::<Result<Vec<_>, _>>()?;
            for (slot, spot) in self.slots(&ids, Part::Head).await?.into_iter().zip(spots) {
                if let Some(listed) = matching(slot, query, now) {
                    if items.len() == limit {
                        return Ok(Page { items, next: Some(last.cursor()) });
                    }
                    items.push(listed);
                }
                last = spot;
            }
            if end || looked_at >= LOOKED_AT {
                return Ok(Page { items, next: Some(last.cursor()).filter(|_| !end) });
            }
        }
    }

    async fn users_named(&self, names: Vec<Vec<u8>>) -> Result<Vec<Listed>> {
        let named: Vec<String> =
            names.into_iter().map(String::from_utf8).collect::<Result<_, _>>().map_err(|_| Damaged("a user's name"))?;
        let calls = named.iter().map(|user| {
            let group = self.partition_key.partition_of(user).group();
            let get = |key| {
                let mut get = cmd("HGET");
                get.arg(self.keys.of_group(key, group)).arg(user);
                get
            };
            self.checked(group, vec![get(OfGroup::Users), get(OfGroup::SignedIn)])
        });
        let answers = self.servers.run_all(calls).await?;
        let mut users = Vec::with_capacity(named.len());
        for (answer, user) in answers.into_iter().zip(&named) {
            let mut parts = self.of_this_store(answer)?.into_iter();
            let (stored, signed_in) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            users.extend(slot::user(stored, signed_in)?.map(|slot| Listed::User(user.as_str().into(), slot)));
        }
        Ok(users)
    }

    /// Members behind a spot, at most so many, in the order of groups and then of bytes; and whether there are no more.
    async fn walk(&self, after: Spot, most: usize) -> Result<(Vec<Spot>, bool)> {
        let Spot { of, mut group, member: mut behind } = after;
        let mut found = Vec::new();
        let mut at_once = 1;
        while group < Partition::GROUPS {
            let asked: Vec<_> = groups().skip(group.into()).take(at_once).collect();
            let calls = asked.iter().map(|asked| {
                let behind = behind.as_deref().filter(|_| *asked == group);
                self.checked(*asked, vec![self.members(of, *asked, behind, most)])
            });
            let before = found.len();
            for (answer, asked) in self.servers.run_all(calls).await?.into_iter().zip(&asked) {
                let members = self.of_this_store(answer)?.pop().unwrap_or_default().array()?;
                let mut members = members.into_iter().map(Reply::bytes).collect::<Result<Vec<_>, _>>()?;
                if of == OfGroup::Seen {
                    // A hash has no order of its own, and other fields than ids.
                    let behind = behind.as_ref().filter(|_| *asked == group);
                    members.retain(|field| {
                        field.len() == SessionId::TEXT_LEN && behind.is_none_or(|behind| field > behind)
                    });
                    members.sort_unstable();
                }
                for member in members {
                    if found.len() == most {
                        return Ok((found, false));
                    }
                    found.push(Spot { of, group: *asked, member: Some(member) });
                }
                if found.len() == most {
                    return Ok((found, *asked == Partition::GROUPS - 1 && of == OfGroup::Seen));
                }
            }
            group = asked.last().map_or(Partition::GROUPS, |last| last + 1);
            behind = None;
            let few = found.len() - before < at_once;
            at_once = if few { (at_once * 2).min(GROUPS_AT_ONCE) } else { 1 };
        }
        Ok((found, true))
    }

    fn members(&self, of: OfGroup, group: u16, behind: Option<&[u8]>, most: usize) -> Cmd {
        let key = self.keys.of_group(of, group);
        if of == OfGroup::Seen {
            let mut members = cmd("HKEYS");
            members.arg(key);
            return members;
        }
        let from = behind.map_or_else(|| b"-".to_vec(), |behind| [b"(", behind].concat());
        let mut range = cmd("ZRANGEBYLEX");
        range.arg(key).arg(from).arg("+").arg("LIMIT").arg(0).arg(most);
        range
    }

    /// Members whose time has come, those of the earliest time first, and where to go on.
    async fn due(
        &self,
        of: OfGroup,
        now: Timestamp,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<(Vec<Vec<u8>>, Option<Cursor>)> {
        /// So many of one group are looked at for a page.
        const MOST: usize = 256;
        let after = after.map(|after| Moment::parse(of, after)).transpose()?;
        let count = (limit / 64).clamp(4, MOST);
        let calls = groups().map(|group| {
            let from = after.as_ref().map_or_else(|| "-inf".into(), |after| after.bound(group));
            self.checked(group, vec![self.until(of, group, &from, now, [0, count])])
        });
        let answers = self.servers.run_all(calls).await?;
        let mut found = Vec::new();
        // Of a group that has more than was asked for, what follows is unknown, and so the page ends there at the latest.
        let mut known_until: Option<Moment> = None;
        for (group, answer) in groups().zip(answers) {
            let mut answer = self.of_this_store(answer)?.pop().unwrap_or_default();
            let mut skipped = 0;
            let (moments, full) = loop {
                let flat = Hash::read(answer)?.into_fields();
                let full = flat.len() == count;
                let moments = flat.into_iter().map(|(member, at)| Ok(Moment { at: at.number()?, group, member }));
                let mut moments = moments.collect::<Result<Vec<_>, Damaged>>()?;
                moments.retain(|moment| after.as_ref().is_none_or(|after| moment > after));
                if !moments.is_empty() || !full {
                    break (moments, full);
                }
                // All of these have the time, and lie before the spot.
                skipped += count;
                let from = after.as_ref().map_or_else(|| "-inf".into(), |after| after.bound(group));
                let more = self.checked(group, vec![self.until(of, group, &from, now, [skipped, count])]);
                answer = self.of_this_store(self.servers.run(&more).await?)?.pop().unwrap_or_default();
            };
            if let Some(last) = moments.last().filter(|_| full) {
                known_until = Some(known_until.map_or_else(|| last.clone(), |known| known.min(last.clone())));
            }
            found.extend(moments);
        }
        found.sort_unstable();
        let all = found.len();
        found.retain(|moment| known_until.as_ref().is_none_or(|known| moment <= known));
        found.truncate(limit);
        let more = known_until.is_some() || found.len() < all;
        let next = found.last().filter(|_| more).map(|last| last.cursor(of));
        Ok((found.into_iter().map(|moment| moment.member).collect(), next))
    }

    fn until(&self, of: OfGroup, group: u16, from: &str, now: Timestamp, [skip, count]: [usize; 2]) -> Cmd {
        let mut range = cmd("ZRANGEBYSCORE");
        range.arg(self.keys.of_group(of, group)).arg(from).arg(now.as_millis());
        range.arg("WITHSCORES").arg("LIMIT").arg(skip).arg(count);
        range
    }
}

/// Lists leave out what cannot be read.
fn matching(slot: Result<Option<Slot>>, query: &Query, now: Timestamp) -> Option<Listed> {
    let record = read::open(slot.ok()?)?;
    let lives = record.info.expiry(now).is_none();
    (lives && query.matches(&record.info)).then_some(Listed::Session(Slot::Open(record)))
}

/// A place among all members of one kind: they are in the order of groups, and in each of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spot {
    of: OfGroup,
    group: u16,
    /// None before the first.
    member: Option<Vec<u8>>,
}

impl Spot {
    fn start(of: OfGroup) -> Self {
        Self { of, group: 0, member: None }
    }

    fn parse(of: OfGroup, cursor: &Cursor) -> Result<Self> {
        let text = cursor.as_str().strip_prefix(letter(of)).ok_or_else(Cursor::invalid)?;
        let Some((group, member)) = text.split_once('.') else {
            return Ok(Self { of, group: group_of(text)?, member: None });
        };
        let (group, member) = (group_of(group)?, decoded(member)?);
        let fits = match of {
            OfGroup::Index => Place::from_bytes(&member).is_some(),
            OfGroup::Seen => member.len() == SessionId::TEXT_LEN,
            _ => true,
        };
        if fits { Ok(Self { of, group, member: Some(member) }) } else { Err(Cursor::invalid()) }
    }

    fn cursor(&self) -> Cursor {
        let Self { of, group, member } = self;
        Cursor::new(match member {
            Some(member) => format!("{}{group}.{}", letter(*of), URL_SAFE_NO_PAD.encode(member)),
            None => format!("{}{group}", letter(*of)),
        })
    }
}

/// A place among what has a time, and within that a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    at: i64,
    group: u16,
    member: Vec<u8>,
}

impl Moment {
    /// From where on a group has something behind it, and perhaps some before.
    fn bound(&self, group: u16) -> String {
        match group.cmp(&self.group) {
            Ordering::Less => format!("({}", self.at),
            Ordering::Equal | Ordering::Greater => self.at.to_string(),
        }
    }

    fn parse(of: OfGroup, cursor: &Cursor) -> Result<Self> {
        let text = cursor.as_str().strip_prefix(letter(of)).ok_or_else(Cursor::invalid)?;
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or_else(Cursor::invalid);
        let (at, group, member) = (part()?, part()?, part()?);
        Ok(Self { at: at.parse().map_err(|_| Cursor::invalid())?, group: group_of(group)?, member: decoded(member)? })
    }

    fn cursor(&self, of: OfGroup) -> Cursor {
        let Self { at, group, member } = self;
        Cursor::new(format!("{}{at}.{group}.{}", letter(of), URL_SAFE_NO_PAD.encode(member)))
    }
}

/// So that a cursor of one list is none of another.
fn letter(of: OfGroup) -> char {
    match of {
        OfGroup::Seen => 'e',
        OfGroup::Index => 's',
        OfGroup::Names => 'n',
        OfGroup::Due => 'd',
        _ => 'u',
    }
}

fn group_of(text: &str) -> Result<u16> {
    text.parse().ok().filter(|group| *group < Partition::GROUPS).ok_or_else(Cursor::invalid)
}

fn decoded(text: &str) -> Result<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Cursor::invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_and_moments_are_read_back_and_no_others() {
        let spots = [
            Spot::start(OfGroup::Index),
            Spot { of: OfGroup::Names, group: 1023, member: Some("анна.b".into()) },
            Spot { of: OfGroup::Names, group: 3, member: Some(Vec::new()) },
            Spot { of: OfGroup::Seen, group: 7, member: Some(vec![b'a'; SessionId::TEXT_LEN]) },
        ];
        for spot in spots {
            assert_eq!(Spot::parse(spot.of, &spot.cursor()).unwrap(), spot);
        }
        let moment = Moment { at: -5, group: 3, member: b"x".to_vec() };
        assert_eq!(Moment::parse(OfGroup::Due, &moment.cursor(OfGroup::Due)).unwrap(), moment);
        assert!(Moment::parse(OfGroup::UsersDue, &moment.cursor(OfGroup::Due)).is_err());
        for text in ["", "s", "s1024.", "s3.AAAA", "s3.*", "n1.", "e1.AA"] {
            assert!(Spot::parse(OfGroup::Index, &Cursor::new(text)).is_err(), "{text}");
        }
        for text in ["", "d1", "d1.2", "dx.1.", "d1.1024."] {
            assert!(Moment::parse(OfGroup::Due, &Cursor::new(text)).is_err(), "{text}");
        }
    }
}
