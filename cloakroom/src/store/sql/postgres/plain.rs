//! The statements that carry transactions: plain ones for what happens often, the function for the rest.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    commit::{Commits, session_of},
    rows::{ends_column, idle_column, now},
    statement::{Arg, Statement},
    texts::Start,
    values,
    whole::{LogRow, Whole, user_lock},
};
use crate::{
    Record, SessionId, Timestamp,
    store::{
        LastSignIn, head,
        slots::{Columns, DataChange, Expect, Known, LogEntry, Transaction, Write},
    },
};

impl Commits {
    /// A statement for what happens often.
    pub(super) fn plain(&self, transaction: &Transaction) -> Option<Statement> {
        if let Some(update) = Update::of(transaction) {
            return Some(Statement { text: Arc::clone(&self.texts.update), args: update.args() });
        }
        let entry = match &transaction.log[..] {
            [] => None,
            [entry] => Some(entry),
            _ => return None,
        };
        match &transaction.writes[..] {
            [Write::Create(record)] => self.start(transaction, record, None, entry),
            [Write::Create(record), Write::SignedIn(user, last)]
            | [Write::SignedIn(user, last), Write::Create(record)]
                if record.info.user.as_ref() == Some(user) =>
            {
                self.start(transaction, record, Some(last), entry)
            }
            [Write::End(ended)] => {
                let lives = Relied::of(transaction, ended.id, entry).filter(|relied| relied.version.is_none())?;
                let mut args = vec![
                    Arg::id(ended.id),
                    self.key_arg(),
                    Arg::Int(Some(lives.now)),
                    Arg::Int(Some(ended.at.as_millis())),
                    Arg::Int(Some(transaction.id.cast_signed())),
                    Arg::text(head::encode_ending(ended)),
                    Arg::Int(lives.unseen),
                    Arg::Int(lives.revision),
                ];
                args.extend(entry.into_iter().flat_map(entry_args));
                Some(Statement { text: Arc::clone(&self.texts.ends[usize::from(entry.is_some())]), args })
            }
            [Write::Head(record)] => {
                let lives = Relied::of(transaction, record.info.id, entry)?;
                let (Some(revision), None) = (lives.revision, lives.unseen) else { return None };
                let mut args = vec![
                    Arg::id(record.info.id),
                    self.key_arg(),
                    Arg::Int(Some(lives.now)),
                    Arg::Int(Some(record.revision.cast_signed())),
                    Arg::text(head::encode(record)),
                ];
                args.extend(column_args(record));
                args.extend([Arg::Int(Some(revision)), Arg::Int(lives.version)]);
                args.extend(entry.into_iter().flat_map(entry_args));
                Some(Statement { text: Arc::clone(&self.texts.heads[usize::from(entry.is_some())]), args })
            }
            _ => None,
        }
    }

    fn start(
        &self,
        transaction: &Transaction,
        record: &Record,
        signed_in: Option<&LastSignIn>,
        entry: Option<&LogEntry>,
    ) -> Option<Statement> {
        let (id, user) = (record.info.id, record.info.user.as_ref());
        let (mut revision, mut count) = (None, None);
        for expect in &transaction.relies_on {
            match expect {
                Expect::Empty(empty) if *empty == id => {}
                Expect::User(name, wanted) if Some(name) == user && revision.is_none() => revision = Some(*wanted),
                Expect::Count(name, wanted) if Some(name) == user && count.is_none() => count = Some(*wanted),
                _ => return None,
            }
        }
        // Without the user's lock nothing can be said of their slot or their sessions.
        if revision.is_none() && (count.is_some() || signed_in.is_some())
            || entry.is_some_and(|entry| entry.entry.session != id)
        {
            return None;
        }
        let start =
            Start { relies_on_user: revision.is_some(), signs_in: signed_in.is_some(), is_logged: entry.is_some() };
        let [created_at, idle, ends_at, user_id, impersonated_by, ip, device, idempotency, due_at] =
            column_args(record);
        let mut args = vec![
            Arg::id(id),
            Arg::Int(Some(record.revision.cast_signed())),
            created_at,
            idle,
            ends_at,
            user_id,
            impersonated_by,
            ip,
            device,
            idempotency,
            due_at,
            Arg::text(head::encode(record)),
            Arg::Int(Some(record.info.last_seen_at.as_millis())),
            Arg::Int(Some(record.info.version.cast_signed())),
            Arg::Bytes(Some(values::stored(&record.data))),
            Arg::Bytes(Some(vec![0; 128])),
            self.key_arg(),
        ];
        match entry {
            Some(entry) => args.extend(entry_args(entry)),
            None => args.extend([Arg::Int(None), Arg::Int(None), Arg::Bytes(None), Arg::Text(None), Arg::Text(None)]),
        }
        args.push(Arg::Int(signed_in.map(|last| last.at.as_millis())));
        args.push(Arg::Text(signed_in.and_then(|last| last.ip).map(|ip| ip.to_string().into())));
        args.push(Arg::Int(user.map(|user| user_lock(&self.key, user))));
        args.push(Arg::Int(Some(revision.unwrap_or_default().cast_signed())));
        args.push(count.map_or(Arg::Int(None), Arg::count));
        args.push(Arg::Int(Some(now(transaction.now))));
        Some(Statement { text: self.texts.start(start), args })
    }

    /// One statement for updates of different sessions.
    pub(super) fn update_many<'t>(&self, transactions: impl Iterator<Item = &'t Transaction>) -> Statement {
        let mut columns: Vec<Vec<Arg>> = Vec::new();
        for transaction in transactions {
            let row = Update::of(transaction).expect("it was one when it was put among them").args();
            columns.resize_with(row.len(), Vec::new);
            columns.iter_mut().zip(row).for_each(|(column, arg)| column.push(arg));
        }
        Statement { text: Arc::clone(&self.texts.update_many), args: columns.into_iter().map(list).collect() }
    }

    /// The function that knows all of it.
    pub(super) fn commit<'t>(
        &self,
        transactions: impl Iterator<Item = &'t Transaction>,
        waits: bool,
        again: bool,
    ) -> Statement {
        let (mut all, mut locks, mut ids) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for transaction in transactions {
            let whole = Whole::of(transaction, &self.key);
            locks.extend(whole.locks);
            ids.extend(whole.ids);
            all.push(whole.json);
        }
        Statement {
            text: Arc::clone(&self.texts.commit),
            args: vec![
                self.key_arg(),
                Arg::text(text(&all)),
                Arg::Ints(locks.into_iter().map(Some).collect()),
                Arg::ids(ids),
                Arg::Bool(waits),
                Arg::Bool(again),
            ],
        }
    }
}

/// What an update, an ending or a head write relies on, of its own session alone.
struct Relied {
    now: i64,
    revision: Option<i64>,
    version: Option<i64>,
    unseen: Option<i64>,
}

impl Relied {
    fn of(transaction: &Transaction, id: SessionId, entry: Option<&LogEntry>) -> Option<Self> {
        let mut relied = Self { now: i64::MIN, revision: None, version: None, unseen: None };
        for expect in &transaction.relies_on {
            match expect {
                Expect::Live(of) if *of == id => relied.now = now(transaction.now),
                Expect::Head(of, revision) if *of == id && relied.revision.is_none() => {
                    relied.revision = Some(revision.cast_signed());
                }
                Expect::Version(of, version) if *of == id && relied.version.is_none() => {
                    relied.version = Some(version.cast_signed());
                }
                Expect::NotSeenSince(of, at) if *of == id && relied.unseen.is_none() => {
                    relied.unseen = Some(at.as_millis());
                }
                _ => return None,
            }
        }
        entry.is_none_or(|entry| entry.entry.session == id).then_some(relied)
    }
}

/// The common transaction: one session's data change.
pub(super) struct Update<'a> {
    transaction: u64,
    id: SessionId,
    now: i64,
    revision: Option<i64>,
    version: Option<i64>,
    most: i64,
    present: Vec<Vec<u8>>,
    absent: Vec<Vec<u8>>,
    change: &'a DataChange,
    known: Option<Known>,
}

impl<'a> Update<'a> {
    pub(super) fn of(transaction: &'a Transaction) -> Option<Self> {
        let [Write::Data { id, change, known }] = &transaction.writes[..] else { return None };
        if !transaction.log.is_empty() {
            return None;
        }
        let mut update = Self {
            transaction: transaction.id,
            id: *id,
            now: i64::MIN,
            revision: None,
            version: None,
            most: i64::MAX,
            present: Vec::new(),
            absent: Vec::new(),
            change,
            known: *known,
        };
        for expect in &transaction.relies_on {
            if session_of(expect) != Some(*id) {
                return None;
            }
            match expect {
                Expect::Live(_) => update.now = now(transaction.now),
                Expect::Head(_, revision) if update.revision.is_none() => {
                    update.revision = Some(revision.cast_signed());
                }
                Expect::Version(_, version) if update.version.is_none() => update.version = Some(version.cast_signed()),
                Expect::Value(_, key, Some(value)) => update.present.push(values::relied_on(key, Some(value))),
                Expect::Value(_, key, None) => update.absent.push(values::relied_on(key, None)),
                Expect::DataAtMost(_, most) => update.most = update.most.min(i64::try_from(*most).unwrap_or(i64::MAX)),
                _ => return None,
            }
        }
        Some(update)
    }

    /// In the order of the statement's values.
    fn args(&self) -> Vec<Arg> {
        vec![
            Arg::id(self.id),
            Arg::Int(Some(self.transaction.cast_signed())),
            Arg::Int(Some(self.now)),
            Arg::Int(self.revision),
            Arg::Int(self.version),
            Arg::Bool(self.change.remove_all),
            Arg::Bytes(Some(values::changes(self.change))),
            Arg::Int(Some(self.most)),
            Arg::Text(values::array(&self.present)),
            Arg::Text(values::array(&self.absent)),
            Arg::Int(self.known.map(|known| known.version.cast_signed())),
            Arg::Int(self.known.map(|known| known.revision.cast_signed())),
        ]
    }
}

/// As `head` writes and creations have them.
fn column_args(record: &Record) -> [Arg; 9] {
    let Columns { user, created_at, idle, ends_at, impersonated_by, ip, device, idempotency, due_at } =
        head::columns(record);
    [
        Arg::Int(Some(created_at.as_millis())),
        Arg::Int(Some(idle_column(idle))),
        Arg::Int(Some(ends_column(ends_at))),
        Arg::Text(user),
        Arg::Text(impersonated_by),
        Arg::Text(ip.map(|ip| ip.to_string().into())),
        Arg::Text(device),
        Arg::digest(idempotency.as_ref()),
        Arg::Int(due_at.map(Timestamp::as_millis)),
    ]
}

fn entry_args(entry: &LogEntry) -> [Arg; 5] {
    let LogRow { id, at, session, user_id, entry } = LogRow::of(entry);
    [
        Arg::Int(Some(id)),
        Arg::Int(Some(at)),
        Arg::Bytes(Some(session.0.to_vec())),
        Arg::Text(user_id.map(Into::into)),
        Arg::text(entry),
    ]
}

/// Values of one place in several updates, as an array.
fn list(column: Vec<Arg>) -> Arg {
    let mut lists = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for arg in column {
        match arg {
            Arg::Int(number) => lists.0.push(number),
            Arg::Bool(is_so) => lists.1.push(is_so),
            Arg::Text(text) => lists.2.push(text),
            Arg::Bytes(bytes) => lists.3.push(bytes.unwrap_or_default()),
            other => unreachable!("an update has no lists: {other:?}"),
        }
    }
    match lists {
        (numbers, ..) if !numbers.is_empty() => Arg::Ints(numbers),
        (_, all, ..) if !all.is_empty() => Arg::Bools(all),
        (_, _, texts, _) if !texts.is_empty() => Arg::Texts(texts),
        (.., bytes) => Arg::ByteLists(bytes),
    }
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers can be written")
}
