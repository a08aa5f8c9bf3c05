//! I5: a session's own deadlines against the caller's `now` decide, to the millisecond.

use std::time::Duration;

use super::fixtures::{NOW, anonymous, at, change, gone, set, token_for};
use crate::{
    admission::Limit,
    clock::Timestamp,
    ended::Reason,
    rules::{Created, Gone, Loaded, Rotated},
    store::Query,
    testing::Subject,
};

pub(super) async fn i5_a_deadline_has_passed_at_its_very_millisecond(subject: &Subject) {
    let idle = subject.begin(anonymous().idle(1000)).await;
    let absolute = subject.begin(anonymous().ends_at(at(1000))).await;
    for (id, reason) in [(idle, Reason::IdleTimeout), (absolute, Reason::AbsoluteTimeout)] {
        assert!(subject.is_live(id, at(999)).await);
        for late in [1000, 1001, 1_000_000_000_000] {
            let ended = subject.tombstone(id, at(late)).await.ended.clone();
            assert_eq!((ended.id, ended.reason, ended.at), (id, reason, at(1000)));
        }
        // Reading changed nothing, so a caller whose clock is behind still sees it live.
        assert!(subject.is_live(id, at(999)).await);
    }
}

pub(super) async fn i5_the_earlier_deadline_gives_the_reason(subject: &Subject) {
    let idle = subject.begin(anonymous().idle(500).ends_at(at(501))).await;
    let absolute = subject.begin(anonymous().idle(502).ends_at(at(501))).await;
    let both = subject.begin(anonymous().idle(501).ends_at(at(501))).await;
    let expected = [
        (idle, Reason::IdleTimeout, 500),
        (absolute, Reason::AbsoluteTimeout, 501),
        (both, Reason::AbsoluteTimeout, 501),
    ];
    for (id, reason, millis) in expected {
        let before = subject.tombstone(id, at(9999)).await;
        assert_eq!((before.ended.reason, before.ended.at), (reason, at(millis)));
    }
    // Reaped, they say the same.
    assert_eq!(subject.reap(at(9999)).await.len(), 3);
    for (id, reason, millis) in expected {
        let after = subject.tombstone(id, at(9999)).await;
        assert_eq!((after.ended.reason, after.ended.at), (reason, at(millis)));
    }
}

pub(super) async fn i5_what_expired_is_dead_to_every_call_before_it_is_reaped(subject: &Subject) {
    let start = subject.sign_in("anna").idle(100).with(|info| info.client.device = Some("phone".into()));
    let (token, id) = (start.token.clone(), subject.begin(start).await);
    let now = at(100);

    let Loaded::Ended(tombstone) = subject.load(id, now).await else { panic!("loaded alive") };
    let ended = tombstone.ended.clone();
    assert_eq!((ended.user.as_deref(), ended.reason, ended.by.as_deref()), (Some("anna"), Reason::IdleTimeout, None));
    assert_eq!(tombstone.secrets.current, token.digest());
    assert_eq!(gone(subject.update(id, &set("a", "1"), now).await), Gone::Ended(ended.clone()));
    assert!(!subject.touch(id, now, now).await);
    let Rotated::Gone(Gone::Ended(found)) = subject.rotate(&token, &token_for(id), now).await else {
        panic!("rotated though expired")
    };
    assert_eq!(found, ended);
    assert!(subject.ids_of("anna", now).await.is_empty());
    assert!(subject.find(&Query { device: Some("phone".into()), ..Query::default() }, now).await.is_empty());
    assert!(subject.find(&Query::default(), now).await.is_empty());

    let next = subject.sign_in("anna").at(now).limit(Limit::refuse(1));
    assert_eq!(subject.create(&next).await, Created::Created { ended: Vec::new() }, "the dead do not count");
    let next = subject.sign_in("anna").at(now).limit(Limit::evict(2));
    assert_eq!(subject.create(&next).await, Created::Created { ended: Vec::new() }, "nor are they evicted");
    assert_eq!(subject.tombstone(id, now).await.ended, ended);
}

pub(super) async fn i5_a_change_of_deadlines_counts_at_once(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna").idle(1000)).await;
    let mut longer = change();
    longer.fields.idle_timeout = Some(Some(Duration::from_secs(5)));
    subject.apply(id, &longer).await;
    assert!(subject.reap(at(1000)).await.is_empty(), "the old deadline does not count any more");
    assert!(subject.is_live(id, at(4999)).await);

    let mut shorter = change();
    shorter.fields.ends_at = Some(Some(at(300)));
    subject.apply(id, &shorter).await;
    assert!(subject.is_live(id, at(299)).await);
    let ended = subject.tombstone(id, at(300)).await.ended.clone();
    assert_eq!((ended.reason, ended.at), (Reason::AbsoluteTimeout, at(300)));
    assert_eq!(subject.reap(at(299)).await, []);
    assert_eq!(subject.reap(at(300)).await, [id]);
}

pub(super) async fn i5_use_moves_the_idle_deadline_but_not_the_absolute_one(subject: &Subject) {
    let id = subject.begin(anonymous().idle(1000).ends_at(at(1500))).await;
    assert!(subject.touch(id, at(900), at(900)).await);
    assert!(subject.reap(at(1000)).await.is_empty());
    assert!(subject.touch(id, at(1400), at(1400)).await);
    assert!(subject.is_live(id, at(1499)).await);
    assert!(!subject.touch(id, at(1500), at(1500)).await);
    let ended = subject.tombstone(id, at(1500)).await.ended.clone();
    assert_eq!((ended.reason, ended.at), (Reason::AbsoluteTimeout, at(1500)));
    assert_eq!(subject.reap(at(1500)).await, [id]);
}

pub(super) async fn i5_without_a_deadline_a_session_lives_on(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna")).await;
    assert!(subject.reap(Timestamp::MAX).await.is_empty());
    assert!(subject.is_live(id, Timestamp::MAX).await);
    assert_eq!(subject.ids_of("anna", Timestamp::MAX).await, [id]);
    let huge = subject.begin(anonymous().idle(u64::try_from(i64::MAX).unwrap())).await;
    assert!(subject.is_live(huge, at(1)).await);
}

pub(super) async fn i5_the_stores_own_clock_plays_no_part(subject: &Subject) {
    // 2001 and 2286: far from any machine's own clock.
    for start in [1_000_000_000_000, 9_999_999_999_999].map(Timestamp::from_millis) {
        let id = subject.begin(subject.sign_in("anna").at(start).idle(1000)).await;
        let (before, end) = (start.after(Duration::from_millis(999)), start.after(Duration::from_secs(1)));
        assert!(subject.is_live(id, before).await);
        assert_eq!(subject.ids_of("anna", before).await, [id]);
        assert!(subject.reap(before).await.is_empty());
        assert_eq!(subject.tombstone(id, end).await.ended.at, end);
        assert_eq!(subject.reap(end).await, [id]);
        assert_eq!(subject.tombstone(id, end).await.ended.at, end);
    }
    assert!(matches!(subject.load(anonymous().id(), NOW).await, Loaded::Unknown));
}
