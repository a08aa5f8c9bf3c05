//! What it opens, and what it refuses with a word on what to do.

use std::{fs, path::Path, time::Duration};

use cloakroom::{
    Error,
    rules::Rules,
    store::{self, SqliteStore},
};

use super::{Place, live, set, started};

const IMPATIENT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn an_address_opens_a_file_that_only_its_owner_may_read() {
    let place = Place::new();
    let store = Rules::new(store::open(&format!("sqlite://{}", place.address())).await.unwrap());
    store.ping().await.unwrap();
    #[cfg(unix)]
    for file in ["", "-wal", "-shm"].map(|helper| format!("{}{helper}", place.address())) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let error = store::open("sqlite:").await.unwrap_err();
    assert!(matches!(error, Error::StoreUrl(_)) && error.to_string().contains("sqlite:sessions.db"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_a_database_is_refused_with_what_to_do() {
    let place = Place::new();
    let directory = place.file.parent().unwrap();
    assert!(refusal(directory).await.contains("is a directory: name a file"));
    let nowhere = refusal(&directory.join("missing/sessions.db")).await;
    assert!(nowhere.contains(&format!("no directory {}: create it", directory.join("missing").display())), "{nowhere}");

    let text = Place::holding(b"Dear diary, today I was opened as a database. It was a bad day for both of us.");
    assert!(refusal(&text.file).await.contains("damaged or not a database: restore it"));
    assert!(fs::read(&text.file).unwrap().starts_with(b"Dear diary"));

    #[cfg(unix)]
    assert!(refusal(Path::new("/dev/null")).await.contains("not a regular file"));
    #[cfg(target_os = "linux")]
    assert!(refusal(Path::new("/proc/sessions.db")).await.contains("cannot be created"));
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let place = Place::new();
    place.open().await;
    place.sqlite().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut bytes = fs::read(&place.file).unwrap();
    bytes[100..4096].fill(0xa5);
    let damaged = Place::holding(&bytes);
    assert!(refusal(&damaged.file).await.contains("damaged or not a database: restore it from a backup"));
}

#[tokio::test]
async fn a_database_of_something_else_is_refused_and_left_as_it_is() {
    let place = Place::new();
    place.sqlite().execute_batch("CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('pie')").unwrap();
    let before = fs::read(&place.file).unwrap();
    assert!(refusal(&place.file).await.contains("of something else and was left as it is: name another file"));
    assert_eq!(fs::read(&place.file).unwrap(), before);
}

#[tokio::test]
async fn a_new_database_is_made_once_by_several_at_once() {
    let place = Place::new();
    let opening: Vec<_> = (0..4)
        .map(|_| {
            let file = place.file.clone();
            tokio::spawn(async move { Rules::on(SqliteStore::open(file).await.unwrap()) })
        })
        .collect();
    let mut stores = Vec::new();
    for opening in opening {
        stores.push(opening.await.unwrap());
    }
    let id = started(&stores[0], "anna").await;
    for store in &stores {
        assert_eq!(store.partition_key().as_bytes(), stores[0].partition_key().as_bytes());
        live(store, id).await;
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let place = Place::new();
    drop(place.open().await);
    place.sqlite().pragma_update(None, "user_version", 99).unwrap();
    let text = refusal(&place.file).await;
    assert!(text.contains("newer version of cloakroom") && text.contains("99") && text.contains("upgrade"), "{text}");
}

#[tokio::test]
async fn a_file_that_lost_its_partition_key_is_refused() {
    let place = Place::new();
    drop(place.open().await);
    place.sqlite().execute("DELETE FROM meta", []).unwrap();
    assert!(refusal(&place.file).await.contains("lost its partition key"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_read_only_file_is_refused_unless_we_may_write_it_all_the_same() {
    let place = Place::holding(b"");
    let mut permissions = fs::metadata(&place.file).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&place.file, permissions).unwrap();
    // The superuser writes to read-only files.
    if fs::OpenOptions::new().write(true).open(&place.file).is_ok() {
        place.open().await.ping().await.unwrap();
    } else {
        assert!(refusal(&place.file).await.contains("is read-only: let this process write"));
    }
}

#[tokio::test]
async fn a_file_locked_for_too_long_is_unavailable_and_usable_afterwards() {
    let place = Place::new();
    let store = Rules::on(SqliteStore::open_with_busy_timeout(&place.file, IMPATIENT).await.unwrap());
    let id = started(&store, "anna").await;

    let other = place.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = set(&store, id, "a", "1").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("another process holds"), "{error}");
    assert!(error.to_string().contains(place.address()), "{error}");
    // Reading, and opening a file that needs no change, waits for nobody.
    assert_eq!(live(&store, id).await.data.len(), 0);
    Rules::on(SqliteStore::open_with_busy_timeout(&place.file, IMPATIENT).await.unwrap());

    other.execute_batch("ROLLBACK").unwrap();
    set(&store, id, "a", "2").await.unwrap();
    assert_eq!(live(&store, id).await.data.get("a").unwrap().as_str(), "2");

    let new = Place::new();
    let other = new.sqlite();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = SqliteStore::open_with_busy_timeout(&new.file, IMPATIENT).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.to_string().contains("another process"), "{error}");
}

async fn refusal(file: &Path) -> String {
    let error = SqliteStore::open(file).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    text
}
