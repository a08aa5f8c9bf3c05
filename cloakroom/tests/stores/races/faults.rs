//! Faults planted in a store: each breaks one promise, sometimes, and the checker must notice every one of them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use cloakroom::{
    Record, Result, SessionId, Timestamp,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, PartitionKey, Store,
        feed::{Feed, Pace},
        slots::{
            Ask, Committed, Expect, Forget, Found, List, Listed, LogEntry, Outcome, SeenAt, Slot, Transaction, Write,
        },
    },
};
use serde::{Deserialize, Serialize};

use crate::common::random::Random;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub(super) enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

faults! {
    /// Values relied on are not compared.
    ForgetsValues,
    /// Heads are overwritten, not compared.
    ForgetsHeads,
    /// Sessions are counted before others are admitted.
    ForgetsCounts,
    /// What is settled about a user is not compared.
    ForgetsUsers,
    /// Two tries with one idempotency key both start a session.
    ForgetsTries,
    /// A slot is answered as it was a while ago.
    AnswersStaleSlots,
    /// A session that ended comes back.
    Resurrects,
    /// An ending is answered and not done.
    LosesEndings,
    /// A transaction commits without its audit entries.
    LosesEntries,
    /// An audit entry is written twice.
    LogsTwice,
    /// A change is applied once more.
    RepeatsChanges,
    /// Of two values of one change the first is written.
    WritesInPart,
    /// Data are written whole, as they were a while ago.
    WritesDataWhole,
    /// Last-seen moves back.
    MovesSeenBack,
    /// The list of a user misses the newest session.
    ListMissesTheNewest,
    /// A version is answered that is older than the change.
    AnswersOldVersions,
}

/// A store with a fault.
pub(super) struct Faulty<S> {
    inner: S,
    fault: Fault,
    random: Random,
    old: Mutex<HashMap<SessionId, Arc<Record>>>,
}

impl<S> Faulty<S> {
    pub(super) fn new(inner: S, fault: Fault, seed: u64) -> Self {
        Self { inner, fault, random: Random::new(seed), old: Mutex::default() }
    }

    /// Whether it happens this time.
    fn strikes(&self, fault: Fault) -> bool {
        self.fault == fault && self.random.percent(15)
    }

    /// The session as it was when it was first looked at in a while.
    fn old(&self, record: &Arc<Record>) -> Arc<Record> {
        let mut old = self.old.lock().unwrap();
        let kept = old.entry(record.info.id).or_insert_with(|| Arc::clone(record));
        let answer = Arc::clone(kept);
        if self.random.percent(20) {
            *kept = Arc::clone(record);
        }
        answer
    }
}

impl<S: Store> Faulty<S> {
    async fn look(&self, id: SessionId) -> Result<Option<Arc<Record>>> {
        match self.inner.read(&[Ask::Session(id)]).await?.pop() {
            Some(Found::Session(Some(Slot::Open(record)))) => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// Writes nobody asked for.
    async fn write(&self, now: Timestamp, writes: Vec<Write>, log: Vec<LogEntry>) -> Result<()> {
        let transaction = Transaction { id: self.random.next(), now, relies_on: Vec::new(), writes, log };
        self.inner.commit(&[transaction], false).await.map(drop)
    }

    async fn commit_one(&self, sent: &Transaction, again: bool) -> Result<Outcome> {
        let mut transaction = sent.clone();
        let relies_on = &mut transaction.relies_on;
        match self.fault {
            Fault::ForgetsValues => relies_on.retain(|expect| !matches!(expect, Expect::Value(..))),
            Fault::ForgetsHeads => relies_on.retain(|expect| !matches!(expect, Expect::Head(..))),
            Fault::ForgetsCounts => relies_on.retain(|expect| !matches!(expect, Expect::Count(..))),
            Fault::ForgetsUsers => relies_on.retain(|expect| !matches!(expect, Expect::User(..))),
            Fault::ForgetsTries => relies_on.retain(|expect| !matches!(expect, Expect::Try(..))),
            _ => {}
        }
        if self.strikes(Fault::LosesEntries) {
            transaction.log.clear();
        }
        if self.strikes(Fault::LosesEndings) {
            transaction.writes.retain(|write| !matches!(write, Write::End(_)));
        }
        let mut ending = None;
        for write in &mut transaction.writes {
            match write {
                Write::Data { id, change, .. } if self.fault == Fault::WritesDataWhole => {
                    if let Some(record) = self.look(*id).await? {
                        let old = self.old(&record);
                        let data = old.data.iter().map(|(key, value)| (Arc::from(key), value.to_json()));
                        change.set = data.chain(std::mem::take(&mut change.set)).collect();
                    }
                }
                Write::Data { change, .. } if change.set.len() > 1 && self.strikes(Fault::WritesInPart) => {
                    change.set.pop_last();
                }
                Write::End(ended) if self.strikes(Fault::Resurrects) => ending = self.look(ended.id).await?,
                _ => {}
            }
        }
        let outcome = self.inner.commit(std::slice::from_ref(&transaction), again).await?.pop().unwrap();
        let Outcome::Committed(mut answers) = outcome else { return Ok(outcome) };
        if let Some(record) = ending {
            self.write(sent.now, vec![Write::Import(Slot::Open(record))], Vec::new()).await?;
        }
        if !sent.log.is_empty() && self.strikes(Fault::LogsTwice) {
            let log = sent.log.iter().map(|logged| LogEntry { id: self.random.next(), entry: logged.entry.clone() });
            self.write(sent.now, Vec::new(), log.collect()).await?;
        }
        for write in &transaction.writes {
            if let Write::Data { id, change, .. } = write
                && self.strikes(Fault::RepeatsChanges)
            {
                let repeated = Write::Data { id: *id, change: change.clone(), known: None };
                self.write(sent.now, vec![repeated], Vec::new()).await?;
            }
        }
        for answer in &mut answers {
            if let Committed::Record(record) = answer
                && self.strikes(Fault::AnswersOldVersions)
            {
                Arc::make_mut(record).info.version -= 1;
            }
        }
        Ok(Outcome::Committed(answers))
    }

    fn spoil(&self, found: Found) -> Found {
        match found {
            Found::Session(Some(Slot::Open(record))) if self.fault == Fault::AnswersStaleSlots => {
                let old = self.old(&record);
                Found::Session(Some(Slot::Open(if self.strikes(Fault::AnswersStaleSlots) { old } else { record })))
            }
            Found::Session(Some(Slot::Ended(slot))) if self.strikes(Fault::AnswersStaleSlots) => {
                let old = self.old.lock().unwrap().get(&slot.ended.id).cloned();
                Found::Session(Some(old.map_or(Slot::Ended(slot), Slot::Open)))
            }
            Found::Heads(heads) if self.fault == Fault::ListMissesTheNewest => {
                Found::Heads(heads.into_iter().skip(1).collect())
            }
            found => found,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with {:?}", self.inner, self.fault)
    }
}

impl<S: Store> Store for Faulty<S> {
    fn partition_key(&self) -> &PartitionKey {
        Store::partition_key(&self.inner)
    }

    fn spans_groups(&self) -> bool {
        self.inner.spans_groups()
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(async move { Ok(self.inner.read(asks).await?.into_iter().map(|found| self.spoil(found)).collect()) })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(async move {
            let mut outcomes = Vec::new();
            for transaction in transactions {
                outcomes.push(self.commit_one(transaction, again).await?);
            }
            Ok(outcomes)
        })
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(async move {
            let answers = self.inner.touch(touches, now).await?;
            if self.strikes(Fault::MovesSeenBack)
                && let Some(record) = self.look(touches[0].id).await?
            {
                let mut record = Record::clone(&record);
                record.info.last_seen_at = record.info.created_at;
                self.write(now, vec![Write::Import(Slot::Open(Arc::new(record)))], Vec::new()).await?;
            }
            Ok(answers)
        })
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        self.inner.list(what, after, limit)
    }

    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>> {
        self.inner.forget(forget)
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Store::audit(&self.inner, query, after, limit)
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Store::ping(&self.inner)
    }

    fn peek(&self, _: SessionId) -> Option<Option<Slot>> {
        None
    }

    fn edits_in_place(&self) -> bool {
        false
    }

    fn edit(&self, _: SessionId, _: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        None
    }

    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Store::examine(&self.inner, now, repair)
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Store::adopt_partition_key(&self.inner, key)
    }

    fn feed(&self, _: &Pace) -> Option<Arc<dyn Feed>> {
        None
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}
