//! Several stores and processes on one file, kill -9, and a disk that fails.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use cloakroom::{
    Limit, SessionId,
    audit::Event,
    rules::{Create, Rules},
    store::{AuditQuery, SqliteStore},
};

use super::{NOW, Place, creation, live, record, sessions_of, set, started};
use crate::common::{again, run_one};

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_on_one_new_file_lose_nothing() {
    let place = Place::new();
    let (one, two) = tokio::join!(place.open(), place.open());
    assert_eq!(one.partition_key().as_bytes(), two.partition_key().as_bytes());
    let stores = [Arc::new(one), Arc::new(two)];
    let id = started(&stores[0], "anna").await;
    let tasks = (0..100).map(|n| {
        let store = Arc::clone(&stores[n % 2]);
        tokio::spawn(async move {
            set(&store, id, &format!("key {n}"), "1").await.unwrap();
            let create = Create { limit: Some(Limit::evict(3)), ..creation(record(&store, "bert")) };
            store.create(&create, NOW).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for store in &stores {
        let record = live(store, id).await;
        assert_eq!((record.data.len(), record.info.version), (100, 100));
        assert_eq!(sessions_of(store, "bert").await.len(), 3);
    }
    let log = stores[1].audit(&AuditQuery::default(), None, 1000).await.unwrap().items;
    assert_eq!(log.iter().filter(|logged| logged.entry.event == Event::Ended).count(), 97);
}

#[tokio::test]
async fn several_processes_on_one_file_lose_nothing() {
    if let Some((file, argument)) = told_as_child() {
        let (id, name) = argument.split_once(' ').unwrap();
        let store = Rules::on(SqliteStore::open(&file).await.unwrap());
        for n in 0..40 {
            set(&store, id.parse().unwrap(), &format!("{name} {n}"), "1").await.unwrap();
            let create = Create { limit: Some(Limit::evict(3)), ..creation(record(&store, "bert")) };
            store.create(&create, NOW).await.unwrap();
        }
        return;
    }
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let children = ["first", "second", "third"].map(|name| {
        child(again(module_path!(), "several_processes_on_one_file_lose_nothing"), &place.file, &format!("{id} {name}"))
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let record = live(&store, id).await;
    assert_eq!((record.data.len(), record.info.version), (120, 120));
    assert_eq!(sessions_of(&store, "bert").await.len(), 3);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_kill_9() {
    const WRITERS: usize = 8;
    const ANSWERS: usize = 400;
    if let Some((file, _)) = told_as_child() {
        let store = Rules::on(SqliteStore::open(&file).await.unwrap());
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write_until_killed(store.clone(), writer)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        return;
    }
    let place = Place::new();
    let mut child = child(again(module_path!(), "what_was_answered_survives_kill_9"), &place.file, "");
    let mut answers = Vec::new();
    let mut killed = false;
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    // What the pipe still holds after the kill was answered, too.
    while lines.read_line(&mut line).unwrap() > 0 {
        answers.extend(answered(&line));
        line.clear();
        if answers.len() >= ANSWERS && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed && !child.wait().unwrap().success());

    let store = place.open().await;
    for (id, key) in &answers {
        assert!(live(&store, *id).await.data.get(key).is_some(), "{key} of {id} was answered");
    }
    let check: String = place.sqlite().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    set(&store, answers[0].0, "afterwards", "1").await.unwrap();
}

async fn write_until_killed(store: Rules, writer: usize) {
    let id = started(&store, &format!("user {writer}")).await;
    for n in 0.. {
        set(&store, id, &format!("key-{n}"), "1").await.unwrap();
        tell(id, &format!("key-{n}"));
    }
}

/// A disk that fails, in the shape of a limit on the size of files that makes writes fail half-way.
#[cfg(unix)]
#[tokio::test]
async fn on_a_failing_disk_what_was_answered_is_there_and_nothing_else() {
    const TEST: &str = "on_a_failing_disk_what_was_answered_is_there_and_nothing_else";
    if let Some((file, _)) = told_as_child() {
        let store = Rules::on(SqliteStore::open(&file).await.unwrap());
        let writers = (0..8).map(|writer| tokio::spawn(write_until_it_fails(store.clone(), writer)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        return;
    }
    let place = Place::new();
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited]).arg(std::env::current_exe().unwrap()).args(run_one(module_path!(), TEST));
    let output = child(command, &place.file, "").wait_with_output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    let answers: Vec<_> = told.split_inclusive('\n').filter_map(answered).collect();
    assert!(!answers.is_empty());

    let store = place.open().await;
    let mut there = Vec::new();
    for writer in 0..8 {
        for info in sessions_of(&store, &format!("user {writer}")).await {
            let record = live(&store, info.id).await;
            there.extend(record.data.iter().map(|(key, _)| (info.id, key.to_string())));
            assert_eq!(record.info.version, record.data.len() as u64);
        }
    }
    assert!(answers.iter().all(|answer| there.contains(answer)));
    assert_eq!(there.len(), answers.len());
    let check: String = place.sqlite().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    set(&store, answers[0].0, "afterwards", "1").await.unwrap();
}

async fn write_until_it_fails(store: Rules, writer: usize) {
    let id = started(&store, &format!("user {writer}")).await;
    let large = format!("\"{}\"", "x".repeat(30_000));
    for n in 0.. {
        let key = format!("key-{n}");
        if let Err(error) = set(&store, id, &key, &large).await {
            assert!(error.is_retryable() && error.to_string().contains("could not be read or written"), "{error}");
            return assert!(live(&store, id).await.data.get(&key).is_none(), "reading goes on, nothing was written");
        }
        tell(id, &key);
    }
}

/// Tells the parent what was answered, in one write, which no other writer's can tear apart.
fn tell(id: SessionId, key: &str) {
    std::io::stdout().lock().write_all(format!("\nanswered {id} {key}\n").as_bytes()).unwrap();
}

/// What a child told in a line, if it is whole.
fn answered(line: &str) -> Option<(SessionId, String)> {
    let (id, key) = line.strip_prefix("answered ")?.strip_suffix('\n')?.split_once(' ')?;
    Some((id.parse().unwrap(), key.to_owned()))
}

/// Starts this test program again to run one test, which asks [`told_as_child`].
fn child(mut command: Command, file: &Path, argument: &str) -> Child {
    command.env(CHILD_FILE, file).env(CHILD_ARGUMENT, argument).stdout(Stdio::piped()).spawn().unwrap()
}

fn told_as_child() -> Option<(String, String)> {
    Some((std::env::var(CHILD_FILE).ok()?, std::env::var(CHILD_ARGUMENT).ok()?))
}

const CHILD_FILE: &str = "CLOAKROOM_TEST_CHILD_FILE";
const CHILD_ARGUMENT: &str = "CLOAKROOM_TEST_CHILD_ARGUMENT";
