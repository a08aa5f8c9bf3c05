//! Damage that is done by hand is found, named and repaired, and nothing that lives is lost.

use std::{fs, time::Duration};

use cloakroom::store::{Examine, Finding, Severity, SqliteStore, Which};
use rusqlite::params;

use super::{NOW, Place, creation, live, record, sessions_of, set, setting, started};

/// What is wrong, after the damage and after the repair, and what was repaired.
async fn repaired(store: &SqliteStore) -> (Vec<Finding>, Vec<Finding>) {
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
async fn i4_rows_that_do_not_fit_together_are_mended_and_nothing_alive_is_lost() {
    let place = Place::new();
    let store = place.open().await;
    let anna = started(&store, "anna").await;
    set(&store, anna, "a", "1").await.unwrap();
    let gone = started(&store, "ben").await;
    set(&store, gone, "b", "2").await.unwrap();
    let mut idle = record(&store, "cleo");
    idle.info.idle_timeout = Some(Duration::from_mins(1));
    let idle = creation(idle);
    cloakroom::store::Store::create(&store, &idle, NOW).await.unwrap();
    let back = started(&store, "dora").await;
    let ending = cloakroom::Ending::new(cloakroom::Reason::SignedOut);
    let sql = place.sqlite();
    let kept: Vec<Vec<u8>> = vec![back.as_bytes().to_vec()];
    sql.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM session WHERE id = ?1", params![kept[0]]).unwrap();
    cloakroom::store::Store::end(&store, &Which::Ids(vec![back]), &ending, NOW).await.unwrap();
    sql.execute("INSERT INTO session SELECT * FROM kept", []).unwrap();
    sql.execute("DELETE FROM session WHERE id = ?1", params![gone.as_bytes().as_slice()]).unwrap();
    sql.execute("UPDATE session SET expires_at = NULL", []).unwrap();
    assert!(matches!(
        cloakroom::store::Store::load(&store, back, NOW).await.unwrap(),
        cloakroom::store::Loaded::Live(_)
    ));

    let (found, mended) = repaired(&store).await;
    assert_eq!(
        found.iter().map(|finding| &*finding.subject).collect::<Vec<_>>(),
        ["values", "endings", "expiry index"]
    );
    for (finding, id) in found.iter().zip([gone, back, idle.record.info.id]) {
        assert!(finding.text.starts_with("1 ") && finding.text.contains(&id.to_string()), "{finding:?}");
        assert!(finding.text.contains("--repair"), "{finding:?}");
    }
    assert_eq!(mended.len(), 3, "{mended:?}");
    assert_eq!(live(&store, anna).await.data.get("a").unwrap().as_str(), "1");
    assert_eq!(sessions_of(&store, "cleo").await.len(), 1);
    // The ended stay ended.
    assert!(!matches!(
        cloakroom::store::Store::load(&store, back, NOW).await.unwrap(),
        cloakroom::store::Loaded::Live(_)
    ));
    let values: i64 = sql.query_row("SELECT count(*) FROM session_data", [], |row| row.get(0)).unwrap();
    assert_eq!(values, 1);
}

#[tokio::test]
async fn indexes_that_are_gone_or_others_are_made_anew() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let sql = place.sqlite();
    sql.execute_batch(
        "DROP INDEX session_by_user; DROP INDEX audit_by_time; CREATE INDEX audit_by_time ON audit (seq)",
    )
    .unwrap();
    let (found, _) = repaired(&store).await;
    let texts: Vec<_> = found.iter().map(|finding| finding.text.as_str()).collect();
    assert!(texts[0].contains("audit_by_time is another one"), "{texts:?}");
    assert!(texts[1].contains("session_by_user is gone"), "{texts:?}");
    assert_eq!(sessions_of(&store, "anna").await[0].id, id);
}

#[tokio::test]
async fn a_table_that_was_changed_is_named_and_left_alone() {
    let place = Place::new();
    let store = place.open().await;
    place.sqlite().execute_batch("ALTER TABLE tombstone RENAME COLUMN note TO notes; DROP TABLE user_fence").unwrap();
    for repair in [false, true] {
        let found = wrong(store.examine(NOW, repair).await.unwrap());
        let texts: Vec<_> = found.iter().map(|finding| finding.text.as_str()).collect();
        assert!(texts.iter().any(|text| text.contains("tombstone has no column \"note TEXT\"")), "{texts:?}");
        assert!(texts.iter().any(|text| text.contains("The table user_fence is gone: restore a backup")), "{texts:?}");
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
            "CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'session_by_user';
             PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'session_by_user'",
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
    assert!(found[0].subject == "integrity" && found[0].text.contains("session_by_user"), "{found:?}");
    assert_eq!(sessions_of(&store, "anna").await[0].id, anna);
    assert_eq!(sessions_of(&store, "ben").await[0].id, ben);
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_named_and_left_alone() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    place.sqlite().execute("UPDATE session SET secret = x'00'", []).unwrap();
    for repair in [false, true] {
        let found = wrong(store.examine(NOW, repair).await.unwrap());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].text.contains(&id.to_string()) && found[0].text.contains("sign in again"), "{found:?}");
    }
}

#[tokio::test]
async fn it_is_examined_and_repaired_while_others_work() {
    let place = Place::new();
    let store = place.open().await;
    let sql = place.sqlite();
    for n in 0..1200_u32 {
        let data = params![n.to_be_bytes().repeat(5)[..18].to_vec()];
        sql.execute("INSERT INTO session_data (session, data_key, value) VALUES (?1, 'a', '1')", data).unwrap();
    }
    let other = place.open().await;
    let working = tokio::spawn(async move {
        for n in 0..100 {
            let id = started(&other, "anna").await;
            cloakroom::store::Store::update(&other, id, &setting("n", &n.to_string()), NOW).await.unwrap();
        }
    });
    let findings = store.examine(NOW, true).await.unwrap();
    working.await.unwrap();
    let repaired: Vec<_> = findings.iter().filter(|finding| finding.repaired).collect();
    assert_eq!(repaired.len(), 1, "{findings:?}");
    assert!(repaired[0].text.starts_with("1200 sessions have values") && !repaired[0].is_wrong(), "{repaired:?}");
    assert_eq!(wrong(store.examine(NOW, false).await.unwrap()), []);
    let all = sessions_of(&store, "anna").await;
    assert_eq!(all.len(), 100);
    for info in all {
        assert_eq!(live(&store, info.id).await.data.len(), 1);
    }
}
