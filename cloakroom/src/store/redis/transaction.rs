//! Transactions: how one becomes a call of the script, and what its answer means.

use std::{collections::HashMap, sync::Arc};

use redis::Value;

use super::{
    Inner,
    calls::{COMMIT, COMMIT_WHEN_FULL, Call, Run, Texts, Track, UPDATE},
    health, keys,
    keys::{Keys, OfGroup, Place, try_of},
    reply::{Damaged, Reply},
    servers::Answer,
    slot,
    slot::Row,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::Record,
    store::{
        feed::{Channel, Watched},
        head, packed,
        slots::{Committed, DataChange, Expect, Known, Outcome, SeenAt, Slot, Transaction, Write},
    },
    token::{PartitionKey, SessionId},
};

impl Inner {
    pub(super) fn call(&self, group: u16, body: &Body, fit: Fit) -> Call<'static> {
        Call::script(keys::slot_of_group(group), self.run(group, body, fit))
    }

    fn run(&self, group: u16, body: &Body, fit: Fit) -> Run {
        let mut keys = Texts::default();
        for what in OfGroup::ALL.iter().take(body.of_group) {
            keys.push(self.keys.of_group(*what, group));
        }
        for id in &body.sessions {
            keys.push(self.keys.of_session(*id));
        }
        let script = if fit == Fit::WhenFull { &COMMIT_WHEN_FULL } else { &COMMIT };
        Run { script, keys, arguments: body.arguments(self.identity()) }
    }

    pub(super) async fn commit(&self, transactions: &[Transaction], again: bool) -> Result<Vec<Outcome>> {
        if let [transaction] = transactions {
            return Ok(vec![self.commit_one(transaction, again, None).await?.0]);
        }
        let each = transactions.iter().map(|transaction| self.commit_one(transaction, again, None));
        let each = futures_util::future::join_all(each).await;
        each.into_iter().map(|outcome| Ok(outcome?.0)).collect()
    }

    /// As [`commit`](Self::commit). A change of one session's data alone leaves its key tracked: says by which channel.
    pub(super) async fn tracked_commit(&self, transactions: &[Transaction], again: bool) -> Result<Watched> {
        let ([transaction], Some([Write::Data { id, known, .. }])) =
            (transactions, transactions.first().map(|first| first.writes.as_slice()))
        else {
            return Ok(Watched { outcomes: self.commit(transactions, again).await?, channel: None });
        };
        let mut row = redis::cmd("HGET");
        row.arg(self.keys.of_session(*id)).arg("v");
        let (outcome, tracked) = self.commit_one(transaction, again, Some(Track::Behind(row))).await?;
        // What it has made of the session must be what is tracked.
        let made = match &outcome {
            Outcome::Committed(answers) => match answers.as_slice() {
                [Committed::Record(record)] => Some((record.info.version, record.revision)),
                [Committed::AsKnown { .. }] => known.map(|known| (known.version + 1, known.revision)),
                _ => None,
            },
            Outcome::Conflict(_) => None,
        };
        let tracked = tracked.filter(|(_, row)| made.is_some() && slot::state_of_row(row) == made);
        Ok(Watched { outcomes: vec![outcome], channel: tracked.map(|(channel, _)| channel) })
    }

    async fn commit_one(
        &self,
        transaction: &Transaction,
        again: bool,
        track: Option<Track>,
    ) -> Result<(Outcome, Option<(Arc<Channel>, Value)>)> {
        packed::check(transaction)?;
        let group = self.group_of(transaction)?;
        let waits = transaction.writes.iter().any(waits_for_replicas).then(|| self.keys.wait(group));
        let whole = || {
            let body = Body::of(transaction, group, &self.keys, &self.partition_key);
            (self.run(group, &body, Fit::of(transaction)), body.shows())
        };
        let (slot, run_again) = (keys::slot_of_group(group), || whole().0);
        let (call, shown) = if let Some((id, first)) = self.update(transaction, group) {
            (Call::either(slot, first, &run_again), Some(id))
        } else {
            let (run, shown) = whole();
            (Call::script(slot, run), shown)
        };
        let call = Call { track, ..call.again(again).waiting(waits) };
        let Answer { value, tracked } = self.servers.answer(&call).await?;
        let answer = match value {
            Value::Array(answer) => answer,
            one => vec![one],
        };
        let outcome = match answer.first() {
            Some(Value::Int(0)) => Outcome::Conflict(conflict(shown, answer)?),
            Some(Value::Int(1)) => self.done_before(transaction).await?,
            Some(Value::Int(2)) => return Err(Error::OutcomeUnknown { after: std::time::Duration::ZERO }),
            Some(Value::Int(_)) => return Err(health::emptied()),
            _ => committed(transaction, answer)?,
        };
        Ok((outcome, tracked))
    }

    /// A change of one session's data alone, as the script for that takes it.
    fn update(&self, transaction: &Transaction, group: u16) -> Option<(SessionId, Run)> {
        let Transaction { id: transaction_id, now, relies_on, writes, log } = transaction;
        let [Write::Data { id, change, known }] = writes.as_slice() else { return None };
        if !log.is_empty() || change.remove_all || change.set.is_empty() {
            return None;
        }
        let (mut lives, mut most, mut compared) = (false, usize::MAX, Vec::new());
        for expect in relies_on {
            match expect {
                Expect::Live(other) if other == id => lives = true,
                Expect::DataAtMost(other, bytes) if other == id => most = most.min(*bytes),
                Expect::Value(other, key, value) if other == id => {
                    compared.push((value.is_some(), packed::relied_on(key, value.as_ref())));
                }
                _ => return None,
            }
        }
        if !lives {
            return None;
        }
        let (mut keys, mut arguments) = (Texts::default(), Texts::default());
        keys.push(self.keys.of_group(OfGroup::Seen, group)).push(self.keys.of_session(*id));
        arguments.push(self.identity()).push(transaction_id.to_be_bytes()).number(now.as_millis());
        arguments.push(keys::text(*id)).number(most).push(known_text(*known)).push(packed::changes(change));
        for (is_there, entry) in compared {
            arguments.flag(is_there).push(entry);
        }
        Some((*id, Run { script: &UPDATE, keys, arguments }))
    }

    /// All that a transaction names, and all that its entries tell of, is of this group.
    fn group_of(&self, transaction: &Transaction) -> Result<u16> {
        let of_user = |user: &str| self.partition_key.partition_of(user).group();
        let relied_on = transaction.relies_on.iter().map(|expect| match expect {
            Expect::User(user, _) | Expect::Count(user, _) => of_user(user),
            Expect::Try(partition, ..) => partition.group(),
            other => session_of_expect(other).map_or(0, |id| id.partition().group()),
        });
        let written = transaction.writes.iter().map(|write| match write {
            Write::User(user, _) | Write::SignedIn(user, _) => of_user(user),
            other => session_of_write(other).map_or(0, |id| id.partition().group()),
        });
        let logged = transaction.log.iter().map(|entry| entry.entry.session.partition().group());
        let mut groups = relied_on.chain(written).chain(logged);
        let group = groups.next().unwrap_or_default();
        if groups.all(|other| other == group) {
            return Ok(group);
        }
        let problem = "it names sessions or users of different groups".into();
        Err(Error::InvalidArgument { what: "transaction", problem })
    }

    /// The answer for a transaction whose first try succeeded. Its changes of data are answered with what is so now; where
    /// a session has ended since, that is a conflict.
    async fn done_before(&self, transaction: &Transaction) -> Result<Outcome> {
        let mut answers = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            answers.push(match write {
                Write::Data { id, .. } => match self.session(*id).await? {
                    Some(Slot::Open(record)) => Committed::Record(record),
                    other => return Ok(Outcome::Conflict(other)),
                },
                _ => Committed::Done,
            });
        }
        Ok(Outcome::Committed(answers))
    }

    pub(super) async fn touch(&self, touches: &[SeenAt], now: Timestamp) -> Result<Vec<bool>> {
        /// So many in one script; then others get their turn.
        const BATCH: usize = 256;
        let ids: Vec<_> = touches.iter().map(|touch| touch.id).collect();
        let batches = by_group(&ids, BATCH);
        let calls = batches.iter().map(|(group, places)| {
            let mut body = Body::new(0, now);
            for touch in places.iter().map(|place| &touches[*place]) {
                let session = body.session(touch.id);
                body.write("touch", session, touch.at.as_millis());
            }
            self.call(*group, &body, Fit::WhenFull)
        });
        let mut there = vec![false; touches.len()];
        for (answer, (_, places)) in self.servers.run_all(calls).await?.into_iter().zip(&batches) {
            let answers = answer.array()?;
            if answers.len() != places.len() || answers.first() == Some(&Value::Int(3)) {
                return Err(health::emptied());
            }
            for (answer, place) in answers.into_iter().zip(places) {
                there[*place] = answer == Value::Int(1);
            }
        }
        Ok(there)
    }
}

/// Whether a server that is full takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It frees memory or takes very little: a full server takes it, too.
    WhenFull,
    WithRoom,
}

impl Fit {
    /// Sessions must end and users be disabled on a full server. What is only logged could fill it further.
    fn of(transaction: &Transaction) -> Self {
        let frees = |write: &Write| match write {
            Write::End(_) | Write::Head(_) | Write::Due(..) | Write::User(..) | Write::SignedIn(..) => true,
            Write::Data { change, .. } => change.set.is_empty(),
            Write::Create(_) | Write::Import(_) => false,
        };
        let all = !transaction.writes.is_empty() && transaction.writes.iter().all(frees);
        if all { Self::WhenFull } else { Self::WithRoom }
    }
}

/// Whether replicas are waited for.
fn waits_for_replicas(write: &Write) -> bool {
    match write {
        Write::Create(_) | Write::Head(_) | Write::End(_) | Write::Import(_) | Write::User(..) => true,
        Write::Data { .. } | Write::Due(..) | Write::SignedIn(..) => false,
    }
}

fn session_of_expect(expect: &Expect) -> Option<SessionId> {
    match expect {
        Expect::Live(id)
        | Expect::Head(id, _)
        | Expect::Version(id, _)
        | Expect::Value(id, ..)
        | Expect::DataAtMost(id, _)
        | Expect::NotSeenSince(id, _)
        | Expect::Empty(id) => Some(*id),
        Expect::User(..) | Expect::Count(..) | Expect::Try(..) => None,
    }
}

fn session_of_write(write: &Write) -> Option<SessionId> {
    match write {
        Write::Create(record) | Write::Head(record) | Write::Import(Slot::Open(record)) => Some(record.info.id),
        Write::Data { id, .. } | Write::Due(id, _) => Some(*id),
        Write::End(ended) => Some(ended.id),
        Write::Import(Slot::Ended(ended)) => Some(ended.record.info.id),
        Write::User(..) | Write::SignedIn(..) => None,
    }
}

/// Places of ids in the list, by group, at most `batch` together.
pub(super) fn by_group(ids: &[SessionId], batch: usize) -> Vec<(u16, Vec<usize>)> {
    let mut places: Vec<_> = ids.iter().enumerate().map(|(place, id)| (id.partition().group(), place)).collect();
    places.sort_unstable();
    let groups = places.chunk_by(|(one, _), (other, _)| one == other);
    let batches = groups.flat_map(|group| group.chunks(batch));
    batches.map(|batch| (batch[0].0, batch.iter().map(|(_, place)| *place).collect())).collect()
}

fn conflict(shown: Option<SessionId>, answer: Vec<Value>) -> Result<Option<Slot>> {
    match (shown, answer.into_iter().nth(1)) {
        (Some(id), Some(body)) => body_of(id, body),
        _ => Ok(None),
    }
}

fn body_of(id: SessionId, body: Value) -> Result<Option<Slot>> {
    let [seen, hash]: [Value; 2] = body.array()?.try_into().map_err(|_| Damaged("a slot"))?;
    slot::whole(id, seen, hash)
}

fn committed(transaction: &Transaction, answer: Vec<Value>) -> Result<Outcome> {
    let mut answers = answer.into_iter();
    let committed = transaction.writes.iter().map(|write| {
        let Write::Data { id, .. } = write else { return Ok(Committed::Done) };
        Ok(match answers.next().ok_or(Damaged("the answer to a change"))? {
            body @ Value::Array(_) => match body_of(*id, body)? {
                Some(Slot::Open(record)) => Committed::Record(record),
                // It ended in this transaction, behind the change.
                Some(Slot::Ended(ended)) => Committed::Record(ended.record.clone()),
                None => return Err(Damaged("the answer to a change").into()),
            },
            seen => Committed::AsKnown { seen: seen.time()? },
        })
    });
    Ok(Outcome::Committed(committed.collect::<Result<_>>()?))
}

/// The arguments of the script, in the making.
pub(super) struct Body {
    id: u64,
    now: Timestamp,
    /// How many of the group's keys are named.
    of_group: usize,
    sessions: Vec<SessionId>,
    numbers: HashMap<SessionId, usize>,
    /// Of each session, what it must be.
    states: Vec<&'static str>,
    names_users: bool,
    mark: [String; 3],
    checks: Counted,
    writes: Counted,
}

#[derive(Default)]
struct Counted {
    count: usize,
    texts: Texts,
}

impl Counted {
    fn add(&mut self) -> &mut Texts {
        self.count += 1;
        &mut self.texts
    }
}

impl Body {
    pub(super) fn new(id: u64, now: Timestamp) -> Self {
        Self {
            id,
            now,
            of_group: OfGroup::Seen as usize,
            sessions: Vec::new(),
            numbers: HashMap::new(),
            states: Vec::new(),
            names_users: false,
            mark: Default::default(),
            checks: Counted::default(),
            writes: Counted::default(),
        }
    }

    fn of(transaction: &Transaction, group: u16, keys: &Keys, key: &PartitionKey) -> Self {
        let Transaction { id, now, relies_on, writes, log } = transaction;
        let mut body = Self::new(*id, *now);
        if !log.is_empty() {
            body.needs(OfGroup::Logged);
        }
        for write in writes {
            body.needs(match write {
                Write::Data { .. } => OfGroup::Seen,
                Write::Create(_) | Write::Head(_) | Write::Due(..) => OfGroup::Tries,
                Write::End(_) | Write::Import(_) => OfGroup::Ended,
                Write::SignedIn(..) => OfGroup::SignedIn,
                Write::User(..) => OfGroup::UsersDue,
            });
        }
        body.mark = writes.first().map(|write| body.mark_of(write)).unwrap_or_default();
        for write in writes {
            match write {
                Write::Data { id, change, .. } => body.change(*id, change),
                Write::Create(record) => body.must_be("empty", record.info.id),
                Write::Head(record) => body.must_be("open", record.info.id),
                Write::End(ended) => body.must_be("open", ended.id),
                Write::Due(id, _) => body.must_be("open", *id),
                Write::Import(_) | Write::User(..) | Write::SignedIn(..) => {}
            }
        }
        for expect in relies_on {
            body.expect(expect, group, keys, key);
        }
        for write in writes {
            body.write_out(write, key);
        }
        for entry in log {
            let number = slot::logged(entry.entry.session, entry.id);
            body.writes.add().push("log").number(number).push(slot::of_entry(entry));
        }
        body
    }

    /// For a transaction of the store's own, with the group's keys named.
    pub(super) fn of_store(now: Timestamp) -> Self {
        let mut body = Self::new(0, now);
        body.needs(OfGroup::UsersDue);
        body
    }

    fn needs(&mut self, key: OfGroup) {
        self.of_group = self.of_group.max(key as usize);
    }

    /// The session whose slot a conflict shows.
    fn shows(&self) -> Option<SessionId> {
        match self.sessions[..] {
            [only] if !self.names_users => Some(only),
            _ => None,
        }
    }

    fn arguments(&self, identity: &str) -> Texts {
        let mut arguments = Texts::default();
        arguments.push(identity).push(self.id.to_be_bytes()).number(self.now.as_millis());
        arguments.number(self.of_group);
        for (id, state) in self.sessions.iter().zip(&self.states) {
            arguments.push(keys::text(*id)).push(state);
        }
        for Counted { count, texts } in [&self.checks, &self.writes] {
            arguments.number(count).append(texts);
        }
        for part in &self.mark {
            arguments.push(part);
        }
        arguments
    }

    /// The number of a session in this transaction.
    pub(super) fn session(&mut self, id: SessionId) -> usize {
        let next = self.sessions.len() + 1;
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.sessions.push(id);
            self.states.push("");
        }
        number
    }

    /// By which the first write is known again.
    fn mark_of(&mut self, write: &Write) -> [String; 3] {
        let (kind, id, value) = match write {
            Write::Create(record) => ("create", record.info.id, String::new()),
            Write::Head(record) => ("head", record.info.id, record.revision.to_string()),
            Write::Data { id, known, .. } => ("data", *id, slot::or_empty(known.map(|known| known.version))),
            Write::End(ended) => ("end", ended.id, String::new()),
            Write::User(user, slot) => {
                let revision = slot.as_ref().map_or(0, |slot| slot.revision);
                return ["user".into(), user.to_string(), revision.to_string()];
            }
            Write::Import(_) | Write::Due(..) | Write::SignedIn(..) => return Default::default(),
        };
        [kind.into(), self.session(id).to_string(), value]
    }

    /// That the slot is `open`, `ended` or `empty`.
    pub(super) fn must_be(&mut self, state: &'static str, id: SessionId) {
        let session = self.session(id);
        let known = &mut self.states[session - 1];
        if known.is_empty() {
            *known = state;
        } else if *known != state {
            // It cannot be both.
            *known = "neither";
        }
    }

    pub(super) fn check(&mut self, kind: &str, id: SessionId, value: impl std::fmt::Display) {
        let session = self.session(id);
        self.checks.add().push(kind).number(session).number(value);
    }

    /// Data are merged before they are compared with what they may be at most.
    fn change(&mut self, id: SessionId, change: &DataChange) {
        let session = self.session(id);
        self.checks.add().push("change").number(session).push(packed::changes(change)).flag(change.remove_all);
    }

    fn expect(&mut self, expect: &Expect, group: u16, keys: &Keys, key: &PartitionKey) {
        match expect {
            Expect::Live(id) => self.check("live", *id, ""),
            Expect::Head(id, revision) => self.check("revision", *id, revision),
            Expect::Version(id, version) => self.check("version", *id, version),
            Expect::DataAtMost(id, most) => self.check("most", *id, most),
            Expect::NotSeenSince(id, at) => self.check("unseen", *id, at.as_millis()),
            Expect::Empty(id) => self.must_be("empty", *id),
            Expect::Value(id, key, value) => {
                let session = self.session(*id);
                let entry = packed::relied_on(key, value.as_ref());
                self.checks.add().push("value").number(session).push(entry).flag(value.is_some());
            }
            Expect::User(user, revision) => {
                self.names_users = true;
                self.needs(OfGroup::Users);
                self.checks.add().push("user").push(&**user).number(revision);
            }
            Expect::Count(user, count) => {
                self.names_users = true;
                self.needs(OfGroup::Index);
                let [from, to] = Place::all_of(user, key);
                self.checks.add().push("count").push(from).push(to).push(keys.of_sessions(group)).number(count);
            }
            Expect::Try(partition, digest, id) => {
                self.needs(OfGroup::Tries);
                let id = id.map_or_else(Vec::new, |id| keys::text(id).to_vec());
                self.checks.add().push("try").push(try_of(*partition, digest)).push(id);
            }
        }
    }

    pub(super) fn write(&mut self, kind: &str, session: usize, value: impl std::fmt::Display) {
        self.writes.add().push(kind).number(session).number(value);
    }

    /// A command on a key of the group.
    pub(super) fn command(&mut self, command: &str, key: OfGroup, arguments: &[&[u8]]) {
        self.needs(key);
        let texts = self.writes.add().push(command).number(key as usize).number(arguments.len());
        for argument in arguments {
            texts.push(argument);
        }
    }

    fn write_out(&mut self, write: &Write, key: &PartitionKey) {
        match write {
            Write::Create(record) => self.create(record, key),
            Write::Head(record) => {
                let session = self.session(record.info.id);
                let row = Row::of(record, key);
                let due = slot::or_empty(record.due_at().map(Timestamp::as_millis));
                let texts = self.writes.add().push("head").number(session).push(&row.lead);
                texts.push(&row.head).push(due).push(row.standing());
            }
            Write::Data { id, known, .. } => {
                let session = self.session(*id);
                self.writes.add().push("data").number(session).push(known_text(*known));
            }
            Write::End(ended) => {
                let session = self.session(ended.id);
                let texts = self.writes.add().push("end").number(session).push(head::encode_ending(ended));
                texts.number(ended.at.as_millis());
            }
            Write::Import(slot) => self.import(slot, key),
            Write::Due(id, at) => self.due(OfGroup::Due, &keys::text(*id), *at),
            Write::User(user, Some(slot)) => {
                self.command("HSET", OfGroup::Users, &[user.as_bytes(), slot::of_user(slot).as_bytes()]);
                self.command("ZADD", OfGroup::Names, &[b"0", user.as_bytes()]);
                self.due(OfGroup::UsersDue, user.as_bytes(), slot.due_at);
                match slot.last_sign_in {
                    Some(sign_in) => {
                        self.writes.add().push("sign in").push(&**user).push(slot::sign_in(sign_in));
                    }
                    None => self.command("HDEL", OfGroup::SignedIn, &[user.as_bytes()]),
                }
                self.names_users = true;
            }
            Write::User(user, None) => {
                for key in [OfGroup::Users, OfGroup::SignedIn] {
                    self.command("HDEL", key, &[user.as_bytes()]);
                }
                for key in [OfGroup::Names, OfGroup::UsersDue] {
                    self.command("ZREM", key, &[user.as_bytes()]);
                }
                self.names_users = true;
            }
            Write::SignedIn(user, sign_in) => {
                self.writes.add().push("sign in").push(&**user).push(slot::sign_in(*sign_in));
                self.names_users = true;
            }
        }
    }

    /// An open slot where there is none.
    fn create(&mut self, record: &Record, key: &PartitionKey) {
        let info = &record.info;
        let session = self.session(info.id);
        let row = Row::of(record, key);
        let due = slot::or_empty(record.due_at().map(Timestamp::as_millis));
        let texts = self.writes.add().push("create").number(session).number(info.last_seen_at.as_millis());
        texts.push(due).push(row.standing()).push(&row.head);
        texts.push(row.whole(info.version, record.data.size(), None)).push(packed::stored(&record.data));
    }

    fn import(&mut self, slot: &Slot, key: &PartitionKey) {
        let ended = match slot {
            Slot::Open(record) => {
                let session = self.session(record.info.id);
                self.write("clear", session, "");
                return self.create(record, key);
            }
            Slot::Ended(ended) => ended,
        };
        let (id, row) = (ended.record.info.id, Row::of(&ended.record, key));
        let session = self.session(id);
        self.write("clear", session, "");
        let row_text = row.whole(ended.record.info.version, 0, Some(ended.transaction));
        let key = self.of_group + session;
        let texts = self.writes.add().push("HSET").number(key).number(6);
        texts.push("h").push(&row.head).push("w").push(row_text).push("e").push(head::encode_ending(&ended.ended));
        let text = keys::text(id);
        let seen = ended.record.info.last_seen_at.as_millis().to_string();
        self.command("HSET", OfGroup::Seen, &[&text, seen.as_bytes()]);
        self.command("ZADD", OfGroup::Ended, &[ended.ended.at.as_millis().to_string().as_bytes(), &text]);
    }

    /// Entries of the indexes that an open slot needs, but for when it is due.
    pub(super) fn enter(&mut self, id: SessionId, row: &Row) {
        self.command("ZADD", OfGroup::Index, &[b"0", row.place.as_bytes()]);
        if let Some(idempotency) = &row.idempotency {
            self.command("HSET", OfGroup::Tries, &[idempotency, &keys::text(id)]);
        }
    }

    pub(super) fn due(&mut self, key: OfGroup, member: &[u8], at: Option<Timestamp>) {
        match at {
            Some(at) => self.command("ZADD", key, &[at.as_millis().to_string().as_bytes(), member]),
            None => self.command("ZREM", key, &[member]),
        }
    }
}

/// As the scripts compare it with the slot; empty where the answer shall hold the slot.
fn known_text(known: Option<Known>) -> String {
    known.map_or_else(String::new, |known| format!("{} {}", known.version, known.revision))
}
