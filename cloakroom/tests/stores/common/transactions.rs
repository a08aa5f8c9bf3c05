//! What requests do most, as transactions: for tests of what they cost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cloakroom::{
    Client, Data, Ended, Json, Reason, Record, SessionId, SessionInfo, Timestamp, Token,
    audit::AuditEntry,
    record::Authentication,
    store::{
        Secrets, Store,
        slots::{Ask, Committed, DataChange, Expect, Known, LogEntry, Outcome, Transaction, Write},
    },
};

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// What calls cost at least, in microseconds of the server's CPU: other programs on the machine only ever add to it.
#[derive(Debug, Default)]
pub(crate) struct Costs(BTreeMap<&'static str, f64>);

impl Costs {
    pub(crate) fn note(&mut self, what: &'static str, micros: f64) {
        let least = self.0.entry(what).or_insert(micros);
        *least = least.min(micros);
    }

    /// A call may cost so many times as much as one on a blob.
    pub(crate) fn assert(&self, bounds: &[Bound]) {
        let ratios: Vec<_> = bounds.iter().map(|bound| (bound, self.0[bound.what] / self.0[bound.of])).collect();
        eprintln!("µs: {:?}\nof a blob: {ratios:?}", self.0);
        for (Bound { what, aim, most, .. }, ratio) in ratios {
            assert!(ratio <= *most, "{what}: {ratio:.2} of a blob, {aim} is aimed at, {most} is what it may be");
        }
    }
}

/// What is aimed at, and what it may be at most.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) what: &'static str,
    pub(crate) of: &'static str,
    pub(crate) aim: f64,
    pub(crate) most: f64,
}

/// Each must go through, and be answered without the record that the caller knows.
pub(crate) async fn commit_all(store: &dyn Store, transactions: &[Transaction]) {
    for outcome in store.commit(transactions, false).await.unwrap() {
        let Outcome::Committed(answers) = outcome else { panic!("{outcome:?}") };
        assert!(answers.iter().all(|answer| !matches!(answer, Committed::Record(_))), "{answers:?}");
    }
}

pub(crate) async fn commit(store: &dyn Store, transaction: Transaction) {
    commit_all(store, &[transaction]).await;
}

pub(crate) async fn load(store: &dyn Store, id: SessionId) {
    store.read(&[Ask::Session(id)]).await.unwrap();
}

/// Ten values, 1.2 KB of JSON.
pub(crate) fn session(store: &dyn Store, user: &str) -> Record {
    let id = SessionId::generate(store.partition_key().partition_of(user)).unwrap();
    let info = SessionInfo {
        user: Some(user.into()),
        full_name: Some("Anna Beispiel".into()),
        idle_timeout: Some(Duration::from_hours(1)),
        ends_at: Some(NOW.after(Duration::from_hours(24))),
        client: Client {
            ip: Some([192, 0, 2, 7].into()),
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".into()),
            device: Some("Firefox on Linux".into()),
            country: None,
        },
        authentication: Some(Authentication { methods: Some("pwd".into()), level: None, ..Authentication::at(NOW) }),
        ..SessionInfo::new(id, NOW)
    };
    let values = (0..10).map(|n| (format!("key {n}").into(), Json::encode(&"v".repeat(110)).unwrap()));
    Record {
        revision: 1 + u64::from(id.as_bytes()[5]),
        data: values.collect::<Data>(),
        ..Record::new(info, Secrets::new(Token::generate(id).unwrap().digest(), NOW))
    }
}

fn transaction(relies_on: Vec<Expect>, writes: Vec<Write>, log: Vec<AuditEntry>) -> Transaction {
    let log = log.into_iter().map(|entry| LogEntry { id: number(), entry }).collect();
    Transaction { id: number(), now: NOW, relies_on, writes, log }
}

fn number() -> u64 {
    let id = SessionId::generate(cloakroom::store::Partition::random().unwrap()).unwrap();
    u64::from_be_bytes(*id.as_bytes().last_chunk().unwrap())
}

/// A sign-in of a user who has no session.
pub(crate) fn start(record: &Record) -> Transaction {
    let user = record.info.user.clone().unwrap();
    let entry = AuditEntry::started(record, NOW);
    let relies_on = vec![Expect::User(user.clone(), 0), Expect::Count(user.clone(), 0)];
    transaction(relies_on, vec![Write::Create(Arc::new(record.clone()))], vec![entry])
}

/// A change of one value, relied on as it was when the session was started, to the text number `n`.
pub(crate) fn update(record: &Record, n: usize) -> Transaction {
    let id = record.info.id;
    let mut change = DataChange::default();
    change.set.insert("key 3".into(), Json::encode(&format!("{n}{}", "w".repeat(110))).unwrap());
    let relied_on = record.data.get("key 3").map(cloakroom::JsonRef::to_json);
    let known = Some(Known { version: 0, revision: record.revision });
    let relies_on =
        vec![Expect::Live(id), Expect::Value(id, "key 3".into(), relied_on), Expect::DataAtMost(id, 1 << 16)];
    transaction(relies_on, vec![Write::Data { id, change, known }], vec![])
}

pub(crate) fn end(record: &Record) -> Transaction {
    let SessionInfo { id, user, .. } = &record.info;
    let ended = Ended { id: *id, user: user.clone(), at: NOW, reason: Reason::SignedOut, by: None, note: None };
    let entry = AuditEntry::ended(&record.info, &ended);
    transaction(vec![], vec![Write::End(ended)], vec![entry])
}
