//! I6: last-seen and version never move backwards.

use super::fixtures::{anonymous, at, in_parallel, set, token_for};
use crate::{
    ended::Reason,
    rules::{Rotated, Touch},
    testing::Subject,
    token::{Partition, SessionId},
};

pub(super) async fn i6_touches_out_of_order_never_move_back(subject: &Subject) {
    let id = subject.begin(anonymous().idle(10_000)).await;
    for (seen, expected) in [(50, 50), (20, 50), (50, 50), (-1000, 50), (70, 70), (0, 70)] {
        assert!(subject.touch(id, at(seen), at(100)).await);
        let record = subject.record(id, at(100)).await;
        assert_eq!(record.info.last_seen_at, at(expected));
        assert_eq!(record.info.expires_at(), Some(at(expected + 10_000)));
    }
}

pub(super) async fn i6_touches_and_rotations_leave_the_version(subject: &Subject) {
    let start = subject.sign_in("anna").data("a", "1");
    let (token, id) = (start.token.clone(), subject.begin(start).await);
    let changed = subject.apply(id, &set("a", "2")).await;
    subject.touch(id, at(5), at(5)).await;
    let Rotated::Rotated(rotated) = subject.rotate(&token, &token_for(id), at(6)).await else { panic!("nobody else") };
    assert_eq!(rotated.info.version, 1);
    let mut expected = changed.info.clone();
    expected.last_seen_at = at(5);
    assert_eq!(rotated.info, expected, "nothing but last-seen");
    assert_eq!(rotated.data, changed.data);
    assert_eq!(subject.record(id, at(6)).await, rotated);
}

pub(super) async fn i6_changes_leave_last_seen(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    subject.touch(id, at(500), at(500)).await;
    let record = subject.apply(id, &set("a", "1")).await;
    assert_eq!(record.info.last_seen_at, at(500));
}

pub(super) async fn i6_a_batch_of_touches_is_answered_in_the_order_asked(subject: &Subject) {
    let mut ids = Vec::new();
    for user in ["anna", "ben", "cleo"] {
        ids.push(subject.begin(subject.sign_in(user)).await);
    }
    subject.end(ids[1], Reason::SignedOut, at(1)).await;
    let expired = subject.begin(anonymous().idle(5)).await;
    let unknown = SessionId::generate(Partition::random().unwrap()).unwrap();
    let touches: Vec<_> = [ids[2], unknown, ids[1], ids[0], expired]
        .into_iter()
        .zip(10..)
        .map(|(id, millis)| Touch { id, seen_at: at(millis), grace_ends: None })
        .collect();
    let answers = subject.store.touch(&touches, at(20)).await.unwrap();
    assert_eq!(answers, [true, false, false, true, false]);
    assert_eq!(subject.record(ids[2], at(20)).await.info.last_seen_at, at(10));
    assert_eq!(subject.record(ids[0], at(20)).await.info.last_seen_at, at(13));
    assert!(subject.store.touch(&[], at(20)).await.unwrap().is_empty());
}

pub(super) async fn i6_of_parallel_touches_the_latest_stays(subject: &Subject) {
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(subject.begin(subject.sign_in(&format!("user {n}"))).await);
    }
    // Batches in opposite orders: a store that locks in the order given would deadlock.
    in_parallel(20, |n| {
        let (store, mut ids) = (subject.store.clone(), ids.clone());
        if n % 2 == 1 {
            ids.reverse();
        }
        let seen_at = at(i64::try_from(n).unwrap() + 1);
        async move {
            let touches: Vec<_> = ids.into_iter().map(|id| Touch { id, seen_at, grace_ends: None }).collect();
            assert!(store.touch(&touches, at(50)).await.unwrap().into_iter().all(|there| there));
        }
    })
    .await;
    for id in ids {
        assert_eq!(subject.record(id, at(50)).await.info.last_seen_at, at(20));
    }
}
