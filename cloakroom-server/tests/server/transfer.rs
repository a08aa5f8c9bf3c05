//! `cloakroom migrate` and `cloakroom copy`, as people use them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use crate::common::binary::Directory;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn start(directory: &Directory, store: &str, user: &str) -> String {
    let started = directory.run(&["start", "--store", store, "--user", user, "--data", r#"{"n":-0.0}"#, "--json"]);
    json(&started.expect(0).out)["session"]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_store_is_made_and_brought_up_to_date_and_says_which_version_it_has() {
    for store in ["sqlite:a.db", "file:sessions"] {
        let directory = Directory::new();
        let planned = directory.run(&["migrate", store, "--dry-run"]).expect(0).out;
        assert!(planned.contains("would be made"), "{planned}");
        assert!(directory.files().is_empty(), "a dry run makes nothing");
        let made = directory.run(&["migrate", store]).expect(0).out;
        assert!(made.contains("was made: version "), "{made}");
        let current = directory.run(&["migrate", store]).expect(0).out;
        assert!(current.contains("is current: version "), "{current}");
        let shown = json(&directory.run(&["migrate", store, "--json"]).expect(0).out);
        assert_eq!((&shown["store"], &shown["changed"]), (&Value::from(store), &Value::from(false)), "{shown}");
        assert_eq!(shown["found"], shown["version"]);
    }
}

#[test]
fn a_store_of_a_newer_program_and_one_of_somebody_else_are_left_alone() {
    let directory = Directory::new();
    directory.run(&["migrate", "sqlite:newer.db"]).expect(0);
    let db = rusqlite::Connection::open(directory.path("newer.db")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    fs::write(directory.path("notes.db"), "no database").unwrap();
    for arguments in [&["migrate"][..], &["migrate", "--dry-run"]] {
        let refused = directory.run(&[arguments, &["sqlite:newer.db"]].concat()).expect(3);
        assert!(refused.err.contains("newer.db") && refused.err.contains("99"), "{refused:?}");
        let refused = directory.run(&[arguments, &["sqlite:notes.db"]].concat()).expect(3);
        assert!(refused.err.contains("notes.db"), "{refused:?}");
    }
    assert_eq!(fs::read_to_string(directory.path("notes.db")).unwrap(), "no database");
    directory.run(&["migrate", "memory:"]).expect(2);
    directory.run(&["migrate", "mongodb://db"]).expect(2);
}

#[test]
fn whoever_looks_into_a_store_that_is_not_there_is_told_and_nothing_is_made() {
    let directory = Directory::new();
    for arguments in [
        &["list", "--store", "sqlite:typo.db"][..],
        &["show", "x", "--store", "sqlite:typo.db"],
        &["audit", "--store", "file:typo"],
        &["revoke", "--all", "--store", "sqlite:typo.db"],
        &["reap", "--store", "file:typo"],
        &["copy", "sqlite:typo.db", "sqlite:b.db"],
        &["copy", "file:typo", "sqlite:b.db", "--dry-run"],
    ] {
        let refused = directory.run(arguments).expect(3);
        assert!(refused.err.contains("typo") && refused.err.contains("there is no store"), "{refused:?}");
        assert!(directory.files().is_empty(), "{arguments:?} made {:?}", directory.files());
    }
}

#[test]
fn sessions_their_ends_and_fences_are_copied_and_once_more_what_changed() {
    let directory = Directory::new();
    let (from, to) = ("sqlite:a.db", "file:sessions");
    let anna = start(&directory, from, "anna");
    let ben = start(&directory, from, "ben");
    directory.run(&["revoke", &ben, "--store", from, "--note", "lost phone"]).expect(0);

    let counted = directory.run(&["copy", from, to, "--dry-run"]).expect(0).out;
    assert!(counted.contains("1 sessions, 1 tombstones, 0 fences, 0 users and "), "{counted}");
    assert!(!directory.path("sessions").exists(), "a dry run makes nothing");

    let copied = directory.run(&["copy", from, to]).expect(0).out;
    assert!(copied.contains("sessions    1 copied") && copied.contains("tombstones  1 copied"), "{copied}");
    let show = |store: &str, id: &str| directory.run(&["show", id, "--store", store, "--json"]);
    assert_eq!(show(to, &anna).expect(0).out, show(from, &anna).expect(0).out);
    let ended = show(to, &ben).expect(4);
    assert_eq!(json(&ended.out)["reason"], "revoked_by_admin");

    let cleo = start(&directory, from, "cleo");
    directory.run(&["revoke", &anna, "--store", from]).expect(0);
    let again = json(&directory.run(&["copy", from, to, "--json"]).expect(0).out);
    assert_eq!(again["sessions"]["added"], 1, "{again}");
    assert_eq!(again["tombstones"]["updated"], 1, "{again}");
    assert_eq!(again["tombstones"]["unchanged"], 1, "{again}");
    assert_eq!(again["resumed"], false);
    show(to, &cleo).expect(0);
    show(to, &anna).expect(4);
    let listed = directory.run(&["list", "--store", to]).expect(0).out;
    assert!(listed.contains("cleo") && !listed.contains("anna"), "{listed}");
    assert!(copy_states(&directory).is_empty(), "a copy that is done leaves nothing behind");
}

#[test]
fn a_target_of_its_own_and_what_is_no_pair_of_stores_are_refused() {
    let directory = Directory::new();
    start(&directory, "sqlite:a.db", "anna");
    start(&directory, "sqlite:b.db", "ben");
    let refused = directory.run(&["copy", "sqlite:a.db", "sqlite:b.db"]).expect(1);
    assert!(refused.err.contains("sessions of its own") && refused.err.contains("empty"), "{refused:?}");
    let listed = directory.run(&["list", "--store", "sqlite:b.db"]).expect(0).out;
    assert!(listed.contains("ben") && !listed.contains("anna"), "{listed}");
    for (from, to) in [("sqlite:a.db", "sqlite:a.db"), ("sqlite:a.db", "memory:"), ("memory:", "sqlite:c.db")] {
        directory.run(&["copy", from, to]).expect(2);
    }
    directory.run(&["copy", "sqlite:a.db", "mongodb://db"]).expect(2);
}

/// The files that say how far copies have come.
fn copy_states(directory: &Directory) -> Vec<PathBuf> {
    let mut files = directory.files();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files
}

/// Makes many sessions out of one, each under an id of its own in the same partition.
fn multiply(database: &Path, count: u32) {
    let db = rusqlite::Connection::open(database).unwrap();
    db.execute_batch(&format!(
        "CREATE TEMP TABLE fresh AS
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
            SELECT CAST(substr((SELECT id FROM slot), 1, 2) || randomblob(16) AS BLOB) AS id FROM n;
         CREATE TEMP TABLE one AS SELECT * FROM slot;
         CREATE TEMP TABLE made AS SELECT one.* FROM one WHERE 0;
         INSERT INTO made SELECT one.* FROM fresh, one;
         UPDATE made SET id = (SELECT id FROM fresh WHERE fresh.rowid = made.rowid);
         INSERT INTO slot SELECT * FROM made;"
    ))
    .unwrap();
}

/// The files of `sqlite:b.db`.
const TARGET: [&str; 3] = ["b.db", "b.db-wal", "b.db-shm"];

/// Kills a copy when it has noted how far it is. One that was faster than the kill begins anew, without its `target`.
fn kill_midway(directory: &Directory, arguments: &[&str], target: &[&str]) {
    for _ in 0..20 {
        let mut copy = directory.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while copy_states(directory).is_empty() && copy.try_wait().unwrap().is_none() {
            thread::yield_now();
        }
        copy.kill().unwrap();
        copy.wait().unwrap();
        if !copy_states(directory).is_empty() {
            return;
        }
        for file in target {
            fs::remove_file(directory.path(file)).unwrap_or_default();
        }
    }
    panic!("each was done before it could be killed");
}

#[test]
fn a_copy_that_was_killed_goes_on_where_it_was() {
    let directory = Directory::new();
    start(&directory, "sqlite:a.db", "anna");
    multiply(&directory.path("a.db"), 20_000);
    let pair = ["copy", "sqlite:a.db", "sqlite:b.db", "--json"];

    kill_midway(&directory, &pair, &TARGET);
    assert_eq!(copy_states(&directory).len(), 1);

    let resumed = directory.run(&pair).expect(0);
    let report = json(&resumed.out);
    assert_eq!(report["resumed"], true, "{report}");
    assert!(resumed.err.contains("going on behind "), "{}", resumed.err);
    let done_now = report["sessions"]["added"].as_u64().unwrap() + report["sessions"]["unchanged"].as_u64().unwrap();
    assert!(done_now < 20_001, "{report}: it began at the beginning");
    let again = json(&directory.run(&pair).expect(0).out);
    assert_eq!(again["sessions"]["unchanged"], 20_001, "{again}: it left something out");
    assert!(copy_states(&directory).is_empty());
}

#[test]
fn a_state_of_other_stores_is_not_gone_by() {
    let directory = Directory::new();
    let pair = ["copy", "sqlite:a.db", "sqlite:b.db", "--json"];
    start(&directory, "sqlite:a.db", "anna");
    multiply(&directory.path("a.db"), 20_000);
    kill_midway(&directory, &pair, &TARGET);

    // The target was made anew, so nothing of what the state says is there.
    for file in TARGET {
        fs::remove_file(directory.path(file)).unwrap_or_default();
    }
    let report = json(&directory.run(&pair).expect(0).out);
    assert_eq!(report["resumed"], false, "{report}");
    assert_eq!(report["sessions"]["added"], 20_001, "{report}");
}
