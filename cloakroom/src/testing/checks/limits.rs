//! I3: limits are exact, and fences let nobody slip past.

use super::fixtures::{NOW, Start, anonymous, at, digest, in_parallel, set};
use crate::{
    admission::{Limit, Refusal},
    audit::Event,
    ended::{Ended, Reason},
    record::{Acting, Authentication},
    rules::{Created, Fence, Loaded, Which},
    testing::Subject,
    token::SessionId,
};

pub(super) async fn i3_fifty_parallel_sign_ins_leave_exactly_the_limit_when_they_evict(subject: &Subject) {
    let starts: Vec<_> = (0..50).map(|n| subject.sign_in("anna").at(at(n)).limit(Limit::evict(3))).collect();
    let answers = create_in_parallel(subject, &starts).await;
    let mut evicted: Vec<_> = answers.into_iter().flat_map(ended_for).collect();
    assert_eq!(evicted.len(), 47, "each is evicted by one sign-in");
    assert!(evicted.iter().all(|ended| ended.reason == Reason::SignedInElsewhere));
    evicted.sort_by_key(|ended| ended.id);
    evicted.dedup_by_key(|ended| ended.id);
    assert_eq!(evicted.len(), 47);

    let living = subject.ids_of("anna", at(50)).await;
    assert_eq!(living.len(), 3);
    for start in &starts {
        match subject.load(start.id(), at(50)).await {
            Loaded::Live(_) => assert!(living.contains(&start.id())),
            Loaded::Ended(tombstone) => assert!(evicted.contains(&tombstone.ended)),
            Loaded::Unknown => panic!("a session that was started is unknown"),
        }
    }
}

pub(super) async fn i3_fifty_parallel_sign_ins_leave_exactly_the_limit_when_they_are_refused(subject: &Subject) {
    let starts: Vec<_> = (0..50).map(|_| subject.sign_in("anna").limit(Limit::refuse(3))).collect();
    let answers = create_in_parallel(subject, &starts).await;
    let mut living = Vec::new();
    for (start, answer) in starts.iter().zip(answers) {
        if answer == (Created::Created { ended: Vec::new() }) {
            living.push(start.id());
        } else {
            assert_eq!(answer, Created::Refused(Refusal::LimitReached { max: 3 }));
            assert!(matches!(subject.load(start.id(), NOW).await, Loaded::Unknown));
        }
    }
    assert_eq!(living.len(), 3);
    living.sort_unstable();
    let mut listed = subject.ids_of("anna", NOW).await;
    listed.sort_unstable();
    assert_eq!(listed, living);
}

async fn create_in_parallel(subject: &Subject, starts: &[Start]) -> Vec<Created> {
    in_parallel(starts.len(), |n| {
        let (store, start) = (subject.store.clone(), starts[n].clone());
        async move { store.create(&start.create, start.now).await.unwrap() }
    })
    .await
}

fn ended_for(created: Created) -> Vec<Ended> {
    match created {
        Created::Created { ended } => ended,
        Created::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

fn ids(ended: Vec<Ended>) -> Vec<SessionId> {
    ended.into_iter().map(|ended| ended.id).collect()
}

pub(super) async fn i3_the_least_recently_seen_is_evicted(subject: &Subject) {
    let old = subject.begin(subject.sign_in("anna").at(at(0))).await;
    let middle = subject.begin(subject.sign_in("anna").at(at(1))).await;
    let young = subject.begin(subject.sign_in("anna").at(at(2))).await;
    subject.touch(old, at(10), at(10)).await;
    let next = subject.sign_in("anna").at(at(20)).limit(Limit::evict(3));
    assert_eq!(ids(ended_for(subject.create(&next).await)), [middle], "by last use, not by start");

    // Seen at the same time: the older one goes.
    subject.touch(young, at(10), at(20)).await;
    let next = subject.sign_in("anna").at(at(21)).limit(Limit::evict(3));
    assert_eq!(ids(ended_for(subject.create(&next).await)), [old]);
}

pub(super) async fn i3_a_lower_limit_makes_as_much_room_as_it_needs(subject: &Subject) {
    let mut before = Vec::new();
    for n in 0..5 {
        before.push(subject.begin(subject.sign_in("anna").at(at(n))).await);
    }
    let refused = subject.sign_in("anna").at(at(10)).limit(Limit::refuse(2));
    assert_eq!(subject.create(&refused).await, Created::Refused(Refusal::LimitReached { max: 2 }));
    let next = subject.sign_in("anna").at(at(10)).limit(Limit::evict(2));
    let mut evicted = ids(ended_for(subject.create(&next).await));
    evicted.sort_unstable();
    let mut expected = before[..4].to_vec();
    expected.sort_unstable();
    assert_eq!(evicted, expected);
    assert_eq!(subject.ids_of("anna", at(10)).await, [next.id(), before[4]]);

    let only = subject.sign_in("anna").at(at(11)).limit(Limit::evict(1));
    subject.begin(only.clone()).await;
    assert_eq!(subject.ids_of("anna", at(11)).await, [only.id()]);
}

pub(super) async fn i3_a_limit_counts_one_user_alone(subject: &Subject) {
    subject.begin(subject.sign_in("ben")).await;
    subject.begin(anonymous()).await;
    let anna = subject.begin(subject.sign_in("anna").limit(Limit::refuse(1))).await;
    subject.begin(subject.sign_in("Anna").limit(Limit::refuse(1))).await;
    // An anonymous visitor has no user whose sessions could be counted.
    for _ in 0..3 {
        subject.begin(anonymous().limit(Limit::refuse(1))).await;
    }
    assert_eq!(subject.ids_of("anna", NOW).await, [anna]);
}

pub(super) async fn i3_the_replaced_session_ends_and_is_not_counted(subject: &Subject) {
    let visitor = subject.begin(anonymous()).await;
    let first = subject.sign_in("anna").limit(Limit::refuse(1)).replaces(visitor).by("gateway");
    let ended = ended_for(subject.create(&first).await);
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].id, ended[0].reason, ended[0].by.as_deref()), (visitor, Reason::Replaced, Some("gateway")));
    assert_eq!(subject.tombstone(visitor, NOW).await.ended, ended[0]);

    let second = subject.sign_in("anna").at(at(1)).limit(Limit::refuse(1)).replaces(first.id());
    assert_eq!(ids(ended_for(subject.create(&second).await)), [first.id()]);
    assert_eq!(subject.ids_of("anna", at(1)).await, [second.id()]);

    // Nothing is left of it: the next one replaces nobody.
    let third = subject.sign_in("anna").at(at(2)).replaces(visitor);
    assert_eq!(ended_for(subject.create(&third).await), []);
    assert_eq!(subject.tombstone(visitor, at(2)).await.ended, ended[0]);
}

pub(super) async fn i3_a_session_of_somebody_else_can_be_replaced(subject: &Subject) {
    let anna = subject.begin(subject.sign_in("anna")).await;
    let ben = subject.sign_in("ben").replaces(anna);
    assert_eq!(ids(ended_for(subject.create(&ben).await)), [anna]);
    assert!(subject.ids_of("anna", NOW).await.is_empty());
    assert_eq!(subject.ids_of("ben", NOW).await, [ben.id()]);
}

pub(super) async fn i3_a_refusal_ends_and_creates_nothing(subject: &Subject) {
    let visitor = subject.begin(anonymous()).await;
    let anna = subject.begin(subject.sign_in("anna")).await;
    let refused = subject.sign_in("anna").limit(Limit::refuse(1)).replaces(visitor).idempotency(digest(1));
    assert_eq!(subject.create(&refused).await, Created::Refused(Refusal::LimitReached { max: 1 }));
    assert!(subject.is_live(visitor, NOW).await);
    assert_eq!(subject.ids_of("anna", NOW).await, [anna]);
    assert!(matches!(subject.load(refused.id(), NOW).await, Loaded::Unknown));

    // Its idempotency key is free: the next try is a first one.
    let next = subject.sign_in("anna").limit(Limit::refuse(2)).idempotency(digest(1));
    assert_eq!(ended_for(subject.create(&next).await), []);
}

pub(super) async fn i3_a_repeated_try_ends_the_first_and_is_not_counted(subject: &Subject) {
    let attempt = |millis| subject.sign_in("anna").at(at(millis)).limit(Limit::refuse(2)).idempotency(digest(7));
    subject.begin(subject.sign_in("anna")).await;
    let first = attempt(1);
    subject.begin(first.clone()).await;

    let second = attempt(2);
    let ended = ended_for(subject.create(&second).await);
    assert_eq!(
        ended.iter().map(|ended| (ended.id, ended.reason)).collect::<Vec<_>>(),
        [(first.id(), Reason::Replaced)]
    );
    let other = subject.sign_in("anna").limit(Limit::refuse(2)).idempotency(digest(8));
    assert_eq!(subject.create(&other).await, Created::Refused(Refusal::LimitReached { max: 2 }));

    // An earlier try that also is the replaced session ends once.
    let third = attempt(3).replaces(second.id());
    assert_eq!(ids(ended_for(subject.create(&third).await)), [second.id()]);
    // One that ended otherwise is no earlier try any more.
    subject.end(third.id(), Reason::SignedOut, at(4)).await;
    assert_eq!(ended_for(subject.create(&attempt(5)).await), []);
}

pub(super) async fn i3_a_creation_sent_again_changes_nothing(subject: &Subject) {
    let oldest = subject.begin(subject.sign_in("anna")).await;
    let visitor = subject.begin(anonymous()).await;
    let start = subject.sign_in("anna").at(at(1)).limit(Limit::evict(1)).replaces(visitor).idempotency(digest(1));
    assert_eq!(ended_for(subject.create(&start).await).len(), 2);
    let record = subject.apply(start.id(), &set("a", "1")).await;

    assert_eq!(ended_for(subject.create(&start).await), [], "nothing more ends, least of all the session itself");
    assert_eq!(subject.record(start.id(), at(1)).await, record, "nor is it overwritten");
    assert_eq!(subject.events_of(start.id()).await, [Event::SignedIn]);
    assert_eq!(subject.ids_of("anna", at(1)).await, [start.id()]);

    // It counts as often as it is sent: once.
    let next = subject.sign_in("anna").at(at(2)).limit(Limit::refuse(2));
    subject.begin(next).await;
    assert!(!subject.is_live(oldest, at(2)).await);
}

pub(super) async fn i3_parallel_tries_with_one_idempotency_key_leave_one_session(subject: &Subject) {
    let starts: Vec<_> = (0..20).map(|_| subject.sign_in("anna").idempotency(digest(7))).collect();
    let answers = create_in_parallel(subject, &starts).await;
    assert_eq!(answers.into_iter().flat_map(ended_for).count(), 19);
    assert_eq!(subject.ids_of("anna", NOW).await.len(), 1);
}

pub(super) async fn i3_acting_as_another_counts_for_nobodys_limit(subject: &Subject) {
    let acting = |user: &str, by: &str| {
        subject.sign_in(user).with(|info| info.acting = Some(Acting { by: by.into(), returns_to: None }))
    };
    let own = subject.begin(subject.sign_in("anna").at(at(1)).limit(Limit::refuse(1))).await;
    // Nothing keeps it from starting, and nothing ends for it.
    for limit in [Limit::refuse(1), Limit::evict(1)] {
        let start = acting("anna", "root").limit(limit);
        assert_eq!(ended_for(subject.create(&start).await), []);
        assert!(subject.is_live(own, at(1)).await);
    }
    // Seen before all others, it is not evicted for them.
    let oldest = subject.begin(acting("anna", "root").at(at(0))).await;
    let next = subject.sign_in("anna").at(at(2)).limit(Limit::evict(1));
    assert_eq!(ids(ended_for(subject.create(&next).await)), [own]);
    assert!(subject.is_live(oldest, at(2)).await);
    let full = subject.sign_in("anna").at(at(3)).limit(Limit::refuse(1));
    assert_eq!(subject.create(&full).await, Created::Refused(Refusal::LimitReached { max: 1 }));
    subject.begin(subject.sign_in("anna").at(at(3)).limit(Limit::refuse(2))).await;
}

pub(super) async fn i3_a_disabled_user_is_refused_until_enabled(subject: &Subject) {
    let before = subject.begin(subject.sign_in("anna")).await;
    fence(subject, "anna", Fence::Disabled, 10).await;
    assert_eq!(subject.tombstone(before, at(10)).await.ended.reason, Reason::UserDisabled);
    for late in [9, 10, 1_000_000_000] {
        let refused = subject.create(&subject.sign_in("anna").at(at(late))).await;
        assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
    }
    assert!(subject.ids_of("anna", at(10)).await.is_empty());
    subject.begin(subject.sign_in("ben").at(at(11))).await;

    subject.store.enable_user("anna", at(20)).await.unwrap();
    subject.store.enable_user("nobody", at(20)).await.unwrap();
    subject.begin(subject.sign_in("anna").at(at(20))).await;
    // Who authenticated before the user was disabled has to do so again.
    let stale = subject.sign_in("anna").at(at(21)).with(|info| info.authentication = Some(Authentication::at(at(9))));
    assert_eq!(subject.create(&stale).await, Created::Refused(Refusal::EndedMeanwhile));
}

pub(super) async fn i3_a_user_without_a_session_can_be_disabled(subject: &Subject) {
    fence(subject, "anna", Fence::Disabled, 0).await;
    let refused = subject.create(&subject.sign_in("anna").at(at(1))).await;
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
}

pub(super) async fn i3_a_sign_in_from_before_the_end_of_all_is_refused(subject: &Subject) {
    fence(subject, "anna", Fence::EndedBefore, 100).await;
    let authenticated = |millis| {
        let start = subject.sign_in("anna").at(at(200));
        start.with(|info| info.authentication = Some(Authentication::at(at(millis))))
    };
    let visitor = subject.begin(anonymous()).await;
    let refused = authenticated(99).replaces(visitor);
    assert_eq!(subject.create(&refused).await, Created::Refused(Refusal::EndedMeanwhile));
    assert!(subject.is_live(visitor, at(200)).await);
    subject.begin(authenticated(100)).await;
    subject.begin(authenticated(101)).await;
    subject.begin(subject.sign_in("ben").at(at(0))).await;

    // Who never authenticated is judged by the start of the session.
    let unproven = |millis| subject.sign_in("anna").at(at(millis)).with(|info| info.authentication = None);
    assert_eq!(subject.create(&unproven(99)).await, Created::Refused(Refusal::EndedMeanwhile));
    subject.begin(unproven(100)).await;

    // A fence never moves back.
    fence(subject, "anna", Fence::EndedBefore, 50).await;
    assert_eq!(subject.create(&authenticated(99)).await, Created::Refused(Refusal::EndedMeanwhile));
}

pub(super) async fn i3_acting_as_another_is_fenced_by_when_it_started(subject: &Subject) {
    let acting = |started: i64, authenticated: i64| {
        subject.sign_in("anna").at(at(started)).with(|info| {
            info.acting = Some(Acting { by: "root".into(), returns_to: None });
            info.authentication = Some(Authentication::at(at(authenticated)));
        })
    };
    let before = subject.begin(acting(0, 0)).await;
    fence(subject, "anna", Fence::EndedBefore, 100).await;
    assert!(!subject.is_live(before, at(100)).await, "it ends with all of the user's");
    let refused = subject.create(&acting(99, 200)).await;
    assert_eq!(refused, Created::Refused(Refusal::EndedMeanwhile));
    let after = subject.begin(acting(100, -50)).await;
    fence(subject, "anna", Fence::Disabled, 200).await;
    assert!(!subject.is_live(after, at(200)).await);
    assert_eq!(subject.create(&acting(300, 300)).await, Created::Refused(Refusal::UserDisabled));
}

pub(super) async fn i3_no_sign_in_slips_past_disabling(subject: &Subject) {
    for round in 0..5 {
        let user = format!("user {round}");
        let actor = |n| (n % 2 == 1).then(|| Acting { by: "root".into(), returns_to: None });
        let starts: Vec<_> = (0..16).map(|n| subject.sign_in(&user).with(|info| info.acting = actor(n))).collect();
        let disable = Which::OfUser { user: user.as_str().into(), except: Vec::new(), fence: Fence::Disabled };
        in_parallel(starts.len() + 1, |n| {
            let (store, start, disable) = (subject.store.clone(), starts.get(n).cloned(), disable.clone());
            async move {
                match start {
                    Some(start) => drop(store.create(&start.create, NOW).await.unwrap()),
                    None => drop(store.end(&disable, &Reason::UserDisabled.into(), NOW).await.unwrap()),
                }
            }
        })
        .await;
        assert!(subject.ids_of(&user, NOW).await.is_empty(), "a sign-in slipped past");
        for start in &starts {
            let events = subject.events_of(start.id()).await;
            let started = start.create.started(NOW).event;
            assert!(events == [Event::Refused] || events == [started, Event::Ended], "{events:?}");
        }
    }
}

async fn fence(subject: &Subject, user: &str, fence: Fence, millis: i64) {
    let which = Which::OfUser { user: user.into(), except: Vec::new(), fence };
    subject.store.end(&which, &Reason::UserDisabled.into(), at(millis)).await.unwrap();
}
