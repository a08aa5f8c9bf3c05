//! One damaged file harms no other session and no other user.

use std::fs;

use cloakroom::{
    Ending, Error, Reason, Refusal,
    rules::{Created, EndAnswer, Fence, Loaded, Reap, Which},
    store::{PutUser, Query},
};

use super::place::{NOW, Place, creation, live, record, sessions_of, set, started};

#[tokio::test]
async fn what_is_asked_of_many_sessions_goes_on_beside_a_damaged_one() {
    let place = Place::new();
    let store = place.open().await;
    let (whole, damaged) = (started(&store, "anna").await, started(&store, "anna").await);
    let other = started(&store, "ben").await;
    fs::write(place.file_of(damaged), "{").unwrap();

    assert_eq!(sessions_of(&store, "anna").await.iter().map(|info| info.id).collect::<Vec<_>>(), [whole]);
    assert_eq!(store.find(&Query::default(), None, 10, NOW).await.unwrap().items.len(), 2);
    let reap = Reap { limit: 10, tombstones_before: NOW, audit_before: NOW };
    store.reap(&reap, NOW).await.unwrap();
    assert!(store.export(None, 10).await.is_ok());

    // Those that are named are ended, and the damaged one is told.
    let ending = Ending::new(Reason::AllRevoked);
    let error = store.end(&Which::Ids(vec![whole, damaged, other]), &ending, NOW).await.unwrap_err();
    assert!(matches!(&error, Error::Store { message, .. } if message.contains(&damaged.to_string())), "{error}");
    for id in [whole, other] {
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
    }
    store.load(damaged, NOW).await.unwrap_err();
}

#[tokio::test]
async fn r2_a_user_with_a_damaged_session_is_disabled_and_the_session_stays_out() {
    let place = Place::new();
    let store = place.open().await;
    let (whole, damaged) = (started(&store, "anna").await, started(&store, "anna").await);
    let bytes = fs::read(place.file_of(damaged)).unwrap();
    fs::write(place.file_of(damaged), &bytes[..bytes.len() / 3]).unwrap();

    let which = Which::OfUser { user: "anna".into(), except: vec![], fence: Fence::Disabled };
    let ended = store.end(&which, &Ending::new(Reason::UserDisabled), NOW).await.unwrap();
    assert!(matches!(&ended[..], [EndAnswer::EndedNow(ended)] if ended.id == whole), "{ended:?}");
    let refused = store.create(&creation(record(&store, "anna")), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));

    // It is where nobody finds it, for whoever wants to know what it was.
    assert!(!place.file_of(damaged).exists());
    assert!(matches!(store.load(damaged, NOW).await.unwrap(), Loaded::Unknown));
    let kept = fs::read_dir(place.at("damaged")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(kept.into_iter().any(|name| name.to_str().unwrap().contains(&damaged.to_string())));
}

#[tokio::test]
async fn a_session_whose_data_are_damaged_is_ended_as_others_are() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    set(&store, id, "cart", "[1, 2]").await.unwrap();
    let text = fs::read_to_string(place.file_of(id)).unwrap();
    fs::write(place.file_of(id), text.replace("[1, 2]", "[1, 3]")).unwrap();
    store.load(id, NOW).await.unwrap_err();
    let answers = store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    assert!(matches!(answers[..], [EndAnswer::EndedNow(_)]), "{answers:?}");
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
}

#[tokio::test]
async fn a_damaged_user_is_told_and_harms_no_other() {
    let place = Place::new();
    let store = place.open().await;
    let put = |user: &str| PutUser { user: user.into(), was: None, settings: Some("{}".into()), last_sign_in: None };
    for user in ["anna", "ben"] {
        assert!(store.put_user(&put(user)).await.unwrap());
    }
    let users = |directory: &std::path::Path| {
        let firsts = fs::read_dir(directory.join("users")).unwrap().map(|entry| entry.unwrap().path());
        firsts.flat_map(|first| fs::read_dir(first).unwrap().map(|entry| entry.unwrap().path())).collect::<Vec<_>>()
    };
    let annas = users(&place.directory)
        .into_iter()
        .map(|user| user.join("user.json"))
        .find(|file| fs::read_to_string(file).unwrap().contains("anna"))
        .unwrap();
    fs::write(&annas, "{}").unwrap();
    for error in [
        store.user("anna").await.unwrap_err(),
        store.put_user(&put("anna")).await.unwrap_err(),
        store.create(&creation(record(&store, "anna")), NOW).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("user.json is damaged"), "{error}");
    }
    let listed = store.users(None, 10).await.unwrap().items;
    assert_eq!(listed.iter().map(|user| &*user.user).collect::<Vec<_>>(), ["ben"]);
    let id = started(&store, "ben").await;
    live(&store, id).await;
}
