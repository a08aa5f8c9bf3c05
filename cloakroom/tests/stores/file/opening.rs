//! What is opened, what is refused, and what the directory looks like.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    time::Duration,
};

use cloakroom::{
    Ending, Error, Json, Reason, Refusal, SessionId, SessionInfo, Timestamp,
    rules::{Created, Fence, Loaded, Reap, Rules, Which},
    store::{self, AuditQuery, Digest, FileStore, Query, RecentChanges},
};

use super::place::{IMPATIENT, NOW, Place, creation, live, record, refusal, sessions_of, set, started};

#[tokio::test]
async fn an_address_names_a_directory() {
    let place = Place::new();
    let path = place.directory.to_str().unwrap();
    let id = {
        let store = place.open().await;
        started(&store, "anna").await
    };
    for address in [format!("file:{path}"), format!("file://{path}")] {
        let store = Rules::new(store::open(&address).await.unwrap());
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)), "{address}");
    }
    for address in ["file:", "file://", "file:sessions?mode=ro"] {
        let error = store::open(address).await.unwrap_err();
        assert!(matches!(&error, Error::StoreUrl(text) if text.contains("write file:DIRECTORY")), "{error:?}");
    }
}

#[tokio::test]
async fn what_is_no_directory_of_ours_is_refused_and_left_as_it_is() {
    let place = Place::new();
    fs::write(&place.directory, "Dear diary").unwrap();
    assert!(place.refusal().await.contains("is not a directory"));
    assert_eq!(fs::read(&place.directory).unwrap(), b"Dear diary");

    let below = place.directory.join("below");
    let error = FileStore::open(&below).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }) && error.to_string().contains("cannot be looked at"), "{error}");

    let place = Place::new();
    fs::create_dir(&place.directory).unwrap();
    fs::write(place.at("photo.jpg"), "cheese").unwrap();
    assert!(place.refusal().await.contains("holds something else and was left as it is"));
    assert_eq!(fs::read_dir(&place.directory).unwrap().count(), 1);

    let place = Place::new();
    assert!(refusal(&place.at("deeper")).await.contains("there is no directory"));
    #[cfg(target_os = "linux")]
    assert!(refusal(Path::new("/proc/sessions")).await.contains("cannot be created"));
}

#[tokio::test]
async fn an_empty_directory_and_one_that_was_left_unfinished_are_used() {
    let place = Place::new();
    fs::create_dir(&place.directory).unwrap();
    for left in ["lock", "turn", "journal", "format.new"] {
        fs::write(place.at(left), "").unwrap();
    }
    started(&place.open().await, "anna").await;
    assert!(!place.at("format.new").exists());
}

#[tokio::test]
async fn a_newer_or_damaged_format_is_refused() {
    let place = Place::new();
    drop(place.open().await);
    let format = fs::read_to_string(place.at("format.json")).unwrap();
    fs::write(place.at("format.json"), format.replace(":1,", ":2,")).unwrap();
    assert!(place.refusal().await.contains("format.json is damaged (a checksum does not match)"));

    // As a later version would write it.
    let newer = r#"{"cloakroom_file_store":2,"partition_key":"0000000000000000000000000000000000000000000000000000000000000000"}"#;
    fs::write(place.at("format.json"), format!("{newer}\t\"{}\"\n", checksum(newer))).unwrap();
    let text = place.refusal().await;
    assert!(
        text.contains("newer version of cloakroom") && text.contains("version 2") && text.contains("upgrade"),
        "{text}"
    );
}

#[tokio::test]
async fn a_damaged_session_is_an_error_that_names_its_file_and_harms_no_other() {
    let place = Place::new();
    let store = place.open().await;
    let (good, bad) = (started(&store, "anna").await, started(&store, "ben").await);
    let file = place.file_of(bad);
    let whole = fs::read_to_string(&file).unwrap();
    for damaged in [whole.replace("\"ben\"", "\"eve\""), whole[..whole.len() / 2].to_owned(), String::new()] {
        fs::write(&file, damaged).unwrap();
        for error in [store.load(bad, NOW).await.unwrap_err(), set(&store, bad, "a", "1").await.unwrap_err()] {
            assert!(matches!(error, Error::Store { .. }), "{error:?}");
            assert!(error.to_string().contains(&format!("{} is damaged", file.display())), "{error}");
        }
        set(&store, good, "a", "1").await.unwrap();
    }
    // Another session's file is not this one's, whatever its name is.
    fs::copy(place.file_of(good), &file).unwrap();
    assert!(store.load(bad, NOW).await.unwrap_err().to_string().contains("it is another session's"));
}

#[tokio::test]
async fn i13_a_directory_that_is_deleted_or_replaced_is_unavailable_and_not_made_anew() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let kept = place.directory.with_extension("kept");
    fs::rename(&place.directory, &kept).unwrap();
    refuses_everything(&store, id).await;
    assert!(!place.directory.exists());

    // A backup in its place is another one: what ended since it was made would live again.
    copy(&kept, &place.directory);
    let journal = fs::read(place.at("journal")).unwrap();
    refuses_everything(&store, id).await;
    assert_eq!(fs::read(place.at("journal")).unwrap(), journal, "it is left as it is");
    live(&place.open().await, id).await;

    // And what was opened is there again.
    fs::remove_dir_all(&place.directory).unwrap();
    fs::rename(&kept, &place.directory).unwrap();
    set(&store, id, "a", "1").await.unwrap();
}

async fn refuses_everything(store: &Rules, id: SessionId) {
    for error in [
        store.load(id, NOW).await.unwrap_err(),
        store.end(&Which::Ids(vec![id]), &Reason::SignedOut.into(), NOW).await.unwrap_err(),
        set(store, id, "a", "1").await.unwrap_err(),
        store.create(&creation(record(store, "ben")), NOW).await.unwrap_err(),
        store.ping().await.unwrap_err(),
        store.find(&Query::default(), None, 10, NOW).await.unwrap_err(),
        store.audit(&AuditQuery::default(), None, 10).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("was deleted or replaced while it was open"), "{error}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_look_and_locks_are_two_files() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    let store = place.open().await;
    for n in 0..20 {
        let id = started(&store, &format!("../../user {n}/..")).await;
        set(&store, id, "../x", "1").await.unwrap();
        if n % 2 == 0 {
            store.end(&Which::Ids(vec![id]), &Reason::SignedOut.into(), NOW).await.unwrap();
        }
    }
    let mut waiting = vec![place.directory.clone()];
    while let Some(directory) = waiting.pop() {
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700, "{directory:?}");
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
            }
        }
    }
    let names: BTreeSet<_> = fs::read_dir(&place.directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let ours = ["audit", "due", "format.json", "journal", "lock", "reserve", "sessions", "tmp", "turn", "users"];
    assert!(names.iter().all(|name| ours.contains(&name.as_str())), "{names:?}");
    assert_eq!(fs::read_dir(place.directory.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
}

#[tokio::test]
async fn what_is_forgotten_leaves_nothing_behind() {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..40 {
        let mut record = record(&store, &format!("user {}", n % 7));
        record.info.idle_timeout = Some(Duration::from_secs(60 * n));
        record.idempotency = Some(Digest::from_bytes([u8::try_from(n).unwrap(); Digest::LEN]));
        store.create(&creation(record), NOW).await.unwrap();
    }
    let user = Which::OfUser { user: "user 1".into(), except: Vec::new(), fence: Fence::EndedBefore };
    store.end(&user, &Reason::AllRevoked.into(), NOW).await.unwrap();
    let later = NOW.after(Duration::from_hours(1000));
    for _ in 0..2 {
        let reap = Reap { limit: 1000, tombstones_before: later, audit_before: later };
        assert!(!store.reap(&reap, later).await.unwrap().more);
    }
    for directory in ["sessions", "users", "tries", "due"] {
        assert!(!place.at(directory).exists(), "{directory}");
    }
    assert_eq!(fs::read_dir(place.at("audit")).unwrap().count(), 2, "the end of the log, and where it begins");
}

#[tokio::test]
async fn a_session_is_a_file_that_tools_for_json_can_read() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    set(&store, id, "cart", "[1,\n 2]").await.unwrap();
    let text = fs::read_to_string(place.file_of(id)).unwrap();
    let values: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(values.len(), 4, "about it, a checksum, its data, a checksum");
    assert_eq!(values[0]["head"]["user"], "anna");
    assert_eq!(values[2]["cart"], serde_json::json!([1, 2]));
    assert_eq!(live(&store, id).await.data.get("cart").unwrap().as_str(), "[1,\n 2]");
}

#[tokio::test]
async fn a_directory_locked_for_too_long_is_unavailable_and_usable_afterwards() {
    let place = Place::new();
    let store = Rules::on(FileStore::open_with_lock_timeout(&place.directory, IMPATIENT).await.unwrap());
    let id = started(&store, "anna").await;

    let lock = File::open(place.at("lock")).unwrap();
    lock.lock().unwrap();
    let error = set(&store, id, "a", "1").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("another process held"), "{error}");
    let error = FileStore::open_with_lock_timeout(&place.directory, IMPATIENT).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    // Reading a session waits for nobody.
    assert_eq!(live(&store, id).await.data.len(), 0);

    drop(lock);
    set(&store, id, "a", "2").await.unwrap();
    assert_eq!(live(&store, id).await.data.get("a").unwrap().as_str(), "2");
}

#[tokio::test]
async fn everything_is_there_when_the_directory_is_opened_again() {
    let place = Place::new();
    let store = place.open().await;
    let mut full = record(&store, "Änna\u{0}🦀");
    full.info = SessionInfo {
        full_name: Some("Anna".into()),
        idle_timeout: Some(Duration::from_millis(1)),
        last_seen_at: Timestamp::from_millis(i64::MAX),
        version: u64::MAX - 1,
        ..full.info
    };
    full.data.insert("key.with \"$[\\ ключ", Json::from_text(r#"{"b":-0.0,"a":1e400}"#).unwrap());
    full.recent_changes = RecentChanges::from_ids([1, u64::MAX]);
    full.idempotency = Some(Digest::from_bytes([9; Digest::LEN]));
    let id = full.info.id;
    store.create(&creation(full.clone()), NOW).await.unwrap();

    let gone = started(&store, "ben").await;
    let ben = Which::OfUser { user: "ben".into(), except: Vec::new(), fence: Fence::Disabled };
    let ending = Ending::new(Reason::UserDisabled).by("root").note("left");
    store.end(&ben, &ending, NOW).await.unwrap();
    let log = store.audit(&AuditQuery::default(), None, 100).await.unwrap();
    let key = *store.partition_key().as_bytes();
    drop(store);

    let store = place.open().await;
    assert_eq!(store.partition_key().as_bytes(), &key);
    assert_eq!(*live(&store, id).await, full);
    assert_eq!(sessions_of(&store, "Änna\u{0}🦀").await, [full.info]);
    let Loaded::Ended(tombstone) = store.load(gone, NOW).await.unwrap() else { panic!("it ended") };
    assert_eq!(tombstone.ended, ending.of(gone, Some("ben".into()), NOW));
    assert_eq!(log.items.len(), 3);
    assert_eq!(store.audit(&AuditQuery::default(), None, 100).await.unwrap(), log);
    let refused = store.create(&creation(record(&store, "ben")), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
}

fn checksum(text: &str) -> String {
    use sha2::Digest;
    format!("{:016x}", u64::from_be_bytes(sha2::Sha256::digest(text)[..8].try_into().unwrap()))
}
