//! What only shows from inside: how writes share a transaction, a full disk, and which index a statement uses.

use std::{
    pin::pin,
    sync::mpsc,
    task::{Context, Waker},
    time::Instant,
};

use rusqlite::{ErrorCode, params_from_iter, types::Null};
use tempfile::TempDir;

use super::*;
use crate::{
    audit::{AuditEntry, Event},
    data::{Data, Json},
    record::{Record, SessionInfo},
    rules::{Create, Loaded, Rules},
    secrets::Secrets,
    store::{
        Query, Store,
        embedded::Tables,
        slots::{LogEntry, Write},
    },
    token::Token,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

async fn store() -> (TempDir, Arc<SqliteStore>) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("sessions.db")).await.unwrap();
    (directory, Arc::new(store))
}

fn rules(store: &Arc<SqliteStore>) -> Rules {
    Rules::new(Arc::<SqliteStore>::clone(store))
}

fn creation(store: &SqliteStore, user: &str, data: Data) -> Create {
    let id = SessionId::generate(store.key.partition_of(user)).unwrap();
    let info = SessionInfo { user: Some(user.into()), ..SessionInfo::new(id, NOW) };
    let secrets = Secrets::new(Token::generate(id).unwrap().digest(), NOW);
    let record = Record { data, ..Record::new(info, secrets) };
    Create { record, limit: None, replaces: None, by: None, note: None }
}

fn audit_entries(db: &Connection) -> usize {
    db.query_row("SELECT count(*) FROM audit", [], |row| row.get(0).map(|count: i64| count.try_into().unwrap()))
        .unwrap()
}

fn note(store: &SqliteStore, text: &str) -> LogEntry {
    let create = creation(store, "anna", Data::new());
    let entry = AuditEntry { note: Some(text.into()), ..AuditEntry::about(&create.record.info, Event::Changed, NOW) };
    LogEntry { id: 1, entry }
}

/// Keeps the writer busy until the returned sender is dropped, so that what is written meanwhile waits in line.
async fn pause_writer(store: &Arc<SqliteStore>) -> mpsc::Sender<()> {
    let (go_on, wait) = mpsc::channel::<()>();
    let (paused, is_paused) = oneshot::channel();
    let mut paused = Some(paused);
    let pausing = Arc::clone(store);
    tokio::spawn(async move {
        let pause = move |_: &Connection| {
            paused.take().map(|paused| paused.send(()));
            let _ = wait.recv();
            Ok(())
        };
        pausing.write(pause).await.unwrap();
    });
    is_paused.await.unwrap();
    go_on
}

/// Starts a write and puts it in line.
async fn in_line<T: Send + 'static>(
    store: &Arc<SqliteStore>,
    work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
) -> tokio::task::JoinHandle<Result<T>> {
    let writing = Arc::clone(store);
    let task = tokio::spawn(async move { writing.write(work).await });
    // On this runtime of one thread the task runs until it waits for its answer.
    tokio::task::yield_now().await;
    task
}

#[tokio::test]
async fn writes_that_wait_share_a_transaction_and_one_that_fails_is_undone_alone() {
    let (directory, store) = store().await;
    let other = Connection::open(directory.path().join("sessions.db")).unwrap();
    let go_on = pause_writer(&store).await;
    let (first, broken, last) = (note(&store, "first"), note(&store, "broken"), note(&store, "last"));
    let first = in_line(&store, move |db| Within::new(db).log(&first)).await;
    let broken = in_line(&store, move |db| {
        Within::new(db).log(&broken)?;
        Ok(db.execute("INSERT INTO audit (id) VALUES (NULL)", [])?)
    })
    .await;
    let last = in_line(&store, move |db| {
        Within::new(db).log(&last)?;
        Ok((audit_entries(db), audit_entries(&other)))
    })
    .await;
    drop(go_on);
    first.await.unwrap().unwrap();
    assert!(matches!(broken.await.unwrap(), Err(Error::Store { .. })));
    assert_eq!(last.await.unwrap().unwrap(), (2, 0), "seen inside and outside of the shared transaction");
    let log = Store::audit(&store, &AuditQuery::default(), None, 10).await.unwrap().items;
    assert_eq!(log.iter().map(|logged| logged.entry.note.as_deref().unwrap()).collect::<Vec<_>>(), ["first", "last"]);
}

#[tokio::test]
async fn a_lost_transaction_costs_only_the_write_that_lost_it() {
    let (_directory, store) = store().await;
    let go_on = pause_writer(&store).await;
    let (first, last) = (note(&store, "first"), note(&store, "last"));
    let first = in_line(&store, move |db| Within::new(db).log(&first)).await;
    let broken = in_line(&store, |db| {
        db.execute_batch("ROLLBACK")?;
        Ok(db.execute("no such statement", [])?)
    })
    .await;
    let last = in_line(&store, move |db| Within::new(db).log(&last)).await;
    drop(go_on);
    first.await.unwrap().unwrap();
    assert!(broken.await.unwrap().is_err());
    last.await.unwrap().unwrap();
    assert_eq!(Store::audit(&store, &AuditQuery::default(), None, 10).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn a_lock_held_by_others_fails_all_that_wait_after_one_wait() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sessions.db");
    let patience = Duration::from_millis(50);
    let store = Arc::new(SqliteStore::open_with_busy_timeout(&file, patience).await.unwrap());
    let other = Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let since = Instant::now();
    let mut waiting = Vec::new();
    for n in 0..100 {
        let entry = note(&store, &n.to_string());
        waiting.push(in_line(&store, move |db| Within::new(db).log(&entry)).await);
    }
    for waiting in waiting {
        assert!(matches!(waiting.await.unwrap(), Err(Error::Unavailable { .. })));
    }
    // One wait for the first, and one for all that came meanwhile; many of them on a slow machine, but not a hundred.
    assert!(since.elapsed() < patience * 50, "{:?}", since.elapsed());
    assert_eq!(audit_entries(&other), 0);
}

#[tokio::test]
async fn a_panic_is_undone_and_the_store_goes_on() {
    let (_directory, store) = store().await;
    let entry = note(&store, "undone");
    let written = store.write(move |db| {
        Within::new(db).log(&entry)?;
        panic!("on purpose");
        #[expect(unreachable_code, reason = "it gives the closure its type")]
        Ok(())
    });
    let error = written.await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }) && error.to_string().contains("panicked and was undone"), "{error}");
    for _ in 0..2 * readers() {
        let error = SqliteStore::read::<()>(&store, |_| panic!("on purpose")).await.unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
    let entry = note(&store, "written");
    store.write(move |db| Within::new(db).log(&entry)).await.unwrap();
    assert_eq!(Store::audit(&store, &AuditQuery::default(), None, 10).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn what_was_accepted_is_done_though_its_future_and_the_store_are_dropped() {
    let (directory, store) = store().await;
    let (go_on, wait) = mpsc::channel::<()>();
    let (done, is_done) = mpsc::channel();
    let entry = note(&store, "accepted");
    {
        let mut write = pin!(store.write(move |db| {
            let _ = wait.recv();
            Within::new(db).log(&entry)?;
            let _ = done.send(());
            Ok(())
        }));
        assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    // It waits until what was accepted is done.
    let closing = thread::spawn(move || drop(store));
    drop(go_on);
    is_done.recv().unwrap();
    closing.join().unwrap();
    let other = Connection::open(directory.path().join("sessions.db")).unwrap();
    assert_eq!(audit_entries(&other), 1);
}

#[tokio::test]
async fn a_store_that_is_closed_leaves_the_file_alone_and_all_of_it_in_there() {
    let (directory, store) = store().await;
    let id = {
        let create = creation(&store, "anna", Data::new());
        rules(&store).create(&create, NOW).await.unwrap();
        create.record.info.id
    };
    drop(store);
    let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    assert_eq!(names, ["sessions.db", "sessions.db-reserve"]);
    let copy = directory.path().join("copy.db");
    std::fs::copy(directory.path().join("sessions.db"), &copy).unwrap();
    let copy = SqliteStore::open(&copy).await.unwrap();
    assert!(matches!(Rules::on(copy).load(id, NOW).await.unwrap(), Loaded::Live(_)));
}

#[tokio::test]
async fn a_file_that_is_deleted_or_replaced_is_noticed_at_the_next_call() {
    for replaced in [false, true] {
        let (directory, store) = store().await;
        let file = directory.path().join("sessions.db");
        let create = creation(&store, "anna", Data::new());
        rules(&store).create(&create, NOW).await.unwrap();
        if replaced {
            std::fs::copy(&file, directory.path().join("backup.db")).unwrap();
            std::fs::rename(directory.path().join("backup.db"), &file).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        let started = rules(&store).create(&creation(&store, "ben", Data::new()), NOW).await.map(drop);
        let pinged = Store::ping(&store).await.map(drop);
        let loaded = rules(&store).load(create.record.info.id, NOW).await.map(drop);
        for answer in [started, pinged, loaded] {
            let error = answer.unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("was deleted or replaced"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_rare_match_is_found_page_by_page() {
    const INSERT: &str = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 10000) \
        INSERT INTO slot (id, head, revision, version, seen, data, large, changes, created_at) \
        SELECT unhex(printf('%036x', n)), iif(n = 9000, '{\"device\":\"rare\",', '{') || \
        '\"created\":0,\"issued\":0,\"secret\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}', n, 0, 0, '{}', 0, x'', 0 \
        FROM number";
    let (_directory, store) = store().await;
    store.write(|db| Ok(db.execute(INSERT, [])?)).await.unwrap();
    let query = Query { device: Some("rare".into()), ..Query::default() };
    let mut cursor = None;
    let mut pages = Vec::new();
    loop {
        let page = rules(&store).find(&query, cursor.as_ref(), 10, NOW).await.unwrap();
        pages.push(page.items.len());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [0, 0, 1], "each page looks at no more than so many sessions");
}

#[tokio::test]
async fn on_a_full_disk_what_was_answered_is_there_and_it_works_again_afterwards() {
    let (_directory, store) = store().await;
    let large: Data =
        [("large".into(), Json::from_stored(format!("\"{}\"", "x".repeat(30_000))))].into_iter().collect();
    let pages = |limit: i64| {
        move |db: &Connection| Ok(db.pragma_update_and_check(None, "max_page_count", limit, |row| row.get::<_, i64>(0))?)
    };
    let limit = 80;
    assert_eq!(store.write(pages(limit)).await.unwrap(), limit);

    let go_on = pause_writer(&store).await;
    let mut tasks = Vec::new();
    for n in 0..40 {
        let create = creation(&store, &format!("user {n}"), large.clone());
        let id = create.record.info.id;
        let transaction = Transaction {
            id: 1,
            now: NOW,
            relies_on: Vec::new(),
            log: vec![LogEntry { id: 1, entry: create.started(NOW) }],
            writes: vec![Write::Create(Arc::new(create.record))],
        };
        let write = move |db: &Connection| embedded::commit(&Within::new(db), &transaction, false);
        tasks.push((id, in_line(&store, write).await));
    }
    drop(go_on);
    let (mut written, mut refused) = (Vec::new(), Vec::new());
    for (id, task) in tasks {
        match task.await.unwrap() {
            Ok(_) => written.push(id),
            Err(error) => {
                assert!(error.is_retryable() && error.to_string().contains("the disk is full"), "{error}");
                refused.push(id);
            }
        }
    }
    assert!(!written.is_empty() && !refused.is_empty());
    assert_eq!(store.write(pages(1 << 30)).await.unwrap(), 1 << 30);
    for id in written {
        let Loaded::Live(record) = rules(&store).load(id, NOW).await.unwrap() else { panic!("it was answered") };
        assert_eq!(record.data, large);
    }
    for id in refused {
        assert!(matches!(rules(&store).load(id, NOW).await.unwrap(), Loaded::Unknown));
        let query = AuditQuery { session: Some(id), ..AuditQuery::default() };
        assert_eq!(Store::audit(&store, &query, None, 10).await.unwrap().items, []);
    }
    let create = creation(&store, "afterwards", large);
    rules(&store).create(&create, NOW).await.unwrap();
    let check =
        SqliteStore::read(&store, |db| Ok(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?))
            .await;
    assert_eq!(check.unwrap(), "ok");
}

#[tokio::test]
async fn readers_cannot_write() {
    let (_directory, store) = store().await;
    let error = SqliteStore::read(&store, |db| Ok(db.execute("DELETE FROM meta", [])?)).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }) && error.to_string().contains("is read-only: let this"), "{error}");
}

#[tokio::test]
async fn every_statement_on_a_requests_path_uses_an_index() {
    let (_directory, store) = store().await;
    for (statement, index) in [
        (tables::OF_USER, "SEARCH slot USING INDEX slot_by_user"),
        (tables::AFTER_ID, "SEARCH slot USING INDEX sqlite_autoindex_slot_1"),
        (tables::DUE_PLACES, "SEARCH slot USING INDEX slot_by_due"),
        (tables::COUNT, "SEARCH slot USING INDEX slot_by_user"),
        (tables::STARTED_WITH, "SEARCH slot USING INDEX slot_by_idempotency"),
        (tables::FORGET_SLOTS, "SEARCH slot USING INDEX slot_by_end"),
        (tables::FORGET_AUDIT, "SEARCH audit USING INDEX audit_by_time"),
        (tables::AUDIT, "SEARCH audit USING INTEGER PRIMARY KEY"),
        (tables::AUDIT_OF_USER, "SEARCH audit USING INDEX audit_by_user"),
        (tables::AUDIT_OF_SESSION, "SEARCH audit USING INDEX audit_by_session"),
        (tables::IS_LOGGED, "SEARCH audit USING INDEX audit_by_session"),
        (tables::USERS, "SEARCH user USING PRIMARY KEY"),
        (tables::DUE_USERS, "SEARCH user USING INDEX user_by_due"),
    ] {
        let plan = SqliteStore::read(&store, move |db| plan(db, statement)).await.unwrap();
        assert!(plan.iter().any(|step| step.replace("COVERING ", "").starts_with(index)), "{statement}\n{plan:#?}");
        let scans = |step: &&String| step.starts_with("SCAN") && *step != "SCAN CONSTANT ROW";
        assert_eq!(plan.iter().find(scans), None, "{statement}\n{plan:#?}");
        // Few are due, and their pages are by name.
        let may_sort = statement == tables::DUE_USERS;
        assert_eq!(plan.iter().any(|step| step.contains("TEMP B-TREE")), may_sort, "{statement}\n{plan:#?}");
    }
}

fn plan(db: &Connection, statement: &str) -> Result<Vec<String>, Fault> {
    let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {statement}"))?;
    let parameters = explain.parameter_count();
    let steps = explain.query_map(params_from_iter(std::iter::repeat_n(Null, parameters)), |row| row.get("detail"))?;
    Ok(steps.collect::<Result<_, _>>()?)
}

#[test]
fn what_sqlite_says_is_told_by_who_can_do_what_about_it() {
    let told = |code| {
        let error = rusqlite::ffi::Error { code, extended_code: 0 };
        Fault::from(rusqlite::Error::SqliteFailure(error, None)).into_error(Path::new("sessions.db"))
    };
    for (code, words) in [
        (ErrorCode::DatabaseBusy, "another process"),
        (ErrorCode::DatabaseLocked, "another process"),
        (ErrorCode::DiskFull, "disk is full"),
        (ErrorCode::SystemIoFailure, "could not be read or written"),
    ] {
        let error = told(code);
        assert!(error.is_retryable() && error.to_string().contains(words), "{error}");
    }
    for (code, words) in [
        (ErrorCode::ReadOnly, "is read-only"),
        (ErrorCode::DatabaseCorrupt, "restore it from a backup"),
        (ErrorCode::NotADatabase, "not a database"),
        (ErrorCode::CannotOpen, "cannot be opened"),
    ] {
        let error = told(code);
        assert!(!error.is_retryable() && error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("sessions.db"), "{error}");
    }
}
