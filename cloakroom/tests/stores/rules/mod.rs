//! The rules over a store that does no more than the contract asks, and what they leave when it is cut off.

mod sparse;

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Ended, Ending, Limit, Reason, Record, SessionId, SessionInfo, Timestamp,
    audit::Event,
    rules::{Create, Created, EndAnswer, Fence, Loaded, Reap, Rules, Updated, Which},
    store::{AuditQuery, Digest, Partition, PutUser, Secrets, Store, slots::List},
    testing::conformance,
};
use sparse::Sparse;

conformance!(mod sparse_store: Sparse::new());

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

fn start(store: &Rules, user: Option<&str>) -> Create {
    let key = store.partition_key();
    let partition = user.map_or_else(|| Partition::random().unwrap(), |user| key.partition_of(user));
    let info =
        SessionInfo { user: user.map(Into::into), ..SessionInfo::new(SessionId::generate(partition).unwrap(), NOW) };
    let record = Record::new(info, Secrets::new(Digest::from_bytes([1; Digest::LEN]), NOW));
    Create { record, limit: None, replaces: None, by: None, note: None }
}

async fn begin(store: &Rules, create: Create) -> SessionId {
    let created = store.create(&create, NOW).await.unwrap();
    assert!(matches!(created, Created::Created { .. }), "{created:?}");
    create.record.info.id
}

async fn reap(store: &Rules, now: Timestamp) -> Vec<Ended> {
    let reap = Reap { limit: 100, tombstones_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH };
    store.reap(&reap, now).await.unwrap().ended
}

async fn listed(store: &Rules, what: List) -> usize {
    store.store().list(&what, None, 100).await.unwrap().items.len()
}

async fn lives(store: &Rules, id: SessionId, now: Timestamp) -> bool {
    matches!(store.load(id, now).await.unwrap(), Loaded::Live(_))
}

#[tokio::test]
async fn i2_a_replacement_that_a_crash_left_half_done_is_finished_by_the_reaper() {
    for cut_off in [1, usize::MAX] {
        let sparse = Sparse::new();
        let store = Rules::on(sparse.clone());
        let visitor = begin(&store, start(&store, None)).await;
        let mut create = start(&store, Some("anna"));
        create.replaces = Some(visitor);
        let id = create.record.info.id;
        sparse.cut_off_after(cut_off);
        let created = store.create(&create, NOW).await;
        sparse.connect();
        assert_eq!(created.is_ok(), cut_off > 1, "{created:?}");
        assert_eq!(lives(&store, visitor, NOW).await, cut_off == 1);

        let ended = reap(&store, at(1)).await;
        let by_the_reaper: Vec<_> = ended.iter().map(|ended| (ended.id, ended.reason)).collect();
        assert_eq!(by_the_reaper, if cut_off == 1 { vec![(visitor, Reason::Replaced)] } else { Vec::new() });
        assert!(lives(&store, id, at(1)).await && !lives(&store, visitor, at(1)).await);
        assert_eq!(listed(&store, List::Due(Timestamp::MAX)).await, 0, "it is settled once and for all");
    }
}

#[tokio::test]
async fn i2_an_ending_of_all_that_a_crash_left_is_finished_by_the_reaper() {
    let sparse = Sparse::new();
    let store = Rules::on(sparse.clone());
    let stays = begin(&store, start(&store, Some("anna"))).await;
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(begin(&store, start(&store, Some("anna"))).await);
    }
    let which = Which::OfUser { user: "anna".into(), except: vec![stays], fence: Fence::EndedBefore };
    let ending = Ending::new(Reason::SignedOutElsewhere).by("anna").note("lost");
    // The user's slot and one session; then the node is gone.
    sparse.cut_off_after(2);
    assert!(store.end(&which, &ending, NOW).await.unwrap_err().is_retryable());
    sparse.connect();
    // Time cannot tell this one from those before.
    let new = begin(&store, start(&store, Some("anna"))).await;
    assert!(reap(&store, at(9_999)).await.is_empty(), "the call may still be at work");

    let mut ended = reap(&store, at(10_000)).await;
    ended.sort_by_key(|ended| ended.id);
    let mut expected = Vec::new();
    for id in old {
        let Loaded::Ended(tombstone) = store.load(id, at(10_000)).await.unwrap() else { panic!("it lives") };
        assert_eq!(tombstone.ended.reason, Reason::SignedOutElsewhere);
        assert_eq!((tombstone.ended.by.as_deref(), tombstone.ended.note.as_deref()), (Some("anna"), Some("lost")));
        if tombstone.ended.at == at(10_000) {
            expected.push(tombstone.ended.clone());
        }
    }
    expected.sort_by_key(|ended| ended.id);
    assert_eq!((ended.len(), &ended), (2, &expected));
    assert!(lives(&store, stays, at(10_000)).await && lives(&store, new, at(10_000)).await);
    assert!(reap(&store, at(30_000)).await.is_empty());

    // The fence goes when it is old enough, and with it all that was settled.
    let forget = |before| Reap { limit: 100, tombstones_before: before, audit_before: Timestamp::EPOCH };
    store.reap(&forget(at(-1)), at(40_000)).await.unwrap();
    assert_eq!(listed(&store, List::Users).await, 1);
    store.reap(&forget(NOW), at(40_000)).await.unwrap();
    assert_eq!(listed(&store, List::Users).await, 0);
}

#[tokio::test]
async fn i2_each_of_two_endings_of_all_under_way_spares_its_own_exceptions_alone() {
    let sparse = Sparse::new();
    let store = Rules::on(sparse.clone());
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(begin(&store, start(&store, Some("anna"))).await);
    }
    for except in [ids[0], ids[1]] {
        let which = Which::OfUser { user: "anna".into(), except: vec![except], fence: Fence::EndedBefore };
        sparse.cut_off_after(1);
        store.end(&which, &Reason::AllRevoked.into(), NOW).await.unwrap_err();
        sparse.connect();
    }
    let ended = reap(&store, at(10_000)).await;
    assert_eq!(ended.len(), 3, "the first was to end the second's exception, and the other way round");
}

#[tokio::test]
async fn i2_more_sessions_than_one_portion_end_and_the_excepted_among_them_stay() {
    let sparse = Sparse::new();
    let store = Rules::on(sparse.clone());
    let mut ids = Vec::new();
    for n in 0..700 {
        let mut create = start(&store, Some("anna"));
        create.record.info.created_at = at(n);
        ids.push(begin(&store, create).await);
    }
    // More than one portion of the newest stay.
    let except: Vec<_> = ids[300..].to_vec();
    let which = Which::OfUser { user: "anna".into(), except: except.clone(), fence: Fence::EndedBefore };
    let answers = store.end(&which, &Reason::AllRevoked.into(), at(1000)).await.unwrap();
    let ended: Vec<_> = answers.into_iter().filter_map(EndAnswer::ended_now).map(|ended| ended.id).collect();
    assert_eq!(ended, ids[..300].iter().rev().copied().collect::<Vec<_>>(), "newest first");
    for id in except {
        assert!(lives(&store, id, at(1000)).await);
    }
    let all = Which::Ids(ids.clone());
    let answers = store.end(&all, &Reason::RevokedByAdmin.into(), at(1001)).await.unwrap();
    let now = answers.iter().filter(|answer| matches!(answer, EndAnswer::EndedNow(_))).count();
    assert_eq!((answers.len(), now), (700, 400));
}

#[tokio::test]
async fn i3_a_limit_looks_at_all_sessions_of_a_user_however_many() {
    let sparse = Sparse::new();
    let store = Rules::on(sparse.clone());
    for _ in 0..100 {
        begin(&store, start(&store, Some("anna"))).await;
    }
    let limited = |limit| Create { limit: Some(limit), ..start(&store, Some("anna")) };
    let Created::Refused(_) = store.create(&limited(Limit::refuse(100)), NOW).await.unwrap() else { panic!("101") };
    let Created::Created { ended } = store.create(&limited(Limit::evict(3)), NOW).await.unwrap() else {
        panic!("there is room for it")
    };
    assert_eq!(ended.len(), 98);
}

#[tokio::test]
async fn i2_a_user_whose_slot_is_deleted_and_made_anew_under_a_sign_in_keeps_it_out() {
    let sparse = Sparse::new();
    let store = Rules::on(sparse.clone());
    let put = |was: Option<&str>, settings: Option<&str>| PutUser {
        user: "anna".into(),
        was: was.map(Into::into),
        settings: settings.map(Into::into),
        last_sign_in: None,
    };
    assert!(store.put_user(&put(None, Some("1"))).await.unwrap());
    let fence = Which::OfUser { user: "anna".into(), except: Vec::new(), fence: Fence::Disabled };
    store.end(&fence, &Reason::UserDisabled.into(), NOW).await.unwrap();
    // The directory's entry goes and comes; the fence stays.
    assert!(store.put_user(&put(Some("1"), None)).await.unwrap());
    assert!(store.put_user(&put(None, Some("1"))).await.unwrap());
    assert!(matches!(store.create(&start(&store, Some("anna")), at(1)).await.unwrap(), Created::Refused(_)));
    store.enable_user("anna", at(2)).await.unwrap();
    let mut create = start(&store, Some("anna"));
    create.record.info.created_at = at(3);
    begin(&store, create).await;
    let entry = store.user("anna").await.unwrap().unwrap();
    assert_eq!(entry.last_sign_in.map(|last| last.at), Some(at(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i12_a_grant_shows_what_was_written_before_it() {
    let sparse = Sparse::new();
    let store = Rules::on(sparse.clone());
    let id = begin(&store, start(&store, None)).await;
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let mut change = cloakroom::Change::new(10_000);
                change.set(format!("{writer}.{n}"), cloakroom::Json::from_text("1").unwrap());
                assert!(matches!(store.update(id, &change, NOW).await.unwrap(), Updated::Applied(_)));
                tokio::task::yield_now().await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut now = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        tokio::task::yield_now().await;
        now += 1;
        let before = Arc::new(store.load(id, NOW).await.unwrap());
        let Loaded::Live(before) = &*before else { panic!("it lives") };
        let locked = store.lock(id, Duration::from_millis(1), at(now)).await.unwrap();
        let cloakroom::rules::Locked::Granted(record) = locked else { panic!("nobody holds it") };
        assert!(record.info.version >= before.info.version);
        assert_eq!(
            u64::try_from(record.data.len()).unwrap(),
            record.info.version,
            "data and version are of one moment"
        );
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn the_commonest_calls_take_one_trip() {
    let sparse = Sparse::new();
    let store = Rules::on(sparse.clone());
    let trips = || sparse.trips.swap(0, std::sync::atomic::Ordering::Relaxed);
    let create = start(&store, Some("anna"));
    let id = begin(&store, create).await;
    assert_eq!(trips(), 1, "a sign-in of a user about whom nothing is settled");
    store.load(id, NOW).await.unwrap();
    assert_eq!(trips(), 1, "a load");
    let mut change = cloakroom::Change::new(1000);
    change.set("a", cloakroom::Json::from_text("1").unwrap());
    change.relied_on.insert("a".into(), None);
    store.update(id, &change, NOW).await.unwrap();
    assert_eq!(trips(), 1, "a change of data");
    let mut stale = cloakroom::Change::new(1000);
    stale.set("b", cloakroom::Json::from_text("1").unwrap());
    stale.relied_on.insert("a".into(), None);
    assert!(matches!(store.update(id, &stale, NOW).await.unwrap(), Updated::Conflict(_)));
    assert_eq!(trips(), 1, "a conflict");
    store.end(&Which::Ids(vec![id]), &Reason::SignedOut.into(), NOW).await.unwrap();
    assert_eq!(trips(), 2, "an end: the log tells of what only the head says");
    let log = store.audit(&AuditQuery::default(), None, 10).await.unwrap().items;
    let events: Vec<_> = log.iter().map(|logged| logged.entry.event).collect();
    assert_eq!(events, [Event::SignedIn, Event::Ended]);
}
