//! Near Redis, alone and as a cluster.

use std::{path::Path, sync::Arc, time::Duration};

use cloakroom::{
    Found, Sessions, SignIn, slots,
    store::{NearCache, NearStore, RedisStore, Store},
    testing::{ScratchDir, conformance},
};

use super::promises::Backend;
use crate::common::{eventually, is_there, namespace, service, with_parameter};

const ONE: &str = "CLOAKROOM_TEST_REDIS_URL";
const CLUSTER: &str = "CLOAKROOM_TEST_REDIS_CLUSTER_URL";

conformance!(mod one_server: |dir| near(ONE, &dir).await, if: is_there(ONE));
conformance!(mod cluster: |dir| near(CLUSTER, &dir).await, if: is_there(CLUSTER));
slots!(mod slots_of_one_server: |dir| near(ONE, &dir).await, if: is_there(ONE));
slots!(mod slots_of_cluster: |dir| near(CLUSTER, &dir).await, if: is_there(CLUSTER));

async fn near(variable: &str, dir: &Path) -> NearStore {
    let address = with_parameter(&service(variable), "prefix", &format!("{}:", namespace(dir)));
    NearStore::over(Arc::new(RedisStore::open(&address).await.unwrap()), &NearCache::default()).unwrap()
}

super::promises::promises!(backend, if: is_there(ONE));

/// On the one server, so that a proxy can stand in between.
fn backend(test: &str) -> Backend {
    let url = url::Url::parse(&service(ONE)).unwrap();
    Backend {
        server: format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(6379)),
        at: |server, space| format!("redis://{server}?prefix={space}:"),
        open: |address| Box::pin(async move { Arc::new(RedisStore::open(&address).await.unwrap()) as Arc<dyn Store> }),
        message: b"invalidate",
        space: namespace(Path::new(&format!("near {test} {}", std::process::id()))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_what_an_operator_deletes_is_gone_at_once() {
    if !is_there(ONE) {
        return;
    }
    let dir = ScratchDir::new().unwrap();
    let store = near(ONE, dir.path()).await;
    let near = Arc::new(store);
    let sessions = Sessions::builder(Arc::clone(&near) as Arc<dyn Store>).without_upkeep().build().unwrap();
    let started = sessions.start(SignIn::new("anna")).await.unwrap();
    let id = started.token.id();
    sessions.resume(&started.token).await.unwrap();
    assert!(matches!(near.glance(id), Some(Some(_))));
    let client = redis::Client::open(service(ONE)).unwrap();
    // There are the keys of all other tests.
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_mins(1)));
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    let pattern = format!("{}:s:*{id}", namespace(dir.path()));
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap();
    assert_eq!(keys.len(), 1);
    redis::cmd("DEL").arg(&keys).query_async::<()>(&mut connection).await.unwrap();
    eventually(|| async { near.glance(id).is_none().then_some(()) }).await;
    assert!(matches!(sessions.resume(&started.token).await.unwrap(), Found::Unknown));
}
