//! Looking at slots.
//!
//! Plain commands, in one pipeline, tell of one slot: nothing is as cheap. What lies in several slots of a group at one
//! moment, and a user's list, a script tells. Each look says whose store it is.

use std::sync::Arc;

use redis::{Cmd, Value, cmd};

use super::{
    Inner,
    calls::{Call, Effect, READ, Run, Texts, Track},
    health, keys,
    keys::{OfGroup, Place, try_of},
    reply::{Damaged, Reply},
    servers::Answer,
    slot,
    transaction::by_group,
};
use crate::{
    error::{Error, Result},
    record::Record,
    store::{
        feed::Looked,
        slots::{Ask, Found, Slot},
    },
    token::SessionId,
};

/// The field of [`OfGroup::Seen`] that says whose store it is.
pub(super) const STORE: &str = "store";

impl Inner {
    pub(super) async fn read(&self, asks: &[Ask]) -> Result<Vec<Found>> {
        if let [Ask::Session(id)] = asks {
            return Ok(vec![Found::Session(self.session(*id).await?)]);
        }
        let mut by_group: Vec<(u16, usize)> =
            asks.iter().enumerate().map(|(place, ask)| (self.group_asked(ask), place)).collect();
        by_group.sort_unstable();
        let groups: Vec<&[(u16, usize)]> = by_group.chunk_by(|(one, _), (other, _)| one == other).collect();
        let calls = groups.iter().map(|group| {
            let asked = group.iter().map(|(_, place)| &asks[*place]);
            self.look(group[0].0, &asked.collect::<Vec<_>>())
        });
        let mut found = vec![Found::Try(None); asks.len()];
        for (answer, group) in self.servers.run_all(calls).await?.into_iter().zip(groups) {
            let mut answers = self.of_this_store(answer)?.into_iter();
            for (_, place) in group {
                let (ask, mut answer) = (&asks[*place], || answers.next().unwrap_or_default());
                found[*place] = match ask {
                    Ask::Session(id) => Found::Session(slot::whole(*id, answer(), answer())?),
                    Ask::Head(id) => Found::Session(slot::bare(*id, answer(), answer())?),
                    Ask::User(_) => Found::User(slot::user(answer(), answer())?),
                    Ask::HeadsOf(..) => {
                        let heads = heads(answer(), slot::bare)?.into_iter();
                        Found::Heads(heads.filter_map(|(_, slot)| open(slot.ok()?)).collect())
                    }
                    Ask::Try(..) => Found::Try(
                        answer()
                            .optional_text()?
                            .map(|id| id.parse())
                            .transpose()
                            .map_err(|_| Damaged("a session id"))?,
                    ),
                };
            }
        }
        Ok(found)
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Slot>> {
        self.slot_of(id, self.servers.run(&self.look_at(id)).await?)
    }

    /// As [`session`](Self::session), with the channel over which what changes in it is told.
    pub(super) async fn tracked_session(&self, id: SessionId) -> Result<Looked> {
        let Answer { value, tracked } = self.servers.answer(&self.look_at(id).tracking(Track::First)).await?;
        Ok(Looked { slot: self.slot_of(id, value)?, channel: tracked.map(|(channel, _)| channel) })
    }

    fn look_at(&self, id: SessionId) -> Call<'static> {
        let group = id.partition().group();
        let (hash, mut seen) = (self.whole(id, true), cmd("HMGET"));
        seen.arg(self.keys.of_group(OfGroup::Seen, group)).arg(STORE).arg(&keys::text(id)[..]);
        Call::read_all(keys::slot_of_group(group), vec![hash, seen])
    }

    fn slot_of(&self, id: SessionId, answer: Value) -> Result<Option<Slot>> {
        let [hash, seen]: [Value; 2] = answer.array()?.try_into().map_err(|_| LOOK)?;
        let [store, seen]: [Value; 2] = seen.array()?.try_into().map_err(|_| LOOK)?;
        self.check_store(store)?;
        slot::whole(id, seen, hash)
    }

    /// Slots of any groups, some at a time, each as it was at some moment. One that cannot be read is an error of its own.
    pub(super) async fn slots(&self, ids: &[SessionId], part: Part) -> Result<Vec<Result<Option<Slot>>>> {
        /// So many lie in one pipeline; then others get their turn.
        const BATCH: usize = 64;
        let batches = by_group(ids, BATCH);
        let calls = batches.iter().map(|(group, places)| {
            let mut commands: Vec<_> =
                places.iter().map(|place| self.whole(ids[*place], part == Part::Whole)).collect();
            let mut seen = cmd("HMGET");
            seen.arg(self.keys.of_group(OfGroup::Seen, *group));
            for place in places {
                seen.arg(&keys::text(ids[*place])[..]);
            }
            commands.push(seen);
            self.checked(*group, commands)
        });
        let mut slots: Vec<_> = ids.iter().map(|_| Ok(None)).collect();
        for (answer, (_, places)) in self.servers.run_all(calls).await?.into_iter().zip(&batches) {
            let mut answers = self.of_this_store(answer)?;
            let seen = answers.pop().unwrap_or_default().array()?;
            for ((place, fields), seen) in places.iter().zip(answers).zip(seen) {
                let id = ids[*place];
                slots[*place] = match part {
                    Part::Whole => slot::whole(id, seen, fields),
                    Part::Head => slot::of_head(id, seen, fields),
                    Part::Bare => slot::bare(id, seen, fields),
                };
            }
        }
        Ok(slots)
    }

    fn whole(&self, id: SessionId, with_data: bool) -> Cmd {
        let mut command = cmd("HMGET");
        command.arg(self.keys.of_session(id));
        if with_data {
            command.arg(&slot::WHOLE)
        } else {
            command.arg(&slot::HEAD)
        };
        command
    }

    fn group_asked(&self, ask: &Ask) -> u16 {
        match ask {
            Ask::Session(id) | Ask::Head(id) => id.partition().group(),
            Ask::User(user) | Ask::HeadsOf(user, _) => self.partition_key.partition_of(user).group(),
            Ask::Try(partition, _) => partition.group(),
        }
    }

    /// What of one group is asked for, and whose store it is.
    fn look(&self, group: u16, asks: &[&Ask]) -> Call<'static> {
        let mut look = Look::new(self, group);
        for ask in asks {
            match ask {
                Ask::Session(id) | Ask::Head(id) => {
                    look.add("HGET", OfGroup::Seen, &[&keys::text(*id)]);
                    look.session(*id, matches!(ask, Ask::Session(_)));
                }
                Ask::User(user) => {
                    look.add("HGET", OfGroup::Users, &[user.as_bytes()]);
                    look.add("HGET", OfGroup::SignedIn, &[user.as_bytes()]);
                }
                Ask::HeadsOf(user, most) => {
                    let [from, to] = Place::all_of(user, &self.partition_key);
                    look.list(&from, &to, *most);
                }
                Ask::Try(partition, digest) => look.add("HGET", OfGroup::Tries, &[&try_of(*partition, digest)]),
            }
        }
        look.call()
    }

    /// Heads of a user's sessions, newest first, with their places.
    pub(super) async fn list_of(
        &self,
        group: u16,
        [from, to]: [&[u8]; 2],
        most: usize,
    ) -> Result<Vec<(Place, Result<Option<Slot>>)>> {
        let mut look = Look::new(self, group);
        look.list(from, to, most);
        let answer = self.servers.run(&look.call()).await?;
        heads(self.of_this_store(answer)?.pop().unwrap_or_default(), slot::of_head)
    }

    /// Commands on a group, preceded by whose store it is. For [`of_this_store`](Self::of_this_store).
    pub(super) fn checked(&self, group: u16, mut commands: Vec<Cmd>) -> Call<'static> {
        let mut store = cmd("HGET");
        store.arg(self.keys.of_group(OfGroup::Seen, group)).arg(STORE);
        commands.insert(0, store);
        Call::read_all(keys::slot_of_group(group), commands)
    }

    /// The answers behind the first, which says whose store it is.
    pub(super) fn of_this_store(&self, answers: Value) -> Result<Vec<Value>> {
        let mut answers = answers.array()?;
        if answers.is_empty() {
            return Err(LOOK.into());
        }
        self.check_store(answers.remove(0))?;
        Ok(answers)
    }

    fn check_store(&self, store: Value) -> Result<()> {
        if store.optional_bytes()?.as_deref() == Some(self.identity().as_bytes()) {
            return Ok(());
        }
        Err(health::emptied())
    }
}

const LOOK: Damaged = Damaged("the answer to a look");

/// What of a slot is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Head,
    /// A head that is counted or ended, though it cannot be read.
    Bare,
}

/// A look at several things, by script.
struct Look<'a> {
    inner: &'a Inner,
    group: u16,
    keys: Texts,
    arguments: Texts,
}

impl<'a> Look<'a> {
    const KEYS: [OfGroup; 5] = [OfGroup::Seen, OfGroup::Index, OfGroup::Tries, OfGroup::Users, OfGroup::SignedIn];

    fn new(inner: &'a Inner, group: u16) -> Self {
        let mut look = Self { inner, group, keys: Texts::default(), arguments: Texts::default() };
        for key in Self::KEYS {
            look.keys.push(inner.keys.of_group(key, group));
        }
        look.arguments.push(inner.keys.of_sessions(group));
        look.add("HGET", OfGroup::Seen, &[STORE.as_bytes()]);
        look
    }

    fn add(&mut self, command: &str, key: OfGroup, arguments: &[&[u8]]) {
        let number = Self::KEYS.iter().position(|known| *known == key).expect("the key is one of those") + 1;
        self.add_numbered(command, number, arguments);
    }

    fn add_numbered(&mut self, command: &str, number: usize, arguments: &[&[u8]]) {
        self.arguments.push(command).number(number).number(arguments.len());
        for argument in arguments {
            self.arguments.push(argument);
        }
    }

    fn session(&mut self, id: SessionId, with_data: bool) {
        self.keys.push(self.inner.keys.of_session(id));
        let number = self.keys.len();
        let fields = if with_data { &slot::WHOLE[..] } else { &slot::HEAD };
        self.add_numbered("HMGET", number, &fields.iter().map(|field| field.as_bytes()).collect::<Vec<_>>());
    }

    fn list(&mut self, from: &[u8], to: &[u8], most: usize) {
        let most = i64::try_from(most).unwrap_or(i64::MAX).to_string();
        self.add("ZREVRANGEBYLEX", OfGroup::Index, &[to, from, b"LIMIT", b"0", most.as_bytes()]);
    }

    fn call(self) -> Call<'static> {
        let run = Run { script: &READ, keys: self.keys, arguments: self.arguments };
        Call::script(keys::slot_of_group(self.group), run).with(Effect::Reads)
    }
}

fn heads(
    answer: Value,
    read: impl Fn(SessionId, Value, Value) -> Result<Option<Slot>>,
) -> Result<Vec<(Place, Result<Option<Slot>>)>> {
    let head = |found: Value| {
        let [place, seen, head]: [Value; 3] = found.array()?.try_into().map_err(|_| LOOK)?;
        let place = place.place()?;
        let slot = read(place.id(), seen, head);
        Ok((place, slot))
    };
    answer.array()?.into_iter().map(head).collect()
}

/// Why a slot cannot be read.
pub(super) fn told(error: &Error) -> String {
    match error {
        Error::Store { source: Some(source), .. } => source.to_string(),
        Error::Store { message, source: None } => message.clone(),
        error => error.to_string(),
    }
}

pub(super) fn open(slot: Option<Slot>) -> Option<Arc<Record>> {
    match slot? {
        Slot::Open(record) => Some(record),
        Slot::Ended(_) => None,
    }
}
