//! Nodes that open a store: a new one, one of an older program, one of a newer.

use cloakroom::{
    Error,
    store::{self, Directory, Loaded, PutUser, Store},
};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection};

use super::{Kind, NOW, address, begin, with_parameter};

pub(super) async fn many_nodes_open_a_new_store_at_once(kind: Kind) {
    let address = with_parameter(&address(kind), "max_connections", "2");
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { store::open(&address).await.unwrap() })
        })
        .collect();
    let mut stores = Vec::new();
    for store in opening {
        stores.push(store.await.unwrap());
    }
    let key = stores[0].partition_key().as_bytes();
    assert!(stores.iter().all(|store| store.partition_key().as_bytes() == key), "one key for all");
    let id = begin(&*stores[0], "anna").await;
    assert!(matches!(stores[7].load(id, NOW).await.unwrap(), Loaded::Live(_)));
}

/// Nodes that start together bring what an older program made up to date once, and nothing in it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_nodes_open_a_mariadb_of_version_one_at_once() {
    let kind = Kind::MariaDb;
    if !super::is_here(kind) {
        return;
    }
    let address = with_parameter(&address(kind), "max_connections", "2");
    let old = store::open(&address).await.unwrap();
    let key = *old.partition_key().as_bytes();
    let id = begin(&*old, "anna").await;
    take_back_version_two(&address).await;
    assert!(old.user("anna").await.is_err(), "the version before had no directory");
    begin(&*old, "ben").await;

    let opening: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { store::open(&address).await.unwrap() })
        })
        .collect();
    for opening in opening {
        let store = opening.await.unwrap();
        assert_eq!(*store.partition_key().as_bytes(), key);
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));
        let put = PutUser { user: "anna".into(), was: None, settings: Some("{}".into()), last_sign_in: None };
        assert!(store.put_user(&put).await.unwrap());
    }
    // A node of before, which is still running, notes sign-ins as well.
    begin(&*old, "anna").await;
    let anna = old.user("anna").await.unwrap().unwrap();
    assert_eq!(anna.last_sign_in.map(|last| last.at), Some(NOW));
}

/// What the second schema made goes, as if it had never been.
async fn take_back_version_two(address: &str) {
    let (server, parameters) = address.split_once('?').unwrap();
    let name = parameters.split(['=', '&']).nth(1).unwrap();
    let mut connection = MySqlConnection::connect(server).await.unwrap();
    for statement in [
        format!("DROP PROCEDURE {name}_user_2"),
        format!("DROP PROCEDURE {name}_users_2"),
        format!("DROP PROCEDURE {name}_put_user_2"),
        format!("DROP TABLE {name}_directory"),
        format!(
            "CREATE OR REPLACE PROCEDURE {name}_note_sign_in_1(a VARBINARY(1024), b BIGINT, c VARBINARY(64)) \
             SQL SECURITY INVOKER BEGIN END"
        ),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    set_schema_version(Kind::MariaDb, &format!("{server}?x={name}"), "1").await;
}

pub(super) async fn a_newer_schema_is_refused(kind: Kind) {
    let address = address(kind);
    let store = store::open(&address).await.unwrap();
    let id = begin(&*store, "anna").await;
    set_schema_version(kind, &address, "99").await;
    let error = store::open(&address).await.unwrap_err();
    assert!(matches!(&error, Error::Store { message, .. } if message.contains("99")), "{error}");
    set_schema_version(kind, &address, if kind == Kind::Postgres { "1" } else { "2" }).await;
    let again = store::open(&address).await.unwrap();
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
