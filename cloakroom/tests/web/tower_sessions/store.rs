//! The store alone: what tower-sessions asks of its stores, and what it promises beyond.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Ending, Found, Limit, Reason, Sessions, SignIn,
    audit::Event,
    store::{AuditQuery, Query},
    web::TowerSessionsStore,
};
use serde_json::json;
use time::OffsetDateTime;
use tower_sessions::{
    Expiry, Session, SessionStore,
    session::{Id, Record},
    session_store::Error,
};

use super::world::{sessions, store};

fn record<const N: usize>(values: [(&str, serde_json::Value); N]) -> Record {
    let data = values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Record { id: Id::default(), data, expiry_date: OffsetDateTime::now_utc() + Duration::from_mins(30) }
}

async fn created<const N: usize>(store: &TowerSessionsStore, values: [(&str, serde_json::Value); N]) -> Record {
    let mut record = record(values);
    store.create(&mut record).await.unwrap();
    record
}

#[tokio::test]
async fn what_is_created_is_loaded() {
    let store = store(&sessions().0);
    let values = [("a", json!({"b": [1, 2.5, null, "ü"]})), ("big", json!(u64::MAX)), ("nul", json!("x\0y"))];
    let record = created(&store, values).await;
    let loaded = store.load(&record.id).await.unwrap().unwrap();
    assert_eq!((loaded.id, &loaded.data), (record.id, &record.data));
    let difference = (loaded.expiry_date - record.expiry_date).abs();
    assert!(difference < Duration::from_millis(2), "{difference}");
}

#[tokio::test]
async fn an_id_is_never_taken_twice_and_never_chosen_by_the_client() {
    let store = store(&sessions().0);
    let chosen = Id(4711);
    let (mut first, mut second) = (record([]), record([]));
    (first.id, second.id) = (chosen, chosen);
    store.create(&mut first).await.unwrap();
    store.create(&mut second).await.unwrap();
    assert!(first.id != chosen && second.id != chosen && first.id != second.id);
}

#[tokio::test]
async fn unknown_ids_load_nothing_and_deleting_them_is_harmless() {
    let store = store(&sessions().0);
    assert_eq!(store.load(&Id::default()).await.unwrap(), None);
    store.delete(&Id::default()).await.unwrap();
    let record = created(&store, []).await;
    store.delete(&record.id).await.unwrap();
    store.delete(&record.id).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), None);
}

#[tokio::test]
async fn no_bit_of_an_id_can_be_different() {
    let store = store(&sessions().0);
    let record = created(&store, []).await;
    for bit in 0..128 {
        assert_eq!(store.load(&Id(record.id.0 ^ (1 << bit))).await.unwrap(), None, "{bit}");
    }
}

#[tokio::test]
async fn expired_sessions_are_not_there() {
    let (sessions, clock) = sessions();
    let store = store(&sessions);
    let mut expired = record([("a", json!(1))]);
    expired.expiry_date = OffsetDateTime::now_utc() - Duration::from_secs(1);
    store.create(&mut expired).await.unwrap();
    assert_eq!(store.load(&expired.id).await.unwrap(), None);

    let record = created(&store, []).await;
    for _ in 0..2 {
        clock.advance(Duration::from_mins(14));
        // Reading does not postpone it.
        assert!(store.load(&record.id).await.unwrap().is_some());
    }
    clock.advance(Duration::from_mins(3));
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    let Found::Ended(ended) = sessions.get(store.session_id(record.id.0)).await.unwrap() else { panic!("it ended") };
    assert_eq!(ended.reason, Reason::IdleTimeout);
}

#[tokio::test]
async fn saving_moves_the_expiry_both_ways_and_to_now() {
    let (sessions, clock) = sessions();
    let store = store(&sessions);
    let mut record = created(&store, [("user", json!("anna"))]).await;
    // Longer than Cloakroom's own defaults, for somebody who is signed in too.
    record.expiry_date = OffsetDateTime::now_utc() + Duration::from_hours(24 * 14);
    store.save(&record).await.unwrap();
    clock.advance(Duration::from_hours(24 * 14 - 1));
    assert!(store.load(&record.id).await.unwrap().is_some());
    record.expiry_date = OffsetDateTime::now_utc() + Duration::from_hours(24 * 14) - Duration::from_mins(30);
    store.save(&record).await.unwrap();
    clock.advance(Duration::from_mins(31));
    assert_eq!(store.load(&record.id).await.unwrap(), None);

    let mut now = created(&store, []).await;
    now.expiry_date = OffsetDateTime::now_utc();
    store.save(&now).await.unwrap();
    assert_eq!(store.load(&now.id).await.unwrap(), None);
}

#[tokio::test]
async fn inactivity_that_stays_the_same_is_a_touch_and_no_audit_entry() {
    let (sessions, clock) = sessions();
    let store = store(&sessions);
    let mut record = created(&store, []).await;
    for minutes in 1..=40 {
        clock.advance(Duration::from_mins(2));
        record.expiry_date = OffsetDateTime::now_utc() + Duration::from_mins(30 + 2 * minutes);
        store.save(&record).await.unwrap();
    }
    let log = sessions.audit_log().page(&AuditQuery::default(), None, 100).await.unwrap().items;
    assert_eq!(log.iter().map(|logged| logged.entry.event).collect::<Vec<_>>(), [Event::Started]);
}

#[tokio::test]
async fn two_requests_that_change_different_keys_both_win() {
    let store = store(&sessions().0);
    let record = created(&store, [("a", json!(1)), ("b", json!(1)), ("c", json!(1)), ("d", json!(1))]).await;
    let mut first = store.load(&record.id).await.unwrap().unwrap();
    let mut second = store.load(&record.id).await.unwrap().unwrap();
    first.data.insert("a".into(), json!(2));
    first.data.remove("c");
    second.data.insert("b".into(), json!(2));
    second.data.insert("e".into(), json!(2));
    store.save(&first).await.unwrap();
    store.save(&second).await.unwrap();
    let stored = store.load(&record.id).await.unwrap().unwrap().data;
    let stored: std::collections::BTreeMap<_, _> = stored.into_iter().collect();
    assert_eq!(json!(stored), json!({"a": 2, "b": 2, "d": 1, "e": 2}));
}

#[tokio::test]
async fn a_value_that_is_saved_twice_is_what_it_was_set_to_last() {
    let store = Arc::new(store(&sessions().0));
    let record = created(&store, [("role", json!("user"))]).await;
    let session = Session::new(Some(record.id), Arc::clone(&store), None);
    session.insert("role", "admin").await.unwrap();
    session.save().await.unwrap();
    session.insert("role", "user").await.unwrap();
    session.insert("note", 1).await.unwrap();
    session.save().await.unwrap();
    session.remove::<u8>("note").await.unwrap();
    session.save().await.unwrap();
    let stored = store.load(&record.id).await.unwrap().unwrap();
    assert_eq!(stored.data, record.data);
}

#[tokio::test]
async fn what_is_saved_of_a_deleted_session_is_dropped_without_an_error() {
    let (sessions, _) = sessions();
    let store = Arc::new(store(&sessions));
    let record = created(&store, [("a", json!(1))]).await;
    let session = Session::new(Some(record.id), Arc::clone(&store), None);
    session.insert("a", 2).await.unwrap();
    session.delete().await.unwrap();
    session.save().await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    let Found::Ended(ended) = sessions.get(store.session_id(record.id.0)).await.unwrap() else { panic!("it ended") };
    assert_eq!(ended.reason, Reason::SignedOut);
}

#[tokio::test]
async fn an_empty_session_is_empty_also_after_another_id() {
    let store = Arc::new(store(&sessions().0));
    for values in [None, Some(1)] {
        let record = created(&store, []).await;
        let session = Session::new(Some(record.id), Arc::clone(&store), None);
        if let Some(value) = values {
            session.insert("a", value).await.unwrap();
            session.save().await.unwrap();
            session.remove::<u8>("a").await.unwrap();
        }
        session.cycle_id().await.unwrap();
        assert!(session.is_empty().await);
    }
}

#[tokio::test]
async fn cleared_data_is_gone_as_a_whole() {
    let (sessions, _) = sessions();
    let store = Arc::new(store(&sessions));
    let record = created(&store, [("a", json!(1)), ("b", json!(1))]).await;
    let session = Session::new(Some(record.id), Arc::clone(&store), Some(Expiry::OnSessionEnd));
    session.clear().await;
    session.insert("b", 2).await.unwrap();
    session.save().await.unwrap();
    let again = Session::new(Some(record.id), store, None);
    assert_eq!(again.get::<u8>("a").await.unwrap(), None);
    assert_eq!(again.get::<u8>("b").await.unwrap(), Some(2));
}

#[tokio::test]
async fn l5_a_request_in_flight_cannot_bring_an_ended_session_back() {
    let (sessions, _) = sessions();
    let store = store(&sessions);
    let record = created(&store, [("user", json!("anna"))]).await;
    let mut late = store.load(&record.id).await.unwrap().unwrap();
    let ending = Ending::new(Reason::RevokedByAdmin).by("root");
    sessions.end(store.session_id(record.id.0), &ending).await.unwrap();
    late.data.insert("a".into(), json!(1));
    let Err(Error::Backend(message)) = store.save(&late).await else { panic!("it ended") };
    assert!(message.contains("Revoked by an administrator"), "{message}");
    assert_eq!(store.load(&record.id).await.unwrap(), None);
}

#[tokio::test]
async fn t3_an_id_that_was_never_given_out_is_not_adopted() {
    let store = store(&sessions().0);
    let chosen = record([("a", json!(1))]);
    assert!(matches!(store.save(&chosen).await, Err(Error::Backend(_))));
    assert_eq!(store.load(&chosen.id).await.unwrap(), None);
    store.save(&record([])).await.unwrap();
}

#[tokio::test]
async fn sessions_are_listed_limited_and_disabled_by_their_user() {
    let (sessions, _) = sessions();
    let store = store(&sessions);
    let anna = created(&store, [("user", json!("anna"))]).await;
    created(&store, [("user", json!("ben"))]).await;
    created(&store, []).await;
    let listed = sessions.list("anna").await.unwrap();
    assert_eq!(listed.iter().map(|info| info.id).collect::<Vec<_>>(), [store.session_id(anna.id.0)]);
    // One of Cloakroom's own lives beside it, and counts.
    sessions.start(SignIn::new("anna").limit(Limit::evict(1))).await.unwrap();
    assert_eq!(store.load(&anna.id).await.unwrap(), None);
    sessions.users().disable("ben", None).await.unwrap();
    let Err(Error::Backend(message)) = store.create(&mut record([("user", json!("ben"))])).await else {
        panic!("ben is disabled")
    };
    assert!(message.contains("disabled"), "{message}");
    assert_eq!(sessions.find(&Query::default(), None, 10).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn l1_a_session_does_not_change_hands_under_one_id() {
    let (sessions, _) = sessions();
    let store = store(&sessions);
    let mut record = created(&store, [("cart", json!(1))]).await;
    record.data.insert("user".into(), json!("anna"));
    let Err(Error::Backend(message)) = store.save(&record).await else { panic!("fixation") };
    assert!(message.contains("cycle_id()"), "{message}");
    assert!(!store.load(&record.id).await.unwrap().unwrap().data.contains_key("user"));
}

#[tokio::test]
async fn keys_and_sizes_have_cloakroom_s_limits() {
    let store = store(&sessions().0);
    for values in [("", json!(1)), ("a\nb", json!(1)), ("big", json!("x".repeat(70_000)))] {
        assert!(matches!(store.create(&mut record([values.clone()])).await, Err(Error::Encode(_))), "{}", values.0);
        let mut there = created(&store, [("a", json!(1))]).await;
        there.data.insert(values.0.into(), values.1);
        assert!(matches!(store.save(&there).await, Err(Error::Encode(_))));
        assert_eq!(store.load(&there.id).await.unwrap().unwrap().data.len(), 1);
    }
}

#[tokio::test]
async fn t7_nothing_in_the_store_opens_a_session() {
    let (sessions, _) = sessions();
    let store = store(&sessions);
    let record = created(&store, [("user", json!("anna"))]).await;
    let id = store.session_id(record.id.0);
    let Found::Live(stored) = sessions.get(id).await.unwrap() else { panic!("it lives") };
    let bearer = record.id.0.to_le_bytes();
    assert!(!id.as_bytes().windows(4).any(|window| bearer.windows(4).any(|part| part == window)));
    assert!(!stored.secrets.current.as_bytes().windows(4).any(|window| bearer.windows(4).any(|part| part == window)));
    // Nor does the public handle, taken for an id.
    let handle = i128::from_le_bytes(id.as_bytes()[..16].try_into().unwrap());
    assert_eq!(store.load(&Id(handle)).await.unwrap(), None);
}

fn _is_send_and_sync(store: TowerSessionsStore, _: Sessions) -> impl Send + Sync {
    store
}
