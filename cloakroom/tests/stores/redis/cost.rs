//! How many round trips calls wait for.

use std::time::Duration;

use cloakroom::{
    Ending, Limit, Reason,
    rules::{Rotation, Rules, Touch, Updated, Which},
    store::{Query, RedisStore},
};

use futures_util::future::join_all;

use super::{
    load::{NOW, anonymous, begin, new_secret, setting, sign_in},
    servers::{Server, is_here},
};
use crate::common::proxy::Proxy;

#[tokio::test(flavor = "multi_thread")]
async fn i9_calls_wait_for_one_round_trip_or_two() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port)).await;
    let store = Rules::on(RedisStore::open(&format!("redis://{}", proxy.address)).await.unwrap());
    warm_up(&store).await;
    let mut before = proxy.exchanges();
    let mut trips = || {
        let now = proxy.exchanges();
        now - std::mem::replace(&mut before, now)
    };

    let create = sign_in(&store, "anna");
    let (id, secret) = (create.record.info.id, create.record.secrets.current);
    begin(&store, create).await;
    assert!(trips() <= 2, "a sign-in");
    let mut create = sign_in(&store, "anna");
    create.limit = Some(Limit::evict(1));
    let evicting = create.record.info.id;
    begin(&store, create).await;
    assert!(trips() <= 2, "a sign-in that evicts");

    store.load(evicting, NOW).await.unwrap();
    assert_eq!(trips(), 1, "a load");
    store.load(id, NOW).await.unwrap();
    assert_eq!(trips(), 1, "a load of what has ended");
    store.update(evicting, &setting("a", 1), NOW).await.unwrap();
    assert_eq!(trips(), 1, "a change");
    let rotation =
        Rotation { presented: secret, successor: new_secret(id), grace: Duration::ZERO, at_once: false, by: None };
    store.rotate(evicting, &rotation, NOW).await.unwrap();
    assert!(trips() <= 2, "a rotation");
    let touch = Touch { id: evicting, seen_at: NOW, grace_ends: None };
    store.touch(&[touch], NOW).await.unwrap();
    assert_eq!(trips(), 1, "a touch");
    store.find(&Query::of_user("anna"), None, 10, NOW).await.unwrap();
    assert_eq!(trips(), 1, "a list");
    store.end(&Which::Ids(vec![evicting]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    assert!(trips() <= 2, "an ending");
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_changes_that_arrive_together_travel_together() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port)).await;
    let store = Rules::on(RedisStore::open(&format!("redis://{}", proxy.address)).await.unwrap());
    warm_up(&store).await;
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(begin(&store, sign_in(&store, &format!("user {n}"))).await);
    }
    let change = setting("a", 1);
    // While the first are answered, the others gather, however busy this machine is.
    proxy.delay_answers(Duration::from_millis(50));
    let before = proxy.exchanges();
    let changes = ids.iter().map(|id| store.update(*id, &change, NOW));
    for updated in join_all(changes).await {
        assert!(matches!(updated, Ok(Updated::Applied(record)) if record.info.version == 1));
    }
    let exchanges = proxy.exchanges() - before;
    eprintln!("100 changes in {exchanges} exchanges");
    assert!(exchanges <= 20, "{exchanges} exchanges for a hundred changes");
}

/// Sends each script once, in full.
async fn warm_up(store: &Rules) {
    let create = sign_in(store, "bert");
    let (id, presented) = (create.record.info.id, create.record.secrets.current);
    begin(store, create).await;
    let mut other = sign_in(store, "carl");
    other.replaces = Some(begin(store, anonymous()).await);
    begin(store, other).await;
    store.load(id, NOW).await.unwrap();
    store.update(id, &setting("a", 1), NOW).await.unwrap();
    let rotation = Rotation { presented, successor: new_secret(id), grace: Duration::ZERO, at_once: false, by: None };
    store.rotate(id, &rotation, NOW).await.unwrap();
    store.touch(&[Touch { id, seen_at: NOW, grace_ends: None }], NOW).await.unwrap();
    store.find(&Query::of_user("bert"), None, 10, NOW).await.unwrap();
    store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    store.reap(&cloakroom::rules::Reap { limit: 1, tombstones_before: NOW, audit_before: NOW }, NOW).await.unwrap();
}
