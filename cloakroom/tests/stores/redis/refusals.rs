//! Servers that were emptied, or refuse: nothing is answered that is not so, and the cause is named at once.

use std::{
    fs,
    time::{Duration, Instant},
};

use cloakroom::{
    Ending, Error, Reason, Refusal,
    rules::{Created, EndAnswer, Fence, Loaded, Rules, Updated, Which},
    store::{PutUser, RedisStore, Store},
};

use super::{
    load::{NOW, anonymous, begin, live, setting, sign_in},
    servers::{Cluster, Server, is_here},
};
use crate::common::until;

fn of_user(user: &str, fence: Fence) -> Which {
    Which::OfUser { user: user.into(), except: vec![], fence }
}

fn signed_out() -> Ending {
    Ending::new(Reason::SignedOut)
}

/// Every call is refused for this cause.
async fn is_refused_everywhere(store: &Rules, id: cloakroom::SessionId, cause: &str) {
    let refused = |what: &str, error: Error| {
        let right = matches!(&error, Error::Unavailable { message, .. } if message.contains(cause));
        assert!(right, "{what}: {error:?}");
    };
    refused("load", store.load(id, NOW).await.unwrap_err());
    refused("update", store.update(id, &setting("a", 1), NOW).await.unwrap_err());
    refused("a sign-in", store.create(&sign_in(store, "anna"), NOW).await.unwrap_err());
    refused("a visitor", store.create(&anonymous(), NOW).await.unwrap_err());
    refused("an ending", store.end(&Which::Ids(vec![id]), &signed_out(), NOW).await.unwrap_err());
    refused("disabling", store.end(&of_user("anna", Fence::Disabled), &signed_out(), NOW).await.unwrap_err());
    refused("a list", store.find(&cloakroom::store::Query::of_user("anna"), None, 10, NOW).await.unwrap_err());
    refused("ping", store.ping().await.unwrap_err());
}

/// The address with so much time for a call that what is said within a minute was said at once.
fn unhurried(address: &str) -> String {
    format!("{address}?timeout_ms=180000")
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_an_emptied_server_is_refused_by_every_node_until_it_is_opened_anew() {
    if !is_here() {
        return;
    }
    for emptying in ["FLUSHALL", "FLUSHDB"] {
        let server = Server::start(&[]);
        let (one, other) = (
            Rules::on(RedisStore::open(&server.address()).await.unwrap()),
            Rules::on(RedisStore::open(&server.address()).await.unwrap()),
        );
        let id = begin(&one, sign_in(&one, "anna")).await;
        one.end(&of_user("ben", Fence::Disabled), &signed_out(), NOW).await.unwrap();
        assert_eq!(server.ask(&[emptying]), "OK");
        is_refused_everywhere(&one, id, "emptied").await;
        is_refused_everywhere(&other, id, "emptied").await;
        assert_eq!(server.ask(&["DBSIZE"]), "0", "nothing was half-written");

        // Opened anew it is another store, and those who knew the old one still do not write into it.
        let anew = Rules::on(RedisStore::open(&server.address()).await.unwrap());
        let begun = begin(&anew, sign_in(&anew, "anna")).await;
        is_refused_everywhere(&other, begun, "emptied").await;
        live(&anew, begun).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_server_of_a_cluster_that_was_emptied_is_refused_until_an_operator_accepts_the_loss() {
    if !is_here() {
        return;
    }
    let cluster = Cluster::start();
    let store = Rules::on(RedisStore::open(&cluster.address()).await.unwrap());
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(begin(&store, sign_in(&store, &format!("user {n}"))).await);
    }
    let emptied = &cluster.servers[cluster.primaries()[1]];
    assert_eq!(emptied.ask(&["FLUSHALL"]), "OK");
    let (mut lost, mut kept) = (0, 0);
    for id in &ids {
        match store.load(*id, NOW).await {
            Ok(Loaded::Live(_)) => kept += 1,
            Err(Error::Unavailable { message, .. }) if message.contains("emptied") => lost += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 0 && kept > 0, "{lost} {kept}");
    store.ping().await.unwrap_err();
    // The programs that are started now refuse as well.
    let later = RedisStore::open(&cluster.address()).await;
    if let Ok(later) = later {
        later.ping().await.unwrap_err();
        let findings = later.examine(NOW, true).await.unwrap();
        assert!(findings.iter().any(|finding| finding.subject == "store" && finding.repaired), "{findings:?}");
        later.ping().await.unwrap();
        store.ping().await.unwrap();
        begin(&store, sign_in(&store, "anna")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_ping_tells_whether_changes_can_be_made_and_what_stands_against_it() {
    if !is_here() {
        return;
    }
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let store = Rules::on(RedisStore::open(&unhurried(&server.address())).await.unwrap());
    let id = begin(&store, sign_in(&store, "anna")).await;
    let because = async |cause: &str| {
        let begun = Instant::now();
        let error = store.ping().await.unwrap_err();
        assert!(error.to_string().contains(cause), "{cause}: {error}");
        assert!(begun.elapsed() < Duration::from_mins(1), "{cause}: it is said at once, not when the time is up");
        let findings = store.examine(NOW, false).await.unwrap();
        let finding = findings.iter().find(|finding| finding.subject == "writes").unwrap();
        assert!(finding.is_wrong() && finding.text.contains(cause), "{cause}: {finding:?}");
    };
    let works = async || {
        assert!(store.ping().await.unwrap().is_some());
        assert!(matches!(store.update(id, &setting("a", 1), NOW).await.unwrap(), Updated::Applied(_)));
    };
    works().await;

    server.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
    because("maxmemory").await;
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    works().await;

    // A snapshot that cannot take its place.
    fs::create_dir_all(server.directory().join("dump.rdb/taken")).unwrap();
    server.ask(&["CONFIG", "SET", "save", "1000 1"]);
    server.ask(&["BGSAVE"]);
    until(|| server.ask(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err"));
    because("disk").await;
    server.ask(&["CONFIG", "SET", "save", ""]);
    works().await;

    let other = Server::start(&[]);
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    because("replicas").await;
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    works().await;

    // A failover that passed it over, and one back: nothing keeps a connection to what was.
    other.ask(&["REPLICAOF", "127.0.0.1", &server.port.to_string()]);
    until(|| other.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    server.ask(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    other.ask(&["REPLICAOF", "NO", "ONE"]);
    until(|| server.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    because("replica").await;
    let begun = Instant::now();
    let error = store.update(id, &setting("a", 2), NOW).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { message, .. } if message.contains("primary")), "{error:?}");
    assert!(begun.elapsed() < Duration::from_mins(1), "it is said at once, not when the time is up");
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    works().await;

    let rights = ["on", ">pw", "~cloakroom:*", "+@read", "+@write", "+@connection", "+info", "+time", "-@scripting"];
    server.ask(&[&["ACL", "SETUSER", "anna"], &rights[..]].concat());
    let limited = format!("redis://anna:pw@127.0.0.1:{}", server.port);
    let error = Rules::on(RedisStore::open(&limited).await.unwrap()).ping().await.unwrap_err().to_string();
    assert!(error.contains("permit") && error.contains("ACL") && !error.contains("password"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_on_a_full_server_sessions_end_and_users_are_disabled_and_deleted() {
    if !is_here() {
        return;
    }
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(begin(&store, sign_in(&store, "anna")).await);
    }
    let put = |was: Option<&str>, settings: Option<&str>| PutUser {
        user: "ben".into(),
        was: was.map(Into::into),
        settings: settings.map(Into::into),
        last_sign_in: None,
    };
    assert!(store.put_user(&put(None, Some("{}"))).await.unwrap());
    server.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
    store.create(&sign_in(&store, "carl"), NOW).await.unwrap_err();

    store.end(&Which::Ids(vec![ids[0]]), &signed_out(), NOW).await.unwrap();
    let ended = store.end(&of_user("anna", Fence::Disabled), &signed_out(), NOW).await.unwrap();
    assert_eq!(ended.len(), 2, "{ended:?}");
    for id in ids {
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
    }
    assert!(store.put_user(&put(Some("{}"), None)).await.unwrap());
    assert!(store.user("ben").await.unwrap().is_none());
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    let refused = store.create(&sign_in(&store, "anna"), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_can_be_opened_and_read_and_refuses_changes_at_once() {
    if !is_here() {
        return;
    }
    let primary = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&primary.address()).await.unwrap());
    let id = begin(&store, sign_in(&store, "anna")).await;
    let replica = Server::start(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    until(|| replica.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    let reading = Rules::on(RedisStore::open(&replica.address()).await.unwrap());
    assert_eq!(live(&reading, id).await.info.user.as_deref(), Some("anna"));
    let page = reading.find(&cloakroom::store::Query::of_user("anna"), None, 10, NOW).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let error = reading.update(id, &setting("a", 1), NOW).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { message, .. } if message.contains("replica")), "{error:?}");

    // One that holds no store yet cannot be made into one, and says why.
    let empty = Server::start(&["--replicaof", "127.0.0.1", &Server::start(&[]).port.to_string()]);
    let begun = Instant::now();
    let error = RedisStore::open(&unhurried(&empty.address())).await.unwrap_err().to_string();
    assert!(error.contains("replica"), "{error}");
    assert!(begun.elapsed() < Duration::from_mins(1), "it was said at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_to_a_connection_is_shown_at_once() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    assert_eq!(server.ask(&["CONFIG", "SET", "requirepass", "hunter2"]), "OK");
    let opened = async |address: String| {
        let begun = Instant::now();
        let error = RedisStore::open(&unhurried(&address)).await.unwrap_err().to_string();
        assert!(begun.elapsed() < Duration::from_mins(1), "it was said at once: {error}");
        assert!(!error.contains("hunter2"), "{error}");
        error
    };
    let place = format!("127.0.0.1:{}", server.port);
    for path in ["", "/1"] {
        let error = opened(format!("redis://{place}{path}")).await;
        assert!(error.contains("password") && error.contains("Authentication required"), "{error}");
    }
    let error = opened(format!("redis://:wrong@{place}/1")).await;
    assert!(error.contains("password"), "{error}");
    let error = opened(format!("redis://:hunter2@{place}/16")).await;
    assert!(error.contains("no database of the number"), "{error}");
    let user = ["--pass", "hunter2", "--no-auth-warning", "ACL", "SETUSER", "anna", "on", ">pw", "~other:*", "+@all"];
    server.ask(&user);
    let error = opened(format!("redis://anna:pw@{place}")).await;
    assert!(error.contains("permit") && error.contains("ACL") && !error.contains("password"), "{error}");
    Rules::on(RedisStore::open(&format!("redis://:hunter2@{place}/15")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_an_ending_that_was_sent_twice_answers_what_it_ended() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&format!("{}?timeout_ms=10000", server.address())).await.unwrap());
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(begin(&store, sign_in(&store, "anna")).await);
    }
    // The server goes silent for longer than a try may take, and then does what was sent on both connections.
    let (ending, patient) = (store.clone(), ids.clone());
    server.signal("STOP");
    let ended = tokio::spawn(async move { ending.end(&Which::Ids(patient), &signed_out(), NOW).await });
    tokio::time::sleep(Duration::from_millis(5500)).await;
    server.signal("CONT");
    let ended = ended.await.unwrap().unwrap();
    assert_eq!(ended.len(), ids.len());
    assert!(ended.iter().all(|answer| matches!(answer, EndAnswer::EndedNow(_))), "{ended:?}");
}
