//! What a call asks of the disk does not depend on how many sessions are stored.

use std::sync::Arc;

use super::{LIMITS, NOW, Used, apply, at, commit, ended, journal, new_store, run, session, setting, sign_in, tx};
use crate::{
    clock::Timestamp,
    record::Record,
    store::{
        Query,
        file::{
            format::Part,
            journal::Journal,
            lists::{self, After},
            look,
            tables::Within,
            view::View,
        },
        slots::{Expect, Forget, List, SeenAt, Write},
    },
    token::PartitionKey,
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
    let anna: Vec<_> = (0..3).map(|_| session(&key, "anna", NOW)).collect();
    fill(&journal, &key, &anna, stored);
    let [first, other, last] = [0, 1, 2].map(|n| &anna[n]);
    let (id, new) = (first.info.id, session(&key, "anna", NOW));
    let (end, entry) = ended(other, NOW);
    let mut held = last.clone();
    held.revision = 2;
    let evicting = {
        let mut transaction = sign_in(1, &new, &[first]);
        transaction.relies_on.push(Expect::Count("anna".into(), 2));
        transaction
    };
    let nothing = Forget { ended_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH, limit: 100 };

    let mut costs = Vec::new();
    let mut measure = |call, work: &dyn Fn()| {
        disk.used();
        work();
        costs.push((call, disk.used()));
    };
    measure("load", &|| drop(look(&journal, id, Part::All).unwrap().unwrap()));
    measure("update", &|| run(&journal, &key, &setting(2, id, "n", "1", NOW)).unwrap());
    measure("touch", &|| {
        let touch = SeenAt { id, at: at(1) };
        assert!(commit(&journal, |view| Within::new(view, &key).touch(&touch, NOW)).unwrap());
    });
    measure("list", &|| {
        let list = List::Sessions(Query::of_user("anna"), NOW);
        let page = journal.read(|view| lists::list(Within::new(view, &key), &list, &After::Nothing, 10));
        assert_eq!(page.unwrap().items.len(), 3);
    });
    let end = tx(3, NOW, vec![Expect::Live(other.info.id)], vec![end], [entry]);
    measure("end", &|| run(&journal, &key, &end).unwrap());
    measure("sign in", &|| run(&journal, &key, &evicting).unwrap());
    let held = tx(4, NOW, vec![Expect::Head(last.info.id, 1)], vec![Write::Head(Arc::new(held))], []);
    measure("lock", &|| run(&journal, &key, &held).unwrap());
    measure("reap nothing", &|| {
        let due = List::Due(NOW);
        let page = journal.read(|view| lists::list(Within::new(view, &key), &due, &After::Nothing, 10));
        assert_eq!(page.unwrap().items, []);
        assert!(!commit(&journal, |view| lists::forget(Within::new(view, &key), &nothing, 100)).unwrap());
    });
    costs
}

/// Stores sessions of many users, and those given, in a few commits.
fn fill(journal: &Journal, key: &PartitionKey, given: &[Record], stored: usize) {
    let others = (given.len()..stored).map(|n| session(key, &format!("user {n}"), NOW));
    let all: Vec<_> = given.iter().cloned().chain(others).collect();
    for some in all.chunks(1000) {
        journal
            .write(|changes| {
                for record in some {
                    let own = View::new(journal.disk(), changes);
                    apply(&own, key, &sign_in(5, record, &[]))?;
                    let own = own.into_changes();
                    changes.extend(own);
                }
                Ok(())
            })
            .unwrap();
    }
}
