//! What is kept in the file, and how little is written for it.

use std::{
    fs,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use cloakroom::{
    Assurance, Change, Client, Ending, Error, Json, Reason, Record, Refusal, SessionInfo, Timestamp, Token,
    record::{Acting, Authentication},
    rules::{Created, Fence, Loaded, Locked, Reap, Rotation, Which},
    store::{AuditQuery, Digest, Fields, Query, RecentChanges},
};

use super::{NOW, Place, creation, live, record, sessions_of, set, setting, started};

#[tokio::test]
async fn a_damaged_row_is_an_error_that_names_it_and_harms_no_other() {
    let place = Place::new();
    let store = place.open().await;
    let (good, bad) = (started(&store, "anna").await, started(&store, "bert").await);
    let edit = r#"UPDATE slot SET head = '{"user":"bert"}' WHERE id = ?1"#;
    assert_eq!(place.sqlite().execute(edit, [bad.as_bytes()]).unwrap(), 1);

    for error in
        [store.load(bad, NOW).await.unwrap_err(), store.update(bad, &setting("a", "1"), NOW).await.unwrap_err()]
    {
        assert!(matches!(error, Error::Store { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("damaged row of session {bad} (")), "{error}");
    }
    assert_eq!(sessions_of(&store, "bert").await, []);
    set(&store, good, "a", "1").await.unwrap();
    assert_eq!(live(&store, good).await.data.len(), 1);
}

#[tokio::test]
async fn everything_is_there_when_the_file_is_opened_again() {
    let place = Place::new();
    let store = place.open().await;
    let mut full = record(&store, "Änna\u{0}🦀");
    full.info = SessionInfo {
        full_name: Some("Anna".into()),
        user_type: Some("admin".into()),
        last_seen_at: NOW.after(Duration::from_millis(5)),
        idle_timeout: Some(Duration::from_hours(1)),
        ends_at: Some(NOW.after(Duration::from_hours(24))),
        authentication: Some(Authentication {
            methods: Some("pwd otp".into()),
            level: Some(Assurance::Aal2),
            ..Authentication::at(NOW)
        }),
        remember: true,
        client: Client {
            ip: Some("2001:db8::1".parse().unwrap()),
            user_agent: Some("curl".into()),
            device: Some("laptop".into()),
            country: Some("DE".into()),
        },
        acting: Some(Acting { by: "root".into(), returns_to: Some(full.info.id) }),
        audit_user: Some("auditor".into()),
        version: u64::MAX - 1,
        ..full.info
    };
    full.data.insert("key.with \"$[\\ ключ", Json::from_text(r#"{"b":-0.0,"a":1e400}"#).unwrap());
    full.recent_changes = RecentChanges::from_ids([1, u64::MAX]);
    full.idempotency = Some(Digest::from_bytes([9; Digest::LEN]));
    let id = full.info.id;
    store.create(&creation(full.clone()), NOW).await.unwrap();
    let rotation = Rotation {
        presented: full.secrets.current,
        successor: Token::generate(id).unwrap().digest(),
        grace: Duration::from_secs(30),
        at_once: false,
        by: None,
    };
    store.rotate(id, &rotation, NOW).await.unwrap();
    assert!(full.secrets.rotate(&rotation.presented, rotation.successor, rotation.grace, NOW));
    assert!(matches!(store.lock(id, rotation.grace, NOW).await.unwrap(), Locked::Granted(_)));
    assert!(full.lease.take(rotation.grace, NOW));

    let gone = started(&store, "bert").await;
    let bert = Which::OfUser { user: "bert".into(), except: Vec::new(), fence: Fence::Disabled };
    let ending = Ending::new(Reason::UserDisabled).by("root").note("left");
    store.end(&bert, &ending, NOW).await.unwrap();
    let log = store.audit(&AuditQuery::default(), None, 100).await.unwrap();
    let key = *store.partition_key().as_bytes();
    drop(store);

    let store = place.open().await;
    assert_eq!(store.partition_key().as_bytes(), &key);
    assert_eq!(*live(&store, id).await, full);
    let Loaded::Ended(tombstone) = store.load(gone, NOW).await.unwrap() else { panic!("it ended") };
    assert_eq!(tombstone.ended, ending.of(gone, Some("bert".into()), NOW));
    assert_eq!(log.items.len(), 4);
    assert_eq!(store.audit(&AuditQuery::default(), None, 100).await.unwrap(), log);
    let refused = store.create(&creation(record(&store, "bert")), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
}

#[tokio::test]
async fn a_changed_deadline_counts_at_once_everywhere() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let end = NOW.after(Duration::from_secs(1));
    let mut change = Change::new(100);
    change.fields = Fields { ends_at: Some(Some(end)), ..Fields::default() };
    store.update(id, &change, NOW).await.unwrap();
    let query = Query::of_user("anna");
    assert_eq!(store.find(&query, None, 10, NOW).await.unwrap().items[0].ends_at, Some(end));
    assert_eq!(store.find(&query, None, 10, end).await.unwrap().items, []);
    let reap = Reap { limit: 10, tombstones_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH };
    let reaped = store.reap(&reap, end).await.unwrap();
    assert_eq!((reaped.ended.len(), reaped.ended[0].reason, reaped.more), (1, Reason::AbsoluteTimeout, false));
}

#[tokio::test]
async fn one_idempotency_key_of_two_users_is_two_keys() {
    let place = Place::new();
    let store = place.open().await;
    let key = store.partition_key();
    let elsewhere = |user: &String| key.partition_of(user) != key.partition_of("anna");
    let other = (0..100).map(|n| format!("user {n}")).find(elsewhere).unwrap();
    for user in ["anna", &other] {
        let record = Record { idempotency: Some(Digest::from_bytes([7; Digest::LEN])), ..record(&store, user) };
        assert_eq!(store.create(&creation(record), NOW).await.unwrap(), Created::Created { ended: Vec::new() });
    }
    assert_eq!((sessions_of(&store, "anna").await.len(), sessions_of(&store, &other).await.len()), (1, 1));
}

#[tokio::test]
async fn a_small_change_of_a_large_session_writes_little() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    set(&store, id, "large", &format!("\"{}\"", "x".repeat(64 << 10))).await.unwrap();
    let log = || fs::metadata(format!("{}-wal", place.address())).unwrap().len();
    let before = log();
    set(&store, id, "small", "1").await.unwrap();
    let written = log() - before;
    assert!((1..=4 * 4200).contains(&written), "{written} bytes: more than four pages");
}

#[tokio::test]
async fn a_dropped_future_leaves_all_or_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let mut dropped = Vec::new();
    for _ in 0..50 {
        let create = creation(record(&store, "anna"));
        dropped.push(create.record.info.id);
        let mut future = pin!(store.create(&create, NOW));
        assert!(matches!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    // What was accepted before this write is done before it.
    let last = started(&store, "anna").await;
    let listed = sessions_of(&store, "anna").await;
    for id in dropped {
        let query = AuditQuery { session: Some(id), ..AuditQuery::default() };
        let audited = store.audit(&query, None, 10).await.unwrap().items.len();
        let lives = matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_));
        assert_eq!(usize::from(lives), audited);
        assert_eq!(lives, listed.iter().any(|info| info.id == id));
    }
    assert!(listed.iter().any(|info| info.id == last));
}
