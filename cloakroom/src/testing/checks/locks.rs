//! I12: a lock excludes lockers alone, for as long as its lease.

use std::{sync::Arc, time::Duration};

use super::fixtures::{NOW, anonymous, at, in_parallel, json, set, token_for};
use crate::{
    Lease, Partition, Reason, Record, SessionId, Timestamp,
    store::{Gone, Locked, Locks, Updated},
    testing::Subject,
};

const LEASE: Duration = Duration::from_secs(1);

async fn lock(subject: &Subject, id: SessionId, now: Timestamp) -> Locked {
    subject.store.lock(id, LEASE, now).await.unwrap()
}

async fn granted(subject: &Subject, id: SessionId, now: Timestamp) -> Arc<Record> {
    match lock(subject, id, now).await {
        Locked::Granted(record) => record,
        other => panic!("expected the lock, found {other:?}"),
    }
}

async fn held_until(subject: &Subject, id: SessionId, now: Timestamp) -> Timestamp {
    match lock(subject, id, now).await {
        Locked::Held { until } => until,
        other => panic!("expected that somebody holds it, found {other:?}"),
    }
}

pub(super) async fn i12_a_lock_excludes_lockers_until_its_lease_runs_out(subject: &Subject) {
    let (id, other) = (subject.begin(anonymous()).await, subject.begin(anonymous()).await);
    assert_eq!(granted(subject, id, at(0)).await.lease, Lease { number: 1, until: at(1000) });
    assert_eq!(granted(subject, other, at(0)).await.lease.number, 1, "locks are of one session");
    assert_eq!(held_until(subject, id, at(999)).await, at(1000));
    assert_eq!(granted(subject, id, at(1000)).await.lease, Lease { number: 2, until: at(2000) });
    assert!(!subject.store.unlock(id, 1, at(1001)).await.unwrap(), "the first holder has nothing to give back");
    assert_eq!(held_until(subject, id, at(1001)).await, at(2000));
    assert!(subject.store.unlock(id, 2, at(1002)).await.unwrap());
    assert!(!subject.store.unlock(id, 2, at(1002)).await.unwrap());
    assert_eq!(granted(subject, id, at(1002)).await.lease.number, 3);
}

pub(super) async fn i12_of_parallel_lockers_one_gets_the_lock(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    let answers = in_parallel(50, |_| {
        let store = Arc::clone(&subject.store);
        async move { store.lock(id, LEASE, NOW).await.unwrap() }
    })
    .await;
    let granted = answers.iter().filter(|answer| matches!(answer, Locked::Granted(_))).count();
    let held = answers.iter().filter(|answer| matches!(answer, Locked::Held { .. })).count();
    assert_eq!((granted, held), (1, 49));
}

pub(super) async fn i12_a_lock_comes_with_a_fresh_record(subject: &Subject) {
    let id = subject.begin(anonymous().data("a", "1")).await;
    subject.apply(id, &set("a", "2")).await;
    let record = granted(subject, id, at(5)).await;
    assert_eq!(record.data.get("a"), Some(&json("2")));
    assert_eq!(subject.record(id, at(5)).await, record);
}

pub(super) async fn i12_a_holder_whose_lease_ran_out_cannot_write(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    let number = granted(subject, id, at(0)).await.lease.number;
    let under = |number, key: &str| {
        let mut change = set(key, "1");
        change.lease = Some(number);
        change
    };
    assert!(matches!(subject.update(id, &under(number, "held"), at(999)).await, Updated::Applied(_)));
    assert_eq!(subject.update(id, &under(number, "late"), at(1000)).await, Updated::LeaseLost);
    assert_eq!(subject.update(id, &under(number + 1, "guessed"), at(500)).await, Updated::LeaseLost);
    let next = granted(subject, id, at(1000)).await.lease.number;
    assert_eq!(subject.update(id, &under(number, "later"), at(1001)).await, Updated::LeaseLost);
    assert!(matches!(subject.update(id, &set("unlocked", "1"), at(1001)).await, Updated::Applied(_)));
    assert!(matches!(subject.update(id, &under(next, "next"), at(1002)).await, Updated::Applied(_)));

    let record = subject.record(id, at(1002)).await;
    assert_eq!(record.data.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["held", "next", "unlocked"]);
}

pub(super) async fn i12_a_lease_is_extended_only_while_it_is_held(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    let number = granted(subject, id, at(0)).await.lease.number;
    assert!(subject.store.renew(id, number, LEASE, at(500)).await.unwrap());
    assert_eq!(held_until(subject, id, at(1499)).await, at(1500));
    assert!(!subject.store.renew(id, number + 1, LEASE, at(1499)).await.unwrap());
    assert!(!subject.store.renew(id, number, LEASE, at(1500)).await.unwrap());
    assert!(subject.store.renew(id, granted(subject, id, at(1500)).await.lease.number, LEASE, at(1600)).await.unwrap());
}

pub(super) async fn i12_endings_ignore_locks_and_the_ended_cannot_be_locked(subject: &Subject) {
    let id = subject.begin(anonymous().idle(5000)).await;
    let number = granted(subject, id, at(0)).await.lease.number;
    subject.end(id, Reason::SignedOut, at(1)).await;
    let Locked::Gone(Gone::Ended(ended)) = lock(subject, id, at(2)).await else { panic!("it ended") };
    assert_eq!(ended.reason, Reason::SignedOut);
    assert!(!subject.store.renew(id, number, LEASE, at(2)).await.unwrap());
    assert!(!subject.store.unlock(id, number, at(2)).await.unwrap());

    let expired = subject.begin(anonymous().idle(5000)).await;
    assert!(matches!(lock(subject, expired, at(5000)).await, Locked::Gone(Gone::Ended(_))));
    let unknown = token_for(SessionId::generate(Partition::random().unwrap()).unwrap()).id();
    assert_eq!(lock(subject, unknown, at(0)).await, Locked::Gone(Gone::Unknown));
}

pub(super) async fn i12_locking_leaves_version_last_seen_and_log_alone(subject: &Subject) {
    let id = subject.begin(anonymous().idle(10_000)).await;
    let before = (subject.record(id, at(0)).await.info.clone(), subject.log_of(id).await);
    let number = granted(subject, id, at(500)).await.lease.number;
    subject.store.renew(id, number, LEASE, at(600)).await.unwrap();
    subject.store.unlock(id, number, at(700)).await.unwrap();
    assert_eq!((subject.record(id, at(700)).await.info.clone(), subject.log_of(id).await), before);
}
