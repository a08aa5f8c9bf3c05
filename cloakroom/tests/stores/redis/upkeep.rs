//! What reaping finishes, and that nothing is left in the end.

use std::time::Duration;

use cloakroom::{
    Digest, Ending, Reason, Timestamp,
    store::{Fence, Loaded, Reap, RedisStore, Store, Which},
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
    let store = RedisStore::open(&server.address()).await.unwrap();
    let visitor = begin(&store, anonymous()).await;
    let successor = begin(&store, sign_in(&store, "anna")).await;
    // What the first step leaves when there was no second.
    let session = server.ask(&["--scan", "--pattern", &format!("cloakroom:s:*{successor}")]);
    let tag = &session[session.find('{').unwrap()..=session.find('}').unwrap()];
    let note = format!("{{\"s\":\"{visitor}\",\"t\":{},\"b\":\"gateway\"}}", NOW.as_millis() + 5);
    assert_eq!(server.ask(&["HSET", &format!("cloakroom:todo:{tag}"), &successor.to_string(), &note]), "1");

    let nothing = Reap { limit: 100, tombstones_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH };
    store.reap(&nothing, NOW.after(Duration::from_mins(1))).await.unwrap();
    let Loaded::Ended(tombstone) = store.load(visitor, NOW).await.unwrap() else {
        panic!("the visitor's session lives")
    };
    assert_eq!((tombstone.ended.reason, tombstone.ended.by.as_deref()), (Reason::Replaced, Some("gateway")));
    assert_eq!(tombstone.ended.at, NOW.after(Duration::from_millis(5)), "it ended when the other began");
    assert_eq!(live(&store, successor).await.info.user.as_deref(), Some("anna"));
    until(|| server.ask(&["--scan", "--pattern", "cloakroom:todo:*"]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_nothing_is_left_of_sessions_that_are_over() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = RedisStore::open(&server.address()).await.unwrap();
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
        // Streams stay, so that their numbers go on.
        left.lines().all(|key| key == "cloakroom:meta" || key.starts_with("cloakroom:audit:"))
    });
    let streams = server.ask(&["--scan", "--pattern", "cloakroom:audit:*"]);
    assert!(streams.lines().all(|stream| server.ask(&["XLEN", stream]) == "0"));
}
