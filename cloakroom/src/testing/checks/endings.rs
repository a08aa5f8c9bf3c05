//! I2: the ended stay ended.

use super::fixtures::{GRACE, NOW, anonymous, at, change, gone, in_parallel, set, token_for};
use crate::{
    audit::Event,
    ended::{Ended, Ending, Reason},
    rules::{Created, EndAnswer, Fence, Gone, Loaded, Rotated, Rotation, Rules, Touch, Which},
    store::Query,
    testing::Subject,
    token::{Partition, SessionId},
};

pub(super) async fn i2_an_ended_session_takes_no_change_touch_or_rotation(subject: &Subject) {
    let start = subject.sign_in("anna").data("a", "1");
    let (token, id) = (start.token.clone(), subject.begin(start).await);
    let EndAnswer::EndedNow(ended) = subject.end(id, Reason::SignedOut, at(5)).await else { panic!("it was alive") };

    assert_eq!(gone(subject.update(id, &set("a", "2"), at(6)).await), Gone::Ended(ended.clone()));
    assert!(!subject.touch(id, at(6), at(6)).await);
    let Rotated::Gone(Gone::Ended(found)) = subject.rotate(&token, &token_for(id), at(6)).await else {
        panic!("an ended session was rotated");
    };
    assert_eq!(found, ended);

    let tombstone = subject.tombstone(id, at(7)).await;
    assert_eq!(tombstone.ended, ended);
    assert_eq!(tombstone.secrets.current, token.digest());
    assert!(subject.ids_of("anna", at(7)).await.is_empty());
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Ended]);
}

pub(super) async fn i2_an_unknown_session_is_not_made_by_a_change_touch_or_rotation(subject: &Subject) {
    let id = SessionId::generate(subject.store.partition_key().partition_of("anna")).unwrap();
    assert_eq!(gone(subject.update(id, &set("a", "1"), NOW).await), Gone::Unknown);
    let mut cleared = change();
    cleared.remove_all();
    assert_eq!(gone(subject.update(id, &cleared, NOW).await), Gone::Unknown);
    assert!(!subject.touch(id, at(1), NOW).await);
    let rotated = subject.rotate(&token_for(id), &token_for(id), NOW).await;
    assert!(matches!(rotated, Rotated::Gone(Gone::Unknown)), "{rotated:?}");
    assert_eq!(subject.end(id, Reason::SignedOut, NOW).await, EndAnswer::Unknown(id));

    assert!(matches!(subject.load(id, NOW).await, Loaded::Unknown));
    assert!(subject.find(&Query::default(), NOW).await.is_empty());
    assert!(subject.log_of(id).await.is_empty());
}

pub(super) async fn i2_ending_twice_answers_how_it_ended_first(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna")).await;
    let ending = Ending::new(Reason::RevokedByAdmin).by("root").note("lost laptop");
    let expected = Ended {
        id,
        user: Some("anna".into()),
        at: at(3),
        reason: Reason::RevokedByAdmin,
        by: Some("root".into()),
        note: Some("lost laptop".into()),
    };
    assert_eq!(subject.end(id, ending, at(3)).await, EndAnswer::EndedNow(expected.clone()));
    assert_eq!(subject.end(id, Reason::SignedOut, at(9)).await, EndAnswer::EndedBefore(expected.clone()));
    assert_eq!(subject.tombstone(id, at(9)).await.ended, expected);
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Ended]);
}

pub(super) async fn i2_ending_an_expired_session_tells_that_it_had_expired(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna").idle(100)).await;
    let EndAnswer::EndedBefore(ended) = subject.end(id, Reason::RevokedByAdmin, at(500)).await else {
        panic!("an expired session was ended a second time");
    };
    assert_eq!((ended.reason, ended.at, ended.by), (Reason::IdleTimeout, at(100), None));
    let log = subject.log_of(id).await;
    assert_eq!((log.len(), log[1].reason), (2, Some(Reason::IdleTimeout)));
    assert!(subject.reap(at(500)).await.is_empty(), "it was buried already");
}

pub(super) async fn i2_endings_are_answered_in_the_order_asked(subject: &Subject) {
    let unknown = SessionId::generate(Partition::random().unwrap()).unwrap();
    let mut ids = Vec::new();
    for user in ["anna", "ben", "anna"] {
        ids.push(subject.begin(subject.sign_in(user)).await);
    }
    ids.push(subject.begin(anonymous()).await);
    subject.end(ids[3], Reason::SignedOut, NOW).await;

    let asked = vec![ids[2], unknown, ids[0], ids[3], ids[2]];
    let answers = subject.store.end(&Which::Ids(asked), &Reason::AllRevoked.into(), at(1)).await.unwrap();
    let short: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            EndAnswer::EndedNow(ended) => ("now", ended.id),
            EndAnswer::EndedBefore(ended) => ("before", ended.id),
            EndAnswer::Unknown(id) => ("unknown", *id),
        })
        .collect();
    let expected = [("now", ids[2]), ("unknown", unknown), ("now", ids[0]), ("before", ids[3]), ("before", ids[2])];
    assert_eq!(short, expected);
    assert!(subject.is_live(ids[1], at(1)).await);
    assert!(subject.store.end(&Which::Ids(Vec::new()), &Reason::AllRevoked.into(), at(1)).await.unwrap().is_empty());
}

pub(super) async fn i2_all_sessions_of_a_user_end_newest_first_but_the_excepted(subject: &Subject) {
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(subject.begin(subject.sign_in("anna").at(at(n))).await);
    }
    let expired = subject.begin(subject.sign_in("anna").idle(10)).await;
    let other = subject.begin(subject.sign_in("ben")).await;

    let which = Which::OfUser { user: "anna".into(), except: vec![ids[2], other], fence: Fence::EndedBefore };
    let ending = Ending::new(Reason::SignedOutElsewhere).by("anna");
    let answers = subject.store.end(&which, &ending, at(100)).await.unwrap();
    let expected = [ids[3], ids[1], ids[0]].map(|id| EndAnswer::EndedNow(ending.of(id, Some("anna".into()), at(100))));
    assert_eq!(answers, expected, "those that this call ended, newest first");
    assert_eq!(subject.ids_of("anna", at(100)).await, [ids[2]]);
    assert!(subject.is_live(other, at(100)).await);
    assert_eq!(subject.tombstone(expired, at(100)).await.ended.reason, Reason::IdleTimeout);
    assert!(subject.store.end(&which, &ending, at(101)).await.unwrap().is_empty());
}

pub(super) async fn i2_no_writer_in_flight_brings_an_ended_session_back(subject: &Subject) {
    for round in 0..10 {
        let start = subject.sign_in("anna").at(at(round));
        let (token, id) = (start.token.clone(), subject.begin(start).await);
        in_parallel(9, |n| write_or_end(subject.store.clone(), token.clone(), n)).await;
        let tombstone = subject.tombstone(id, at(100)).await;
        assert_eq!(tombstone.ended.reason, Reason::SignedOut);
        assert!(subject.ids_of("anna", at(100)).await.is_empty());
    }
}

async fn write_or_end(store: Rules, token: crate::token::Token, n: usize) {
    let (id, now) = (token.id(), at(50));
    match n {
        4 => drop(store.end(&Which::Ids(vec![id]), &Reason::SignedOut.into(), now).await.unwrap()),
        0 | 3 | 6 => drop(store.update(id, &set(&format!("key {n}"), "1"), now).await.unwrap()),
        1 | 5 | 7 => drop(store.touch(&[Touch { id, seen_at: now, grace_ends: None }], now).await.unwrap()),
        _ => {
            let successor = token_for(id).digest();
            let rotation = Rotation { presented: token.digest(), successor, grace: GRACE, at_once: false, by: None };
            drop(store.rotate(id, &rotation, now).await.unwrap());
        }
    }
}

pub(super) async fn i2_a_creation_sent_again_does_not_bring_an_ended_session_back(subject: &Subject) {
    let start = subject.sign_in("anna").idle(1000);
    let id = subject.begin(start.clone()).await;
    subject.end(id, Reason::SignedOut, at(1)).await;
    let tombstone = subject.tombstone(id, at(1)).await;
    // It did start, which is all that was asked; the next request learns that it ended.
    assert_eq!(subject.create(&start).await, Created::Created { ended: Vec::new() });
    assert_eq!(subject.tombstone(id, at(1)).await, tombstone);
    assert!(subject.ids_of("anna", at(1)).await.is_empty());
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Ended]);

    let rotated = subject.sign_in("anna");
    subject.begin(rotated.clone()).await;
    subject.rotate(&rotated.token, &token_for(rotated.id()), at(1)).await;
    let record = subject.record(rotated.id(), at(1)).await;
    assert_eq!(subject.create(&rotated).await, Created::Created { ended: Vec::new() });
    assert_eq!(subject.record(rotated.id(), at(1)).await, record, "nor an old secret");
}

pub(super) async fn i2_parallel_endings_end_a_session_once(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna")).await;
    let answers = in_parallel(20, |n| {
        let store = subject.store.clone();
        async move {
            let ending = Ending::new(Reason::RevokedByAdmin).note(n.to_string());
            store.end(&Which::Ids(vec![id]), &ending, NOW).await.unwrap().remove(0)
        }
    })
    .await;
    let (now, before): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| matches!(answer, EndAnswer::EndedNow(_)));
    let [EndAnswer::EndedNow(ended)] = &now[..] else { panic!("ended {} times", now.len()) };
    assert!(before.iter().all(|answer| *answer == EndAnswer::EndedBefore(ended.clone())));
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Ended]);
}
