//! What many callers see at once.

use std::{sync::Arc, time::Duration};

#[allow(clippy::wildcard_imports, reason = "the vocabulary of every check")]
use super::fixtures::*;
use crate::{
    store::slots::{Committed, DataChange, Expect, Outcome, Slot, Write},
    token::Digest,
};

pub(super) async fn parallel_writers_of_different_keys_never_conflict(store: Shared) {
    let id = create(&store, record(&store, None)).await;
    let writer = |n: usize| {
        let store = Arc::clone(&store);
        async move {
            for round in 0..4 {
                committed(commit(&store, set_live(id, &format!("key {n}"), &round.to_string())).await);
            }
        }
    };
    at_once(50, writer).await;
    let now = open(&store, id).await;
    assert_eq!((now.info.version, now.data.len()), (200, 50));
    assert!(now.data.iter().all(|(_, value)| value.as_str() == "3"));
}

pub(super) async fn parallel_increments_lose_nothing(store: Shared) {
    let id = create(&store, record(&store, None)).await;
    let writer = |_| {
        let store = Arc::clone(&store);
        async move {
            let mut conflicts = 0;
            for _ in 0..10 {
                let mut base = open(&store, id).await;
                loop {
                    let relies_on = vec![Expect::Live(id), relied(&base, "n")];
                    let next = json_of(number(&base, "n") + 1);
                    let change = DataChange { set: [("n".into(), next)].into(), ..DataChange::default() };
                    match commit(&store, tx(relies_on, vec![data(id, change, Some(known(&base)))])).await {
                        Outcome::Committed(_) => break,
                        Outcome::Conflict(Some(Slot::Open(fresh))) => {
                            assert_ne!(
                                number(&fresh, "n"),
                                number(&base, "n"),
                                "a conflict shows what is so after the lock"
                            );
                            conflicts += 1;
                            base = fresh;
                        }
                        Outcome::Conflict(slot) => panic!("{slot:?}"),
                    }
                    tokio::time::sleep(Duration::from_micros(100 * (random() % 20))).await;
                }
            }
            conflicts
        }
    };
    let conflicts: usize = at_once(8, writer).await.into_iter().sum();
    let now = open(&store, id).await;
    assert_eq!((number(&now, "n"), now.info.version), (80, 80), "{conflicts} conflicts");
}

pub(super) async fn heads_and_data_do_not_disturb_each_other(store: Shared) {
    let id = create(&store, record(&store, Some("anna"))).await;
    let task = |n: usize| {
        let store = Arc::clone(&store);
        async move {
            for round in 0..10 {
                if n.is_multiple_of(2) {
                    committed(commit(&store, set_live(id, &format!("key {n}"), &round.to_string())).await);
                    continue;
                }
                loop {
                    let base = open(&store, id).await;
                    let head = next_head(&base, |record| record.lease.number += 1);
                    let relies_on = vec![Expect::Live(id), Expect::Head(id, base.revision)];
                    if let Outcome::Committed(_) = commit(&store, tx(relies_on, vec![Write::Head(head)])).await {
                        break;
                    }
                }
            }
        }
    };
    at_once(8, task).await;
    let now = open(&store, id).await;
    assert_eq!((now.lease.number, now.info.version, now.data.len()), (40, 40, 4));
}

pub(super) async fn an_ending_wins_in_one_try(store: Shared) {
    let id = create(&store, idle(record(&store, Some("anna")), 60_000)).await;
    let start = open(&store, id).await;
    let writers = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let writer = |n: usize| {
                let store = Arc::clone(&store);
                async move {
                    let mut done = 0_u64;
                    loop {
                        match commit(&store, set_live(id, &format!("key {n}"), "1")).await {
                            Outcome::Committed(_) => done += 1,
                            Outcome::Conflict(Some(Slot::Ended(_))) => return done,
                            Outcome::Conflict(slot) => panic!("{slot:?}"),
                        }
                        tokio::task::yield_now().await;
                    }
                }
            };
            at_once(8, writer).await.into_iter().sum::<u64>()
        })
    };
    while open(&store, id).await.info.version < 20 {
        tokio::task::yield_now().await;
    }
    // Relies on nothing that writers change.
    committed(commit(&store, tx(vec![Expect::Live(id)], vec![ending(&start, at(1))])).await);
    let after = slot(&store, id).await;
    assert!(matches!(&after, Some(Slot::Ended(_))), "{after:?}");
    assert!(heads(&store, "anna").await.is_empty());
    assert!(writers.await.unwrap() >= 20);
    assert_eq!(slot(&store, id).await, after);
}

pub(super) async fn an_absent_users_slot_is_made_once(store: Shared) {
    let writer = |n: usize| {
        let store = Arc::clone(&store);
        async move {
            let made = user_slot(&n.to_string());
            let put = tx(vec![Expect::User("anna".into(), 0)], vec![Write::User("anna".into(), Some(made.clone()))]);
            matches!(commit(&store, put).await, Outcome::Committed(_)).then_some(made)
        }
    };
    let won: Vec<_> = at_once(20, writer).await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1);
    assert_eq!(user(&store, "anna").await.as_ref(), won.first());
}

pub(super) async fn a_count_relied_on_is_exact(store: Shared) {
    const LIMIT: usize = 3;
    let signer = |_| {
        let store = Arc::clone(&store);
        async move {
            loop {
                let living = heads(&store, "anna").await.len();
                assert!(living <= LIMIT, "{living} live");
                let fresh = record(&store, Some("anna"));
                let relies_on = vec![Expect::User("anna".into(), 0), Expect::Count("anna".into(), living)];
                let writes = if living < LIMIT { vec![Write::Create(Arc::new(fresh))] } else { vec![] };
                if let Outcome::Committed(answers) = commit(&store, tx(relies_on, writes)).await {
                    return !answers.is_empty();
                }
            }
        }
    };
    let admitted = at_once(24, signer).await.into_iter().filter(|admitted| *admitted).count();
    assert_eq!((admitted, heads(&store, "anna").await.len()), (LIMIT, LIMIT));
}

pub(super) async fn no_creation_slips_past_a_users_change(store: Shared) {
    for round in 0..10 {
        let name = format!("user {round}");
        let task = |n: usize| {
            let (store, name) = (Arc::clone(&store), name.clone());
            async move {
                let relies_on = vec![Expect::User(name.as_str().into(), 0)];
                let write = match n {
                    4 => Write::User(name.as_str().into(), Some(user_slot("disabled"))),
                    _ => Write::Create(Arc::new(record(&store, Some(&name)))),
                };
                let done = matches!(commit(&store, tx(relies_on, vec![write])).await, Outcome::Committed(_));
                // What was there when the change was answered is all there ever will be.
                let living = if n == 4 { heads(&store, &name).await.len() } else { 0 };
                (done, living)
            }
        };
        let answers = at_once(8, task).await;
        let created = answers.iter().enumerate().filter(|(n, (done, _))| *n != 4 && *done).count();
        assert!(answers[4].0, "the change relied on no slot, and none but itself makes one");
        assert_eq!(answers[4].1, created, "round {round}");
        assert_eq!(heads(&store, &name).await.len(), created);
    }
}

pub(super) async fn one_idempotency_key_is_one_session(store: Shared) {
    let key = Digest::from_bytes([3; Digest::LEN]);
    let partition = store.partition_key().partition_of("anna");
    let starter = |_| {
        let store = Arc::clone(&store);
        async move {
            let mut fresh = record(&store, Some("anna"));
            fresh.idempotency = Some(key);
            let relies_on = vec![Expect::User("anna".into(), 0), Expect::Try(partition, key, None)];
            matches!(commit(&store, tx(relies_on, vec![Write::Create(Arc::new(fresh))])).await, Outcome::Committed(_))
        }
    };
    let created = at_once(16, starter).await.into_iter().filter(|created| *created).count();
    assert_eq!((created, heads(&store, "anna").await.len()), (1, 1));
}

pub(super) async fn the_size_limit_holds_under_writers(store: Shared) {
    let id = create(&store, record(&store, None)).await;
    let writer = |n: usize| {
        let store = Arc::clone(&store);
        async move {
            let relies_on = vec![Expect::Live(id), Expect::DataAtMost(id, 100)];
            let change = set(&format!("{n:02}"), "12345678");
            matches!(commit(&store, tx(relies_on, vec![data(id, change, None)])).await, Outcome::Committed(_))
        }
    };
    let done = at_once(20, writer).await.into_iter().filter(|done| *done).count();
    let now = open(&store, id).await;
    assert_eq!((done, now.data.len(), now.data.size()), (10, 10, 100));
}

pub(super) async fn a_transaction_sent_twice_at_once_is_applied_once(store: Shared) {
    for _ in 0..10 {
        let id = create(&store, record(&store, None)).await;
        let sent = set_live(id, "a", "1");
        let sender = |n: usize| {
            let (store, sent) = (Arc::clone(&store), sent.clone());
            async move { drop(committed(try_commit(&store, sent, n > 0).await.unwrap())) }
        };
        // The first try may still be under way when it is sent again.
        sender(0).await;
        at_once(3, |n| sender(n + 1)).await;
        assert_eq!(open(&store, id).await.info.version, 1);
    }
}

pub(super) async fn a_caller_that_goes_away_disturbs_no_other(store: Shared) {
    let id = create(&store, record(&store, None)).await;
    let caller = |n: usize| {
        let store = Arc::clone(&store);
        async move {
            for round in 0..8 {
                let change = set_live(id, &format!("{n}.{round}"), "1");
                if n.is_multiple_of(2) {
                    committed(commit(&store, change).await);
                } else {
                    let patience = Duration::from_micros(random() % 3000);
                    drop(tokio::time::timeout(patience, store.commit(&[change], false)).await);
                }
            }
        }
    };
    at_once(12, caller).await;
    let mut before = open(&store, id).await;
    // What was sent may still arrive; then it is whole.
    for _ in 0..3 {
        committed(commit(&store, set_live(id, "last", "1")).await);
        let now = open(&store, id).await;
        assert!(now.data.len() as u64 + 2 >= now.info.version, "each change that counted is there");
        before = now;
    }
    assert!((0..12).step_by(2).all(|n| (0..8).all(|round| before.data.get(&format!("{n}.{round}")).is_some())));
    let answers = committed(commit(&store, set_live(id, "x", "1")).await);
    assert!(matches!(answers[..], [Committed::Record(_)]));
}
