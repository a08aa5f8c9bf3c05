//! What calls cost the servers, by their processes' own time beside that of reading and writing a blob, and that a table
//! which is written to for long stays as it is.

use std::ops::Range;

use cloakroom::{
    SessionId,
    rules::Rules,
    store::{self, PostgresStore},
};
use futures_util::future::join_all;
use sqlx::{Connection, Executor, MySqlConnection, PgConnection, Row};

use super::{
    NOW,
    private::{Kind, PrivateServer},
    private_address, set,
};
use crate::common::{
    eventually,
    transactions::{Bound, Costs, commit, commit_all, end, load, session, start, update},
    with_parameter,
};

/// So many calls a round, one after the other.
const CALLS: usize = 256;
const TOGETHER: usize = 64;
const ROUNDS: usize = 5;

/// What is held today, where it is more than what is aimed at.
fn bounds(kind: Kind) -> [Bound; 5] {
    let (load, update, together, start, end) = match kind {
        Kind::Postgres => ((1.2, 2.6), (1.4, 6.0), (1.2, 1.8), (1.5, 8.0), (1.5, 5.5)),
        Kind::MariaDb => ((1.2, 3.0), (1.5, 7.0), (1.6, 3.8), (2.5, 22.0), (2.5, 16.0)),
    };
    let bound = |what, of, (aim, most)| Bound { what, of, aim, most };
    [
        bound("load", "select", load),
        bound("update", "upsert", update),
        bound("update together", "upsert", together),
        bound("start", "insert", start),
        bound("end", "upsert", end),
    ]
}

/// A table as other session stores have it.
enum Blobs {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

impl Blobs {
    async fn open(kind: Kind, address: &str) -> Self {
        match kind {
            Kind::Postgres => {
                let mut connection = PgConnection::connect(address).await.unwrap();
                let table =
                    "CREATE TABLE blobs (id text PRIMARY KEY, data bytea NOT NULL, expires timestamptz NOT NULL)";
                connection.execute(table).await.unwrap();
                Self::Postgres(connection)
            }
            Kind::MariaDb => {
                let mut connection = MySqlConnection::connect(address).await.unwrap();
                let table =
                    "CREATE TABLE blobs (id char(36) PRIMARY KEY, data blob NOT NULL, expires timestamp NOT NULL)";
                connection.execute(table).await.unwrap();
                Self::MariaDb(connection)
            }
        }
    }

    async fn put(&mut self, id: &str, byte: u8) {
        let data = vec![byte; 1200];
        match self {
            Self::Postgres(connection) => {
                let put = "INSERT INTO blobs (id, data, expires) VALUES ($1, $2, now()) \
                           ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires = excluded.expires";
                sqlx::query(put).bind(id).bind(data).execute(connection).await.unwrap();
            }
            Self::MariaDb(connection) => {
                let put = "INSERT INTO blobs (id, data, expires) VALUES (?, ?, now()) \
                           ON DUPLICATE KEY UPDATE data = VALUES(data), expires = VALUES(expires)";
                sqlx::query(put).bind(id).bind(data).execute(connection).await.unwrap();
            }
        }
    }

    async fn get(&mut self, id: &str) {
        match self {
            Self::Postgres(connection) => {
                let get = "SELECT data FROM blobs WHERE id = $1 AND expires < now() + interval '1 day'";
                sqlx::query(get).bind(id).fetch_one(connection).await.unwrap();
            }
            Self::MariaDb(connection) => {
                let get = "SELECT data FROM blobs WHERE id = ? AND expires < now() + interval 1 day";
                sqlx::query(get).bind(id).fetch_one(connection).await.unwrap();
            }
        }
    }
}

/// What the server used for so many calls.
struct Meter<'a> {
    server: &'a PrivateServer,
    costs: Costs,
}

impl Meter<'_> {
    async fn measure(&mut self, what: &'static str, calls: impl Future<Output = ()>) {
        let before = self.server.cpu().unwrap();
        calls.await;
        let used = self.server.cpu().unwrap().saturating_sub(before);
        self.costs.note(what, used.as_secs_f64() * 1e6 / f64::from(u32::try_from(CALLS).unwrap()));
    }
}

pub(super) async fn i9_calls_cost_hardly_more_than_a_blob(kind: Kind) {
    let settings: &[&str] = match kind {
        Kind::Postgres => &["fsync=off", "autovacuum=off"],
        Kind::MariaDb => &["innodb-flush-log-at-trx-commit=0"],
    };
    let Some(server) = PrivateServer::start(kind, settings) else { return };
    if !needs::is_met(server.cpu().is_some(), "the system does not tell what processes use") {
        return;
    }
    let address = private_address(kind, &server);
    let one = with_parameter(&address, "max_connections", "1");
    let store = eventually(|| async { store::open(&one).await.ok() }).await;
    let mut blobs = Blobs::open(kind, &address).await;
    let mut meter = Meter { server: &server, costs: Costs::default() };
    for round in 0..ROUNDS {
        let records: Vec<_> = (0..2 * CALLS).map(|n| session(&*store, &format!("user {round} {n}"))).collect();
        let (alone, together) = records.split_at(CALLS);
        let names: Vec<_> = (0..CALLS).map(|n| format!("{round} {n:022}")).collect();
        // The first time makes the rows, as a start does. What is put again is something else: MariaDB writes nothing else.
        for (what, byte) in [("insert", b'x'), ("upsert", b'y')] {
            let puts = async {
                for name in &names {
                    blobs.put(name, byte).await;
                }
            };
            meter.measure(what, puts).await;
        }
        meter
            .measure("start", async {
                for record in alone {
                    commit(&*store, start(record)).await;
                }
            })
            .await;
        meter
            .measure("select", async {
                for name in &names {
                    blobs.get(name).await;
                }
            })
            .await;
        meter
            .measure("load", async {
                for record in alone {
                    load(&*store, record.info.id).await;
                }
            })
            .await;
        let updates = async {
            for (n, record) in alone.iter().enumerate() {
                commit(&*store, update(record, n)).await;
            }
        };
        meter.measure("update", updates).await;
        for record in together {
            commit(&*store, start(record)).await;
        }
        let batches = async {
            for some in together.chunks(TOGETHER) {
                let updates: Vec<_> = some.iter().enumerate().map(|(n, record)| update(record, n)).collect();
                commit_all(&*store, &updates).await;
            }
        };
        meter.measure("update together", batches).await;
        meter
            .measure("end", async {
                for record in alone {
                    commit(&*store, end(record)).await;
                }
            })
            .await;
    }
    meter.costs.assert(&bounds(kind));
}

/// Updates that do not stay within their page bloat every index, and slow down reads that follow the row from version to
/// version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_long_writing_leaves_postgres_tables_as_they_are() {
    const SESSIONS: usize = 64;
    let Some(server) = PrivateServer::start(Kind::Postgres, &["fsync=off", "autovacuum=off"]) else { return };
    let address = private_address(Kind::Postgres, &server);
    let store = eventually(|| async { PostgresStore::open(&address).await.ok() }).await;
    let store = Rules::on(store);
    let records: Vec<_> = (0..SESSIONS).map(|n| session(&**store.store(), &format!("user {n}"))).collect();
    for record in &records {
        commit(&**store.store(), start(record)).await;
    }
    let ids: Vec<_> = records.iter().map(|record| record.info.id).collect();
    write(&store, &ids, 0..32).await;
    let mut connection = PgConnection::connect(&address).await.unwrap();
    let early = size(&mut connection).await;
    write(&store, &ids, 32..512).await;
    let late = size(&mut connection).await;
    assert!(late <= early + early / 2, "{early} bytes after 32 changes of each session, {late} after 512");
    let written = || async {
        let mut connection = PgConnection::connect(&address).await.ok()?;
        let told = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'slot'";
        let row = connection.fetch_one(told).await.ok()?;
        let (all, within): (i64, i64) = (row.get(0), row.get(1));
        (all >= i64::try_from(SESSIONS * 512).unwrap()).then_some((all, within))
    };
    // Connections tell what they did when they are idle, or gone.
    drop(store);
    let (all, within) = eventually(written).await;
    assert!(within * 100 >= all * 95, "{within} of {all} updates stayed within their page");
}

async fn write(store: &Rules, ids: &[SessionId], numbers: Range<usize>) {
    for n in numbers {
        let changes: Vec<_> = ids.iter().map(|id| (*id, set("key 3", &format!("\"{n:0110}\"")))).collect();
        for updated in join_all(changes.iter().map(|(id, change)| store.update(*id, change, NOW))).await {
            updated.unwrap();
        }
    }
}

async fn size(connection: &mut PgConnection) -> i64 {
    let size = "SELECT pg_total_relation_size(oid) FROM pg_class WHERE relname = 'slot'";
    connection.fetch_one(size).await.unwrap().get(0)
}
