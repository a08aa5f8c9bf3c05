//! The session as a dict: a test for each operation of the original's table.

use std::sync::Arc;

use cloakroom::{Error, Found, Key, Session, SignIn};
use http::StatusCode;

use super::{
    framework::{Router, get, layer},
    world::{World, data, world},
};

const NAME: Key<String> = Key::new("name");
const COUNT: Key<u32> = Key::new("count");

/// A stored session that holds `{"a": 1, "b": "two"}`, as a handler finds it.
async fn stored(world: &World) -> Session {
    let session = Session::anonymous(&world.sessions);
    session.set("a", &1).unwrap();
    session.set("b", "two").unwrap();
    session.commit().await.unwrap();
    session
}

/// What is stored under `key`.
async fn in_store(world: &World, session: &Session, key: &str) -> Option<String> {
    let Found::Live(record) = world.sessions.get(session.id().unwrap()).await.unwrap() else { panic!("it lives") };
    record.data.get(key).map(|value| value.as_str().to_owned())
}

#[tokio::test]
async fn getitem_reads_a_value_or_says_there_is_none() {
    let world = world();
    let session = stored(&world).await;
    assert_eq!(session.get("a").unwrap(), Some(1));
    assert_eq!(session.get::<String>("b").unwrap().as_deref(), Some("two"));
    assert_eq!(session.get::<u8>("missing").unwrap(), None);
}

#[tokio::test]
async fn getitem_of_another_type_is_an_error_that_names_the_key() {
    let world = world();
    let session = stored(&world).await;
    let error = session.get::<u32>("b").unwrap_err();
    assert!(matches!(&error, Error::InvalidValue { key, .. } if key == "b"), "{error}");
    // And modify never overwrites what it cannot read.
    session.modify("b", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap_err();
    session.modify_now("b", |n: Option<u32>| n.unwrap_or(0) + 1).await.unwrap_err();
    session.take::<u32>("b").unwrap_err();
    session.take_now::<u32>("b").await.unwrap_err();
    session.commit().await.unwrap();
    assert_eq!(in_store(&world, &session, "b").await.as_deref(), Some("\"two\""));
}

#[tokio::test]
async fn setitem_sets_a_value() {
    let world = world();
    let session = stored(&world).await;
    session.set(NAME, &"Anna".to_owned()).unwrap();
    assert_eq!(session.get(NAME).unwrap().as_deref(), Some("Anna"));
    assert_eq!(in_store(&world, &session, "name").await, None, "not stored before the commit");
    session.commit().await.unwrap();
    assert_eq!(in_store(&world, &session, "name").await.as_deref(), Some("\"Anna\""));
}

#[tokio::test]
async fn setitem_refuses_keys_that_cannot_be_stored() {
    let world = world();
    let session = stored(&world).await;
    for bad in ["", "a\0b", "line\nbreak", &"k".repeat(129)] {
        assert!(matches!(session.set(bad, &1), Err(Error::InvalidKey { .. })), "{bad:?}");
        assert!(matches!(session.modify(bad, |n: Option<u8>| n.unwrap_or(0)), Err(Error::InvalidKey { .. })));
        assert!(matches!(session.entry::<u8>(bad), Err(Error::InvalidKey { .. })));
    }
    assert!(!session.is_dirty());
}

#[tokio::test]
async fn delitem_removes_a_value_and_says_whether_it_was_there() {
    let world = world();
    let session = stored(&world).await;
    assert!(session.remove("a"));
    assert!(!session.remove("a"));
    assert!(!session.remove("missing"));
    session.commit().await.unwrap();
    assert_eq!(in_store(&world, &session, "a").await, None);
}

#[tokio::test]
async fn pop_tells_a_missing_key_apart() {
    let world = world();
    let session = stored(&world).await;
    assert_eq!(session.take("a").unwrap(), Some(1));
    assert_eq!(session.take::<u32>("a").unwrap(), None);
    assert_eq!(session.take::<u32>("a").unwrap().unwrap_or(7), 7, "the default is the caller's");
    session.commit().await.unwrap();
    assert_eq!(in_store(&world, &session, "a").await, None);
}

#[tokio::test]
async fn contains_and_has_key_see_what_is_pending() {
    let world = world();
    let session = stored(&world).await;
    assert!(session.contains_key("a") && !session.contains_key("c"));
    session.set("c", &3).unwrap();
    session.remove("a");
    assert!(!session.contains_key("a") && session.contains_key("c"));
}

#[tokio::test]
async fn get_with_a_default_is_an_option() {
    let world = world();
    let session = stored(&world).await;
    assert_eq!(session.get(COUNT).unwrap().unwrap_or_default(), 0);
    assert!(!session.is_dirty(), "reading leaves nothing behind");
}

#[tokio::test]
async fn update_sets_several_values_or_none() {
    let world = world();
    let session = stored(&world).await;
    session.extend([("a", 10), ("c", 30)]).unwrap();
    assert_eq!((session.get("a").unwrap(), session.get("c").unwrap()), (Some(10), Some(30)));
    session.extend([("d", 1), ("", 2)]).unwrap_err();
    assert!(!session.contains_key("d"));
}

#[tokio::test]
async fn setdefault_fills_an_empty_place_and_leaves_a_full_one() {
    let world = world();
    let session = stored(&world).await;
    assert_eq!(session.entry("a").unwrap().or_insert(9).unwrap(), 1);
    assert!(!session.is_dirty());
    assert_eq!(session.entry("c").unwrap().or_insert_with(|| 9).unwrap(), 9);

    // Another request fills the place first: its value stays.
    let mut change = world.sessions.change();
    change.set("c", cloakroom::Json::encode(&5).unwrap());
    world.sessions.update(session.id().unwrap(), &change).await.unwrap();
    session.commit().await.unwrap();
    assert_eq!(session.get("c").unwrap(), Some(5));
}

#[tokio::test]
async fn clear_removes_every_value() {
    let world = world();
    let session = stored(&world).await;
    session.remove_all();
    assert!(session.is_empty());
    session.set("c", &3).unwrap();
    session.commit().await.unwrap();
    assert_eq!(session.keys(), [Arc::from("c")]);
    assert_eq!(in_store(&world, &session, "a").await, None);
}

#[tokio::test]
async fn keys_items_and_values_are_sorted_and_see_what_is_pending() {
    let world = world();
    let session = stored(&world).await;
    session.set("0", &true).unwrap();
    session.remove("a");
    assert_eq!(session.keys(), ["0", "b"].map(Arc::from));
    assert_eq!(session.values().iter().map(cloakroom::Json::as_str).collect::<Vec<_>>(), ["true", "\"two\""]);
    assert_eq!(session.items().len(), session.len());
}

#[tokio::test]
async fn save_happens_only_if_something_changed() {
    let world = world();
    let session = stored(&world).await;
    let before = session.info().unwrap().version;
    session.commit().await.unwrap();
    assert_eq!(session.info().unwrap().version, before);
    session.set("a", &2).unwrap();
    assert!(session.is_dirty());
    session.commit().await.unwrap();
    assert_eq!(session.info().unwrap().version, before + 1);
    assert!(!session.is_dirty());
}

#[tokio::test]
async fn delete_drops_the_stored_data() {
    let world = world();
    let session = stored(&world).await;
    let id = session.id().unwrap();
    session.sign_out().await.unwrap();
    assert!(matches!(world.sessions.get(id).await.unwrap(), Found::Ended(_)));
    assert!(session.is_empty() && session.id().is_none());
}

#[tokio::test]
async fn clear_of_the_frappe_seed_forces_the_session_to_storage() {
    let world = world();
    let session = stored(&world).await;
    world.clock.advance(std::time::Duration::from_secs(1));
    session.set("a", &2).unwrap();
    session.flush().await.unwrap();
    assert_eq!(in_store(&world, &session, "a").await.as_deref(), Some("2"));
    let Found::Live(record) = world.sessions.get(session.id().unwrap()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.info.last_seen_at, world.sessions.now(), "unthrottled");
}

#[tokio::test]
async fn id_originalid_loaded_and_missing_are_facts_of_the_session() {
    let world = world();
    let fresh = Session::anonymous(&world.sessions);
    assert!(fresh.id().is_none() && fresh.lapsed().is_none());
    let session = stored(&world).await;
    assert!(session.id().is_some());
    let before = session.id();
    session.rotate().await.unwrap();
    assert_eq!(session.id(), before, "a rotation changes the token, not the id");
    session.sign_in(SignIn::new("anna")).await.unwrap();
    assert_ne!(session.id(), before, "a sign-in starts another session");
}

#[tokio::test]
async fn modify_is_replayed_on_what_others_stored() {
    let world = world();
    let session = stored(&world).await;
    session.modify(COUNT, |n| n.unwrap_or(0) + 1).unwrap();
    session.modify(COUNT, |n| n.unwrap_or(0) * 10).unwrap();
    let mut change = world.sessions.change();
    change.set("count", cloakroom::Json::encode(&4).unwrap());
    world.sessions.update(session.id().unwrap(), &change).await.unwrap();
    session.commit().await.unwrap();
    assert_eq!(session.get(COUNT).unwrap(), Some(50));
}

#[tokio::test]
async fn i1_modify_is_replayed_when_the_layer_stores_it_and_others_keep_what_they_saw() {
    let world = world();
    let started = world.sessions.start(SignIn::new("anna").data(data([("count", "3")]))).await.unwrap();
    let other = Session::resume(&world.sessions, &started.token).await.unwrap();
    let mut browser = world.browser();
    browser.cookie = Some(started.token.reveal());
    let sessions = world.sessions.clone();
    let app = Router::new().route(
        "/modify",
        get(move |session: Session| {
            let sessions = sessions.clone();
            async move {
                session.modify(COUNT, |n| n.unwrap_or(0) + 1)?;
                // Another request's comes first.
                let mut change = sessions.change();
                change.set("count", cloakroom::Json::encode(&7).unwrap());
                sessions.update(session.id().unwrap(), &change).await.map(drop)
            }
        }),
    );
    browser.app = app.layer(layer(&world.sessions));
    assert_eq!(browser.get("/modify").await.status, StatusCode::OK);
    let stored = Session::resume(&world.sessions, &started.token).await.unwrap();
    assert_eq!((stored.get(COUNT).unwrap(), other.get(COUNT).unwrap()), (Some(8), Some(3)));
}

#[tokio::test]
async fn modify_now_leaves_other_changes_pending() {
    let world = world();
    let session = stored(&world).await;
    session.set("a", &100).unwrap();
    session.set(COUNT, &5).unwrap();
    assert_eq!(session.modify_now(COUNT, |n| n.unwrap_or(0) + 1).await.unwrap(), 6);
    assert_eq!(in_store(&world, &session, "count").await.as_deref(), Some("6"));
    assert_eq!(in_store(&world, &session, "a").await.as_deref(), Some("1"));
    session.commit().await.unwrap();
    assert_eq!(in_store(&world, &session, "a").await.as_deref(), Some("100"));
    assert_eq!(session.get(COUNT).unwrap(), Some(6), "and is not stored twice");
}

#[tokio::test]
async fn modify_now_after_clear_keeps_its_order() {
    let world = world();
    let session = stored(&world).await;
    session.remove_all();
    assert_eq!(session.modify_now(COUNT, |n| n.unwrap_or(0) + 1).await.unwrap(), 1);
    session.commit().await.unwrap();
    assert_eq!(session.keys(), [Arc::from("count")]);
}

#[tokio::test]
async fn modify_now_starts_a_visitor_s_session_with_its_key_alone() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    session.set("a", &1).unwrap();
    assert_eq!(session.modify_now(COUNT, |n| n.unwrap_or(0) + 1).await.unwrap(), 1);
    assert_eq!(in_store(&world, &session, "a").await, None);
    session.commit().await.unwrap();
    assert_eq!(in_store(&world, &session, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn of_all_who_take_now_one_gets_the_value() {
    let world = world();
    let started = world.sessions.start(SignIn::anonymous().data(data([("code", "\"1234\"")]))).await.unwrap();
    let mut browser = world.browser();
    browser.cookie = Some(started.token.reveal());
    let app =
        Router::new().route(
            "/take",
            get(|session: Session| async move {
                Ok::<_, Error>(session.take_now::<String>("code").await?.unwrap_or_default())
            }),
        );
    browser.app = app.layer(layer(&world.sessions));
    let takes = (0..20).map(|_| {
        let mut browser = browser.clone();
        tokio::spawn(async move { browser.text("/take").await })
    });
    let mut taken = Vec::new();
    for take in takes.collect::<Vec<_>>() {
        taken.push(take.await.unwrap());
    }
    assert_eq!(taken.iter().filter(|code| *code == "1234").count(), 1, "{taken:?}");
    assert_eq!(taken.iter().filter(|code| code.is_empty()).count(), 19);
}

#[tokio::test]
async fn flash_is_seen_once() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    session.set("flash", "saved").unwrap();
    session.commit().await.unwrap();
    assert_eq!(session.take::<String>("flash").unwrap().as_deref(), Some("saved"));
    session.commit().await.unwrap();
    assert_eq!(session.take::<String>("flash").unwrap(), None);
}

#[tokio::test]
async fn i17_values_of_every_kind_come_back_as_they_were() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    session.set("null", &None::<u8>).unwrap();
    session.set("nul", "a\0b").unwrap();
    session.set("max", &u64::MAX).unwrap();
    session.set("zero", &-0.0_f64).unwrap();
    session.set("cart.items[0]\"$\\ ключ", &["umbrella"]).unwrap();
    session.commit().await.unwrap();
    assert_eq!(session.get::<Option<u8>>("null").unwrap(), Some(None));
    assert_eq!(session.get::<String>("nul").unwrap().unwrap(), "a\0b");
    assert_eq!(session.get("max").unwrap(), Some(u64::MAX));
    assert!(session.get::<f64>("zero").unwrap().unwrap().is_sign_negative());
    assert_eq!(session.get::<Vec<String>>("cart.items[0]\"$\\ ключ").unwrap().unwrap(), ["umbrella"]);
}

#[tokio::test]
async fn i17_what_could_not_be_read_again_is_refused_by_name_and_changes_nothing() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    session.set("kept", &1).unwrap();
    let deep: serde_json::Value = (0..128).fold(0.into(), |value, _| vec![value].into());
    let refused = [
        session.set("heat", &f64::NAN),
        session.set("heat", &[1.0, f64::INFINITY]),
        session.set("heat", &deep),
        session.extend([("kept", 2.0), ("heat", f64::NAN)]),
        session.modify("heat", |_: Option<f64>| f64::NEG_INFINITY).map(drop),
        session.modify_now("heat", |_: Option<f64>| f64::NAN).await.map(drop),
        session.entry("heat").unwrap().or_insert(f64::NAN).map(drop),
    ];
    for (number, refused) in refused.into_iter().enumerate() {
        let Err(Error::InvalidValue { key, action, .. }) = refused else { panic!("{number}: {refused:?}") };
        assert_eq!((key.as_str(), action), ("heat", "encoded"), "{number}");
    }
    assert_eq!((session.get::<u32>("kept").unwrap(), session.len()), (Some(1), 1));
    session.commit().await.unwrap();
    assert_eq!(in_store(&world, &session, "kept").await.as_deref(), Some("1"));
    assert_eq!(in_store(&world, &session, "heat").await, None);
}
