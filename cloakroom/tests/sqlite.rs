//! The SQLite store as a file on a disk: what it opens and what it refuses, several processes on it, and what survives.

#![cfg(feature = "sqlite")]

use std::{
    fs,
    future::Future,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    pin::pin,
    process::{Child, Command, Stdio},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use cloakroom::{
    Change, Client, Data, Digest, Ending, Error, Event, Fields, Json, Reason, RecentChanges, Record, Secrets,
    SessionId, SessionInfo, Timestamp, Token,
    store::{
        self, AuditQuery, Create, Created, Fence, Limit, Loaded, Query, Reap, Refusal, Rotation, SqliteStore, Store,
        Updated, Which,
    },
};
use rusqlite::Connection;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const IMPATIENT: Duration = Duration::from_millis(50);

struct Place {
    _directory: TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { file: directory.path().join("sessions.db"), _directory: directory }
    }

    fn holding(contents: &[u8]) -> Self {
        let place = Self::new();
        fs::write(&place.file, contents).unwrap();
        place
    }

    fn address(&self) -> &str {
        self.file.to_str().unwrap()
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.file).await.unwrap()
    }

    async fn refusal(&self) -> String {
        refusal(&self.file).await
    }

    fn sqlite(&self) -> Connection {
        Connection::open(&self.file).unwrap()
    }
}

async fn refusal(file: &Path) -> String {
    let error = SqliteStore::open(file).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    text
}

fn record(store: &impl Store, user: &str) -> Record {
    let id = SessionId::generate(store.partition_key().partition_of(user)).unwrap();
    let info = SessionInfo {
        id,
        user: Some(user.into()),
        full_name: None,
        user_type: None,
        created_at: NOW,
        last_seen_at: NOW,
        idle_timeout: None,
        ends_at: None,
        authenticated_at: Some(NOW),
        remember: false,
        client: Client::default(),
        impersonated_by: None,
        audit_user: None,
        version: 0,
    };
    let secrets = Secrets::new(Token::generate(id).unwrap().digest(), NOW);
    Record {
        info,
        data: Data::new(),
        secrets,
        recent_changes: RecentChanges::default(),
        lease: cloakroom::Lease::default(),
        idempotency: None,
    }
}

fn creation(record: Record) -> Create {
    Create { record, limit: None, replaces: None, by: None }
}

async fn started(store: &impl Store, user: &str) -> SessionId {
    let create = creation(record(store, user));
    assert!(matches!(store.create(&create, NOW).await.unwrap(), Created::Created { .. }));
    create.record.info.id
}

fn setting(key: &str, value: &str) -> Change {
    let mut change = Change::new(1 << 20);
    change.set(key, Json::from_text(value).unwrap());
    change
}

async fn set(store: &impl Store, id: SessionId, key: &str, value: &str) -> cloakroom::Result<()> {
    match store.update(id, &setting(key, value), NOW).await? {
        Updated::Applied(_) => Ok(()),
        other => panic!("{other:?}"),
    }
}

async fn live(store: &impl Store, id: SessionId) -> Arc<Record> {
    match store.load(id, NOW).await.unwrap() {
        Loaded::Live(record) => record,
        other => panic!("{other:?}"),
    }
}

async fn sessions_of(store: &impl Store, user: &str) -> Vec<SessionInfo> {
    store.find(&Query::of_user(user), None, 1000, NOW).await.unwrap().items
}

#[tokio::test]
async fn an_address_opens_a_file_that_only_its_owner_may_read() {
    let place = Place::new();
    let store = store::open(&format!("sqlite://{}", place.address())).await.unwrap();
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
    assert!(text.refusal().await.contains("damaged or not a database: restore it"));
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
    assert!(damaged.refusal().await.contains("damaged or not a database: restore it from a backup"));
}

#[tokio::test]
async fn a_database_of_something_else_is_refused_and_left_as_it_is() {
    let place = Place::new();
    place.sqlite().execute_batch("CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('pie')").unwrap();
    let before = fs::read(&place.file).unwrap();
    assert!(place.refusal().await.contains("of something else and was left as it is: name another file"));
    assert_eq!(fs::read(&place.file).unwrap(), before);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let place = Place::new();
    drop(place.open().await);
    place.sqlite().pragma_update(None, "user_version", 99).unwrap();
    let text = place.refusal().await;
    assert!(text.contains("newer version of cloakroom") && text.contains("99") && text.contains("upgrade"), "{text}");
}

#[tokio::test]
async fn a_file_that_lost_its_partition_key_is_refused() {
    let place = Place::new();
    drop(place.open().await);
    place.sqlite().execute("DELETE FROM meta", []).unwrap();
    assert!(place.refusal().await.contains("lost its partition key"));
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
        assert!(place.refusal().await.contains("is read-only: let this process write"));
    }
}

#[tokio::test]
async fn a_file_locked_for_too_long_is_unavailable_and_usable_afterwards() {
    let place = Place::new();
    let store = SqliteStore::open_with_busy_timeout(&place.file, IMPATIENT).await.unwrap();
    let id = started(&store, "anna").await;

    let other = place.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = set(&store, id, "a", "1").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("another process holds"), "{error}");
    assert!(error.to_string().contains(place.address()), "{error}");
    // Reading, and opening a file that needs no change, waits for nobody.
    assert_eq!(live(&store, id).await.data.len(), 0);
    SqliteStore::open_with_busy_timeout(&place.file, IMPATIENT).await.unwrap();

    other.execute_batch("ROLLBACK").unwrap();
    set(&store, id, "a", "2").await.unwrap();
    assert_eq!(live(&store, id).await.data.get("a").unwrap().as_str(), "2");

    let new = Place::new();
    let other = new.sqlite();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = SqliteStore::open_with_busy_timeout(&new.file, IMPATIENT).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.to_string().contains("another process"), "{error}");
}

#[tokio::test]
async fn a_damaged_row_is_an_error_that_names_it_and_harms_no_other() {
    let place = Place::new();
    let store = place.open().await;
    let (good, bad) = (started(&store, "anna").await, started(&store, "bert").await);
    let edit = "UPDATE session SET secret = x'00', ip = 'nowhere' WHERE id = ?1";
    assert_eq!(place.sqlite().execute(edit, [bad.as_bytes()]).unwrap(), 1);

    for error in [
        store.load(bad, NOW).await.unwrap_err(),
        store.update(bad, &setting("a", "1"), NOW).await.unwrap_err(),
        store.find(&Query::of_user("bert"), None, 10, NOW).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Store { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("damaged row (session {bad}: ip: ")), "{error}");
    }
    set(&store, good, "a", "1").await.unwrap();
    assert_eq!(live(&store, good).await.data.len(), 1);
}

#[tokio::test]
async fn everything_is_there_when_the_file_is_opened_again() {
    let place = Place::new();
    let store = place.open().await;
    let mut full = record(&store, "Änna\u{0}🦀");
    full.info = SessionInfo {
        full_name: Some("Anna".into()),
        user_type: Some("admin".into()),
        last_seen_at: NOW.after(Duration::from_millis(5)),
        idle_timeout: Some(Duration::from_hours(1)),
        ends_at: Some(NOW.after(Duration::from_hours(24))),
        remember: true,
        client: Client {
            ip: Some("2001:db8::1".parse().unwrap()),
            user_agent: Some("curl".into()),
            device: Some("laptop".into()),
        },
        impersonated_by: Some("root".into()),
        audit_user: Some("auditor".into()),
        version: u64::MAX - 1,
        ..full.info
    };
    full.data.insert("key.with \"$[\\ ключ", Json::from_text(r#"{"b":-0.0,"a":1e400}"#).unwrap());
    full.recent_changes = RecentChanges::from_ids([1, u64::MAX]);
    full.idempotency = Some(Digest::from_bytes([9; Digest::LEN]));
    let id = full.info.id;
    store.create(&creation(full.clone()), NOW).await.unwrap();
    let rotation = Rotation {
        presented: full.secrets.current,
        successor: Token::generate(id).unwrap().digest(),
        grace: Duration::from_secs(30),
        by: None,
    };
    store.rotate(id, &rotation, NOW).await.unwrap();
    assert!(full.secrets.rotate(&rotation.presented, rotation.successor, rotation.grace, NOW));

    let gone = started(&store, "bert").await;
    let bert = Which::OfUser { user: "bert".into(), except: Vec::new(), fence: Fence::Disabled };
    let ending = Ending::new(Reason::UserDisabled).by("root").note("left");
    store.end(&bert, &ending, NOW).await.unwrap();
    let log = store.audit(&AuditQuery::default(), None, 100).await.unwrap();
    let key = *store.partition_key().as_bytes();
    drop(store);

    let store = place.open().await;
    assert_eq!(store.partition_key().as_bytes(), &key);
    assert_eq!(*live(&store, id).await, full);
    let Loaded::Ended(tombstone) = store.load(gone, NOW).await.unwrap() else { panic!("it ended") };
    assert_eq!(tombstone.ended, ending.of(gone, Some("bert".into()), NOW));
    assert_eq!(log.items.len(), 4);
    assert_eq!(store.audit(&AuditQuery::default(), None, 100).await.unwrap(), log);
    let refused = store.create(&creation(record(&store, "bert")), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
}

#[tokio::test]
async fn a_changed_deadline_counts_at_once_everywhere() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let end = NOW.after(Duration::from_secs(1));
    let mut change = Change::new(100);
    change.fields = Fields { ends_at: Some(Some(end)), ..Fields::default() };
    store.update(id, &change, NOW).await.unwrap();
    let query = Query::of_user("anna");
    assert_eq!(store.find(&query, None, 10, NOW).await.unwrap().items[0].ends_at, Some(end));
    assert_eq!(store.find(&query, None, 10, end).await.unwrap().items, []);
    let reap = Reap { limit: 10, tombstones_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH };
    let reaped = store.reap(&reap, end).await.unwrap();
    assert_eq!((reaped.ended.len(), reaped.ended[0].reason, reaped.more), (1, Reason::AbsoluteTimeout, false));
}

#[tokio::test]
async fn one_idempotency_key_of_two_users_is_two_keys() {
    let place = Place::new();
    let store = place.open().await;
    let key = store.partition_key();
    let elsewhere = |user: &String| key.partition_of(user) != key.partition_of("anna");
    let other = (0..100).map(|n| format!("user {n}")).find(elsewhere).unwrap();
    for user in ["anna", &other] {
        let record = Record { idempotency: Some(Digest::from_bytes([7; Digest::LEN])), ..record(&store, user) };
        assert_eq!(store.create(&creation(record), NOW).await.unwrap(), Created::Created { ended: Vec::new() });
    }
    assert_eq!((sessions_of(&store, "anna").await.len(), sessions_of(&store, &other).await.len()), (1, 1));
}

#[tokio::test]
async fn a_small_change_of_a_large_session_writes_little() {
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    set(&store, id, "large", &format!("\"{}\"", "x".repeat(64 << 10))).await.unwrap();
    let log = || fs::metadata(format!("{}-wal", place.address())).unwrap().len();
    let before = log();
    set(&store, id, "small", "1").await.unwrap();
    let written = log() - before;
    assert!((1..=4 * 4200).contains(&written), "{written} bytes: more than four pages");
}

#[tokio::test]
async fn a_dropped_future_leaves_all_or_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let mut dropped = Vec::new();
    for _ in 0..50 {
        let create = creation(record(&store, "anna"));
        dropped.push(create.record.info.id);
        let mut future = pin!(store.create(&create, NOW));
        assert!(matches!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    // What was accepted before this write is done before it.
    let last = started(&store, "anna").await;
    let listed = sessions_of(&store, "anna").await;
    for id in dropped {
        let query = AuditQuery { session: Some(id), ..AuditQuery::default() };
        let audited = store.audit(&query, None, 10).await.unwrap().items.len();
        let lives = matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_));
        assert_eq!(usize::from(lives), audited);
        assert_eq!(lives, listed.iter().any(|info| info.id == id));
    }
    assert!(listed.iter().any(|info| info.id == last));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_on_one_new_file_lose_nothing() {
    let place = Place::new();
    let (one, two) = tokio::join!(place.open(), place.open());
    assert_eq!(one.partition_key().as_bytes(), two.partition_key().as_bytes());
    let stores = [Arc::new(one), Arc::new(two)];
    let id = started(&*stores[0], "anna").await;
    let tasks = (0..100).map(|n| {
        let store = Arc::clone(&stores[n % 2]);
        tokio::spawn(async move {
            set(&*store, id, &format!("key {n}"), "1").await.unwrap();
            let create = Create { limit: Some(Limit::evict(3)), ..creation(record(&*store, "bert")) };
            store.create(&create, NOW).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for store in &stores {
        let record = live(&**store, id).await;
        assert_eq!((record.data.len(), record.info.version), (100, 100));
        assert_eq!(sessions_of(&**store, "bert").await.len(), 3);
    }
    let log = stores[1].audit(&AuditQuery::default(), None, 1000).await.unwrap().items;
    assert_eq!(log.iter().filter(|logged| logged.entry.event == Event::Ended).count(), 97);
}

#[tokio::test]
async fn several_processes_on_one_file_lose_nothing() {
    if let Some((file, argument)) = told_as_child() {
        let (id, name) = argument.split_once(' ').unwrap();
        let store = SqliteStore::open(&file).await.unwrap();
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
    let children = ["first", "second", "third"]
        .map(|name| child("several_processes_on_one_file_lose_nothing", &place.file, &format!("{id} {name}")));
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
        let store = Arc::new(SqliteStore::open(&file).await.unwrap());
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write_until_killed(Arc::clone(&store), writer)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        return;
    }
    let place = Place::new();
    let mut child = child("what_was_answered_survives_kill_9", &place.file, "");
    let mut answered = Vec::new();
    let mut killed = false;
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    // What the pipe still holds after the kill was answered, too.
    while lines.read_line(&mut line).unwrap() > 0 {
        let answer = line.strip_prefix("answered ").and_then(|answer| answer.strip_suffix('\n')?.split_once(' '));
        answered.extend(answer.map(|(id, key)| (id.parse::<SessionId>().unwrap(), key.to_owned())));
        line.clear();
        if answered.len() >= ANSWERS && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed && !child.wait().unwrap().success());

    let store = place.open().await;
    for (id, key) in &answered {
        assert!(live(&store, *id).await.data.get(key).is_some(), "{key} of {id} was answered");
    }
    let check: String = place.sqlite().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    set(&store, answered[0].0, "afterwards", "1").await.unwrap();
}

async fn write_until_killed(store: Arc<SqliteStore>, writer: usize) {
    let id = started(&*store, &format!("user {writer}")).await;
    for n in 0.. {
        set(&*store, id, &format!("key-{n}"), "1").await.unwrap();
        // A line in one write, which no other writer's line can tear apart.
        std::io::stdout().lock().write_all(format!("\nanswered {id} key-{n}\n").as_bytes()).unwrap();
    }
}

/// Starts this test binary again to run one test, which asks [`told_as_child`].
fn child(test: &str, file: &Path, argument: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_FILE, file)
        .env(CHILD_ARGUMENT, argument)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn told_as_child() -> Option<(String, String)> {
    Some((std::env::var(CHILD_FILE).ok()?, std::env::var(CHILD_ARGUMENT).ok()?))
}

const CHILD_FILE: &str = "CLOAKROOM_TEST_CHILD_FILE";
const CHILD_ARGUMENT: &str = "CLOAKROOM_TEST_CHILD_ARGUMENT";
