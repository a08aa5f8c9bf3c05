//! L3 and L4: one successor, a grace for those who have not heard of it, and nobody signed out.

use std::sync::Arc;

use super::fixtures::{GRACE, NOW, at, in_parallel, set, token_for};
use crate::{
    audit::Event,
    ended::Reason,
    record::Record,
    rules::{Rotated, Rotation, Touch},
    secrets::Presented,
    testing::Subject,
    token::{SessionId, Token},
};

pub(super) async fn l4_of_fifty_parallel_rotations_one_wins_and_nobody_is_signed_out(subject: &Subject) {
    let (token, id) = started(subject).await;
    let answers = in_parallel(50, |_| {
        let (store, presented, successor) = (subject.store.clone(), token.digest(), token_for(id).digest());
        async move {
            let rotation = Rotation { presented, successor, grace: GRACE, at_once: false, by: None };
            (successor, store.rotate(id, &rotation, NOW).await.unwrap())
        }
    })
    .await;
    let mut winners = Vec::new();
    let mut current = Vec::new();
    for (successor, rotated) in answers {
        match rotated {
            Rotated::Rotated(record) => {
                winners.push(successor);
                current.push(record.secrets.current);
            }
            Rotated::Superseded(record) => current.push(record.secrets.current),
            Rotated::Gone(gone) => panic!("{gone:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "one successor");
    assert!(current.iter().all(|digest| *digest == winners[0]), "and everybody is told of it");

    let record = subject.record(id, NOW).await;
    assert_eq!((record.secrets.current, record.secrets.rotations), (winners[0], 1));
    assert_eq!(presented(&record, &token, 0), Presented::Predecessor, "the losers keep a working token");
}

pub(super) async fn l3_the_grace_starts_when_the_successor_is_first_presented(subject: &Subject) {
    let (first, id) = started(subject).await;
    let second = token_for(id);
    rotated(subject, &first, &second, 10).await;
    let record = subject.record(id, at(1_000_000)).await;
    assert_eq!(presented(&record, &first, 1_000_000), Presented::Predecessor, "served until then");
    assert_eq!(presented(&record, &second, 1_000_000), Presented::Successor);

    let touch = Touch { id, seen_at: at(1_000_000), grace_ends: Some(at(1_030_000)) };
    assert_eq!(subject.store.touch(&[touch], at(1_000_000)).await.unwrap(), [true]);
    // It starts once, and a touch that is older than the last one may start it.
    let again = Touch { id, seen_at: at(5), grace_ends: Some(at(9_999_999)) };
    assert_eq!(subject.store.touch(&[again], at(1_000_001)).await.unwrap(), [true]);
    let record = subject.record(id, at(1_000_001)).await;
    assert_eq!(presented(&record, &second, 1_000_001), Presented::Current);
    assert_eq!(presented(&record, &first, 1_029_999), Presented::Predecessor);
    assert_eq!(presented(&record, &first, 1_030_000), Presented::Reused);
    assert_eq!(record.info.last_seen_at, at(1_000_000));
}

pub(super) async fn l3_an_old_touch_still_starts_the_grace(subject: &Subject) {
    let (first, id) = started(subject).await;
    let second = token_for(id);
    rotated(subject, &first, &second, 10).await;
    subject.touch(id, at(500), at(500)).await;
    let late = Touch { id, seen_at: at(400), grace_ends: Some(at(30_400)) };
    assert_eq!(subject.store.touch(&[late], at(501)).await.unwrap(), [true]);
    let record = subject.record(id, at(501)).await;
    assert_eq!(record.info.last_seen_at, at(500));
    assert_eq!(presented(&record, &first, 30_400), Presented::Reused);
}

pub(super) async fn l3_a_lost_answer_lets_the_predecessor_rotate_again_after_the_grace(subject: &Subject) {
    let (first, id) = started(subject).await;
    let (lost, second) = (token_for(id), token_for(id));
    rotated(subject, &first, &lost, 0).await;
    let early = subject.rotate(&first, &second, at(29_999)).await;
    assert!(matches!(early, Rotated::Superseded(_)), "{early:?}");
    let record = rotated(subject, &first, &second, 30_000).await;
    assert_eq!(presented(&record, &second, 30_000), Presented::Successor);
    assert_eq!(presented(&record, &first, 30_000), Presented::Predecessor);
    assert_eq!(presented(&record, &lost, 30_000), Presented::Unknown);
    assert_eq!(record.secrets.rotations, 2);
}

pub(super) async fn l4_a_rotation_sent_again_changes_nothing(subject: &Subject) {
    let (first, id) = started(subject).await;
    let second = token_for(id);
    let once = rotated(subject, &first, &second, 0).await;
    for millis in [0, 1, 30_000] {
        assert_eq!(rotated(subject, &first, &second, millis).await, once);
    }
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Rotated]);
}

pub(super) async fn l2_a_rotation_at_once_withdraws_every_earlier_secret(subject: &Subject) {
    let (first, id) = started(subject).await;
    let [second, third, fourth] = [token_for(id), token_for(id), token_for(id)];
    rotated(subject, &first, &second, 1).await;
    let rotation = Rotation {
        presented: second.digest(),
        successor: third.digest(),
        grace: GRACE,
        at_once: true,
        by: Some("root".into()),
    };
    for _ in 0..2 {
        // Said again, it has succeeded.
        let rotated = subject.store.rotate(id, &rotation, at(2)).await.unwrap();
        assert!(matches!(rotated, Rotated::Rotated(_)), "{rotated:?}");
        let record = subject.record(id, at(2)).await;
        assert_eq!(record.secrets.rotations, 2);
        for dead in [&first, &second] {
            assert_eq!(presented(&record, dead, 2), Presented::Withdrawn);
        }
        assert_eq!(presented(&record, &third, 2), Presented::Current);
    }
    // Nothing brings one back: neither a touch that starts a grace, nor a rotation, at once or not.
    let touch = Touch { id, seen_at: at(3), grace_ends: Some(at(9_999_999)) };
    subject.store.touch(&[touch], at(3)).await.unwrap();
    let refused = Rotation { successor: fourth.digest(), ..rotation.clone() };
    for (dead, millis) in [(&first, 3), (&second, 3), (&second, 100_000)] {
        assert!(matches!(subject.rotate(dead, &fourth, at(millis)).await, Rotated::Superseded(_)));
    }
    assert!(matches!(subject.store.rotate(id, &refused, at(3)).await.unwrap(), Rotated::Superseded(_)));
    let record = rotated(subject, &third, &fourth, 4).await;
    assert_eq!(presented(&record, &first, 4), Presented::Withdrawn);
    assert_eq!(presented(&record, &third, 4), Presented::Predecessor);
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Rotated, Event::Rotated, Event::Rotated]);
}

pub(super) async fn l3_a_secret_that_is_not_current_rotates_nothing(subject: &Subject) {
    let (first, id) = started(subject).await;
    let second = token_for(id);
    let current = rotated(subject, &first, &second, 0).await;
    let touch = Touch { id, seen_at: at(0), grace_ends: Some(at(10)) };
    subject.store.touch(&[touch], at(0)).await.unwrap();
    let confirmed = subject.record(id, at(20)).await;
    assert_eq!(confirmed.secrets.current, current.secrets.current);
    for (wrong, now) in [(&first, 5), (&first, 20), (&token_for(id), 20)] {
        let Rotated::Superseded(record) = subject.rotate(wrong, &token_for(id), at(now)).await else {
            panic!("a dead or unknown secret rotated the session");
        };
        assert_eq!(record, confirmed);
    }
    assert_eq!(subject.record(id, at(20)).await, confirmed);
}

pub(super) async fn l3_only_the_last_few_predecessors_are_kept(subject: &Subject) {
    let (first, id) = started(subject).await;
    let mut tokens = vec![first];
    for n in 0..6 {
        let next = token_for(id);
        rotated(subject, tokens.last().unwrap(), &next, n).await;
        tokens.push(next);
    }
    let record = subject.record(id, at(6)).await;
    let kept: Vec<_> = record.secrets.predecessors.iter().map(|predecessor| predecessor.digest).collect();
    let expected: Vec<_> = tokens[2..6].iter().rev().map(Token::digest).collect();
    assert_eq!(kept, expected, "newest first");
    let graces: Vec<_> = record.secrets.predecessors.iter().map(|predecessor| predecessor.grace_ends).collect();
    let after = |millis| Some(at(millis).after(GRACE));
    assert_eq!(graces, [None, after(5), after(4), after(3)]);
    assert_eq!((record.secrets.issued_at, record.secrets.rotations), (at(5), 6));
}

pub(super) async fn l3_rotation_and_changes_in_flight_keep_each_other(subject: &Subject) {
    let (first, id) = started(subject).await;
    let second = token_for(id);
    in_parallel(21, |n| {
        let store = subject.store.clone();
        let rotation =
            Rotation { presented: first.digest(), successor: second.digest(), grace: GRACE, at_once: false, by: None };
        async move {
            if n == 10 {
                drop(store.rotate(id, &rotation, NOW).await.unwrap());
            } else {
                drop(store.update(id, &set(&format!("key {n}"), "1"), NOW).await.unwrap());
            }
        }
    })
    .await;
    let record = subject.record(id, NOW).await;
    assert_eq!((record.data.len(), record.info.version), (20, 20));
    assert_eq!(record.secrets.current, second.digest());
}

pub(super) async fn l3_a_tombstone_knows_every_secret_of_its_session(subject: &Subject) {
    let (first, id) = started(subject).await;
    let second = token_for(id);
    let record = rotated(subject, &first, &second, 0).await;
    subject.end(id, Reason::SignedOut, at(1)).await;
    assert_eq!(subject.tombstone(id, at(2)).await.secrets, record.secrets);
}

async fn started(subject: &Subject) -> (Token, SessionId) {
    let start = subject.sign_in("anna");
    (start.token.clone(), subject.begin(start).await)
}

async fn rotated(subject: &Subject, presented: &Token, successor: &Token, millis: i64) -> Arc<Record> {
    match subject.rotate(presented, successor, at(millis)).await {
        Rotated::Rotated(record) => {
            assert_eq!(record.secrets.current, successor.digest());
            record
        }
        other => panic!("expected a rotation, found {other:?}"),
    }
}

fn presented(record: &Record, token: &Token, millis: i64) -> Presented {
    record.secrets.present(&token.digest(), at(millis))
}
