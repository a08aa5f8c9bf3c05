//! Damage that is done by hand is found, named and repaired, and nothing that lives is lost.

use std::{fs, path::PathBuf, time::Duration};

use cloakroom::{
    Ending, Reason, SessionId,
    rules::{Fence, Loaded, Rules, Which},
    store::{AuditQuery, Digest, Finding, Severity},
};

use super::place::{NOW, Place, creation, live, record, sessions_of, set, started};

/// What is wrong before the repair. Afterwards nothing is.
async fn repaired(store: &Rules) -> Vec<Finding> {
    let found = wrong(store.examine(NOW, false).await.unwrap());
    assert_eq!(found, wrong(store.examine(NOW, false).await.unwrap()), "looking changes nothing");
    let mended = store.examine(NOW, true).await.unwrap();
    assert!(mended.iter().all(|finding| !finding.is_wrong()), "{mended:?}");
    assert!(mended.iter().filter(|finding| finding.repaired).count() >= found.len(), "{mended:?}");
    let after = store.examine(NOW, true).await.unwrap();
    assert!(after.iter().all(|finding| !finding.is_wrong() && !finding.repaired), "{after:?}");
    found
}

fn wrong(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(Finding::is_wrong).collect()
}

fn subjects(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| &*finding.subject).collect()
}

impl Place {
    /// All files whose path contains `part`.
    fn files(&self, part: &str) -> Vec<PathBuf> {
        let mut directories = vec![self.directory.clone()];
        let mut files = Vec::new();
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.to_str().unwrap().contains(part) {
                    files.push(path);
                }
            }
        }
        files
    }

    fn remove(&self, part: &str) {
        let files = self.files(part);
        assert!(!files.is_empty(), "{part}");
        for file in files {
            fs::remove_file(file).unwrap();
        }
    }
}

/// A session that lapses, and was started with a key.
async fn idle(store: &Rules, user: &str, n: u8) -> SessionId {
    let mut record = record(store, user);
    record.info.idle_timeout = Some(Duration::from_hours(1));
    record.idempotency = Some(Digest::from_bytes([n; Digest::LEN]));
    let create = creation(record);
    store.create(&create, NOW).await.unwrap();
    create.record.info.id
}

#[tokio::test]
async fn a_sound_directory_is_found_so() {
    let place = Place::new();
    let store = place.open().await;
    let id = idle(&store, "anna", 1).await;
    set(&store, id, "a", "1").await.unwrap();
    let which = Which::OfUser { user: "ben".into(), except: vec![], fence: Fence::Disabled };
    store.end(&which, &Ending::new(Reason::UserDisabled), NOW).await.unwrap();
    let findings = store.examine(NOW, true).await.unwrap();
    for subject in ["permissions", "layout", "sessions", "audit log"] {
        let finding = findings.iter().find(|finding| finding.subject == subject).unwrap();
        assert_eq!((finding.severity, finding.repaired), (Severity::Fine, false), "{finding:?}");
    }
}

#[tokio::test]
async fn i4_lists_that_were_deleted_are_made_anew() {
    let place = Place::new();
    let store = place.open().await;
    let id = idle(&store, "anna", 1).await;
    set(&store, id, "a", "1").await.unwrap();
    let ended = started(&store, "ben").await;
    store.end(&Which::Ids(vec![ended]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    place.remove("/users/");
    place.remove("/tries/");
    place.remove("/due/");
    assert_eq!(sessions_of(&store, "anna").await, [], "the list misses it");

    let found = repaired(&store).await;
    assert_eq!(subjects(&found), ["expiry", "idempotency", "users"]);
    assert!(found[0].text.starts_with("2 "), "the session, and what is left of the ended one: {found:?}");
    assert!(
        found[2].text.starts_with(&format!("1 sessions are missing from the list of their user ({id}).")),
        "{found:?}"
    );
    assert_eq!(sessions_of(&store, "anna").await.len(), 1);
    assert_eq!(live(&store, id).await.data.get("a").unwrap().as_str(), "1");
    // It is reaped in time again, and its tombstone forgotten.
    let later = NOW.after(Duration::from_hours(2));
    let reap = cloakroom::rules::Reap { limit: 10, tombstones_before: later, audit_before: NOW };
    let reaped = store.reap(&reap, later).await.unwrap();
    assert_eq!(reaped.ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [id]);
    assert!(matches!(store.load(ended, later).await.unwrap(), Loaded::Unknown));
}

#[tokio::test]
async fn entries_that_lead_nowhere_are_removed() {
    let place = Place::new();
    let store = place.open().await;
    let anna = idle(&store, "anna", 1).await;
    let ben = started(&store, "ben").await;
    fs::remove_file(place.file_of(anna)).unwrap();
    let found = repaired(&store).await;
    assert_eq!(subjects(&found), ["user lists", "idempotency", "expiry"]);
    assert!(
        found[0].text.contains("entries have no session") && found[0].text.contains(&anna.to_string()),
        "{found:?}"
    );
    assert!(place.files("/due/").is_empty() && place.files("/tries/").is_empty());
    assert_eq!(sessions_of(&store, "ben").await[0].id, ben);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_others_live() {
    let place = Place::new();
    let store = place.open().await;
    let (cut, flipped, whole) =
        (idle(&store, "anna", 1).await, started(&store, "anna").await, started(&store, "anna").await);
    let contents = fs::read(place.file_of(cut)).unwrap();
    fs::write(place.file_of(cut), &contents[..contents.len() / 2]).unwrap();
    let mut contents = fs::read(place.file_of(flipped)).unwrap();
    contents[20] = 0xff;
    fs::write(place.file_of(flipped), &contents).unwrap();
    store.load(cut, NOW).await.unwrap_err();

    let found = repaired(&store).await;
    assert_eq!(subjects(&found), ["sessions"]);
    assert!(found[0].text.starts_with("2 files of sessions are damaged"), "{found:?}");
    assert!(found[0].text.contains(&format!("{cut}.json")) && found[0].text.contains("sign in again"), "{found:?}");
    for id in [cut, flipped] {
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Unknown));
        assert_eq!(
            place.files("/damaged/").iter().filter(|file| file.to_str().unwrap().contains(&id.to_string())).count(),
            1
        );
    }
    assert_eq!(sessions_of(&store, "anna").await.iter().map(|info| info.id).collect::<Vec<_>>(), [whole]);
    drop(store);
    live(&place.open().await, whole).await;
}

#[tokio::test]
async fn r2_a_damaged_fence_is_named_and_never_lifted() {
    let place = Place::new();
    let store = place.open().await;
    let which = Which::OfUser { user: "anna".into(), except: vec![], fence: Fence::Disabled };
    store.end(&which, &Ending::new(Reason::UserDisabled), NOW).await.unwrap();
    let fence = place.files("user.json").remove(0);
    fs::write(&fence, "{}").unwrap();
    for repair in [false, true] {
        let found = wrong(store.examine(NOW, repair).await.unwrap());
        assert_eq!(subjects(&found), ["users"]);
        assert!(found[0].text.contains("user.json") && found[0].text.contains("cannot sign in"), "{found:?}");
    }
    store.create(&creation(record(&store, "anna")), NOW).await.unwrap_err();
    assert!(fence.exists());
}

#[tokio::test]
async fn a_damaged_log_is_named() {
    let place = Place::new();
    let store = place.open().await;
    for _ in 0..3 {
        started(&store, "anna").await;
    }
    let log = place.files("/audit/").remove(0);
    let mut contents = fs::read(&log).unwrap();
    let second = contents.iter().position(|byte| *byte == b'\n').unwrap() + 5;
    contents[second] ^= 1;
    fs::write(&log, contents).unwrap();
    let found = wrong(store.examine(NOW, true).await.unwrap());
    assert_eq!(subjects(&found), ["audit log"]);
    assert!(found[0].text.contains(".log is damaged") && found[0].text.contains("backup"), "{found:?}");
    assert_eq!(store.audit(&AuditQuery::default(), None, 10).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn leftover_temporary_files_are_noted_and_removed() {
    let place = Place::new();
    let store = place.open().await;
    fs::create_dir_all(place.at("tmp")).unwrap();
    fs::write(place.at("tmp/17"), "half a sess").unwrap();
    let findings = store.examine(NOW, false).await.unwrap();
    assert!(
        findings.iter().any(|finding| finding.severity == Severity::Note && finding.text.contains("tmp")),
        "{findings:?}"
    );
    repaired(&store).await;
    assert!(place.files("/tmp/17").is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn t7_a_directory_that_others_may_enter_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open().await;
    fs::set_permissions(&place.directory, fs::Permissions::from_mode(0o755)).unwrap();
    let findings = store.examine(NOW, false).await.unwrap();
    let finding = findings.iter().find(|finding| finding.subject == "permissions").unwrap();
    assert!(finding.severity == Severity::Warning && finding.text.contains("chmod 700"), "{finding:?}");
}

#[tokio::test]
async fn it_is_repaired_while_others_work() {
    let place = Place::new();
    let store = place.open().await;
    let mut kept = Vec::new();
    for n in 0..30 {
        kept.push(idle(&store, "anna", n).await);
    }
    place.remove("/users/");
    let other = place.open().await;
    let working = tokio::spawn(async move {
        for n in 0..60 {
            let id = started(&other, "anna").await;
            set(&other, id, "n", &n.to_string()).await.unwrap();
            if n % 2 == 0 {
                other.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
            }
        }
    });
    let findings = store.examine(NOW, true).await.unwrap();
    working.await.unwrap();
    assert!(findings.iter().all(|finding| !finding.is_wrong()), "{findings:?}");
    let after = store.examine(NOW, false).await.unwrap();
    assert_eq!(wrong(after), []);
    assert_eq!(sessions_of(&store, "anna").await.len(), 60);
    for id in kept {
        live(&store, id).await;
    }
}
