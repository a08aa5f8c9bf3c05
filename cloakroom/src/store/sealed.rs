//! A store whose records are sealed: it seals the heads that it writes, and with a key for that encrypts heads and values;
//! it shows no session whose seal does not hold. Everything above it sees records as they are without it.
//!
//! What a store must find or compare stays as it is ([`Columns`]); an opened head must agree with it. Of a session whose
//! seal does not hold, lists that limits and endings go by show the columns and nothing else, so that it counts and can end.

use std::{sync::Arc, time::Duration};

use crate::{
    change::{Applied, Change},
    clock::Timestamp,
    data::{Data, Json, JsonRef},
    error::{Error, Result},
    record::{Extra, Record},
    seal::RecordKeys,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, NearStore, Page, Store,
        feed::{Feed, Listener, Looked, Pace, Watched},
        forward::forward,
        head::{self, Beside},
        slots::{
            Ask, Columns, Committed, EndedSlot, Expect, Forget, Found, List, Listed, Outcome, SeenAt, Slot,
            Transaction, Write,
        },
    },
    token::{PartitionKey, SessionId},
};

/// A store whose records are sealed.
#[derive(Clone, Debug)]
pub struct SealedStore {
    keys: RecordKeys,
    inner: Arc<dyn Store>,
}

/// How often a change is decided on the values as they were just read; then it is the caller's turn to look.
const MOST: u32 = 8;

impl SealedStore {
    /// Seals what goes into a store, and opens what comes out of it.
    pub fn new(inner: Arc<dyn Store>, keys: RecordKeys) -> Self {
        Self { keys, inner }
    }

    fn inner(&self) -> &dyn Store {
        &*self.inner
    }

    async fn commit_all(&self, transactions: &[Transaction], again: bool) -> Result<Vec<Outcome>> {
        // Those that are decided here go one after another, with what their callers would see of the others.
        if let [only] = transactions {
            return Ok(vec![self.commit_one(only, again).await?]);
        }
        let (alone, together): (Vec<_>, Vec<_>) =
            transactions.iter().enumerate().partition(|(_, transaction)| self.must_look(transaction));
        let sealed: Result<Vec<_>> =
            together.iter().map(|(_, transaction)| self.seal_transaction(transaction)).collect();
        let mut outcomes: Vec<Option<Outcome>> = vec![None; transactions.len()];
        let answers = if together.is_empty() { Vec::new() } else { self.inner.commit(&sealed?, again).await? };
        for ((place, transaction), outcome) in together.into_iter().zip(answers) {
            outcomes[place] = Some(self.conclude(transaction, outcome).await?);
        }
        for (place, transaction) in alone {
            outcomes[place] = Some(self.look_and_commit(transaction).await?);
        }
        outcomes.into_iter().map(|outcome| outcome.ok_or_else(unasked)).collect()
    }

    async fn commit_one(&self, transaction: &Transaction, again: bool) -> Result<Outcome> {
        if self.must_look(transaction) {
            return self.look_and_commit(transaction).await;
        }
        let sealed = self.seal_transaction(transaction)?;
        let outcome = self.send(&sealed, again).await?;
        self.conclude(transaction, outcome).await
    }

    async fn send(&self, sealed: &Transaction, again: bool) -> Result<Outcome> {
        self.inner.commit(std::slice::from_ref(sealed), again).await?.pop().ok_or_else(unasked)
    }

    /// What became of a transaction. A conflict may be none: values may be encrypted with an earlier key, and what is
    /// stored is larger than what counts.
    async fn conclude(&self, transaction: &Transaction, outcome: Outcome) -> Result<Outcome> {
        match outcome {
            Outcome::Conflict(Some(slot)) => {
                let id = slot.id();
                let opened = self.open_slot(slot);
                if self.keys.encrypt()
                    && changed(transaction).is_some_and(|(changed, _)| changed == id)
                    && let Some(Slot::Open(record)) = &opened
                    && holds(transaction, record)
                {
                    return self.look_and_commit(transaction).await;
                }
                Ok(Outcome::Conflict(opened))
            }
            outcome => Ok(self.open_outcome(outcome)),
        }
    }

    /// Whether the store cannot tell by what it keeps if data would be too large. Where at most one value is set and none goes,
    /// what is stored grows where what counts does: if it stays within the limit or grows not at all, so does the other.
    fn must_look(&self, transaction: &Transaction) -> bool {
        let limited = || transaction.relies_on.iter().any(|expect| matches!(expect, Expect::DataAtMost(..)));
        self.keys.encrypt()
            && changed(transaction).is_some_and(|(_, change)| {
                let removes = change.remove_all || !change.remove.is_empty();
                change.set.len() > 1 || removes && !change.set.is_empty()
            })
            && limited()
    }

    /// Decides on the values as they are, and commits it if nothing changed meanwhile.
    async fn look_and_commit(&self, transaction: &Transaction) -> Result<Outcome> {
        let Some((id, _)) = changed(transaction) else { return Err(unasked()) };
        let mut sealed = self.seal_transaction(transaction)?;
        for _ in 0..MOST {
            let stored = match self.inner.read(&[Ask::Session(id)]).await?.pop() {
                Some(Found::Session(Some(Slot::Open(record)))) => Some(record),
                Some(Found::Session(_)) => None,
                _ => return Err(unasked()),
            };
            let opened = stored.as_ref().and_then(|stored| self.open(stored));
            let fits = opened.is_some_and(|record| holds(transaction, &record));
            sealed.relies_on.clear();
            sealed.relies_on.extend(transaction.relies_on.iter().filter_map(|expect| match (expect, &stored) {
                (Expect::DataAtMost(..), _) => None,
                (Expect::Value(id, key, _), Some(stored)) => {
                    Some(Expect::Value(*id, Arc::clone(key), stored.data.get(key).map(JsonRef::to_json)))
                }
                _ => Some(expect.clone()),
            }));
            match &stored {
                Some(record) if fits => sealed.relies_on.push(Expect::Version(id, record.info.version)),
                // Only an earlier try of the same can have been done.
                _ => sealed.relies_on.extend([0, 1].map(|revision| Expect::Head(id, revision))),
            }
            match self.send(&sealed, false).await? {
                Outcome::Conflict(_) if fits => {}
                Outcome::Conflict(slot) => return Ok(Outcome::Conflict(slot.and_then(|slot| self.open_slot(slot)))),
                outcome @ Outcome::Committed(_) => return Ok(self.open_outcome(outcome)),
            }
        }
        let found = self.inner.read(&[Ask::Session(id)]).await?.pop();
        match found.map(|found| self.open_found(&Ask::Session(id), found)) {
            Some(Found::Session(slot)) => Ok(Outcome::Conflict(slot)),
            _ => Err(unasked()),
        }
    }

    fn seal_transaction(&self, transaction: &Transaction) -> Result<Transaction> {
        let relies_on = transaction.relies_on.iter().map(|expect| match expect {
            Expect::Value(id, key, Some(value)) => {
                Expect::Value(*id, Arc::clone(key), Some(self.keys.seal_value(*id, key, value)))
            }
            expect => expect.clone(),
        });
        let writes = transaction.writes.iter().map(|write| {
            Ok(match write {
                Write::Create(record) => Write::Create(self.seal(record)?),
                Write::Head(record) => Write::Head(self.seal(record)?),
                // By the version that the caller knows a store tells a late repeat from a first try.
                Write::Data { id, change, known } => {
                    let mut change = change.clone();
                    for (key, value) in &mut change.set {
                        *value = self.keys.seal_value(*id, key, value);
                    }
                    Write::Data { id: *id, change, known: *known }
                }
                Write::Import(Slot::Open(record)) => Write::Import(Slot::Open(self.seal(record)?)),
                Write::Import(Slot::Ended(slot)) => {
                    let EndedSlot { record, ended, transaction } = &**slot;
                    let (record, ended) = (self.seal(record)?, ended.clone());
                    Write::Import(Slot::Ended(Arc::new(EndedSlot { record, ended, transaction: *transaction })))
                }
                Write::End(_) | Write::Due(..) | Write::User(..) | Write::SignedIn(..) => write.clone(),
            })
        });
        let writes: Result<_> = writes.collect();
        let Transaction { id, now, relies_on: _, writes: _, log } = transaction;
        Ok(Transaction { id: *id, now: *now, relies_on: relies_on.collect(), writes: writes?, log: log.clone() })
    }

    /// A record as it is stored: its columns, and beside them nothing that is not sealed.
    fn seal(&self, record: &Arc<Record>) -> Result<Arc<Record>> {
        if record.extra.as_ref().is_some_and(|extra| extra.sealed.is_some()) {
            let message = format!("session {} is forged: it cannot be written", record.info.id);
            return Err(Error::Store { message, source: None });
        }
        let id = record.info.id;
        let text = self.keys.seal_head(id, head::encode(record));
        let mut sealed = known_columns(record, &text);
        // It says when it is due.
        let extra = sealed.extra.get_or_insert_with(Box::<Extra>::default);
        extra.replaces = record.extra.as_ref().and_then(|extra| extra.replaces);
        let seal =
            |(key, value): (&str, JsonRef<'_>)| (Arc::from(key), self.keys.seal_value(id, key, &value.to_json()));
        sealed.data = if self.keys.encrypt() { record.data.iter().map(seal).collect() } else { record.data.clone() };
        Ok(Arc::new(sealed))
    }

    /// A record as it was before it was sealed; none if its seal does not hold.
    fn open(&self, stored: &Arc<Record>) -> Option<Arc<Record>> {
        let opened = self.try_open(stored);
        if opened.is_none() {
            tracing::error!(
                session = %stored.info.id,
                "the session's row in the store is forged, or was sealed with a key that is not configured: it is refused"
            );
        }
        opened.map(Arc::new)
    }

    fn try_open(&self, stored: &Record) -> Option<Record> {
        let id = stored.info.id;
        let text = self.keys.open_head(id, stored.extra.as_ref()?.sealed.as_deref()?)?;
        let data: Option<Data> = if self.keys.encrypt() {
            let open =
                |(key, value): (&str, JsonRef<'_>)| Some((Arc::from(key), self.keys.open_value(id, key, value)?));
            stored.data.iter().map(open).collect::<Option<Vec<(Arc<str>, Json)>>>().map(Data::from_iter)
        } else {
            Some(stored.data.clone())
        };
        let (revision, version, seen) = (stored.revision, stored.info.version, stored.info.last_seen_at);
        let mut record =
            head::decode(&text, Beside { id, revision, version, seen, data: data? }, || Err(unasked())).ok()?;
        record.recent_changes = stored.recent_changes.clone();
        // Whose list it stands in and when it ends must be what its head says.
        (compared(&record) == compared(stored)).then_some(record)
    }

    /// A session as those see it who use it: one whose seal does not hold is not there.
    fn open_slot(&self, slot: Slot) -> Option<Slot> {
        match slot {
            Slot::Open(record) => self.open(&record).map(Slot::Open),
            Slot::Ended(slot) => {
                let record = self.open(&slot.record)?;
                Some(Slot::Ended(Arc::new(EndedSlot {
                    record,
                    ended: slot.ended.clone(),
                    transaction: slot.transaction,
                })))
            }
        }
    }

    /// A session as those see it who count or end it.
    fn open_head(&self, slot: Slot) -> Slot {
        let open = |record: &Arc<Record>| self.open(record).unwrap_or_else(|| Arc::new(known_columns(record, "")));
        match slot {
            Slot::Open(record) => Slot::Open(open(&record)),
            Slot::Ended(slot) => {
                let (record, ended) = (open(&slot.record), slot.ended.clone());
                Slot::Ended(Arc::new(EndedSlot { record, ended, transaction: slot.transaction }))
            }
        }
    }

    fn open_found(&self, ask: &Ask, found: Found) -> Found {
        match found {
            Found::Session(slot) if matches!(ask, Ask::Head(_)) => {
                Found::Session(slot.map(|slot| self.open_head(slot)))
            }
            Found::Session(slot) => Found::Session(slot.and_then(|slot| self.open_slot(slot))),
            Found::Heads(records) => {
                let open = |record| match self.open_head(Slot::Open(record)) {
                    Slot::Open(record) => Some(record),
                    Slot::Ended(_) => None,
                };
                Found::Heads(records.into_iter().filter_map(open).collect())
            }
            found @ (Found::User(_) | Found::Try(_)) => found,
        }
    }

    fn open_listed(&self, what: &List, listed: Listed) -> Option<Listed> {
        match listed {
            Listed::Session(slot) if matches!(what, List::Due(_)) => Some(Listed::Session(self.open_head(slot))),
            Listed::Session(slot) => {
                let id = slot.id();
                let opened = self.open_slot(slot).map(Listed::Session);
                let forged = || Listed::Damaged(id, "its seal does not hold with the keys that are configured".into());
                if *what == List::Everything { opened.or_else(|| Some(forged())) } else { opened }
            }
            listed @ (Listed::User(..) | Listed::Damaged(..)) => Some(listed),
        }
    }

    /// A change of a session whose seal does not hold is answered as if there were no session.
    fn open_outcome(&self, outcome: Outcome) -> Outcome {
        let Outcome::Committed(answers) = outcome else { return outcome };
        let open = |answer| match answer {
            Committed::Record(record) => self.open(&record).map(Committed::Record),
            answer @ (Committed::AsKnown { .. } | Committed::Done) => Some(answer),
        };
        let answers: Option<_> = answers.into_iter().map(open).collect();
        answers.map_or(Outcome::Conflict(None), Outcome::Committed)
    }
}

/// The session whose data a transaction changes.
fn changed(transaction: &Transaction) -> Option<(SessionId, &super::slots::DataChange)> {
    transaction.writes.iter().find_map(|write| match write {
        Write::Data { id, change, .. } => Some((*id, change)),
        _ => None,
    })
}

/// Whether what a transaction relies on of this one session is so.
fn holds(transaction: &Transaction, record: &Record) -> bool {
    let Some((_, data)) = changed(transaction) else { return false };
    let mut change = Change::new(usize::MAX);
    (change.remove_all, change.remove, change.set) = (data.remove_all, data.remove.clone(), data.set.clone());
    let seen = record.info.last_seen_at;
    let so = transaction.relies_on.iter().all(|expect| match expect {
        Expect::Live(_) => head::columns(record).lives(seen, transaction.now),
        Expect::Head(_, revision) => record.revision == *revision,
        Expect::Version(_, version) => record.info.version == *version,
        Expect::Value(_, key, value) => record.data.get(key) == value.as_ref().map(Json::as_ref),
        Expect::NotSeenSince(_, at) => seen <= *at,
        Expect::DataAtMost(_, most) => {
            change.max_data_bytes = change.max_data_bytes.min(*most);
            true
        }
        Expect::Empty(_) | Expect::User(..) | Expect::Count(..) | Expect::Try(..) => false,
    });
    // The rule of sizes stands where changes are applied.
    so && matches!(change.apply_to(&mut record.clone(), transaction.now), Applied::Now)
}

/// What the store's columns say of a session, and its head as it is stored.
fn known_columns(record: &Record, head: &str) -> Record {
    let mut columns = head::columns(record);
    columns.idle = columns.idle.map(whole_millis);
    let mut known = head::sealed(record.info.id, head, columns);
    known.revision = record.revision;
    known.info.version = record.info.version;
    known.info.last_seen_at = record.info.last_seen_at;
    known.recent_changes = record.recent_changes.clone();
    known
}

/// What must be the same in the columns and in the head. The reaper moves when it is due, and some stores keep no times longer
/// than all of time.
fn compared(record: &Record) -> Columns {
    let columns = head::columns(record);
    let always = Duration::from_millis(Timestamp::MAX.as_millis().unsigned_abs());
    let idle = columns.idle.map(|idle| whole_millis(idle).min(always));
    Columns { idle, due_at: None, ..columns }
}

/// As heads say it.
fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cold]
fn unasked() -> Error {
    Error::Store { message: "it answered something else than it was asked".into(), source: None }
}

impl Store for SealedStore {
    forward!(Self::inner => partition_key spans_groups touch forget audit ping examine adopt_partition_key);

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(async move {
            let found = self.inner.read(asks).await?;
            Ok(asks.iter().zip(found).map(|(ask, found)| self.open_found(ask, found)).collect())
        })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(self.commit_all(transactions, again))
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(async move {
            let Page { items, next } = self.inner.list(what, after, limit).await?;
            Ok(Page { items: items.into_iter().filter_map(|item| self.open_listed(what, item)).collect(), next })
        })
    }

    fn peek(&self, id: SessionId) -> Option<Option<Slot>> {
        // One that is forged is looked at once more, by those who count and end too.
        match Store::peek(&*self.inner, id)? {
            Some(slot) => self.open_slot(slot).map(Some),
            None => Some(None),
        }
    }

    fn edits_in_place(&self) -> bool {
        false
    }

    fn edit(&self, _: SessionId, _: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        None
    }

    fn feed(&self, pace: &Pace) -> Option<Arc<dyn Feed>> {
        let feed = self.inner.feed(pace)?;
        Some(Arc::new(SealedFeed { store: self.clone(), feed }))
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}

/// The news of a store whose slots are sealed.
#[derive(Debug)]
struct SealedFeed {
    store: SealedStore,
    feed: Arc<dyn Feed>,
}

impl Feed for SealedFeed {
    fn listen(&self, listener: Arc<dyn Listener>) {
        self.feed.listen(listener);
    }

    fn look(&self, id: SessionId) -> BoxFuture<'_, Result<Looked>> {
        Box::pin(async move {
            let Looked { slot, channel } = self.feed.look(id).await?;
            Ok(Looked { slot: slot.and_then(|slot| self.store.open_slot(slot)), channel })
        })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Watched>> {
        Box::pin(
            async move { Ok(Watched { outcomes: self.store.commit_all(transactions, again).await?, channel: None }) },
        )
    }
}
