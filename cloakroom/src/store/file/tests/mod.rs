//! What only shows from inside: every call to the disk fails or is the last one, and what calls cost.

mod costs;
mod disk;
mod faults;
mod journal;
mod room;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use self::disk::{MemoryDisk, Used};
use super::{
    fault::Fault,
    journal::{Journal, Limits},
    open,
    tables::Within,
    view::View,
};
use crate::{
    audit::AuditEntry,
    clock::Timestamp,
    data::Json,
    ended::{Ended, Ending, Reason},
    record::{Record, SessionInfo},
    rules::Create,
    secrets::Secrets,
    store::{
        embedded,
        slots::{DataChange, Expect, LogEntry, Outcome, Transaction, Write},
    },
    token::{PartitionKey, SessionId, Token},
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn at(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

/// A disk with an empty store on it, and its key.
fn new_store() -> (MemoryDisk, PartitionKey) {
    let disk = MemoryDisk::default();
    open::prepare(&disk, Duration::ZERO).unwrap();
    let key = open::read_format(&disk, "memory".as_ref()).unwrap();
    (disk, key)
}

const LIMITS: Limits = Limits { patience: Duration::ZERO, journal: u64::MAX, audit_file: u64::MAX, reserve: 0 };

fn journal(disk: &MemoryDisk, limits: Limits) -> Box<Journal> {
    Box::new(Journal::new(disk.clone(), limits))
}

/// One call with a commit of its own.
fn commit<T>(journal: &Journal, work: impl FnOnce(&View<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
    journal.write(|changes| {
        let own = View::new(journal.disk(), changes);
        let answer = work(&own)?;
        let own = own.into_changes();
        changes.extend(own);
        Ok(answer)
    })
}

/// Does a transaction, which nothing keeps from being done.
fn apply(view: &View<'_>, key: &PartitionKey, transaction: &Transaction) -> Result<(), Fault> {
    let outcome = embedded::commit(&Within::for_transaction(view, key, transaction), transaction, false)?;
    assert!(matches!(outcome, Some(Outcome::Committed(_))), "{outcome:?}");
    Ok(())
}

/// The same for one call with a commit of its own.
fn run(journal: &Journal, key: &PartitionKey, transaction: &Transaction) -> Result<(), Fault> {
    commit(journal, |view| apply(view, key, transaction))
}

/// The number tells its id, and those of its entries.
fn tx(
    number: u64,
    now: Timestamp,
    relies_on: Vec<Expect>,
    writes: Vec<Write>,
    log: impl IntoIterator<Item = AuditEntry>,
) -> Transaction {
    let log = log.into_iter().zip(1000 * number..).map(|(entry, id)| LogEntry { id, entry }).collect();
    Transaction { id: number, now, relies_on, writes, log }
}

fn ended(record: &Record, now: Timestamp) -> (Write, AuditEntry) {
    let ended: Ended = Ending::new(Reason::SignedOut).by("root").of(record.info.id, record.info.user.clone(), now);
    (Write::End(ended.clone()), AuditEntry::ended(&record.info, &ended))
}

fn started(record: &Record, now: Timestamp) -> AuditEntry {
    let create = Create { record: record.clone(), limit: None, replaces: None, by: None, note: None };
    create.started(now)
}

/// A sign-in, and the end of others for it.
fn sign_in(number: u64, record: &Record, others: &[&Record]) -> Transaction {
    let now = record.info.created_at;
    let mut transaction =
        tx(number, now, vec![], vec![Write::Create(Arc::new(record.clone()))], [started(record, now)]);
    for (other, id) in others.iter().zip(1000 * number + 1..) {
        let (end, entry) = ended(other, now);
        transaction.relies_on.push(Expect::Live(other.info.id));
        transaction.writes.push(end);
        transaction.log.push(LogEntry { id, entry });
    }
    transaction
}

fn setting(number: u64, id: SessionId, key: &str, value: &str, now: Timestamp) -> Transaction {
    let set = [(key.into(), Json::from_text(value).unwrap())].into_iter().collect();
    let change = DataChange { remove_all: false, remove: BTreeSet::new(), set };
    tx(number, now, vec![Expect::Live(id)], vec![Write::Data { id, change, known: None }], [])
}

fn session(key: &PartitionKey, user: &str, now: Timestamp) -> Record {
    let id = SessionId::generate(key.partition_of(user)).unwrap();
    let info = SessionInfo {
        user: Some(user.into()),
        idle_timeout: Some(Duration::from_hours(1)),
        ..SessionInfo::new(id, now)
    };
    Record { revision: 1, ..Record::new(info, Secrets::new(Token::generate(id).unwrap().digest(), now)) }
}
