//! Transactions that happen often, taken apart: what each relies on, as a plain statement can say it.

use super::{flight::session_of, rows::now};
use crate::{
    ended::Ended,
    record::Record,
    store::{
        LastSignIn, packed,
        slots::{DataChange, Expect, Known, LogEntry, Transaction, Write},
    },
    token::SessionId,
};

/// One of them.
pub(super) enum Plain<'a> {
    /// A change of one session's data.
    Update(Update<'a>),
    /// A session starts.
    Start(Start<'a>),
    /// A session ends.
    End(&'a Ended, Relied, Option<&'a LogEntry>),
    /// A session gets another head. It relies on the revision.
    Head(&'a Record, Relied, Option<&'a LogEntry>),
}

impl<'a> Plain<'a> {
    pub(super) fn of(transaction: &'a Transaction) -> Option<Self> {
        if let Some(update) = Update::of(transaction) {
            return Some(Self::Update(update));
        }
        let entry = match &transaction.log[..] {
            [] => None,
            [entry] => Some(entry),
            _ => return None,
        };
        match &transaction.writes[..] {
            [Write::Create(record)] => Start::of(transaction, record, None, entry).map(Self::Start),
            [Write::Create(record), Write::SignedIn(user, last)]
            | [Write::SignedIn(user, last), Write::Create(record)]
                if record.info.user.as_ref() == Some(user) =>
            {
                Start::of(transaction, record, Some(last), entry).map(Self::Start)
            }
            [Write::End(ended)] => {
                let relied = Relied::of(transaction, ended.id, entry).filter(|relied| relied.version.is_none())?;
                Some(Self::End(ended, relied, entry))
            }
            [Write::Head(record)] => {
                let relied = Relied::of(transaction, record.info.id, entry)?;
                let is_plain = relied.revision.is_some() && relied.unseen.is_none();
                is_plain.then_some(Self::Head(record, relied, entry))
            }
            _ => None,
        }
    }
}

/// A session that starts.
pub(super) struct Start<'a> {
    pub(super) record: &'a Record,
    pub(super) signed_in: Option<&'a LastSignIn>,
    pub(super) entry: Option<&'a LogEntry>,
    /// That of the user's slot.
    pub(super) revision: Option<u64>,
    /// How many sessions of the user count.
    pub(super) count: Option<usize>,
    pub(super) now: i64,
}

impl<'a> Start<'a> {
    fn of(
        transaction: &'a Transaction,
        record: &'a Record,
        signed_in: Option<&'a LastSignIn>,
        entry: Option<&'a LogEntry>,
    ) -> Option<Self> {
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
        Some(Self { record, signed_in, entry, revision, count, now: now(transaction.now) })
    }
}

/// What an update, an ending or a head write relies on, of its own session alone.
pub(super) struct Relied {
    /// When it must live; the lowest number where that does not matter.
    pub(super) now: i64,
    pub(super) revision: Option<i64>,
    pub(super) version: Option<i64>,
    /// Since when it must not have been seen.
    pub(super) unseen: Option<i64>,
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
    pub(super) transaction: u64,
    pub(super) id: SessionId,
    pub(super) now: i64,
    pub(super) revision: Option<i64>,
    pub(super) version: Option<i64>,
    pub(super) most: i64,
    pub(super) present: Vec<Vec<u8>>,
    pub(super) absent: Vec<Vec<u8>>,
    pub(super) change: &'a DataChange,
    pub(super) known: Option<Known>,
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
                Expect::Value(_, key, Some(value)) => update.present.push(packed::relied_on(key, Some(value))),
                Expect::Value(_, key, None) => update.absent.push(packed::relied_on(key, None)),
                Expect::DataAtMost(_, most) => update.most = update.most.min(i64::try_from(*most).unwrap_or(i64::MAX)),
                _ => return None,
            }
        }
        Some(update)
    }
}
