//! PostgreSQL's audit log: what readers wait for, and what they do not.

use std::time::{Duration, Instant};

use cloakroom::{
    Error, Reason,
    rules::{Rules, Which},
    store::{self, AuditQuery},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{Kind, NOW, address, at, begin, is_here, start};

/// A restored dump begins with low transaction numbers again: entries of before stay, and new ones follow them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i16_the_log_of_a_restored_postgres_goes_on() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let store = Rules::new(store::open(&address).await.unwrap());
    let old = begin(&store, "anna").await;
    let (server, parameter) = address.split_once('?').unwrap();
    let schema = parameter.split_once('=').unwrap().1;
    let mut connection = PgConnection::connect(server).await.unwrap();
    let later = format!(
        "UPDATE {schema}.audit SET place = place + 1000000000000; \
         UPDATE {schema}.slot SET logged = logged + 1000000000000"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(later))).await.unwrap();
    let store = Rules::new(store::open(&address).await.unwrap());
    store.end(&Which::Ids(vec![old]), &Reason::SignedOut.into(), at(1)).await.unwrap();
    let new = begin(&store, "bert").await;
    let page = store.audit(&AuditQuery::default(), None, 10).await.unwrap();
    let sessions: Vec<_> = page.items.iter().map(|logged| logged.entry.session).collect();
    assert_eq!(sessions, [old, old, new]);
    let rest = store.audit(&AuditQuery::default(), Some(&page.items[0].cursor), 10).await.unwrap();
    assert_eq!(rest.items.len(), 2);
}
/// A connection of another program's, in a transaction that has a number.
async fn transaction(server: &str, statements: &str) -> PgConnection {
    let mut connection = PgConnection::connect(server).await.unwrap();
    let begin = format!("BEGIN; {statements}; SELECT txid_current()");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(begin))).await.unwrap();
    connection
}

/// Whoever keeps a transaction open on the same server does not hold up the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i16_a_foreign_transaction_hides_nothing() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let store = Rules::new(store::open(&address).await.unwrap());
    let _open = transaction(address.split_once('?').unwrap().0, "SELECT 1").await;
    let id = begin(&store, "anna").await;
    let started = Instant::now();
    let page = store.audit(&AuditQuery::default(), None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(|logged| logged.entry.session).collect::<Vec<_>>(), [id]);
    assert!(started.elapsed() < Duration::from_mins(1), "{:?}", started.elapsed());
}

/// What may still be written before an entry is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i16_a_writer_under_way_is_waited_for() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let store = Rules::new(store::open(&address).await.unwrap());
    let (server, parameter) = address.split_once('?').unwrap();
    let schema = parameter.split_once('=').unwrap().1;
    let lock = format!("LOCK TABLE {schema}.audit IN ROW EXCLUSIVE MODE");
    let mut writer = transaction(server, &lock).await;
    let id = begin(&store, "anna").await;
    assert_eq!(store.audit(&AuditQuery::default(), None, 10).await.unwrap().items, []);
    let late = format!(
        "INSERT INTO {schema}.audit (place, id, at, session, entry) \
         SELECT txid_current(), 1, at, session, entry FROM {schema}.audit; COMMIT"
    );
    writer.execute(sqlx::raw_sql(AssertSqlSafe(late))).await.unwrap();
    let page = store.audit(&AuditQuery::default(), None, 10).await.unwrap();
    assert_eq!(page.items.len(), 2, "{page:?}");
    assert_eq!((page.items[0].id, page.items[1].entry.session), (1, id), "the late one comes first");
}

/// What was opened is gone, and something else has its name: a node that runs on admits nobody under the lost key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_schema_that_was_replaced_is_noticed() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let store = Rules::new(store::open(&address).await.unwrap());
    let old = begin(&store, "anna").await;
    let (server, parameter) = address.split_once('?').unwrap();
    let drop = format!("DROP SCHEMA {} CASCADE", parameter.split_once('=').unwrap().1);
    PgConnection::connect(server).await.unwrap().execute(sqlx::raw_sql(AssertSqlSafe(drop))).await.unwrap();
    let gone = store.create(&start(&store, "anna").1, NOW).await;
    assert!(gone.is_err(), "{gone:?}");

    let other = Rules::new(store::open(&address).await.unwrap());
    let created = store.create(&start(&store, "anna").1, NOW).await;
    assert!(matches!(created, Err(Error::Unavailable { .. })), "{created:?}");
    let ended = store.end(&Which::Ids(vec![old]), &Reason::SignedOut.into(), NOW).await;
    assert!(ended.is_ok() || matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
    let pinged = store.ping().await;
    assert!(matches!(pinged, Err(Error::Unavailable { .. })), "{pinged:?}");
    begin(&other, "anna").await;
}
