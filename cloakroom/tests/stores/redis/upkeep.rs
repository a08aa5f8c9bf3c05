//! What reaping finishes, and that nothing is left in the end.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Ending, Reason, Timestamp,
    rules::{Fence, Loaded, Reap, Rules, Which},
    store::{
        Digest, Extra, RedisStore, Store,
        slots::{Transaction, Write},
    },
};

use super::{
    load::{NOW, anonymous, begin, live, setting, sign_in},
    servers::{Server, is_here},
};
use crate::common::until;

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_sign_in_that_a_crash_cut_short_is_finished_by_reaping() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let visitor = begin(&store, anonymous()).await;
    // The first step alone, as a node leaves it that ends before the second: a head that names what it took the place of.
    let mut record = sign_in(&store, "anna").record;
    let successor = record.info.id;
    record.revision = 7;
    record.extra = Some(Box::new(Extra { replaces: Some(visitor), ..Extra::default() }));
    let writes = vec![Write::Create(Arc::new(record))];
    let first = Transaction { id: 1, now: NOW, relies_on: vec![], writes, log: vec![] };
    store.store().commit(&[first], false).await.unwrap();

    let nothing = Reap { limit: 100, tombstones_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH };
    store.reap(&nothing, NOW.after(Duration::from_mins(1))).await.unwrap();
    let Loaded::Ended(tombstone) = store.load(visitor, NOW).await.unwrap() else {
        panic!("the visitor's session lives")
    };
    assert_eq!(tombstone.ended.reason, Reason::Replaced);
    assert_eq!(live(&store, successor).await.info.user.as_deref(), Some("anna"));
    let due = server.ask(&["--scan", "--pattern", "cloakroom:due:*"]);
    assert_eq!(due, "", "and that is settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_nothing_is_left_of_sessions_that_are_over() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    for number in 0..40_u8 {
        let user = format!("user {}", number % 7);
        let mut create = sign_in(&store, &user);
        create.record.info.idle_timeout = Some(Duration::from_mins(1));
        create.record.idempotency = Some(Digest::from_bytes([number; Digest::LEN]));
        create.replaces = Some(begin(&store, anonymous()).await);
        let id = begin(&store, create).await;
        store.update(id, &setting("a", 1), NOW).await.unwrap();
        match number % 4 {
            0 => drop(store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap()),
            1 => {
                let which = Which::OfUser { user: user.into(), except: vec![], fence: Fence::EndedBefore };
                store.end(&which, &Ending::new(Reason::AllRevoked), NOW).await.unwrap();
            }
            _ => {}
        }
    }
    let later = NOW.after(Duration::from_hours(1));
    let all = Reap { limit: 1000, tombstones_before: later, audit_before: later };
    store.reap(&all, later).await.unwrap();
    assert!(!store.reap(&all, later).await.unwrap().more);
    until(|| {
        let left = server.ask(&["--scan", "--pattern", "*"]);
        // Streams stay, so that their numbers go on, and the marks of the groups.
        let stays = ["cloakroom:meta", "cloakroom:audit:", "cloakroom:seen:"];
        left.lines().all(|key| stays.iter().any(|begin| key.starts_with(begin)))
    });
    let marks = server.ask(&["--scan", "--pattern", "cloakroom:seen:*"]);
    assert!(marks.lines().step_by(50).all(|group| server.ask(&["HLEN", group]) == "1"));
    let streams = server.ask(&["--scan", "--pattern", "cloakroom:audit:*"]);
    assert!(streams.lines().all(|stream| server.ask(&["XLEN", stream]) == "0"));
}
