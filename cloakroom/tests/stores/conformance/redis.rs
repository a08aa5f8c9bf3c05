//! The Redis store passes the whole suite, on one server, on a cluster and on Valkey.

use std::{path::Path, time::Duration};

use cloakroom::{slots, store::RedisStore, testing::conformance};

use crate::common::{is_there, namespace, service, with_parameter};

conformance!(mod one_server:
    |dir| RedisStore::open(&address("CLOAKROOM_TEST_REDIS_URL", &dir)).await.unwrap(),
    raw: everything(&address("CLOAKROOM_TEST_REDIS_URL", &dir)).await,
    if: is_there("CLOAKROOM_TEST_REDIS_URL")
);

conformance!(mod cluster:
    |dir| RedisStore::open(&address("CLOAKROOM_TEST_REDIS_CLUSTER_URL", &dir)).await.unwrap(),
    raw: everything(&address("CLOAKROOM_TEST_REDIS_CLUSTER_URL", &dir)).await,
    if: is_there("CLOAKROOM_TEST_REDIS_CLUSTER_URL")
);

conformance!(mod valkey:
    |dir| RedisStore::open(&address("CLOAKROOM_TEST_VALKEY_URL", &dir)).await.unwrap(),
    raw: everything(&address("CLOAKROOM_TEST_VALKEY_URL", &dir)).await,
    if: is_there("CLOAKROOM_TEST_VALKEY_URL")
);

slots!(mod slots_of_one_server:
    |dir| RedisStore::open(&address("CLOAKROOM_TEST_REDIS_URL", &dir)).await.unwrap(),
    if: is_there("CLOAKROOM_TEST_REDIS_URL")
);

slots!(mod slots_of_cluster:
    |dir| RedisStore::open(&address("CLOAKROOM_TEST_REDIS_CLUSTER_URL", &dir)).await.unwrap(),
    if: is_there("CLOAKROOM_TEST_REDIS_CLUSTER_URL")
);

slots!(mod slots_of_valkey:
    |dir| RedisStore::open(&address("CLOAKROOM_TEST_VALKEY_URL", &dir)).await.unwrap(),
    if: is_there("CLOAKROOM_TEST_VALKEY_URL")
);

/// A namespace of this test alone.
fn address(variable: &str, dir: &Path) -> String {
    with_parameter(&service(variable), "prefix", &format!("{}:", namespace(dir)))
}

/// Every byte under the prefix, on all servers.
async fn everything(address: &str) -> Vec<u8> {
    let prefix = address.rsplit_once('=').unwrap().1;
    let mut bytes = Vec::new();
    for server in servers(address) {
        let client = redis::Client::open(format!("redis://{server}")).unwrap();
        // There are the keys of all other tests.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_mins(1)));
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("{prefix}*")).query_async(&mut connection).await.unwrap();
        for key in keys {
            bytes.extend_from_slice(key.as_bytes());
            // On a replica the answer is where its primary is.
            if let Ok(dump) = contents(&key, &mut connection).await {
                bytes.extend(dump);
            }
        }
    }
    bytes
}

/// DUMP compresses what it can, so every type is read in its own way.
async fn contents(key: &str, connection: &mut redis::aio::MultiplexedConnection) -> redis::RedisResult<Vec<u8>> {
    let kind: String = redis::cmd("TYPE").arg(key).query_async(connection).await?;
    let mut read = match kind.as_str() {
        "hash" => redis::cmd("HGETALL"),
        "zset" => redis::cmd("ZRANGE"),
        "set" => redis::cmd("SMEMBERS"),
        "stream" => redis::cmd("XRANGE"),
        _ => redis::cmd("GET"),
    };
    read.arg(key);
    match kind.as_str() {
        "zset" => read.arg(0).arg(-1),
        "stream" => read.arg("-").arg("+"),
        _ => &mut read,
    };
    let value: redis::Value = read.query_async(connection).await?;
    let mut bytes = Vec::new();
    flatten(&value, &mut bytes);
    Ok(bytes)
}

fn flatten(value: &redis::Value, bytes: &mut Vec<u8>) {
    match value {
        redis::Value::Array(values) => values.iter().for_each(|value| flatten(value, bytes)),
        redis::Value::BulkString(text) => bytes.extend_from_slice(text),
        other => bytes.extend_from_slice(format!("{other:?}").as_bytes()),
    }
}

/// The servers that an address names; that of a test's cluster names all of them.
fn servers(address: &str) -> Vec<&str> {
    let (place, parameters) = address.split_once("://").unwrap().1.split_once('?').unwrap();
    let others = parameters.split('&').filter_map(|parameter| parameter.strip_prefix("node="));
    std::iter::once(place).chain(others.flat_map(|others| others.split(','))).collect()
}
