//! Moving sessions in and out of Redis, group by group.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::{Value, cmd};

use super::{
    Inner, RedisStore, groups, health, keys,
    keys::Place,
    record,
    reply::{Damaged, Hash, Reply},
    rows, scripts,
    scripts::{Arguments, Call, Effect},
};
use crate::{
    Error, Partition, PartitionKey, Record, Result, SessionId, Timestamp,
    store::{
        BoxFuture, Cursor, Imported, Item, Loaded, Page, Tombstone, Transfer, UserFence,
        transfer::{check_places, has_users, holds_others},
    },
};

impl Transfer for RedisStore {
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>> {
        Box::pin(self.inner.export(after, limit))
    }

    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>> {
        Box::pin(self.inner.import(items))
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.inner.partition_key.differs_from(key)? && has_users(self).await? {
                return Err(holds_others());
            }
            self.inner.adopt(key).await
        })
    }
}

/// So many groups are asked at the same time.
const GROUPS_AT_ONCE: usize = 32;

/// How often an item is decided on anew because somebody else changed what is there.
const TRIES: usize = 8;

/// No deadline has passed then.
const BEFORE_ALL: Timestamp = Timestamp::from_millis(-(1 << 52));

/// What is exported, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sessions,
    Tombstones,
    Fences,
}

/// Where an export goes on: in a group, behind a place that each kind has its own form of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spot {
    kind: Kind,
    group: u16,
    behind: Option<Vec<u8>>,
}

/// Something found, to be read.
enum Found {
    Session(SessionId),
    Fence(UserFence),
}

impl Inner {
    async fn export(&self, after: Option<&Cursor>, limit: usize) -> Result<Page<Item>> {
        let mut spot = after.map_or(Ok(Spot { kind: Kind::Sessions, group: 0, behind: None }), Spot::parse)?;
        let mut found = Vec::new();
        while found.len() < limit && spot.group < Partition::GROUPS {
            let room = limit - found.len();
            let asked: Vec<_> = groups().skip(spot.group.into()).take(GROUPS_AT_ONCE).collect();
            let mut there = match spot.kind {
                Kind::Sessions => self.sessions(&asked, spot.behind.take(), room).await?,
                Kind::Tombstones => self.tombstones(&asked, spot.behind.take(), room).await?,
                Kind::Fences => self.fences(&asked, spot.behind.take()).await?,
            };
            there.truncate(room);
            spot = match there.last() {
                Some((last, _)) if there.len() == room => last.clone(),
                _ => Spot { group: asked.last().map_or(Partition::GROUPS, |last| last + 1), behind: None, ..spot },
            };
            found.extend(there.into_iter().map(|(_, found)| found));
        }
        let items = self.read(found).await?;
        Ok(Page { items, next: spot.or_next_kind().map(Spot::cursor) })
    }

    async fn sessions(&self, asked: &[u16], mut behind: Option<Vec<u8>>, room: usize) -> Result<Vec<(Spot, Found)>> {
        let calls = asked.iter().map(|group| {
            let from = behind.take().map_or_else(|| b"-".to_vec(), |place| [b"(", place.as_slice()].concat());
            let mut range = cmd("ZRANGEBYLEX");
            range.arg(self.keys.of_group("index", *group)).arg(from).arg("+").arg("LIMIT").arg(0).arg(room);
            Call::read(keys::slot_of_group(*group), range)
        });
        let mut found = Vec::new();
        for (answer, group) in self.servers.run_all(calls).await?.into_iter().zip(asked) {
            for place in answer.array()? {
                let place = rows::place(place)?;
                let behind = Some(place.as_bytes().to_vec());
                found.push((Spot { kind: Kind::Sessions, group: *group, behind }, Found::Session(place.id())));
            }
        }
        Ok(found)
    }

    /// In the order in which they ended. Behind how many that ended in the same millisecond is part of the place.
    async fn tombstones(&self, asked: &[u16], behind: Option<Vec<u8>>, room: usize) -> Result<Vec<(Spot, Found)>> {
        let start = behind.map(|behind| place_in_time(&behind)).transpose()?;
        let mut first = start;
        let calls = asked.iter().map(|group| {
            let (from, skipped) = first.take().map_or(("-inf".to_owned(), 0), |(at, count)| (at.to_string(), count));
            let mut range = cmd("ZRANGEBYSCORE");
            range.arg(self.keys.of_group("buried", *group)).arg(from).arg("+inf");
            range.arg("WITHSCORES").arg("LIMIT").arg(skipped).arg(room);
            Call::read(keys::slot_of_group(*group), range)
        });
        let mut found = Vec::new();
        for (answer, group) in self.servers.run_all(calls).await?.into_iter().zip(asked) {
            let mut last = start.filter(|_| Some(group) == asked.first());
            for (id, at) in Hash::read(answer)?.into_fields() {
                let at: i64 = at.number()?;
                let count = last.filter(|(before, _)| *before == at).map_or(1, |(_, count)| count + 1);
                last = Some((at, count));
                let behind = Some(format!("{at} {count}").into_bytes());
                let id = Value::BulkString(id).id()?;
                found.push((Spot { kind: Kind::Tombstones, group: *group, behind }, Found::Session(id)));
            }
        }
        Ok(found)
    }

    /// In the order of the users, group by group.
    async fn fences(&self, asked: &[u16], behind: Option<Vec<u8>>) -> Result<Vec<(Spot, Found)>> {
        let calls = asked.iter().flat_map(|group| {
            let mut disabled = cmd("SMEMBERS");
            disabled.arg(self.keys.of_group("disabled", *group));
            let mut fenced = cmd("ZRANGE");
            fenced.arg(self.keys.of_group("fenced", *group)).arg(0).arg(-1).arg("WITHSCORES");
            [disabled, fenced].map(|range| Call::read(keys::slot_of_group(*group), range))
        });
        let mut answers = self.servers.run_all(calls).await?.into_iter();
        let mut found = Vec::new();
        for group in asked {
            let mut users: BTreeMap<Vec<u8>, (bool, Option<Timestamp>)> = BTreeMap::new();
            for user in answers.next().unwrap_or_default().array()? {
                users.insert(user.bytes()?, (true, None));
            }
            for (user, at) in Hash::read(answers.next().unwrap_or_default())?.into_fields() {
                users.entry(user).or_default().1 = Some(at.time()?);
            }
            let behind = behind.as_ref().filter(|_| Some(group) == asked.first());
            for (user, (disabled, ended_before)) in users {
                if behind.is_some_and(|behind| user <= *behind) {
                    continue;
                }
                let spot = Spot { kind: Kind::Fences, group: *group, behind: Some(user.clone()) };
                let user = String::from_utf8(user).map_err(|_| Damaged("a user"))?.into();
                found.push((spot, Found::Fence(UserFence { user, disabled, ended_before })));
            }
        }
        Ok(found)
    }

    async fn read(&self, found: Vec<Found>) -> Result<Vec<Item>> {
        let ids = found.iter().filter_map(|found| match found {
            Found::Session(id) => Some(*id),
            Found::Fence(_) => None,
        });
        let mut loaded = self.whatever_is(&ids.collect::<Vec<_>>()).await?.into_iter();
        let items = found.into_iter().filter_map(|found| match found {
            Found::Session(_) => match loaded.next()? {
                Loaded::Live(record) => Some(Item::Session(record)),
                Loaded::Ended(tombstone) => Some(Item::Ended(tombstone)),
                // Forgotten meanwhile.
                Loaded::Unknown => None,
            },
            Found::Fence(fence) => Some(Item::Fence(fence)),
        });
        Ok(items.collect())
    }

    /// What is stored under ids, expired or not.
    async fn whatever_is(&self, ids: &[SessionId]) -> Result<Vec<Loaded>> {
        let calls = ids.iter().map(|id| {
            let arguments = Arguments::new(BEFORE_ALL).text(id.to_string());
            self.on_session(&scripts::LOAD, *id, 2, arguments).with(Effect::Reads)
        });
        let answers = self.servers.run_all(calls).await?.into_iter().zip(ids);
        let loaded = answers.map(|(answer, id)| {
            let (word, rest) = answer.tagged()?;
            Ok(match word.as_str() {
                "live" => Loaded::Live(record(*id, rest)?),
                "ended" => Loaded::Ended(Arc::new(rows::tombstone(*id, rest)?)),
                _ => Loaded::Unknown,
            })
        });
        loaded.collect()
    }

    async fn import(&self, items: &[Item]) -> Result<Vec<Imported>> {
        check_places(items, &self.partition_key)?;
        let mut imported = vec![Imported::Kept; items.len()];
        let mut open: Vec<usize> = Vec::new();
        let mut fences: Vec<(usize, &UserFence)> = Vec::new();
        for (place, item) in items.iter().enumerate() {
            match item {
                Item::Session(_) | Item::Ended(_) => open.push(place),
                Item::Fence(fence) => fences.push((place, fence)),
            }
        }
        for _ in 0..TRIES {
            if open.is_empty() {
                break;
            }
            open = self.import_sessions(items, open, &mut imported).await?;
        }
        if !open.is_empty() {
            return Err(Error::Contended { attempts: u32::try_from(TRIES).unwrap_or(u32::MAX) });
        }
        let calls = fences.iter().map(|(_, fence)| self.put_fence(fence));
        for (answer, (place, fence)) in self.servers.run_all(calls).await?.into_iter().zip(&fences) {
            imported[*place] = fence.united_with(fence_there(fence, answer)?.as_ref()).1;
        }
        Ok(imported)
    }

    /// Answers with the places of those that somebody else changed between the look and the write.
    async fn import_sessions(&self, items: &[Item], open: Vec<usize>, imported: &mut [Imported]) -> Result<Vec<usize>> {
        let ids: Vec<_> = open.iter().filter_map(|place| items[*place].session_id()).collect();
        let (mut calls, mut written) = (Vec::new(), Vec::new());
        for (place, there) in open.into_iter().zip(self.whatever_is(&ids).await?) {
            let (done, call) = match &items[place] {
                Item::Session(record) => (Imported::of_session(record, &there), self.put_session(record, &there)),
                Item::Ended(tombstone) => {
                    (Imported::of_tombstone(tombstone, &there), self.put_tombstone(tombstone, &there))
                }
                Item::Fence(_) => continue,
            };
            imported[place] = done;
            if done.writes() {
                calls.push(call);
                written.push(place);
            }
        }
        let answers = self.servers.run_all(calls).await?.into_iter().zip(written);
        Ok(answers.filter(|(answer, _)| *answer != Value::Int(1)).map(|(_, place)| place).collect())
    }

    fn put_session(&self, record: &Record, there: &Loaded) -> Call {
        let info = &record.info;
        let place = Place::of(info, &self.partition_key);
        let retry_of = record.idempotency.as_ref().map_or(&[][..], |digest| digest.as_bytes());
        let mut own = vec![
            b"w".to_vec(),
            rows::who(info),
            b"k".to_vec(),
            record.secrets.current.as_bytes().to_vec(),
            b"p".to_vec(),
            place.as_bytes().to_vec(),
        ];
        if !retry_of.is_empty() {
            own.extend([b"e".to_vec(), retry_of.to_vec()]);
        }
        let arguments = self
            .putting(info.id, there)
            .text("")
            .text(place.as_bytes())
            .number(info.last_seen_at.as_millis())
            .text(info.expires_at().map_or_else(String::new, |at| at.as_millis().to_string()))
            .text(retry_of)
            .extend(own)
            .extend(rows::fields(record));
        self.put(info.id, arguments)
    }

    fn put_tombstone(&self, tombstone: &Tombstone, there: &Loaded) -> Call {
        let id = tombstone.ended.id;
        let arguments = self.putting(id, there).number(tombstone.ended.at.as_millis());
        let arguments = arguments.text("").text("").text("").text("").extend(rows::tombstone_fields(tombstone));
        self.put(id, arguments)
    }

    fn putting(&self, id: SessionId, there: &Loaded) -> Arguments {
        let arguments = self.begin(id.partition().group(), BEFORE_ALL).text(id.to_string());
        arguments.text(match there {
            Loaded::Unknown => String::new(),
            Loaded::Ended(_) => "ended".to_owned(),
            Loaded::Live(record) => {
                let Record { info, secrets, lease, .. } = &**record;
                let mut seen = format!("{} {} {} ", info.version, secrets.rotations, lease.number);
                write!(seen, "{}", info.last_seen_at.as_millis()).expect("a string takes everything");
                seen
            }
        })
    }

    fn put(&self, id: SessionId, arguments: Arguments) -> Call {
        let group = id.partition().group();
        self.on_group(&scripts::PUT, group, &[id], arguments).waiting(self.keys.of_group("wait", group))
    }

    fn put_fence(&self, fence: &UserFence) -> Call {
        let UserFence { user, disabled, ended_before } = fence;
        let group = self.partition_key.partition_of(user).group();
        let arguments = self
            .begin(group, BEFORE_ALL)
            .text(&**user)
            .flag(*disabled)
            .text(ended_before.map_or_else(String::new, |at| at.as_millis().to_string()));
        self.on_group(&scripts::PUT_FENCE, group, &[], arguments).waiting(self.keys.of_group("wait", group))
    }

    async fn adopt(&self, key: &PartitionKey) -> Result<()> {
        if !self.partition_key.differs_from(key)? {
            return Ok(());
        }
        let calls = groups().map(|group| {
            let mut exist = cmd("EXISTS");
            for name in ["index", "buried", "fenced", "disabled", "users"] {
                exist.arg(self.keys.of_group(name, group));
            }
            Call::read(keys::slot_of_group(group), exist)
        });
        if self.servers.run_all(calls).await?.into_iter().any(|answer| answer != Value::Int(0)) {
            return Err(holds_others());
        }
        health::set_partition_key(&self.servers, &self.keys, key).await?;
        self.partition_key.adopt(key);
        Ok(())
    }
}

/// What was there before a fence was put.
fn fence_there(fence: &UserFence, answer: Value) -> Result<Option<UserFence>, Damaged> {
    let [disabled, ended_before] = answer.array()?.try_into().map_err(|_| Damaged("the answer to a fence"))?;
    let (disabled, ended_before) = (disabled == Value::Int(1), ended_before.optional_time()?);
    let is_there = disabled || ended_before.is_some();
    Ok(is_there.then(|| UserFence { user: Arc::clone(&fence.user), disabled, ended_before }))
}

/// When the last tombstone's session ended, and how many of that time there were until it.
fn place_in_time(behind: &[u8]) -> Result<(i64, usize)> {
    let (at, count) = str::from_utf8(behind).ok().and_then(|text| text.split_once(' ')).ok_or_else(Cursor::invalid)?;
    Ok((at.parse().map_err(|_| Cursor::invalid())?, count.parse().map_err(|_| Cursor::invalid())?))
}

impl Spot {
    /// At the end of the last group the next kind begins.
    fn or_next_kind(self) -> Option<Self> {
        if self.group < Partition::GROUPS {
            return Some(self);
        }
        let kind = match self.kind {
            Kind::Sessions => Kind::Tombstones,
            Kind::Tombstones => Kind::Fences,
            Kind::Fences => return None,
        };
        Some(Self { kind, group: 0, behind: None })
    }

    fn parse(cursor: &Cursor) -> Result<Self> {
        let mut parts = cursor.as_str().split('.');
        let kind = match parts.next() {
            Some("s") => Kind::Sessions,
            Some("t") => Kind::Tombstones,
            Some("f") => Kind::Fences,
            _ => return Err(Cursor::invalid()),
        };
        let group = parts.next().and_then(|group| group.parse().ok()).filter(|group| *group < Partition::GROUPS);
        let behind = parts.next().map(|behind| URL_SAFE_NO_PAD.decode(behind)).transpose();
        let spot =
            Self { kind, group: group.ok_or_else(Cursor::invalid)?, behind: behind.map_err(|_| Cursor::invalid())? };
        let fits = match (kind, &spot.behind) {
            (Kind::Sessions, Some(place)) => Place::from_bytes(place).is_some(),
            (Kind::Tombstones, Some(place)) => place_in_time(place).is_ok(),
            (Kind::Fences, _) | (_, None) => true,
        };
        if fits && parts.next().is_none() { Ok(spot) } else { Err(Cursor::invalid()) }
    }

    fn cursor(self) -> Cursor {
        let Self { kind, group, behind } = self;
        let kind = match kind {
            Kind::Sessions => "s",
            Kind::Tombstones => "t",
            Kind::Fences => "f",
        };
        Cursor::new(match behind {
            Some(behind) => format!("{kind}.{group}.{}", URL_SAFE_NO_PAD.encode(behind)),
            None => format!("{kind}.{group}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_are_read_back() {
        for (kind, behind) in [
            (Kind::Sessions, vec![7; Place::LEN]),
            (Kind::Tombstones, b"-5 1".to_vec()),
            (Kind::Fences, Vec::new()),
            (Kind::Fences, "анна".into()),
        ] {
            for behind in [None, Some(behind)] {
                let spot = Spot { kind, group: 1023, behind };
                assert_eq!(Spot::parse(&spot.clone().cursor()).unwrap(), spot);
            }
        }
        for text in ["", "s", "x.1", "s.1024", "s.1.AAAA", "t.1.AAAA", "f.1.*", "f.1.AA.A"] {
            assert!(Spot::parse(&Cursor::new(text)).is_err(), "{text}");
        }
    }
}
