//! Damage that is done by hand is found, named and repaired, and nothing that lives is lost.

use std::{fs, time::Duration};

use cloakroom::{
    rules::Rules,
    store::{Finding, Severity},
};

use super::{NOW, Place, creation, live, record, sessions_of, set, setting, started};

/// What is wrong, after the damage and after the repair, and what was repaired.
async fn repaired(store: &Rules) -> (Vec<Finding>, Vec<Finding>) {
    let found: Vec<_> = wrong(store.examine(NOW, false).await.unwrap());
    let again = wrong(store.examine(NOW, false).await.unwrap());
    assert_eq!(found, again, "looking changes nothing");
    let mended = store.examine(NOW, true).await.unwrap();
    assert!(mended.iter().all(|finding| !finding.is_wrong()), "{mended:?}");
    let after = store.examine(NOW, false).await.unwrap();
    assert_eq!(wrong(after.clone()), [], "{after:?}");
    (found, mended.into_iter().filter(|finding| finding.repaired).collect())
}

fn wrong(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(Finding::is_wrong).collect()
}

#[tokio::test]
async fn a_sound_file_is_found_so() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    set(&store, id, "a", "1").await.unwrap();
    let findings = store.examine(NOW, false).await.unwrap();
    for subject in ["permissions", "durability", "schema", "integrity", "sessions"] {
        let finding = findings.iter().find(|finding| finding.subject == subject).unwrap();
        assert_eq!(finding.severity, Severity::Fine, "{finding:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn t7_a_file_that_others_may_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open().await;
    fs::set_permissions(&place.file, fs::Permissions::from_mode(0o644)).unwrap();
    let findings = store.examine(NOW, true).await.unwrap();
    let finding = findings.iter().find(|finding| finding.subject == "permissions").unwrap();
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.text.contains("644") && finding.text.contains("chmod 600"), "{finding:?}");
}

#[tokio::test]
async fn i4_columns_that_do_not_fit_their_head_are_mended_and_nothing_alive_is_lost() {
    let place = Place::new();
    let store = place.open().await;
    let anna = started(&store, "anna").await;
    set(&store, anna, "a", "1").await.unwrap();
    let mut idle = record(&store, "cleo");
    idle.info.idle_timeout = Some(Duration::from_mins(1));
    let idle = creation(idle);
    store.create(&idle, NOW).await.unwrap();
    let sql = place.sqlite();
    assert_eq!(sql.execute("UPDATE slot SET user_id = 'zoe' WHERE user_id = 'anna'", []).unwrap(), 1);
    assert_eq!(sql.execute("UPDATE slot SET due_at = NULL WHERE due_at IS NOT NULL", []).unwrap(), 1);
    assert!(sessions_of(&store, "anna").await.is_empty(), "the damage is done");

    let later = NOW.after(Duration::from_mins(2));
    let found = wrong(store.examine(later, false).await.unwrap());
    let told: Vec<_> = found.iter().map(|finding| (&*finding.subject, finding.text.as_str())).collect();
    let names = |subject, id: cloakroom::SessionId| {
        told.iter().any(|(there, text)| *there == subject && text.contains(&id.to_string()))
    };
    assert!(names("users", anna) && names("expiry", idle.record.info.id), "{told:?}");
    let mended = store.examine(later, true).await.unwrap();
    assert_eq!(mended.iter().filter(|finding| finding.repaired).count(), 2, "{mended:?}");
    assert_eq!(wrong(store.examine(later, false).await.unwrap()), []);
    assert_eq!(sessions_of(&store, "anna").await.len(), 1);
    assert_eq!(live(&store, anna).await.data.get("a").unwrap().as_str(), "1");
}

#[tokio::test]
async fn indexes_that_are_gone_or_others_are_made_anew() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let sql = place.sqlite();
    sql.execute_batch("DROP INDEX slot_by_user; DROP INDEX audit_by_time; CREATE INDEX audit_by_time ON audit (seq)")
        .unwrap();
    let (found, _) = repaired(&store).await;
    let texts: Vec<_> = found.iter().map(|finding| finding.text.as_str()).collect();
    assert!(texts[0].contains("audit_by_time is another one"), "{texts:?}");
    assert!(texts[1].contains("slot_by_user is gone"), "{texts:?}");
    assert_eq!(sessions_of(&store, "anna").await[0].id, id);
}

#[tokio::test]
async fn a_table_that_was_changed_is_named_and_left_alone() {
    let place = Place::new();
    let store = place.open().await;
    place.sqlite().execute_batch("ALTER TABLE slot RENAME COLUMN device TO devices; DROP TABLE audit").unwrap();
    for repair in [false, true] {
        let found = wrong(store.examine(NOW, repair).await.unwrap());
        let texts: Vec<_> = found.iter().map(|finding| finding.text.as_str()).collect();
        assert!(texts.iter().any(|text| text.contains("slot has no column \"device TEXT\"")), "{texts:?}");
        assert!(texts.iter().any(|text| text.contains("The table audit is gone: restore a backup")), "{texts:?}");
    }
}

#[tokio::test]
async fn i4_an_index_that_misses_a_session_is_made_anew() {
    let place = Place::new();
    let anna;
    {
        let store = place.open().await;
        anna = started(&store, "anna").await;
    }
    {
        // Without the index for a while: what is written then is not in it afterwards.
        let sql = place.sqlite();
        sql.execute_batch(
            "CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'slot_by_user';
             PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'slot_by_user'",
        )
        .unwrap();
    }
    let ben;
    {
        let store = place.open().await;
        ben = started(&store, "ben").await;
    }
    {
        let sql = place.sqlite();
        sql.execute_batch("PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM kept; DROP TABLE kept")
            .unwrap();
    }
    let store = place.open().await;
    assert_eq!(sessions_of(&store, "ben").await, [], "the index misses it");
    let (found, _) = repaired(&store).await;
    assert!(found[0].subject == "integrity" && found[0].text.contains("slot_by_user"), "{found:?}");
    assert_eq!(sessions_of(&store, "anna").await[0].id, anna);
    assert_eq!(sessions_of(&store, "ben").await[0].id, ben);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    place.sqlite().execute("UPDATE slot SET head = '{}'", []).unwrap();
    let found = wrong(store.examine(NOW, false).await.unwrap());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].text.contains(&id.to_string()) && found[0].text.contains("End or delete them"), "{found:?}");
}

#[tokio::test]
async fn it_is_examined_and_repaired_while_others_work() {
    let place = Place::new();
    let store = place.open().await;
    for _ in 0..200 {
        started(&store, "ben").await;
    }
    place.sqlite().execute("UPDATE slot SET user_id = NULL", []).unwrap();
    let other = place.open().await;
    let working = tokio::spawn(async move {
        for n in 0..100 {
            let id = started(&other, "anna").await;
            other.update(id, &setting("n", &n.to_string()), NOW).await.unwrap();
        }
    });
    let findings = store.examine(NOW, true).await.unwrap();
    working.await.unwrap();
    let repaired: Vec<_> = findings.iter().filter(|finding| finding.repaired).collect();
    assert_eq!(repaired.len(), 1, "{findings:?}");
    assert!(repaired[0].text.starts_with("200 sessions") && !repaired[0].is_wrong(), "{repaired:?}");
    assert_eq!(wrong(store.examine(NOW, false).await.unwrap()), []);
    let all = sessions_of(&store, "anna").await;
    assert_eq!((all.len(), sessions_of(&store, "ben").await.len()), (100, 200));
    for info in all {
        assert_eq!(live(&store, info.id).await.data.len(), 1);
    }
}
