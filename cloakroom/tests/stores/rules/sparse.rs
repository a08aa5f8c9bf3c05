//! A store that does no more than the contract of slots asks.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cloakroom::{
    Data, Error, Record, Result, SessionId, Timestamp,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, Logged, MemoryStore, NearStore, Page, PartitionKey, RecentChanges,
        Store,
        feed::{Feed, Pace},
        slots::{
            Ask, Committed, EndedSlot, Expect, Forget, Found, List, Listed, Outcome, SeenAt, Slot, Transaction, Write,
        },
    },
};

/// Answers every question by a trip, shows no data that was not asked for and no ids of changes, and takes only
/// transactions whose sessions and users are of one group. On demand it is cut off after some commits.
#[derive(Clone, Debug)]
pub(crate) struct Sparse {
    inner: Arc<MemoryStore>,
    commits_left: Arc<AtomicUsize>,
    pub(crate) trips: Arc<AtomicUsize>,
}

impl Sparse {
    pub(crate) fn new() -> Self {
        let inner = Arc::new(MemoryStore::new().unwrap());
        Self { inner, commits_left: Arc::new(AtomicUsize::new(usize::MAX)), trips: Arc::default() }
    }

    /// From now on so many transactions are committed; then every commit fails.
    pub(crate) fn cut_off_after(&self, commits: usize) {
        self.commits_left.store(commits, Ordering::Relaxed);
    }

    pub(crate) fn connect(&self) {
        self.cut_off_after(usize::MAX);
    }

    fn trip(&self) {
        self.trips.fetch_add(1, Ordering::Relaxed);
    }

    fn assert_one_group(&self, transaction: &Transaction) {
        let of_user = |user: &str| Store::partition_key(self).partition_of(user).group();
        let of = |id: &SessionId| id.partition().group();
        let mut groups = BTreeSet::new();
        groups.extend(transaction.relies_on.iter().map(|expect| match expect {
            Expect::Live(id)
            | Expect::Head(id, _)
            | Expect::Version(id, _)
            | Expect::Value(id, ..)
            | Expect::DataAtMost(id, _)
            | Expect::NotSeenSince(id, _)
            | Expect::Empty(id) => of(id),
            Expect::User(user, _) | Expect::Count(user, _) => of_user(user),
            Expect::Try(partition, ..) => partition.group(),
        }));
        groups.extend(transaction.writes.iter().map(|write| match write {
            Write::Create(record) | Write::Head(record) => of(&record.info.id),
            Write::Data { id, .. } | Write::Due(id, _) => of(id),
            Write::End(ended) => of(&ended.id),
            Write::Import(slot) => of(&slot.id()),
            Write::User(user, _) | Write::SignedIn(user, _) => of_user(user),
        }));
        groups.extend(transaction.log.iter().map(|logged| of(&logged.entry.session)));
        assert!(groups.len() <= 1, "{transaction:?}");
    }
}

impl Store for Sparse {
    fn partition_key(&self) -> &PartitionKey {
        Store::partition_key(&*self.inner)
    }

    fn spans_groups(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>> {
        Box::pin(async move {
            self.trip();
            let found = self.inner.read(asks).await?;
            let strip = |(ask, found): (&Ask, Found)| match (ask, found) {
                (Ask::Session(_), Found::Session(slot)) => Found::Session(slot.map(shown)),
                (_, Found::Session(slot)) => Found::Session(slot.map(head)),
                (_, Found::Heads(heads)) => Found::Heads(heads.iter().map(|record| without_data(record)).collect()),
                (_, other) => other,
            };
            Ok(asks.iter().zip(found).map(strip).collect())
        })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>> {
        Box::pin(async move {
            self.trip();
            let mut outcomes = Vec::new();
            for transaction in transactions {
                self.assert_one_group(transaction);
                let left = self.commits_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                if left.is_err() {
                    return Err(Error::Unavailable { message: "it was cut off".into(), source: None });
                }
                let outcome = self.inner.commit(std::slice::from_ref(transaction), again).await?.remove(0);
                outcomes.push(match outcome {
                    Outcome::Committed(answers) => Outcome::Committed(answers.into_iter().map(answer).collect()),
                    Outcome::Conflict(slot) => Outcome::Conflict(slot.map(shown)),
                });
            }
            Ok(outcomes)
        })
    }

    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        self.trip();
        Store::touch(&*self.inner, touches, now)
    }

    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>> {
        Box::pin(async move {
            self.trip();
            let page = self.inner.list(what, after, limit).await?;
            let strip = |listed| match listed {
                Listed::Session(slot) if *what == List::Everything => Listed::Session(shown(slot)),
                Listed::Session(slot) => Listed::Session(head(slot)),
                other @ (Listed::User(..) | Listed::Damaged(..)) => other,
            };
            Ok(Page { items: page.items.into_iter().map(strip).collect(), next: page.next })
        })
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
        Store::audit(&*self.inner, query, after, limit)
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Store::ping(&*self.inner)
    }

    fn peek(&self, _id: SessionId) -> Option<Option<Slot>> {
        None
    }

    fn edits_in_place(&self) -> bool {
        false
    }

    fn edit(&self, _id: SessionId, _change: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>> {
        None
    }

    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Store::examine(&*self.inner, now, repair)
    }

    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>> {
        Store::adopt_partition_key(&*self.inner, key)
    }

    fn feed(&self, _: &Pace) -> Option<Arc<dyn Feed>> {
        None
    }

    fn near(&self) -> Option<&NearStore> {
        None
    }
}

/// As it is read.
fn shown(slot: Slot) -> Slot {
    let bare = |record: &Record| Arc::new(Record { recent_changes: RecentChanges::default(), ..record.clone() });
    match slot {
        Slot::Open(record) => Slot::Open(bare(&record)),
        Slot::Ended(slot) => {
            let EndedSlot { record, ended, transaction } = &*slot;
            Slot::Ended(Arc::new(EndedSlot { record: bare(record), ended: ended.clone(), transaction: *transaction }))
        }
    }
}

fn head(slot: Slot) -> Slot {
    match shown(slot) {
        Slot::Open(record) => Slot::Open(without_data(&record)),
        ended @ Slot::Ended(_) => ended,
    }
}

fn without_data(record: &Record) -> Arc<Record> {
    let recent_changes = RecentChanges::default();
    Arc::new(Record { data: Data::new(), recent_changes, ..record.clone() })
}

fn answer(committed: Committed) -> Committed {
    match committed {
        Committed::Record(record) => {
            let recent_changes = RecentChanges::default();
            Committed::Record(Arc::new(Record { recent_changes, ..(*record).clone() }))
        }
        other => other,
    }
}
