//! What calls cost the server, by its own counters: how many commands each makes it run, and its CPU beside that of reading
//! and writing a blob.

use cloakroom::store::{BoxFuture, RedisStore};
use futures_util::future::join_all;

use super::servers::{Server, is_here};
use crate::common::transactions::{Bound, Costs, commit, end, load, session, start, update};

/// So many calls a round, some at a time.
const CALLS: usize = 2048;
/// As many as come from a busy server in one packet: a `GET` then takes some 3 µs.
const AT_ONCE: usize = 4;
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_calls_cost_a_small_multiple_of_a_blob() {
    if !is_here() {
        return;
    }
    let server = Server::start(&["--hash-max-listpack-value", "512"]);
    let store = RedisStore::open(&server.address()).await.unwrap();
    let blobs = redis::Client::open(server.address()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut costs = Costs::default();
    for round in 0..ROUNDS {
        let records: Vec<_> = (0..CALLS).map(|n| session(&store, &format!("user {round} {n}"))).collect();
        let ids: Vec<_> = records.iter().map(|record| record.info.id).collect();
        let blob = |name: &'static str| {
            let blobs = blobs.clone();
            move |n: usize| {
                let mut blobs = blobs.clone();
                async move {
                    let mut command = redis::cmd(name);
                    command.arg(format!("blob {n}"));
                    if name == "SET" {
                        command.arg(vec![b'x'; 1200]);
                    }
                    let _: redis::Value = command.query_async(&mut blobs).await.unwrap();
                }
            }
        };
        costs.note("set", measured(&server, blob("SET")).await);
        costs.note("get", measured(&server, blob("GET")).await);
        costs.note("start", measured(&server, |n| commit(&store, start(&records[n]))).await);
        costs.note("load", measured(&server, |n| load(&store, ids[n])).await);
        costs.note("update", measured(&server, |n| commit(&store, update(&records[n], n))).await);
        costs.note("end", measured(&server, |n| commit(&store, end(&records[n]))).await);
    }
    costs.assert(&[
        Bound { what: "load", of: "get", aim: 2.0, most: 2.8 },
        Bound { what: "update", of: "set", aim: 2.8, most: 7.5 },
        Bound { what: "start", of: "set", aim: 6.0, most: 14.0 },
        Bound { what: "end", of: "set", aim: 6.0, most: 11.0 },
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_calls_make_the_server_run_few_commands() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = RedisStore::open(&server.address()).await.unwrap();
    let (first, second) = (session(&store, "anna"), session(&store, "anna"));
    let id = second.info.id;
    // Each script is known from then on.
    commit(&store, start(&first)).await;
    commit(&store, update(&first, 1)).await;
    commit(&store, end(&first)).await;
    let ran = async |call: BoxFuture<'_, ()>| {
        server.ask(&["CONFIG", "RESETSTAT"]);
        call.await;
        let stats = server.ask(&["INFO", "commandstats"]);
        let calls = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
        let calls = calls.filter(|(name, _)| !name.starts_with("config") && !name.starts_with("evalsha"));
        calls.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u32>().unwrap()).sum::<u32>()
    };
    assert_eq!(ran(Box::pin(commit(&store, start(&second)))).await, 10, "a start with its audit entry");
    assert_eq!(ran(Box::pin(load(&store, id))).await, 2, "a load");
    assert_eq!(ran(Box::pin(commit(&store, update(&second, 1)))).await, 3, "a change");
    assert_eq!(ran(Box::pin(commit(&store, end(&second)))).await, 9, "an ending with its audit entry");
}

/// What a call took of the server's CPU, in microseconds: reading it, doing it and answering it.
async fn measured<F: Future<Output = ()>>(server: &Server, call: impl Fn(usize) -> F) -> f64 {
    let spent = || {
        let info = server.ask(&["INFO", "cpu"]);
        let of = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap().trim().parse::<f64>().unwrap()
        };
        of("used_cpu_user_main_thread") + of("used_cpu_sys_main_thread")
    };
    let before = spent();
    for first in (0..CALLS).step_by(AT_ONCE) {
        join_all((first..first + AT_ONCE).map(&call)).await;
    }
    (spent() - before) * 1e6 / f64::from(u32::try_from(CALLS).expect("a few thousand"))
}
