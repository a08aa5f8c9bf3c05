//! Short ways to say what checks of slots say often.

use std::{sync::Arc, time::Duration};

use crate::{
    audit::{AuditEntry, Event},
    change::Change,
    clock::Timestamp,
    data::{Json, JsonRef},
    ended::{Ending, Reason},
    error::Result,
    record::{Record, SessionInfo},
    secrets::Secrets,
    store::{
        Cursor, Logged, Store,
        slots::{
            Ask, Committed, DataChange, Expect, Found, Known, List, Listed, LogEntry, Outcome, Slot, Transaction,
            UserSlot, Write,
        },
    },
    token::{Digest, Partition, SessionId},
};

pub(super) use crate::testing::checks::fixtures::{NOW, at, json};

pub(super) type Shared = Arc<dyn Store>;

pub(super) fn random() -> u64 {
    Change::new(0).id.max(1)
}

/// A record about to be created, of a user in the user's partition or of an anonymous client anywhere.
pub(super) fn record(store: &Shared, user: Option<&str>) -> Record {
    let partition = match user {
        Some(user) => store.partition_key().partition_of(user),
        None => Partition::random().unwrap(),
    };
    let id = SessionId::generate(partition).unwrap();
    Record {
        revision: random(),
        ..Record::new(
            SessionInfo { user: user.map(Into::into), ..SessionInfo::new(id, NOW) },
            Secrets::new(Digest::from_bytes([7; Digest::LEN]), NOW),
        )
    }
}

pub(super) fn idle(mut record: Record, millis: u64) -> Record {
    record.info.idle_timeout = Some(Duration::from_millis(millis));
    record
}

pub(super) fn with(mut record: Record, entries: &[(&str, &str)]) -> Record {
    for (key, value) in entries {
        record.data.insert(key, json(value));
    }
    record
}

pub(super) fn tx(relies_on: Vec<Expect>, writes: Vec<Write>) -> Transaction {
    Transaction { id: random(), now: NOW, relies_on, writes, log: Vec::new() }
}

pub(super) fn tx_at(now: Timestamp, relies_on: Vec<Expect>, writes: Vec<Write>) -> Transaction {
    Transaction { now, ..tx(relies_on, writes) }
}

pub(super) async fn commit(store: &Shared, transaction: Transaction) -> Outcome {
    try_commit(store, transaction, false).await.expect("the store works")
}

pub(super) async fn try_commit(store: &Shared, transaction: Transaction, again: bool) -> Result<Outcome> {
    let mut outcomes = store.commit(&[transaction], again).await?;
    assert_eq!(outcomes.len(), 1, "an answer each");
    Ok(outcomes.remove(0))
}

pub(super) fn committed(outcome: Outcome) -> Vec<Committed> {
    match outcome {
        Outcome::Committed(answers) => answers,
        Outcome::Conflict(slot) => panic!("conflict: {slot:?}"),
    }
}

#[track_caller]
pub(super) fn conflicts(outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Conflict(_)), "{outcome:?}");
}

/// Creates it and says its id.
pub(super) async fn create(store: &Shared, record: Record) -> SessionId {
    let id = record.info.id;
    committed(commit(store, tx(vec![], vec![Write::Create(Arc::new(record))])).await);
    id
}

pub(super) async fn read(store: &Shared, ask: Ask) -> Found {
    let mut found = store.read(&[ask]).await.expect("the store works");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

pub(super) async fn slot(store: &Shared, id: SessionId) -> Option<Slot> {
    match read(store, Ask::Session(id)).await {
        Found::Session(slot) => slot,
        found => panic!("asked for a session, found {found:?}"),
    }
}

/// The open session, with its data.
pub(super) async fn open(store: &Shared, id: SessionId) -> Arc<Record> {
    match slot(store, id).await {
        Some(Slot::Open(record)) => record,
        slot => panic!("not open: {slot:?}"),
    }
}

pub(super) async fn user(store: &Shared, name: &str) -> Option<UserSlot> {
    match read(store, Ask::User(name.into())).await {
        Found::User(slot) => slot,
        found => panic!("asked for a user, found {found:?}"),
    }
}

pub(super) async fn heads(store: &Shared, user: &str) -> Vec<Arc<Record>> {
    match read(store, Ask::HeadsOf(user.into(), 1000)).await {
        Found::Heads(heads) => heads,
        found => panic!("asked for heads, found {found:?}"),
    }
}

pub(super) fn set(key: &str, value: &str) -> DataChange {
    DataChange { set: [(key.into(), json(value))].into(), ..DataChange::default() }
}

pub(super) fn data(id: SessionId, change: DataChange, known: Option<Known>) -> Write {
    Write::Data { id, change, known }
}

/// Sets a value of a session that lives.
pub(super) fn set_live(id: SessionId, key: &str, value: &str) -> Transaction {
    tx(vec![Expect::Live(id)], vec![data(id, set(key, value), None)])
}

pub(super) fn known(record: &Record) -> Known {
    Known { version: record.info.version, revision: record.revision }
}

/// The record with another head.
pub(super) fn next_head(record: &Record, edit: impl FnOnce(&mut Record)) -> Arc<Record> {
    let mut record = record.clone();
    edit(&mut record);
    record.revision = random();
    Arc::new(record)
}

pub(super) fn ending(record: &Record, now: Timestamp) -> Write {
    Write::End(Ending::new(Reason::RevokedByAdmin).by("root").of(record.info.id, record.info.user.clone(), now))
}

pub(super) fn user_slot(text: &str) -> UserSlot {
    UserSlot { text: text.into(), revision: random(), last_sign_in: None, due_at: None }
}

pub(super) fn entry(record: &Record, event: Event) -> LogEntry {
    LogEntry { id: random(), entry: AuditEntry::about(&record.info, event, NOW) }
}

pub(super) fn value(record: &Record, key: &str) -> Option<String> {
    record.data.get(key).map(|value| value.as_str().to_owned())
}

pub(super) fn number(record: &Record, key: &str) -> u64 {
    value(record, key).map_or(0, |text| text.parse().unwrap())
}

pub(super) fn relied(record: &Record, key: &str) -> Expect {
    Expect::Value(record.info.id, key.into(), record.data.get(key).map(JsonRef::to_json))
}

pub(super) fn json_of(number: u64) -> Json {
    json(&number.to_string())
}

/// All pages of a list.
pub(super) async fn listed(store: &Shared, what: &List, limit: usize) -> Vec<Listed> {
    let (mut items, mut after): (Vec<Listed>, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = store.list(what, after.as_ref(), limit).await.expect("the store works");
        assert!(page.items.len() <= limit);
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            return items;
        }
    }
}

pub(super) async fn listed_ids(store: &Shared, what: &List, limit: usize) -> Vec<SessionId> {
    let id = |item| match item {
        Listed::Session(Slot::Open(record)) => record.info.id,
        Listed::Session(Slot::Ended(ended)) => ended.ended.id,
        Listed::User(name, _) => panic!("asked for sessions, found user {name}"),
        Listed::Damaged(id, problem) => panic!("session {id} cannot be read: {problem}"),
    };
    listed(store, what, limit).await.into_iter().map(id).collect()
}

pub(super) async fn log(store: &Shared, session: SessionId) -> Vec<Logged> {
    let query = crate::store::AuditQuery { session: Some(session), user: None };
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let page = store.audit(&query, after.as_ref(), 7).await.expect("the store works");
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            return items;
        }
    }
}

/// Runs so many tasks at once, each with its number.
pub(super) async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    count: usize,
    task: impl Fn(usize) -> F,
) -> Vec<T> {
    let tasks: Vec<_> = (0..count).map(|n| tokio::spawn(task(n))).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("a task of the check panicked"));
    }
    answers
}
