//! Damage that is done by hand is found, named and repaired, and nothing that lives is lost.

use std::time::Duration;

use cloakroom::{
    Ending, Limit, Reason, Refusal, SessionId,
    rules::{Created, Loaded, Reap, Rules, Which},
    store::{Digest, Finding, Query, RedisStore, Severity},
};

use super::{
    load::{NOW, anonymous, begin, live, setting, sign_in},
    servers::{Cluster, Server, is_here},
};
use crate::common::until;

/// What is wrong before the repair. Afterwards nothing is.
async fn repaired(store: &Rules) -> Vec<Finding> {
    let found = wrong(store.examine(NOW, false).await.unwrap());
    let subjects = |findings: &[Finding]| findings.iter().map(|finding| finding.subject.clone()).collect::<Vec<_>>();
    assert_eq!(subjects(&found), subjects(&wrong(store.examine(NOW, false).await.unwrap())), "looking changes nothing");
    let mended = store.examine(NOW, true).await.unwrap();
    assert!(mended.iter().all(|finding| !finding.is_wrong()), "{mended:?}");
    // What is looked at in all stores is mended by then.
    let of_redis = |finding: &&Finding| !["users", "expiry", "sessions"].contains(&&*finding.subject);
    let found: Vec<_> = found.into_iter().filter(|finding| of_redis(&finding)).collect();
    assert_eq!(mended.iter().filter(|finding| finding.repaired).count(), found.len(), "{mended:?}");
    let after = store.examine(NOW, true).await.unwrap();
    assert!(after.iter().all(|finding| !finding.is_wrong() && !finding.repaired), "{after:?}");
    found
}

fn wrong(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(Finding::is_wrong).collect()
}

#[track_caller]
fn about<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.subject == subject).unwrap_or_else(|| panic!("{subject}: {findings:?}"))
}

/// The key of a group that a session lies in.
fn key(server: &Server, name: &str, id: SessionId) -> String {
    let session = session_key(server, id);
    format!("cloakroom:{name}:{}", &session[session.find('{').unwrap()..=session.find('}').unwrap()])
}

fn session_key(server: &Server, id: SessionId) -> String {
    server.ask(&["--scan", "--pattern", &format!("cloakroom:s:*{id}")])
}

/// A session that lapses, and was started with a key.
async fn idle(store: &Rules, user: &str, n: u8) -> SessionId {
    let mut create = sign_in(store, user);
    create.record.info.idle_timeout = Some(Duration::from_hours(1));
    create.record.idempotency = Some(Digest::from_bytes([n; Digest::LEN]));
    begin(store, create).await
}

async fn living_of(store: &Rules, user: &str) -> usize {
    store.find(&Query::of_user(user), None, 100, NOW).await.unwrap().items.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_entries_that_are_missing_are_made_anew() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let anna = idle(&store, "anna", 1).await;
    store.update(anna, &setting("a", 1), NOW).await.unwrap();
    let ben = idle(&store, "ben", 2).await;
    let cleo = begin(&store, sign_in(&store, "cleo")).await;
    let ended = begin(&store, sign_in(&store, "dora")).await;
    store.end(&Which::Ids(vec![ended]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    assert_eq!(server.ask(&["DEL", &key(&server, "index", anna)]), "1");
    assert_eq!(server.ask(&["ZREM", &key(&server, "due", anna), &anna.to_string()]), "1");
    assert_eq!(server.ask(&["HDEL", &key(&server, "seen", ben), &ben.to_string()]), "1");
    assert_eq!(server.ask(&["DEL", &key(&server, "tries", ben)]), "1");
    assert_eq!(server.ask(&["HDEL", &key(&server, "seen", cleo), &cleo.to_string()]), "1");
    assert_eq!(server.ask(&["ZREM", &key(&server, "ended", ended), &ended.to_string()]), "1");
    assert_eq!(living_of(&store, "anna").await, 0, "the index misses it");
    store.load(ben, NOW).await.unwrap_err();

    let found = repaired(&store).await;
    for (subject, ids) in [
        ("user index", vec![anna]),
        ("due index", vec![anna]),
        ("idempotency index", vec![ben]),
        ("last-seen", vec![ben, cleo]),
        ("ended sessions", vec![ended]),
    ] {
        let finding = about(&found, subject);
        assert!(finding.text.starts_with(&format!("{} ", ids.len())), "{finding:?}");
        assert!(ids.iter().all(|id| finding.text.contains(&id.to_string())), "{finding:?}");
    }
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(living_of(&store, "anna").await, 1);
    assert_eq!(live(&store, anna).await.data.get("a").unwrap().as_str(), "1");
    // The deadline told when it was used last.
    assert_eq!(live(&store, ben).await.info.last_seen_at, NOW);
    live(&store, cleo).await;
    // Limits count it, the reaper ends it, and what is over is forgotten.
    let mut another = sign_in(&store, "anna");
    another.limit = Some(Limit::refuse(1));
    let created = store.create(&another, NOW).await.unwrap();
    assert_eq!(created, Created::Refused(Refusal::LimitReached { max: 1 }));
    let later = NOW.after(Duration::from_hours(2));
    let reap = Reap { limit: 100, tombstones_before: later, audit_before: NOW };
    let mut reaped: Vec<_> = store.reap(&reap, later).await.unwrap().ended.into_iter().map(|ended| ended.id).collect();
    reaped.sort_unstable();
    let mut expected = [anna, ben];
    expected.sort_unstable();
    assert_eq!(reaped, expected);
    assert!(matches!(store.load(ended, later).await.unwrap(), Loaded::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_entries_that_lead_nowhere_are_removed() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let gone = idle(&store, "anna", 1).await;
    let kept = idle(&store, "anna", 2).await;
    let ended = begin(&store, sign_in(&store, "ben")).await;
    store.end(&Which::Ids(vec![ended]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    assert_eq!(server.ask(&["DEL", &session_key(&server, gone)]), "1");
    assert_eq!(server.ask(&["DEL", &session_key(&server, ended)]), "1");

    let found = repaired(&store).await;
    let subjects: Vec<_> = found.iter().map(|finding| &*finding.subject).collect();
    assert_eq!(subjects, ["due index", "ended sessions", "idempotency index", "last-seen", "user index"]);
    for subject in ["due index", "last-seen", "user index"] {
        assert!(about(&found, subject).text.contains(&gone.to_string()), "{found:?}");
    }
    assert_eq!(living_of(&store, "anna").await, 1);
    live(&store, kept).await;
    assert_eq!(server.ask(&["HLEN", &key(&server, "tries", kept)]), "1");
    let seen = server.ask(&["HKEYS", &key(&server, "seen", kept)]);
    assert!(seen.contains(&kept.to_string()) && !seen.contains(&gone.to_string()), "{seen}");
    for name in ["due", "index"] {
        assert_eq!(server.ask(&["ZCARD", &key(&server, name, kept)]), "1", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_or_found_is_named_and_left_alone() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let damaged = begin(&store, sign_in(&store, "anna")).await;
    server.ask(&["HSET", &session_key(&server, damaged), "h", "{"]);
    let headless = begin(&store, sign_in(&store, "ben")).await;
    server.ask(&["HDEL", &session_key(&server, headless), "h"]);
    for repair in [false, true] {
        let found = wrong(store.examine(NOW, repair).await.unwrap());
        let text = &about(&found, "sessions").text;
        assert!(text.contains(&damaged.to_string()) && text.contains(&headless.to_string()), "{found:?}");
        assert!(found.iter().all(|finding| finding.subject == "sessions"), "{found:?}");
    }

    // Another key would look for users elsewhere.
    let other = Server::start(&[]);
    drop(Rules::on(RedisStore::open(&other.address()).await.unwrap()));
    other.ask(&["HSET", "cloakroom:meta", "partition_key", "0123456789abcdef0123456789abcdef"]);
    let error = RedisStore::open(&other.address()).await.unwrap_err().to_string();
    assert!(error.contains("partition_key") && error.contains("backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_are_walked_and_repaired_while_others_work() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    for n in 0..600 {
        begin(&store, if n % 2 == 0 { anonymous() } else { sign_in(&store, "anna") }).await;
    }
    let index = {
        let anna = store.find(&Query::of_user("anna"), None, 1, NOW).await.unwrap().items[0].id;
        key(&server, "index", anna)
    };
    server.ask(&["DEL", &index]);
    let other = store.clone();
    let working = tokio::spawn(async move {
        for n in 0..200 {
            let mut create = sign_in(&other, "anna");
            create.record.info.idle_timeout = Some(Duration::from_hours(1));
            let id = begin(&other, create).await;
            other.update(id, &setting("n", n), NOW).await.unwrap();
            if n % 2 == 0 {
                other.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
            }
        }
    });
    let findings = store.examine(NOW, true).await.unwrap();
    working.await.unwrap();
    let mended: Vec<_> = findings.iter().filter(|finding| finding.repaired).collect();
    assert_eq!(mended.len(), 1, "{findings:?}");
    assert!(mended[0].text.starts_with("30") && mended[0].subject == "user index", "{mended:?}");
    assert_eq!(wrong(store.examine(NOW, false).await.unwrap()), []);
    assert_eq!(store.find(&Query::of_user("anna"), None, 1000, NOW).await.unwrap().items.len(), 400);
    let walked = about(&store.examine(NOW, false).await.unwrap(), "indexes").text.clone();
    assert!(walked.starts_with("800 sessions, open and ended"), "{walked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_settings_that_lose_or_refuse_are_told() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let look = async |store: &Rules, subject: &str| about(&store.examine(NOW, false).await.unwrap(), subject).clone();

    assert!(look(&store, "persistence").await.text.contains("Nothing is kept"));
    server.ask(&["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(look(&store, "persistence").await.severity, Severity::Note);
    server.ask(&["CONFIG", "SET", "appendfsync", "always"]);
    assert_eq!(look(&store, "persistence").await.severity, Severity::Fine);

    server.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(look(&store, "memory").await.severity, Severity::Warning);
    server.ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
    assert!(look(&store, "memory").await.is_wrong());
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert_eq!(look(&store, "memory").await.severity, Severity::Fine);

    let waiting = Rules::on(RedisStore::open(&format!("{}?wait_replicas=1", server.address())).await.unwrap());
    assert!(look(&waiting, "replicas").await.text.contains("outcome unknown"));
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    // Nothing can be written to it now, so it was opened before.
    let findings = store.examine(NOW, false).await.unwrap();
    assert!(findings.iter().any(|finding| finding.text.contains("refuses all changes")), "{findings:?}");
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);

    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    until(|| server.ask(&["INFO", "replication"]).contains("state=online"));
    assert_eq!(look(&waiting, "replicas").await.severity, Severity::Fine);
    assert!(look(&store, "replicas").await.text.contains("wait_replicas=1"));
    drop(replica);

    // One who may not ask for settings is told so, and everything else.
    let rights = ["+@read", "+@write", "+@scripting", "+@connection", "+info", "+time", "+wait", "-config"];
    let user = ["ACL", "SETUSER", "anna", "on", ">pw", "~cloakroom:*"];
    assert_eq!(server.ask(&[&user[..], &rights[..]].concat()), "OK");
    let limited = format!("redis://anna:pw@127.0.0.1:{}", server.port);
    let limited = Rules::on(RedisStore::open(&limited).await.unwrap());
    assert_eq!(look(&limited, "settings").await.severity, Severity::Note);
    assert_eq!(look(&limited, "persistence").await.severity, Severity::Fine);
    assert_eq!(look(&limited, "indexes").await.severity, Severity::Fine);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_of_a_cluster_is_looked_at() {
    if !is_here() {
        return;
    }
    let mut cluster = Cluster::start();
    let address = format!("{}&wait_replicas=1", cluster.address());
    let store = Rules::on(RedisStore::open(&address).await.unwrap());
    let mut ids = Vec::new();
    for n in 0..40_u8 {
        ids.push(idle(&store, &format!("user {n}"), n).await);
    }
    let findings = store.examine(NOW, true).await.unwrap();
    assert!(findings.iter().all(|finding| !finding.is_wrong() && !finding.repaired), "{findings:?}");
    for subject in ["version", "cluster", "replicas"] {
        assert_eq!(findings.iter().filter(|finding| finding.subject == subject).count(), 3, "{findings:?}");
    }
    assert!(about(&findings, "indexes").text.starts_with("40 "), "{findings:?}");

    // Each primary loses one session's place.
    let mut lost = 0;
    for number in cluster.primaries() {
        let server = &cluster.servers[number];
        let index = server.ask(&["--scan", "--pattern", "cloakroom:index:*"]).lines().next().unwrap().to_owned();
        lost += server.ask(&["ZCARD", &index]).parse::<usize>().unwrap();
        server.ask(&["DEL", &index]);
    }
    let found = repaired(&store).await;
    let missing = about(&found, "user index");
    assert!(missing.text.starts_with(&format!("{lost} sessions are not in it")), "{found:?}");
    for id in ids {
        live(&store, id).await;
    }

    // A replica is missing from now on.
    let primaries = cluster.primaries();
    let replica = (0..6).find(|number| !primaries.contains(number)).unwrap();
    cluster.servers[replica].kill();
    until(|| {
        primaries
            .iter()
            .any(|primary| cluster.servers[*primary].ask(&["INFO", "replication"]).contains("connected_slaves:0"))
    });
    let findings = store.examine(NOW, false).await.unwrap();
    let finding = findings.iter().find(|finding| finding.is_wrong()).unwrap();
    assert!(
        finding.subject == "replicas" && finding.text.contains("wait_replicas is 1 and 0 are connected"),
        "{finding:?}"
    );
}
