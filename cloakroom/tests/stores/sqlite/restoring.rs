//! Backups that are put in the place of the file, and the log that was beside it.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use cloakroom::{
    Ending, Error, Reason,
    rules::{Loaded, Which},
    store::SqliteStore,
};

use super::{NOW, Place, live, set, started};

fn log_of(place: &Place) -> String {
    format!("{}-wal", place.address())
}

/// The file and its log as a process leaves them that is killed now.
fn killed(place: &Place) -> Place {
    let left = Place::new();
    fs::copy(&place.file, &left.file).unwrap();
    fs::copy(log_of(place), log_of(&left)).unwrap();
    left
}

/// Puts another file in the place of one, later than all that is there.
fn put_in_place(from: &Path, to: &Place) {
    let changed = |file: &Path| fs::metadata(file).map(|found| (found.ctime(), found.ctime_nsec())).unwrap();
    loop {
        fs::copy(from, &to.file).unwrap();
        if changed(&to.file) > changed(log_of(to).as_ref()) {
            return;
        }
    }
}

#[tokio::test]
async fn l5_a_log_that_is_not_the_files_is_refused_and_both_are_left_as_they_are() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let backup = place.file.with_extension("backup");
    place.sqlite().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    for n in 0..50 {
        let id = started(&store, &format!("user {n}")).await;
        set(&store, id, "large", &format!("\"{}\"", "x".repeat(4000))).await.unwrap();
    }
    store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();

    // What a crash left is taken up as it was.
    let left = killed(&place);
    assert!(matches!(left.open().await.load(id, NOW).await.unwrap(), Loaded::Ended(_)));

    let left = killed(&place);
    put_in_place(&backup, &left);
    let before = [fs::read(&left.file).unwrap(), fs::read(log_of(&left)).unwrap()];
    for _ in 0..2 {
        let error = SqliteStore::open(&left.file).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Store { .. }) && text.contains(&format!("remove {}", log_of(&left))), "{text}");
        assert!(cloakroom::store::schema(&format!("sqlite:{}", left.address())).await.is_err());
        assert_eq!([fs::read(&left.file).unwrap(), fs::read(log_of(&left)).unwrap()], before);
    }
    fs::remove_file(log_of(&left)).unwrap();
    let store = left.open().await;
    live(&store, id).await;
    assert_eq!(left.sqlite().query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
}

#[tokio::test]
async fn a_file_and_its_log_that_were_copied_together_are_used_when_that_is_said() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let left = killed(&place);
    put_in_place(&place.file, &left);
    assert!(SqliteStore::open(&left.file).await.unwrap_err().to_string().contains(&format!("touch {}", log_of(&left))));
    let log = fs::File::open(log_of(&left)).unwrap();
    log.set_times(fs::FileTimes::new().set_modified(std::time::SystemTime::now())).unwrap();
    live(&left.open().await, id).await;
}

#[tokio::test]
async fn the_log_does_not_grow_with_what_is_written_and_is_always_the_files() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let value = format!("\"{}\"", "x".repeat(60_000));
    let changed = || fs::metadata(&place.file).unwrap().mtime_nsec();
    let (mut taken_in, mut before) = (0, changed());
    for n in 0..300 {
        set(&store, id, "large", &value.replace('x', &(n % 10).to_string())).await.unwrap();
        taken_in += usize::from(changed() != before);
        before = changed();
        // Another process may open it at any time.
        if n % 10 == 0 {
            live(&place.open().await, id).await;
        }
    }
    assert!((1..100).contains(&taken_in), "{taken_in}");
    let length = fs::metadata(log_of(&place)).unwrap().len();
    assert!(length < 8 << 20, "{length}");
}
