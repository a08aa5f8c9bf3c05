//! What calls cost, by the server's own count of commands.

use std::time::Duration;

use cloakroom::{
    Ending, Reason,
    store::{Limit, RedisStore, Rotation, Store, Touch, Updated, Which},
};

use futures_util::future::join_all;

use super::{
    load::{NOW, anonymous, begin, new_secret, setting, sign_in},
    servers::{Server, is_here},
};
use crate::common::{proxy::Proxy, until};

#[tokio::test(flavor = "multi_thread")]
async fn i9_every_call_is_one_script() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = RedisStore::open(&server.address()).await.unwrap();
    warm_up(&store).await;
    let mut count = Count { server: &server, scripts: 0 };
    count.since_last();

    let create = sign_in(&store, "anna");
    let (id, secret) = (create.record.info.id, create.record.secrets.current);
    begin(&store, create).await;
    assert_eq!(count.since_last(), 1, "a sign-in");

    let mut create = sign_in(&store, "anna");
    create.limit = Some(Limit::evict(1));
    let evicting = create.record.info.id;
    begin(&store, create).await;
    assert_eq!(count.since_last(), 1, "a sign-in that evicts");

    store.load(evicting, NOW).await.unwrap();
    assert_eq!(count.since_last(), 1, "a load");
    store.load(id, NOW).await.unwrap();
    assert_eq!(count.since_last(), 1, "a load of what has ended");
    store.update(evicting, &setting("a", 1), NOW).await.unwrap();
    assert_eq!(count.since_last(), 1, "a change");
    let rotation =
        Rotation { presented: secret, successor: new_secret(id), grace: Duration::ZERO, at_once: false, by: None };
    store.rotate(evicting, &rotation, NOW).await.unwrap();
    assert_eq!(count.since_last(), 1, "a rotation");
    let touch = Touch { id: evicting, seen_at: NOW, grace_ends: None };
    store.touch(&[touch; 100], NOW).await.unwrap();
    assert_eq!(count.since_last(), 1, "a hundred touches of a group");
    let of_user = |user: &str| cloakroom::store::Query::of_user(user);
    store.find(&of_user("anna"), None, 10, NOW).await.unwrap();
    assert_eq!(count.since_last(), 1, "a list");
    store.end(&Which::Ids(vec![evicting]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    assert_eq!(count.since_last(), 1, "an ending");
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_sign_in_that_replaces_a_session_elsewhere_waits_for_two() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = RedisStore::open(&server.address()).await.unwrap();
    warm_up(&store).await;
    let visitor = begin(&store, anonymous()).await;
    let mut create = sign_in(&store, "anna");
    create.replaces = Some(visitor);
    let mut count = Count { server: &server, scripts: 0 };
    count.since_last();
    begin(&store, create).await;
    // Nobody waits for the third, which crosses out the note.
    until(|| server.ask(&["--scan", "--pattern", "cloakroom:todo:*"]).is_empty());
    assert_eq!(count.since_last(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_changes_that_arrive_together_travel_together() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port)).await;
    let store = RedisStore::open(&format!("redis://{}", proxy.address)).await.unwrap();
    warm_up(&store).await;
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(begin(&store, sign_in(&store, &format!("user {n}"))).await);
    }
    let change = setting("a", 1);
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
async fn warm_up(store: &RedisStore) {
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
    store.find(&cloakroom::store::Query::of_user("bert"), None, 10, NOW).await.unwrap();
    store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    // The note that nobody waits for.
    store.reap(&cloakroom::store::Reap { limit: 1, tombstones_before: NOW, audit_before: NOW }, NOW).await.unwrap();
}

struct Count<'a> {
    server: &'a Server,
    scripts: u64,
}

impl Count<'_> {
    /// How many scripts the server ran since the last time. Of its counters these alone count requests: those of other
    /// commands count what scripts do, too.
    fn since_last(&mut self) -> u64 {
        let stats = self.server.ask(&["INFO", "commandstats"]);
        let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
        let scripts = stats.lines().filter(|line| line.starts_with("cmdstat_eval")).filter_map(calls).sum();
        scripts - std::mem::replace(&mut self.scripts, scripts)
    }
}
