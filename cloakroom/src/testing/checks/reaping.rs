//! I8: reaping ends what expired, once, on any number of nodes.

use std::collections::HashSet;

use super::fixtures::{anonymous, at, in_parallel, reap_only};
use crate::{
    audit::Event,
    clock::Timestamp,
    ended::{Ended, Reason},
    rules::{Loaded, Reap, Reaped, Rules},
    store::AuditQuery,
    testing::Subject,
};

pub(super) async fn i8_reaping_ends_what_expired_and_nothing_else(subject: &Subject) {
    let idle = subject.begin(subject.sign_in("anna").idle(100)).await;
    let absolute = subject.begin(anonymous().ends_at(at(100))).await;
    let later = subject.begin(subject.sign_in("anna").idle(101)).await;
    let never = subject.begin(anonymous()).await;
    assert_eq!(subject.store.reap(&reap_only(100), at(99)).await.unwrap(), Reaped { ended: vec![], more: false });

    let reaped = subject.store.reap(&reap_only(100), at(100)).await.unwrap();
    assert!(!reaped.more);
    let mut ended = reaped.ended;
    ended.sort_by_key(|ended| ended.id);
    let expired = |id, user: Option<&str>, reason| Ended {
        id,
        user: user.map(Into::into),
        at: at(100),
        reason,
        by: None,
        note: None,
    };
    let mut expected =
        [expired(idle, Some("anna"), Reason::IdleTimeout), expired(absolute, None, Reason::AbsoluteTimeout)];
    expected.sort_by_key(|ended| ended.id);
    assert_eq!(ended, expected);
    for ended in expected {
        assert_eq!(subject.tombstone(ended.id, at(100)).await.ended, ended);
        let log = subject.log_of(ended.id).await;
        assert_eq!((log.len(), log[1].event, log[1].reason), (2, Event::Ended, Some(ended.reason)));
    }
    assert_eq!(subject.ids_of("anna", at(100)).await, [later]);
    assert!(subject.is_live(never, at(100)).await);
}

pub(super) async fn i8_a_reap_ends_at_most_its_limit_and_says_whether_more_is_left(subject: &Subject) {
    let mut ids = HashSet::new();
    for n in 0..25 {
        ids.insert(subject.begin(subject.sign_in(&format!("user {}", n % 5)).idle(100)).await);
    }
    let mut reaped = HashSet::new();
    for round in 0..3 {
        let answer = subject.store.reap(&reap_only(10), at(1000)).await.unwrap();
        assert_eq!(answer.ended.len(), if round < 2 { 10 } else { 5 });
        assert_eq!(answer.more, round < 2);
        assert!(answer.ended.iter().all(|ended| reaped.insert(ended.id)), "reaped twice");
    }
    assert_eq!(reaped, ids);
    assert_eq!(subject.store.reap(&reap_only(10), at(1000)).await.unwrap(), Reaped { ended: vec![], more: false });
}

pub(super) async fn i8_parallel_reapers_end_each_session_once(subject: &Subject) {
    let mut ids = HashSet::new();
    for n in 0..60 {
        ids.insert(subject.begin(subject.sign_in(&format!("user {}", n % 7)).idle(100)).await);
    }
    let reaped = in_parallel(6, |_| {
        let store = subject.store.clone();
        async move {
            let mut ended = Vec::new();
            loop {
                let reaped = store.reap(&reap_only(7), at(100)).await.unwrap();
                ended.extend(reaped.ended);
                if !reaped.more {
                    return ended;
                }
            }
        }
    })
    .await;
    let reaped: Vec<_> = reaped.into_iter().flatten().map(|ended| ended.id).collect();
    assert_eq!(reaped.len(), 60, "each by one reaper");
    assert_eq!(reaped.into_iter().collect::<HashSet<_>>(), ids);
    let log = subject.log_in_pages(&AuditQuery::default(), 50).await;
    let endings: Vec<_> = log.iter().filter(|entry| entry.event == Event::Ended).map(|entry| entry.session).collect();
    assert_eq!(endings.len(), 60);
    assert_eq!(endings.into_iter().collect::<HashSet<_>>(), ids);
}

pub(super) async fn i8_a_session_used_meanwhile_is_not_reaped(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna").idle(100)).await;
    for n in 1..10 {
        assert!(subject.touch(id, at(n * 90), at(n * 90)).await);
        assert!(subject.reap(at(n * 90 + 99)).await.is_empty());
    }
    assert_eq!(subject.ids_of("anna", at(900)).await, [id]);
    assert_eq!(subject.reap(at(910)).await, [id]);
}

pub(super) async fn i8_tombstones_are_forgotten_when_their_time_has_come(subject: &Subject) {
    let early = subject.begin(subject.sign_in("anna")).await;
    let late = subject.begin(subject.sign_in("anna")).await;
    let expired = subject.begin(subject.sign_in("anna").idle(150)).await;
    subject.end(early, Reason::SignedOut, at(100)).await;
    subject.end(late, Reason::SignedOut, at(200)).await;
    subject.reap(at(200)).await;
    for (before, known) in [(99, [true, true, true]), (100, [false, true, true]), (199, [false, true, false])] {
        forget_tombstones(&subject.store, at(before)).await;
        for (id, known) in [early, late, expired].into_iter().zip(known) {
            let loaded = subject.load(id, at(1000)).await;
            assert_eq!(matches!(loaded, Loaded::Ended(_)), known, "forgetting before {before}: {loaded:?}");
            assert_eq!(matches!(loaded, Loaded::Unknown), !known);
        }
    }
    assert_eq!(subject.events_of(early).await, [Event::SignedIn, Event::Ended], "the log has a time of its own");
}

async fn forget_tombstones(store: &Rules, before: Timestamp) {
    let reap = Reap { limit: 100, tombstones_before: before, audit_before: Timestamp::EPOCH };
    store.reap(&reap, at(1000)).await.unwrap();
}

pub(super) async fn i8_a_limited_reap_forgets_every_tombstone_in_the_end(subject: &Subject) {
    let mut ids = Vec::new();
    for n in 0..12 {
        let id = subject.begin(subject.sign_in(&format!("user {}", n % 5))).await;
        subject.end(id, Reason::SignedOut, at(n)).await;
        ids.push(id);
    }
    let reap = Reap { limit: 5, tombstones_before: at(10), audit_before: Timestamp::EPOCH };
    let mut rounds = 0;
    while subject.store.reap(&reap, at(100)).await.unwrap().more {
        rounds += 1;
        assert!(rounds < 20, "a reap that always leaves more");
    }
    let last = ids.pop().unwrap();
    for id in ids {
        assert!(matches!(subject.load(id, at(100)).await, Loaded::Unknown));
    }
    assert_eq!(subject.tombstone(last, at(100)).await.ended.at, at(11));
}

pub(super) async fn i8_audit_entries_are_forgotten_when_their_time_has_come(subject: &Subject) {
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(subject.begin(subject.sign_in("anna").at(at(n * 10))).await);
    }
    let first = subject.log_after(&AuditQuery::default(), None, 10).await.remove(0);
    for (before, left) in [(-1, 4), (0, 3), (19, 2), (20, 1)] {
        let reap = Reap { limit: 100, tombstones_before: Timestamp::EPOCH, audit_before: at(before) };
        subject.store.reap(&reap, at(1000)).await.unwrap();
        let log = subject.log_in_pages(&AuditQuery::default(), 2).await;
        let sessions: Vec<_> = log.iter().map(|entry| entry.session).collect();
        assert_eq!(sessions, ids[4 - left..], "forgetting before {before}");
    }
    // A reader that was far behind goes on with what is left.
    let left = subject.log_after(&AuditQuery::default(), Some(&first.cursor), 10).await;
    assert_eq!(left.iter().map(|logged| logged.entry.session).collect::<Vec<_>>(), ids[3..]);
    let next = subject.begin(subject.sign_in("anna").at(at(50))).await;
    let added = subject.log_after(&AuditQuery::default(), Some(&left[0].cursor), 10).await;
    assert_eq!(added.iter().map(|logged| logged.entry.session).collect::<Vec<_>>(), [next]);
}
