//! PostgreSQL and MariaDB beyond the conformance suite: round trips, plans, many nodes, and faults under load.

mod connections;
mod cost;
mod doctor;
#[cfg(feature = "tls")]
mod encrypted;
mod load;
mod mariadb_settings;
mod opening;
mod pgbouncer;
mod plans;
mod postgres_log;
mod postgres_settings;
mod private;
mod together;

use std::{
    env,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use cloakroom::{
    Change, Clock, Ending, Error, Found, Json, Limit, Reason, Record, SessionId, SessionInfo, Sessions, SignIn,
    Timestamp, Token,
    clock::SystemClock,
    record::Authentication,
    rules::{Create, Created, Fence, Loaded, Reap, Rotated, Rotation, Rules, Touch, Updated, Which},
    store::{self, AuditQuery, MysqlStore, PostgresStore, PutUser, Query, Secrets},
};
use connections::connections_that_were_dropped_in_silence_cost_seconds;
use cost::i9_calls_cost_hardly_more_than_a_blob;
use doctor::{
    a_sound_database_is_found_so, a_table_that_was_changed_is_named_and_left_alone,
    an_account_with_few_rights_gets_notes, i4_rows_that_do_not_fit_together_are_mended,
    indexes_and_routines_that_are_gone_are_made_anew, it_is_repaired_while_others_work,
    settings_that_lose_or_refuse_are_told,
};
use load::Load;
use opening::{a_newer_schema_is_refused, many_nodes_open_a_new_store_at_once};
use private::{Kind, PrivateServer};
use sqlx::{Connection, MySqlConnection};

use crate::common::{again, eventually, is_there, proxy::Proxy, service, with_parameter};

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

/// A test of both servers.
macro_rules! on_both {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        mod postgres {
            $($(#[doc = $doc])+ #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() { if super::is_here(super::Kind::Postgres) { super::$name(super::Kind::Postgres).await } })+
        }
        mod mariadb {
            $($(#[doc = $doc])+ #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() { if super::is_here(super::Kind::MariaDb) { super::$name(super::Kind::MariaDb).await } })+
        }
    };
}

on_both! {
    /// Every call is one exchange with the server, once its statement is prepared.
    i9_each_call_is_one_round_trip;
    /// Nodes that start together make the tables once.
    many_nodes_open_a_new_store_at_once;
    /// What a newer program made is left alone.
    a_newer_schema_is_refused;
    /// The server's clock is told whatever time zone it is in.
    i5_the_servers_clock_is_told;
    /// With limit three, sign-ins through four processes leave three.
    i3_sign_ins_from_four_processes_leave_exactly_the_limit;
    /// An entry that is committed late is not missed.
    i16_a_reader_misses_no_late_entry;
    /// Connections that are cut all the time lose and repeat nothing.
    cut_connections_lose_and_repeat_nothing;
    /// Nor where many write to one session at the same time.
    i1_many_writers_of_one_session_repeat_nothing_when_connections_are_cut;
    /// A call whose answer is lost is not carried out twice.
    i1_a_lost_answer_is_asked_for_again;
    /// After kill -9 all acknowledged writes are there, and the store works again.
    a_killed_server_keeps_what_it_acknowledged;
    /// A server that stands still is an error, never an empty session.
    i13_a_server_that_stands_still_is_an_error;
    /// More callers than connections wait for their turn.
    callers_beyond_the_servers_connections_wait;
    /// Batches of many ids in any order do not deadlock.
    batches_in_any_order_do_not_deadlock;
    /// Doctor finds nothing where there is nothing.
    a_sound_database_is_found_so;
    /// Rows that do not fit together are found and mended; nothing alive is lost.
    i4_rows_that_do_not_fit_together_are_mended;
    /// Indexes and routines are made anew.
    indexes_and_routines_that_are_gone_are_made_anew;
    /// What cannot be made anew is named.
    a_table_that_was_changed_is_named_and_left_alone;
    /// Settings that lose what was answered, or refuse to take it.
    settings_that_lose_or_refuse_are_told;
    /// What an account may not look at is a note.
    an_account_with_few_rights_gets_notes;
    /// Repairs disturb nobody.
    it_is_repaired_while_others_work;
    /// The clock of a node is compared with the server's.
    i5_a_node_whose_clock_is_off_knows_it;
    /// Calls cost the server little more than those on a blob.
    i9_calls_cost_hardly_more_than_a_blob;
    /// Connections that something on the way has forgotten, which nothing says.
    connections_that_were_dropped_in_silence_cost_seconds;
}

fn variable(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "CLOAKROOM_TEST_POSTGRES_URL",
        Kind::MariaDb => "CLOAKROOM_TEST_MARIADB_URL",
    }
}

fn is_here(kind: Kind) -> bool {
    is_there(variable(kind))
}

/// A place of this test's own on the server that all share.
fn address(kind: Kind) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() % 1_000_000_000;
    place(kind, &service(variable(kind)), &format!("t{random}_{}_{number}", std::process::id()))
}

fn place(kind: Kind, server: &str, name: &str) -> String {
    let parameter = if kind == Kind::Postgres { "schema" } else { "prefix" };
    with_parameter(server, parameter, name)
}

/// The address with another host and port in it.
fn through(address: &str, host: &str) -> String {
    let (before, after) = address.split_once('@').unwrap();
    let path = after.split_once('/').unwrap().1;
    format!("{before}@{host}/{path}")
}

fn host_of(address: &str) -> String {
    address.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned()
}

fn private_address(kind: Kind, server: &PrivateServer) -> String {
    match kind {
        Kind::Postgres => format!("postgres://cloakroom@{}/postgres", server.host()),
        Kind::MariaDb => format!("mysql://cloakroom:cloakroom@{}/cloakroom", server.host()),
    }
}

/// As SQL writes bytes.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A server of the test's own, and a store on it. Where its programs are not installed the test is skipped.
async fn private(kind: Kind, settings: &[&str]) -> Option<(PrivateServer, Rules)> {
    let server = PrivateServer::start(kind, settings)?;
    let address = private_address(kind, &server);
    let store = eventually(|| async { store::open(&address).await.ok() }).await;
    Some((server, Rules::new(store)))
}

fn start(store: &Rules, user: &str) -> (Token, Create) {
    let token = Token::generate(SessionId::generate(store.partition_key().partition_of(user)).unwrap()).unwrap();
    (token.clone(), create(&token, Some(user)))
}

fn create(token: &Token, user: Option<&str>) -> Create {
    let info = SessionInfo {
        user: user.map(Into::into),
        idle_timeout: Some(Duration::from_hours(1)),
        authentication: user.map(|_| Authentication::at(NOW)),
        ..SessionInfo::new(token.id(), NOW)
    };
    let record = Record::new(info, Secrets::new(token.digest(), NOW));
    Create { record, limit: None, replaces: None, by: None, note: None }
}

async fn begin(store: &Rules, user: &str) -> SessionId {
    let (token, create) = start(store, user);
    assert!(matches!(store.create(&create, NOW).await.unwrap(), Created::Created { .. }));
    token.id()
}

fn set(key: &str, text: &str) -> Change {
    let mut change = Change::new(64 * 1024);
    change.set(key, Json::from_text(text).unwrap());
    change
}

async fn i9_each_call_is_one_round_trip(kind: Kind) {
    let address = address(kind);
    let proxy = Proxy::start(host_of(&address)).await;
    let address = with_parameter(&through(&address, &proxy.address.to_string()), "max_connections", "1");
    let store = Rules::new(store::open(&address).await.unwrap());
    let reap = Reap { limit: 10, tombstones_before: at(-1), audit_before: at(-1) };
    // The first rounds prepare the statements: the second finds settings of the user that the first left.
    for round in 0..3 {
        let mut calls: Vec<(&str, usize)> = Vec::new();
        let mut before = proxy.exchanges();
        let mut count = |call| {
            let now = proxy.exchanges();
            calls.push((call, now - before));
            before = now;
        };
        let (token, create) = start(&store, "anna");
        let (other, mut evicting) = start(&store, "anna");
        let id = token.id();
        evicting.limit = Some(Limit::evict(1));
        store.create(&create, NOW).await.unwrap();
        count("create");
        store.load(id, NOW).await.unwrap();
        count("load");
        store.update(id, &set("a", "1"), NOW).await.unwrap();
        count("update");
        store.touch(&[Touch { id, seen_at: at(1), grace_ends: None }], at(1)).await.unwrap();
        count("touch");
        let rotation = Rotation {
            presented: token.digest(),
            successor: Token::generate(id).unwrap().digest(),
            grace: Duration::from_secs(30),
            at_once: false,
            by: None,
        };
        assert!(matches!(store.rotate(id, &rotation, at(2)).await.unwrap(), Rotated::Rotated(_)));
        count("rotate");
        store.lock(id, Duration::from_secs(9), at(2)).await.unwrap();
        count("lock");
        assert!(store.renew(id, 1, Duration::from_secs(9), at(3)).await.unwrap());
        count("renew");
        assert!(store.unlock(id, 1, at(3)).await.unwrap());
        count("unlock");
        let Created::Created { ended } = store.create(&evicting, at(3)).await.unwrap() else { panic!("refused") };
        assert_eq!(ended.len(), 1);
        count("create, evicting one");
        store.find(&Query::of_user("anna"), None, 10, at(3)).await.unwrap();
        count("find");
        store.find(&Query::default(), None, 10, at(3)).await.unwrap();
        count("find anywhere");
        store.end(&Which::Ids(vec![other.id()]), &Reason::SignedOut.into(), at(3)).await.unwrap();
        count("end");
        let all = Which::OfUser { user: "bert".into(), except: Vec::new(), fence: Fence::EndedBefore };
        store.end(&all, &Reason::SignedOut.into(), at(3)).await.unwrap();
        count("end of user");
        store.enable_user("anna", at(3)).await.unwrap();
        count("enable_user");
        store.reap(&reap, at(3)).await.unwrap();
        count("reap");
        let put = PutUser { user: "anna".into(), was: None, settings: Some("{}".into()), last_sign_in: None };
        store.put_user(&put).await.unwrap();
        count("put_user");
        store.user("anna").await.unwrap();
        count("user");
        store.users(None, 10).await.unwrap();
        count("users");
        store.ping().await.unwrap();
        count("ping");
        let is_too_much = |(call, exchanges): &(&str, usize)| *exchanges > most_exchanges(kind, call);
        assert!(round < 2 || !calls.iter().any(is_too_much), "{kind:?}: {calls:?}");
    }
}

/// A store of slots looks before it writes what depends on more than one session.
fn most_exchanges(kind: Kind, call: &str) -> usize {
    match call {
        // What is no common transaction is read and locked in one exchange, and written in another.
        "create, evicting one" if kind == Kind::MariaDb => 3,
        "put_user" if kind == Kind::MariaDb => 2,
        "end of user" if kind == Kind::MariaDb => 7,
        // The guess that nothing is settled about the user was wrong.
        "create" | "reap" => 3,
        "rotate" | "lock" | "renew" | "unlock" | "end" | "create, evicting one" => 2,
        "end of user" => 5,
        _ => 1,
    }
}

async fn i5_a_node_whose_clock_is_off_knows_it(kind: Kind) {
    #[derive(Clone, Copy, Debug)]
    struct Shifted(i64);
    impl Clock for Shifted {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(SystemClock.now().as_millis() + self.0)
        }
    }
    let store = Rules::new(store::open(&address(kind)).await.unwrap());
    for (shift, too_large) in [(0, false), (60_000, true), (-60_000, true)] {
        let node = Sessions::builder(Arc::clone(store.store())).clock(Shifted(shift)).without_upkeep().build().unwrap();
        assert_eq!(node.clock_offset(), None);
        node.measure_clock_offset().await.unwrap();
        let offset = node.clock_offset().unwrap();
        assert_eq!(offset.is_too_large(), too_large, "{offset}");
        let error = i64::try_from(offset.error().as_millis()).unwrap();
        assert!((offset.ahead_millis() - shift).abs() <= error + 1, "{offset}");
    }

    // Of two nodes, the one whose clock is a minute ahead does not end what lives on the other.
    let [right, ahead] = [0, 60_000].map(|shift| {
        Sessions::builder(Arc::clone(store.store())).clock(Shifted(shift)).without_upkeep().build().unwrap()
    });
    let sign_in = SignIn::new("anna").idle_timeout(Duration::from_secs(55));
    let token = right.start(sign_in).await.unwrap().token;
    assert_eq!(ahead.reap().await.unwrap(), 0);
    assert!(matches!(right.resume(&token).await.unwrap(), Found::Live(_)));
}

async fn i5_the_servers_clock_is_told(kind: Kind) {
    let store = Rules::new(store::open(&address(kind)).await.unwrap());
    let before = Timestamp::from(SystemTime::now());
    let server = store.ping().await.unwrap().unwrap();
    // The server is on this machine.
    assert!(
        before <= server.after(Duration::from_millis(2)) && server.since(before) < Duration::from_mins(1),
        "{server}"
    );
}

async fn i3_sign_ins_from_four_processes_leave_exactly_the_limit(kind: Kind) {
    if let Ok(address) = env::var("CLOAKROOM_TEST_SIGN_INS") {
        let store = Rules::new(store::open(&address).await.unwrap());
        let mut tasks = Vec::new();
        for n in 0..25_i64 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let (_, mut create) = start(&store, "anna");
                create.limit = Some(Limit::evict(3));
                create.record.info.last_seen_at = at(n);
                sign_in(&store, &create, at(n)).await;
                let (_, mut create) = start(&store, "bert");
                create.limit = Some(Limit::refuse(3));
                sign_in(&store, &create, at(n)).await;
                let living = store.find(&Query::of_user("anna"), None, 100, at(n)).await.unwrap().items.len();
                assert!(living <= 3, "{living} sessions at once");
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        return;
    }
    let address = address(kind);
    let store = Rules::new(store::open(&address).await.unwrap());
    let module = match kind {
        Kind::Postgres => concat!(module_path!(), "::postgres"),
        Kind::MariaDb => concat!(module_path!(), "::mariadb"),
    };
    let processes: Vec<_> = (0..4)
        .map(|_| {
            let mut process = again(module, "i3_sign_ins_from_four_processes_leave_exactly_the_limit");
            process.env("CLOAKROOM_TEST_SIGN_INS", &address).stdout(Stdio::null());
            process.spawn().unwrap()
        })
        .collect();
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    for user in ["anna", "bert"] {
        assert_eq!(store.find(&Query::of_user(user), None, 100, at(30)).await.unwrap().items.len(), 3, "{user}");
    }
}

/// On a busy machine one may have to wait too long; that is an error, and no session too many.
async fn sign_in(store: &Rules, create: &Create, now: Timestamp) {
    let created = store.create(create, now).await;
    assert!(created.as_ref().map_or_else(Error::is_retryable, |_| true), "{created:?}");
}

async fn i16_a_reader_misses_no_late_entry(kind: Kind) {
    let store = Rules::new(store::open(&address(kind)).await.unwrap());
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..40 {
                    begin(&store, &format!("user {writer} {n}")).await;
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let is_over = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let page = store.audit(&AuditQuery::default(), cursor.as_ref(), 7).await.unwrap();
        cursor = page.items.last().map(|last| last.cursor.clone()).or(cursor);
        let is_empty = page.items.is_empty();
        seen.extend(page.items.into_iter().map(|logged| logged.entry.session));
        if is_over && is_empty {
            break;
        }
    }
    assert_eq!(seen.len(), 320);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 320, "each once");
}

async fn cut_connections_lose_and_repeat_nothing(kind: Kind) {
    let address = address(kind);
    let proxy = Proxy::start(host_of(&address)).await;
    let store = Rules::new(store::open(&through(&address, &proxy.address.to_string())).await.unwrap());
    let load = Load::start(&store, 8).await;
    for cuts in 1..=6 {
        load.reaches(cuts * 40).await;
        proxy.cut_all();
    }
    load.reaches(300).await;
    load.stop().await.assert_kept(&store).await;
}

async fn i1_many_writers_of_one_session_repeat_nothing_when_connections_are_cut(kind: Kind) {
    let address = address(kind);
    let proxy = Proxy::start(host_of(&address)).await;
    let store = Rules::new(store::open(&through(&address, &proxy.address.to_string())).await.unwrap());
    let load = Load::start_on_one(&store, 8).await;
    for cuts in 1..=75 {
        load.reaches(cuts * 6).await;
        proxy.cut_all();
    }
    load.stop().await.assert_kept_by_one(&store).await;
}

async fn i1_a_lost_answer_is_asked_for_again(kind: Kind) {
    let address = address(kind);
    let proxy = Proxy::start(host_of(&address)).await;
    let store = Rules::new(store::open(&through(&address, &proxy.address.to_string())).await.unwrap());
    // Prepares the statements, so that the next exchange is the call itself.
    let warm = begin(&store, "warm").await;
    store.update(warm, &set("a", "1"), NOW).await.unwrap();

    let (token, mut create) = start(&store, "anna");
    create.limit = Some(Limit::evict(1));
    proxy.cut_next_answer();
    assert_eq!(store.create(&create, NOW).await.unwrap(), Created::Created { ended: Vec::new() });
    store.update(warm, &set("a", "2"), NOW).await.unwrap();
    proxy.cut_next_answer();
    let Updated::Applied(record) = store.update(token.id(), &set("a", "1"), NOW).await.unwrap() else { panic!() };
    assert_eq!((record.info.version, record.data.len()), (1, 1));
    let log = store.audit(&AuditQuery { session: Some(token.id()), user: None }, None, 10).await.unwrap();
    assert_eq!(log.items.len(), 1, "started once");
}

async fn a_killed_server_keeps_what_it_acknowledged(kind: Kind) {
    let durable: &[&str] = match kind {
        Kind::Postgres => &["fsync=on", "synchronous_commit=on"],
        Kind::MariaDb => &["innodb-flush-log-at-trx-commit=1"],
    };
    let Some((mut server, store)) = private(kind, durable).await else { return };
    let load = Load::start(&store, 8).await;
    load.reaches(50).await;
    server.kill();
    server.restart();
    let at_restart = load.acknowledged();
    load.reaches(at_restart + 50).await;
    load.stop().await.assert_kept(&store).await;
}

async fn i13_a_server_that_stands_still_is_an_error(kind: Kind) {
    let Some((server, store)) = private(kind, &[]).await else { return };
    let id = begin(&store, "anna").await;
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    server.signal("STOP");
    let started = Instant::now();
    let (loaded, updated) = tokio::join!(store.load(id, NOW), async { store.update(id, &set("b", "2"), NOW).await });
    assert!(matches!(&loaded, Err(Error::Unavailable { .. })), "{loaded:?}");
    assert!(matches!(&updated, Err(Error::OutcomeUnknown { .. } | Error::Unavailable { .. })), "{updated:?}");
    assert!(started.elapsed() < Duration::from_mins(1), "{:?}", started.elapsed());
    server.signal("CONT");
    let record = eventually(|| async {
        match store.load(id, NOW).await {
            Ok(Loaded::Live(record)) => Some(record),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    })
    .await;
    assert_eq!(record.data.get("a").unwrap().as_str(), "1");
}

async fn callers_beyond_the_servers_connections_wait(kind: Kind) {
    let few: &[&str] = match kind {
        Kind::Postgres => &["max_connections=8", "superuser_reserved_connections=0"],
        // Fewer than ten it does not take: the test holds three of them itself.
        Kind::MariaDb => &["max-connections=10"],
    };
    let Some((server, store)) = private(kind, few).await else { return };
    let _others = others(kind, &server).await;
    // The store may open ten connections, more than the server has.
    let load = Load::start(&store, 40).await;
    load.reaches(200).await;
    load.stop().await.assert_kept(&store).await;
}

/// Three connections of somebody else, where the server cannot be told to have fewer.
async fn others(kind: Kind, server: &PrivateServer) -> Vec<MySqlConnection> {
    let mut others = Vec::new();
    if kind == Kind::MariaDb {
        for _ in 0..3 {
            others.push(MySqlConnection::connect(&private_address(kind, server)).await.unwrap());
        }
    }
    others
}

async fn batches_in_any_order_do_not_deadlock(kind: Kind) {
    let store = Rules::new(store::open(&address(kind)).await.unwrap());
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(begin(&store, "anna").await);
    }
    let mut tasks = Vec::new();
    for n in 0..8_usize {
        let (store, mut ids) = (store.clone(), ids.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..10_i64 {
                let by = (7 * n + 3) % ids.len();
                ids.rotate_left(by);
                let seen_at = at(round);
                let touches: Vec<_> = ids.iter().map(|id| Touch { id: *id, seen_at, grace_ends: None }).collect();
                store.touch(&touches, seen_at).await.unwrap();
                let (_, mut create) = start(&store, "anna");
                create.limit = Some(Limit::evict(38));
                store.create(&create, seen_at).await.unwrap();
                store.end(&Which::Ids(ids[..2].to_vec()), &Ending::new(Reason::SignedOut), seen_at).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(store.find(&Query::of_user("anna"), None, 100, at(10)).await.unwrap().items.len() <= 38);
}

#[tokio::test]
async fn postgresql_session_on_a_pool_that_the_application_lends() {
    if !is_here(Kind::Postgres) || !is_here(Kind::MariaDb) {
        return;
    }
    let address = address(Kind::Postgres);
    let (url, schema) = address.split_once("?schema=").unwrap();
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    let store = Rules::on(PostgresStore::from_pool_in(pool.clone(), schema).await.unwrap());
    let id = begin(&store, "anna").await;
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));
    pool.close().await;
    assert!(matches!(store.load(id, NOW).await, Err(Error::Unavailable { .. })), "it closed its pool");

    let address = self::address(Kind::MariaDb);
    let (url, prefix) = address.split_once("?prefix=").unwrap();
    let pool = sqlx::MySqlPool::connect(url).await.unwrap();
    let store = Rules::on(MysqlStore::from_pool_in(pool, prefix).await.unwrap());
    let id = begin(&store, "anna").await;
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_refused() {
    for (address, told) in [
        ("postgres://localhost/sessions?schema=My-Schema", "My-Schema"),
        ("postgres://localhost/sessions?schema=pg_catalog", "pg_catalog"),
        ("postgres://localhost/sessions?max_connections=0", "max_connections=0"),
        ("mysql://localhost/sessions?prefix=1st", "1st"),
        ("postgres://user:secret@host:port/sessions", "PostgreSQL"),
    ] {
        let error = store::open(address).await.unwrap_err();
        assert!(matches!(&error, Error::StoreUrl(message) if message.contains(told)), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let nobody = store::open("postgres://127.0.0.1:1/sessions").await.unwrap_err();
    assert!(matches!(nobody, Error::Unavailable { .. }), "{nobody}");
}
