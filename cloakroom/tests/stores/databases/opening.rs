//! Nodes that open a store: a new one, one of an older program, one of a newer.

use cloakroom::{
    Error,
    rules::{Loaded, Rules},
    store,
};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection};

use super::{Kind, NOW, address, begin, with_parameter};

pub(super) async fn many_nodes_open_a_new_store_at_once(kind: Kind) {
    let address = with_parameter(&address(kind), "max_connections", "2");
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { Rules::new(store::open(&address).await.unwrap()) })
        })
        .collect();
    let mut stores = Vec::new();
    for store in opening {
        stores.push(store.await.unwrap());
    }
    let key = stores[0].partition_key().as_bytes();
    assert!(stores.iter().all(|store| store.partition_key().as_bytes() == key), "one key for all");
    let id = begin(&stores[0], "anna").await;
    assert!(matches!(stores[7].load(id, NOW).await.unwrap(), Loaded::Live(_)));
}

pub(super) async fn a_newer_schema_is_refused(kind: Kind) {
    let address = address(kind);
    let store = Rules::new(store::open(&address).await.unwrap());
    let id = begin(&store, "anna").await;
    set_schema_version(kind, &address, "99").await;
    let error = store::open(&address).await.unwrap_err();
    assert!(matches!(&error, Error::Store { message, .. } if message.contains("99")), "{error}");
    set_schema_version(kind, &address, "1").await;
    let again = Rules::new(store::open(&address).await.unwrap());
    assert!(matches!(again.load(id, NOW).await.unwrap(), Loaded::Live(_)), "and nothing was changed");
}

async fn set_schema_version(kind: Kind, address: &str, version: &str) {
    let (server, parameter) = address.split_once('?').unwrap();
    let name = parameter.split_once('=').unwrap().1;
    match kind {
        Kind::Postgres => {
            let update = format!("UPDATE {name}.meta SET version = {version}");
            PgConnection::connect(server).await.unwrap().execute(AssertSqlSafe(update)).await.unwrap();
        }
        Kind::MariaDb => {
            let update = format!("UPDATE {name}_meta SET value = '{version}' WHERE name = 'schema_version'");
            MySqlConnection::connect(server).await.unwrap().execute(AssertSqlSafe(update)).await.unwrap();
        }
    }
}
