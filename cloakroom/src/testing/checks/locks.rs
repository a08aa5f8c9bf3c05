//! I12: a lock excludes lockers alone; a lease that ran out writes nothing.

use std::time::Duration;

use super::fixtures::{NOW, anonymous, at, in_parallel, set, token_for};
use crate::{
    audit::Event,
    change::Change,
    ended::Reason,
    lease::Lease,
    rules::{EndAnswer, Gone, Loaded, Locked, Rotated, Updated},
    testing::Subject,
    token::SessionId,
};

const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn i12_of_parallel_lockers_one_is_granted(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    for (round, millis) in [(1, 1000), (2, 2000), (3, 3000)] {
        let now = at(millis);
        let answers = in_parallel(20, |_| {
            let store = subject.store.clone();
            async move { store.lock(id, SECOND, now).await.unwrap() }
        })
        .await;
        let until = now.after(SECOND);
        let (granted, held): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|locked| matches!(locked, Locked::Granted(_)));
        let [Locked::Granted(record)] = &granted[..] else { panic!("granted to {}", granted.len()) };
        assert_eq!(record.lease, Lease { number: round, until });
        assert!(held.iter().all(|locked| *locked == Locked::Held { until }));
    }
}

pub(super) async fn i12_a_grant_answers_with_the_record_as_it_is_now(subject: &Subject) {
    let id = subject.begin(anonymous().data("a", "1")).await;
    let changed = subject.apply(id, &set("a", "2")).await;
    let Locked::Granted(record) = lock(subject, id, 5).await else { panic!("nobody holds it") };
    assert_eq!(record.data, changed.data);
    assert_eq!(record.info, changed.info, "neither version nor last-seen change");
    assert_eq!(subject.record(id, at(5)).await, record);
    assert_eq!(subject.events_of(id).await, [Event::Started], "locks are not audited");
}

pub(super) async fn i12_a_lease_frees_the_lock_at_its_very_end(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    assert_eq!(granted(&lock(subject, id, 0).await), 1);
    assert_eq!(lock(subject, id, 999).await, Locked::Held { until: at(1000) });
    assert_eq!(granted(&lock(subject, id, 1000).await), 2, "a crashed holder delays others by its lease");
}

pub(super) async fn i12_a_lock_that_is_given_back_is_free_at_once(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    lock(subject, id, 0).await;
    assert!(!subject.store.unlock(id, 2, at(10)).await.unwrap(), "that was never granted");
    assert!(subject.store.unlock(id, 1, at(10)).await.unwrap());
    assert!(!subject.store.unlock(id, 1, at(10)).await.unwrap(), "it was given back");
    assert_eq!(granted(&lock(subject, id, 10).await), 2);
    assert!(!subject.store.unlock(id, 1, at(11)).await.unwrap(), "it is somebody else's now");
    assert_eq!(lock(subject, id, 11).await, Locked::Held { until: at(1010) });
}

pub(super) async fn i12_a_renewed_lease_lasts_longer_and_never_shorter(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    lock(subject, id, 0).await;
    assert!(subject.store.renew(id, 1, SECOND, at(999)).await.unwrap());
    assert!(subject.store.renew(id, 1, Duration::from_millis(1), at(1000)).await.unwrap());
    assert_eq!(lock(subject, id, 1998).await, Locked::Held { until: at(1999) });
    assert!(!subject.store.renew(id, 1, SECOND, at(1999)).await.unwrap(), "too late");
    assert!(!subject.store.renew(id, 2, SECOND, at(1000)).await.unwrap(), "that was never granted");
    assert_eq!(granted(&lock(subject, id, 1999).await), 2);
}

pub(super) async fn i12_a_holder_whose_lease_ran_out_writes_nothing(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    lock(subject, id, 0).await;
    let under = |number, key: &str| Change { lease: Some(number), ..set(key, "1") };
    let in_time = under(1, "in time");
    assert!(matches!(subject.update(id, &in_time, at(999)).await, Updated::Applied(_)));
    assert_eq!(subject.update(id, &under(1, "late"), at(1000)).await, Updated::LeaseLost);
    assert!(matches!(subject.update(id, &in_time, at(1000)).await, Updated::Applied(_)), "it was applied in time");

    lock(subject, id, 2000).await;
    assert_eq!(subject.update(id, &under(1, "fenced off"), at(2001)).await, Updated::LeaseLost);
    let Updated::Applied(record) = subject.update(id, &under(2, "holder"), at(2001)).await else {
        panic!("the holder cannot write");
    };
    assert_eq!(record.data.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["holder", "in time"]);
    assert_eq!(record.info.version, 2);
}

pub(super) async fn i12_a_lock_stops_neither_writers_without_one_nor_endings(subject: &Subject) {
    let start = anonymous();
    let (token, id) = (start.token.clone(), subject.begin(start).await);
    lock(subject, id, 0).await;
    subject.apply(id, &set("a", "1")).await;
    assert!(subject.touch(id, at(1), at(1)).await);
    assert!(matches!(subject.rotate(&token, &token_for(id), at(1)).await, Rotated::Rotated(_)));
    assert_eq!(subject.record(id, at(1)).await.lease, Lease { number: 1, until: at(1000) });
    assert!(matches!(subject.end(id, Reason::SignedOut, at(2)).await, EndAnswer::EndedNow(_)));
}

pub(super) async fn i12_what_is_gone_is_neither_locked_nor_renewed_nor_unlocked(subject: &Subject) {
    let expired = subject.begin(anonymous().idle(500)).await;
    let ended = subject.begin(anonymous()).await;
    let unknown = anonymous().id();
    for id in [expired, ended] {
        lock(subject, id, 0).await;
    }
    subject.end(ended, Reason::SignedOut, NOW).await;
    for id in [expired, ended, unknown] {
        let gone = match subject.load(id, at(500)).await {
            Loaded::Ended(tombstone) => Gone::Ended(tombstone.ended.clone()),
            _ => Gone::Unknown,
        };
        assert_eq!(lock(subject, id, 500).await, Locked::Gone(gone));
        assert!(!subject.store.renew(id, 1, SECOND, at(500)).await.unwrap());
        assert!(!subject.store.unlock(id, 1, at(500)).await.unwrap());
    }
}

async fn lock(subject: &Subject, id: SessionId, millis: i64) -> Locked {
    subject.store.lock(id, SECOND, at(millis)).await.unwrap()
}

fn granted(locked: &Locked) -> u64 {
    match locked {
        Locked::Granted(record) => record.lease.number,
        other => panic!("expected a grant, found {other:?}"),
    }
}
