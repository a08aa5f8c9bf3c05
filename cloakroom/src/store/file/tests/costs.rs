//! What a call asks of the disk does not depend on how many sessions are stored.

use std::time::Duration;

use super::{LIMITS, NOW, Used, at, commit, journal, new_store, sign_in};
use crate::{
    Change, Ending, Json, PartitionKey, Reason, Timestamp,
    store::{
        Create, Limit, Query, Reap, Touch, Which,
        file::{journal::Journal, lists, sweep::Sweep, tables, transaction::Changes, writes},
    },
};

#[test]
fn calls_cost_the_same_however_many_sessions_are_stored() {
    let (few, many) = (costs_with(1_000), costs_with(10_000));
    for ((call, few), (_, many)) in few.into_iter().zip(many) {
        assert_eq!(few.calls, many.calls, "calls to the disk for {call}");
        assert_eq!(few.names, many.names, "names listed for {call}");
        // Numbers in the journal's header and the like may be longer.
        assert!(few.bytes.abs_diff(many.bytes) < 64, "bytes read for {call}: {few:?}, {many:?}");
        assert!(few.calls < 60, "{call}: {few:?}");
    }
}

fn costs_with(stored: usize) -> Vec<(&'static str, Used)> {
    let (disk, key) = new_store();
    let journal = journal(&disk, LIMITS);
    let anna: Vec<_> = (0..3).map(|_| sign_in(&key, "anna")).collect();
    fill(&journal, &key, &anna, stored);
    let [id, other, last] = [0, 1, 2].map(|n| anna[n].record.info.id);
    let mut change = Change::new(64 << 10);
    change.set("n", Json::from_text("1").unwrap());
    let touch = Touch { id, seen_at: at(1), grace_ends: None };
    let ending = Ending::new(Reason::SignedOut);
    let ids = Which::Ids(vec![other]);
    let limited = Create { limit: Some(Limit::evict(3)), ..sign_in(&key, "anna") };
    let reap = Reap { limit: 100, tombstones_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH };

    let mut costs = Vec::new();
    let mut measure = |call, work: &dyn Fn()| {
        disk.used();
        work();
        costs.push((call, disk.used()));
    };
    measure("load", &|| drop(tables::load(&disk as &dyn crate::store::file::disk::Disk, id, NOW).unwrap()));
    measure("update", &|| drop(commit(&journal, |all| writes::update(all, id, &change, NOW)).unwrap()));
    measure("touch", &|| assert!(commit(&journal, |all| writes::touch(all, &touch, NOW)).unwrap()));
    measure("list", &|| {
        let page = journal.read(|all| lists::of_user(all, &key, &Query::of_user("anna"), None, 10, NOW));
        assert_eq!(page.unwrap().items.len(), 3);
    });
    measure("end", &|| drop(commit(&journal, |all| writes::end(all, &key, &ids, &ending, NOW)).unwrap()));
    measure("sign in", &|| drop(commit(&journal, |all| writes::create(all, &key, &limited, NOW)).unwrap()));
    measure("lock", &|| drop(commit(&journal, |all| writes::lock(all, last, Duration::from_secs(1), NOW)).unwrap()));
    measure("reap nothing", &|| {
        let (_, ended) = commit(&journal, |all| Sweep::new(reap, NOW).step(all, &key)).unwrap();
        assert_eq!(ended, []);
    });
    costs
}

/// Stores sessions of many users, and those given, in a few commits.
fn fill(journal: &Journal, key: &PartitionKey, given: &[Create], stored: usize) {
    let others = (given.len()..stored).map(|n| sign_in(key, &format!("user {n}")));
    let all: Vec<_> = given.iter().cloned().chain(others).collect();
    for some in all.chunks(1000) {
        journal
            .write(|changes| {
                for create in some {
                    let mut own = super::Transaction::new(journal.disk(), changes);
                    writes::create(&mut own, key, create, NOW)?;
                    let own: Changes = own.into_changes();
                    changes.extend(own);
                }
                Ok(())
            })
            .unwrap();
    }
}
