//! Connections: how many there are, and what becomes of those that are dead, silent or lead to the wrong server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cloakroom::{
    Error, Found, Sessions, SignIn,
    rules::{Created, Loaded, Rules, Updated},
    store::{self, PostgresStore, Query},
};
use futures_util::future::join_all;

use super::{
    Kind, NOW, Proxy, address, begin, host_of, is_here, private, private::PrivateServer, private_address, set, start,
    through, with_parameter,
};
use crate::common::eventually;

/// As many calls at once as there can be connections, and more, that do not travel together.
async fn use_all_connections(store: &Rules) {
    let query = Query::of_user("anna");
    for found in join_all((0..40).map(|_| store.find(&query, None, 10, NOW))).await {
        found.unwrap();
    }
}

/// Where making a connection takes longer than a query, reads that arrive together do not make one each.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_slow_to_connect_is_not_stormed() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let proxy = Proxy::start(host_of(&address)).await;
    let behind = with_parameter(&through(&address, &proxy.address.to_string()), "max_connections", "10");
    let store = Rules::new(store::open(&behind).await.unwrap());
    let id = begin(&store, "anna").await;
    proxy.delay_connections(Duration::from_millis(150));
    let clients = (0..12).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..60 {
                // Some clients do not wait for the answer: what was begun for them is finished nevertheless.
                if n % 5 == 0 {
                    let query = Query::of_user("anna");
                    let find = store.find(&query, None, 10, NOW);
                    let _ = tokio::time::timeout(Duration::from_micros(50), find).await;
                }
                assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));
                store.find(&Query::of_user("anna"), None, 10, NOW).await.unwrap();
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let opened = proxy.accepted();
    eprintln!("1,440 reads of 12 clients opened {opened} connections");
    assert!(opened <= 13, "{opened} connections");
}

fn counted<T>(failed: &AtomicUsize, answer: cloakroom::Result<T>) -> Option<T> {
    if answer.is_err() {
        failed.fetch_add(1, Ordering::Relaxed);
    }
    answer.ok()
}

pub(super) async fn connections_that_were_dropped_in_silence_cost_seconds(kind: Kind) {
    let address = address(kind);
    let proxy = Proxy::start(host_of(&address)).await;
    let store = Rules::new(store::open(&through(&address, &proxy.address.to_string())).await.unwrap());
    let id = begin(&store, "anna").await;
    use_all_connections(&store).await;
    assert!(proxy.accepted() > 3, "{}", proxy.accepted());

    proxy.swallow_all();
    // Each try that fails has waited for as long as a call may take.
    let failed = AtomicUsize::new(0);
    let (creation, change) = (start(&store, "ben").1, set("a", "1"));
    let (loaded, updated, created) = tokio::join!(
        eventually(|| async { counted(&failed, store.load(id, NOW).await) }),
        eventually(|| async { counted(&failed, store.update(id, &change, NOW).await) }),
        eventually(|| async { counted(&failed, store.create(&creation, NOW).await) })
    );
    assert!(matches!(loaded, Loaded::Live(_)) && matches!(updated, Updated::Applied(_)), "{loaded:?} {updated:?}");
    assert!(matches!(created, Created::Created { .. }), "{created:?}");
    // None of the silent ones is used again.
    use_all_connections(&store).await;
    let failed = failed.into_inner();
    assert!(failed <= 6, "{failed} tries failed");
}

/// A primary with a store on it, and a standby that follows.
async fn primary_and_standby() -> Option<(PrivateServer, Rules, PrivateServer)> {
    let (primary, store) = private(Kind::Postgres, &[]).await?;
    let standby = PrivateServer::standby_of(&primary);
    Some((primary, store, standby))
}

/// For a moment the address led to a standby. Connections of that moment do not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_that_passed_over_a_standby_leaves_nothing_that_cannot_write() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let Some((primary, direct, standby)) = primary_and_standby().await else { return };
    let id = begin(&direct, "anna").await;
    let proxy = Proxy::start(primary.host()).await;
    let address = through(&private_address(Kind::Postgres, &primary), &proxy.address.to_string());
    let store = Rules::new(store::open(&address).await.unwrap());
    proxy.lead_to(standby.host());
    proxy.cut_all();
    // All connections there can be lead to the standby now, and they stay open.
    eventually(|| async { store.load(id, NOW).await.ok() }).await;
    use_all_connections(&store).await;
    let refused = store.update(id, &set("a", "1"), NOW).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable { message, .. } if message.contains("standby")), "{refused}");
    use_all_connections(&store).await;

    proxy.lead_to(primary.host());
    let creations: Vec<_> = (0..30).map(|n| start(&store, &format!("user {n}")).1).collect();
    for created in join_all(creations.iter().map(|create| store.create(create, NOW))).await {
        assert!(matches!(created, Ok(Created::Created { .. })), "{created:?}");
    }
}

/// A standby serves those who read, and says why it does not serve those who write.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_can_be_read_and_says_that_it_is_one() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let Some((_primary, direct, standby)) = primary_and_standby().await else { return };
    let sessions = Sessions::builder(Arc::clone(direct.store())).without_upkeep().build().unwrap();
    let started = sessions.start(SignIn::new("anna")).await.unwrap();
    let id = started.token.id();
    let address = private_address(Kind::Postgres, &standby);
    let store = Rules::new(eventually(|| async { store::open(&address).await.ok() }).await);
    eventually(|| async { matches!(store.load(id, NOW).await, Ok(Loaded::Live(_))).then_some(()) }).await;

    let told = store.ping().await.unwrap_err().to_string();
    assert!(told.contains("standby"), "{told}");
    let told = store.create(&start(&store, "ben").1, NOW).await.unwrap_err().to_string();
    assert!(told.contains("standby"), "{told}");

    let reading = Sessions::builder(Arc::clone(store.store())).without_upkeep().read_only(true).build().unwrap();
    reading.measure_clock_offset().await.expect("ready, for all it is to do is read");
    let found = reading.resume(&started.token).await.unwrap();
    assert!(matches!(found, Found::Live(_)), "{found:?}");
    let now = cloakroom::Timestamp::from(std::time::SystemTime::now());
    assert_eq!(store.find(&Query::of_user("anna"), None, 10, now).await.unwrap().items.len(), 1);
}

/// A store may be dropped where no runtime is any more, as at the end of a program.
#[test]
fn a_store_that_outlives_its_runtime_is_dropped_in_silence() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(async {
        let store = Rules::on(PostgresStore::open(&address(Kind::Postgres)).await.unwrap());
        let id = begin(&store, "anna").await;
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));
        store
    });
    drop(runtime);
    drop(store);
}
