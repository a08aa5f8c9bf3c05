//! Disks that are full, and disks that cannot be written.

use std::fs;

use cloakroom::{
    Ending, Error, Reason, Refusal,
    rules::{Created, EndAnswer, Fence, Loaded, Rules, Which},
    store::{FileStore, Query},
};

use crate::common::disks::{Mounted, fill, remount};

use super::place::{NOW, Place, creation, live, record, sessions_of, set, started};

/// A disk of a few hundred kilobytes is filled, and then made larger.
#[tokio::test]
async fn a_full_disk_fails_writes_and_loses_nothing() {
    let place = Place::new();
    let Some(_mounted) = Mounted::new(&place.directory, "400k") else { return };
    let directory = place.at("sessions");
    let store = Rules::on(FileStore::open(&directory).await.unwrap());
    let id = started(&store, "anna").await;
    let mut kept = Vec::new();
    let error = loop {
        let key = format!("key-{}", kept.len());
        match set(&store, id, &key, &format!("\"{}\"", "x".repeat(2000))).await {
            Ok(()) => kept.push(key),
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable() && error.to_string().contains("the disk is full"), "{error}");
    assert!(kept.len() > 5, "{}", kept.len());
    for store in [&store, &Rules::on(FileStore::open(&directory).await.unwrap())] {
        let record = live(store, id).await;
        assert_eq!(record.data.len(), kept.len());
        assert!(kept.iter().all(|key| record.data.get(key).is_some()));
        assert_eq!(sessions_of(store, "anna").await.len(), 1);
    }
    // Space comes back.
    remount(&place.directory, "size=8m");
    set(&store, id, "afterwards", "1").await.unwrap();
    assert_eq!(live(&store, id).await.data.len(), kept.len() + 1);
}

#[tokio::test]
async fn a_full_disk_is_opened_and_read_and_sessions_end_there() {
    let place = Place::new();
    let Some(_mounted) = Mounted::new(&place.directory, "4m") else { return };
    let directory = place.at("sessions");
    let store = Rules::on(FileStore::open(&directory).await.unwrap());
    let (anna, ben, cleo) =
        (started(&store, "anna").await, started(&store, "ben").await, started(&store, "cleo").await);
    store.ping().await.unwrap();
    for round in 0..2 {
        fill(&place.at(&format!("filler {round}")));
        let store = Rules::on(FileStore::open(&directory).await.unwrap());
        let told = |error: &Error| error.is_retryable() && error.to_string().contains("the disk is full");
        for error in [
            store.ping().await.unwrap_err(),
            store.create(&creation(record(&store, "dora")), NOW).await.unwrap_err(),
            set(&store, cleo, "a", &format!("\"{}\"", "x".repeat(20_000))).await.unwrap_err(),
        ] {
            assert!(told(&error), "{error:?}");
        }
        live(&store, cleo).await;
        assert_eq!(sessions_of(&store, "cleo").await.len(), 1);
        if round == 0 {
            let answers = store.end(&Which::Ids(vec![anna]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
            assert!(matches!(answers[..], [EndAnswer::EndedNow(_)]), "{answers:?}");
            let which = Which::OfUser { user: "ben".into(), except: vec![], fence: Fence::Disabled };
            store.end(&which, &Ending::new(Reason::UserDisabled), NOW).await.unwrap();
        }
        for id in [anna, ben] {
            assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
        }
    }
    for round in 0..2 {
        fs::remove_file(place.at(&format!("filler {round}"))).unwrap();
    }
    store.ping().await.unwrap();
    set(&store, cleo, "a", "1").await.unwrap();
    let refused = store.create(&creation(record(&store, "ben")), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
    drop(Rules::on(FileStore::open(&directory).await.unwrap()));
    assert_eq!(fs::metadata(directory.join("reserve")).unwrap().len(), 1 << 20, "there is room for the next time");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_opened_and_read() {
    let place = Place::new();
    let Some(_mounted) = Mounted::new(&place.directory, "8m") else { return };
    let directory = place.at("sessions");
    let id = {
        let store = Rules::on(FileStore::open(&directory).await.unwrap());
        let id = started(&store, "anna").await;
        set(&store, id, "a", "1").await.unwrap();
        id
    };
    remount(&place.directory, "ro");
    let store = Rules::on(FileStore::open(&directory).await.unwrap());
    assert_eq!(live(&store, id).await.data.len(), 1);
    assert_eq!(store.find(&Query::default(), None, 10, NOW).await.unwrap().items.len(), 1);
    for error in [store.ping().await.unwrap_err(), set(&store, id, "a", "2").await.unwrap_err()] {
        assert!(matches!(error, Error::Store { .. }) && error.to_string().contains("cannot be written"), "{error:?}");
    }
    remount(&place.directory, "rw");
    store.ping().await.unwrap();
    set(&store, id, "a", "2").await.unwrap();
}
