//! A primary that fails and whose replica sentinels put in its place.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use cloakroom::{Error, rules::Rules, store::RedisStore};
use needs::Port;
use tempfile::TempDir;

use super::{
    load::{Load, settle},
    servers::{Server, ask, is_here},
};
use crate::common::until;

/// Three sentinels that watch one primary.
struct Sentinels {
    ports: Vec<u16>,
    _ports: Vec<Port>,
    processes: Vec<Child>,
    _directory: TempDir,
}

impl Sentinels {
    fn watch(primary: &Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let taken: Vec<_> = (0..3).map(|_| Port::take().unwrap()).collect();
        let ports: Vec<_> = taken.iter().map(Port::number).collect();
        let mut processes = Vec::new();
        for port in &ports {
            let file = directory.path().join(format!("{port}.conf"));
            let watched = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor shop.primary 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds shop.primary 1000\nsentinel failover-timeout shop.primary 5000\n",
                primary.port
            );
            fs::write(&file, watched).unwrap();
            let mut sentinel = Command::new("redis-server");
            sentinel.arg(&file).arg("--sentinel").current_dir(directory.path());
            processes.push(sentinel.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        }
        for port in &ports {
            until(|| ask(*port, &["PING"]) == "PONG");
        }
        Self { ports, _ports: taken, processes, _directory: directory }
    }

    /// Waits until each knows the replica and the two others.
    fn settle(&self) {
        for port in &self.ports {
            until(|| {
                let about = ask(*port, &["SENTINEL", "MASTER", "shop.primary"]).replace('\n', " ");
                about.contains("num-slaves 1 ") && about.contains("num-other-sentinels 2 ")
            });
        }
    }

    fn address(&self) -> String {
        let hosts: Vec<_> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis-sentinel://{}/shop.primary", hosts.join(","))
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn replica_of(primary: &Server) -> Server {
    let replica = Server::start(&["--replicaof", "127.0.0.1", &primary.port.to_string(), "--appendonly", "yes"]);
    until(|| replica.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_replaced_and_nothing_answered_is_lost() {
    if !is_here() {
        return;
    }
    let mut primary = Server::start(&["--appendonly", "yes"]);
    let replica = replica_of(&primary);
    let mut sentinels = Sentinels::watch(&primary);
    sentinels.settle();
    let address = format!("{}?wait_replicas=1&timeout_ms=180000", sentinels.address());
    let store = Rules::on(RedisStore::open(&address).await.unwrap());
    assert_eq!(format!("{:?}", store.store()), "RedisStore(sentinels, prefix \"cloakroom:\")");
    let load = Load::start(&store, 8);
    load.answers(100).await;
    primary.kill();
    // One sentinel less: the store asks the others.
    sentinels.processes[0].kill().unwrap();
    until(|| replica.ask(&["ROLE"]).starts_with("master"));
    // The store has followed: whatever speaks of the old one from now on is behind.
    assert!(store.ping().await.unwrap().is_some());
    // What was primary is back with what it has missed, and is made the replica.
    primary.start_again();
    until(|| primary.ask(&["ROLE"]).starts_with("slave"));
    load.answers(100).await;
    let errors = settle(&store, load.stop().await, false).await;
    // While there was no replica, creations and endings were in doubt and said so; there was no other error.
    assert!(errors.iter().all(|error| matches!(error, Error::OutcomeUnknown { .. })), "{errors:?}");
    assert!(store.ping().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_lives_on_as_a_replica_is_left() {
    if !is_here() {
        return;
    }
    let primary = Server::start(&[]);
    let replica = replica_of(&primary);
    let sentinels = Sentinels::watch(&primary);
    sentinels.settle();
    let address = format!("{}?wait_replicas=1&timeout_ms=180000", sentinels.address());
    let store = Rules::on(RedisStore::open(&address).await.unwrap());
    let load = Load::start(&store, 8);
    load.answers(50).await;
    until(|| ask(sentinels.ports[0], &["SENTINEL", "FAILOVER", "shop.primary"]) == "OK");
    until(|| primary.ask(&["ROLE"]).starts_with("slave") && replica.ask(&["ROLE"]).starts_with("master"));
    load.answers(50).await;
    let errors = settle(&store, load.stop().await, false).await;
    assert!(errors.iter().all(|error| matches!(error, Error::OutcomeUnknown { .. })), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_whose_sentinels_do_not_know_the_name_says_so() {
    if !is_here() {
        return;
    }
    let primary = Server::start(&[]);
    let sentinels = Sentinels::watch(&primary);
    let address = sentinels.address();
    assert!(Rules::on(RedisStore::open(&address).await.unwrap()).ping().await.unwrap().is_some());
    let address = address.replace("shop.primary", "mymaster");
    let error = RedisStore::open(&format!("{address}?timeout_ms=500")).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { message, .. } if message.contains("\"mymaster\"")), "{error}");
}
