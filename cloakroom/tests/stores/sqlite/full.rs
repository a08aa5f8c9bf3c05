//! Disks that are full, and disks that cannot be written.

use std::fs;

use cloakroom::{
    Ending, Error, Reason, Refusal,
    rules::{Created, EndAnswer, Fence, Loaded, Rules, Which},
    store::{Query, SqliteStore},
};

use super::{NOW, creation, live, record, sessions_of, set, started};
use crate::common::disks::{Mounted, fill, remount};

#[tokio::test]
async fn a_full_disk_is_opened_and_read_and_sessions_end_there() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = scratch.path().join("disk");
    let Some(_mounted) = Mounted::new(&disk, "6m") else { return };
    let file = disk.join("sessions.db");
    let store = Rules::on(SqliteStore::open(&file).await.unwrap());
    let (anna, ben, cleo) =
        (started(&store, "anna").await, started(&store, "ben").await, started(&store, "cleo").await);
    store.ping().await.unwrap();
    // The first round with a store that is open, the second one with one that is opened on the full disk.
    let mut store = Some(store);
    for round in 0..2 {
        fill(&disk.join(format!("filler {round}")));
        let store = match store.take() {
            Some(store) => store,
            None => Rules::on(SqliteStore::open(&file).await.unwrap()),
        };
        for error in [
            store.ping().await.unwrap_err(),
            set(&store, cleo, "a", &format!("\"{}\"", "x".repeat(900_000))).await.unwrap_err(),
        ] {
            assert!(error.is_retryable() && error.to_string().contains("the disk is full"), "{error:?}");
        }
        live(&store, cleo).await;
        assert_eq!(sessions_of(&store, "cleo").await.len(), 1);
        let id = if round == 0 { anna } else { ben };
        let answers = store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
        assert!(matches!(answers[..], [EndAnswer::EndedNow(_)]), "{answers:?}");
        let which = Which::OfUser { user: "ben".into(), except: vec![ben], fence: Fence::Disabled };
        store.end(&which, &Ending::new(Reason::UserDisabled), NOW).await.unwrap();
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
    }
    for round in 0..2 {
        fs::remove_file(disk.join(format!("filler {round}"))).unwrap();
    }
    let store = Rules::on(SqliteStore::open(&file).await.unwrap());
    store.ping().await.unwrap();
    for id in [anna, ben] {
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
    }
    set(&store, cleo, "a", "1").await.unwrap();
    let refused = store.create(&creation(record(&store, "ben")), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
    assert_eq!(
        fs::metadata(disk.join("sessions.db-reserve")).unwrap().len(),
        512 << 10,
        "there is room for the next time"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_opened_and_read() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = scratch.path().join("disk");
    let Some(_mounted) = Mounted::new(&disk, "8m") else { return };
    // What an address means must not depend on what is in a name.
    let file = disk.join("sessions 100% #1.db");
    let id = {
        let store = Rules::on(SqliteStore::open(&file).await.unwrap());
        let id = started(&store, "anna").await;
        set(&store, id, "a", "1").await.unwrap();
        id
    };
    assert!(!disk.join("sessions 100% #1.db-wal").exists(), "a store that is dropped leaves its file alone");
    remount(&disk, "ro");
    let store = Rules::on(SqliteStore::open(&file).await.unwrap());
    assert_eq!(live(&store, id).await.data.len(), 1);
    assert_eq!(store.find(&Query::default(), None, 10, NOW).await.unwrap().items.len(), 1);
    for error in [store.ping().await.unwrap_err(), set(&store, id, "a", "2").await.unwrap_err()] {
        assert!(matches!(error, Error::Store { .. }) && error.to_string().contains("read-only"), "{error:?}");
    }
    // Another program that may write it begins to: what was opened as never written is not to be read on.
    remount(&disk, "rw");
    let other = Rules::on(SqliteStore::open(&file).await.unwrap());
    set(&other, id, "a", "2").await.unwrap();
    let error = store.load(id, NOW).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.to_string().contains("another program"), "{error:?}");

    // A log that a crash left is read where nothing can be written, too.
    let left = disk.join("left.db");
    fs::copy(&file, &left).unwrap();
    for end in ["-wal", "-shm"] {
        fs::copy(disk.join(format!("sessions 100% #1.db{end}")), disk.join(format!("left.db{end}"))).unwrap();
    }
    drop(other);
    remount(&disk, "ro");
    let store = Rules::on(SqliteStore::open(&left).await.unwrap());
    assert_eq!(live(&store, id).await.data.get("a").unwrap().as_str(), "2");
}
