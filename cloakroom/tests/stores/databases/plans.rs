//! Calls read what they work on, by indexes, and never all of a table.

use std::time::Duration;

use cloakroom::{
    Limit, Reason, SessionId,
    rules::{Fence, Reap, Rules, Touch, Which},
    store::{self, AuditQuery, Digest, PutUser, Query},
};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row};

use super::{NOW, address, begin, is_here, private, private::Kind, private_address, set, start, with_parameter};

/// Sessions and users enough that reading all of a table is never the cheaper plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i8_postgres_uses_its_indexes() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let filling = Rules::new(store::open(&address).await.unwrap());
    let (server, parameter) = address.split_once('?').unwrap();
    let schema = parameter.split_once('=').unwrap().1;
    let mut connection = PgConnection::connect(server).await.unwrap();
    let id = begin(&filling, "anna").await;
    filling.put_user(&put("anna")).await.unwrap();
    let fill = format!(
        "INSERT INTO {schema}.slot (revision, created_at, idle, ends_at, id, user_id, head, logged, data, seen, version, \
         recent, due_at, idempotency, ended_at, ending) \
         SELECT revision, created_at, idle, ends_at, substr(sha256(n::text::bytea), 1, 18), 'user ' || n / 5, head, logged, \
         data, seen, version, recent, due_at + n, CASE WHEN n % 9 = 0 THEN sha256(n::text::bytea) END, \
         CASE WHEN n % 3 = 0 THEN created_at + n END, \
         CASE WHEN n % 3 = 0 THEN '{{\"at\":1,\"reason\":\"signed_out\"}}' END \
         FROM {schema}.slot, generate_series(1, 20000) AS n; \
         INSERT INTO {schema}.account SELECT 'user ' || n, n, n, NULL, NULL, '{{}}' FROM generate_series(1, 20000) AS n; \
         INSERT INTO {schema}.audit (place, id, at, session, user_id, entry) \
         SELECT place, n, at + n, substr(sha256(n::text::bytea), 1, 18), 'user ' || n / 5, entry \
         FROM {schema}.audit, generate_series(1, 20000) AS n; \
         ANALYZE {schema}.slot, {schema}.account, {schema}.audit"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(fill))).await.unwrap();
    drop(connection);
    drop(filling);
    let before = scans(server, schema).await;

    let store = Rules::new(store::open(&with_parameter(&address, "max_connections", "1")).await.unwrap());
    each_call(&store, id, async |_| {}).await;
    drop(store);
    assert_eq!(scans(server, schema).await, before, "a call reads all of a table");
}

/// Makes each call; `made` is told of each.
async fn each_call(store: &Rules, id: SessionId, mut made: impl AsyncFnMut(&str)) {
    let (token, mut create) = start(store, "anna");
    create.limit = Some(Limit::evict(2));
    create.record.idempotency = Some(Digest::from_bytes([7; Digest::LEN]));
    store.create(&create, NOW).await.unwrap();
    made("create").await;
    store.load(id, NOW).await.unwrap();
    made("load").await;
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    made("update").await;
    let changes = [id, token.id()].map(|id| (id, set("b", "1")));
    join_all(changes.iter().map(|(id, change)| store.update(*id, change, NOW))).await;
    made("updates").await;
    let touches = [id, token.id()].map(|id| Touch { id, seen_at: NOW, grace_ends: None });
    store.touch(&touches[..1], NOW).await.unwrap();
    store.touch(&touches, NOW).await.unwrap();
    made("touch").await;
    store.find(&Query::of_user("anna"), None, 10, NOW).await.unwrap();
    made("find").await;
    store.find(&Query::default(), None, 10, NOW).await.unwrap();
    made("find anywhere").await;
    store.end(&Which::Ids(vec![token.id()]), &Reason::SignedOut.into(), NOW).await.unwrap();
    made("end").await;
    let all = Which::OfUser { user: "anna".into(), except: Vec::new(), fence: Fence::Disabled };
    store.end(&all, &Reason::UserDisabled.into(), NOW).await.unwrap();
    made("end of user").await;
    store.user("user 7").await.unwrap();
    store.users(None, 10).await.unwrap();
    made("users").await;
    let reap = Reap { limit: 10, tombstones_before: NOW, audit_before: NOW };
    store.reap(&reap, NOW).await.unwrap();
    made("reap").await;
    let by_user = AuditQuery { user: Some("user 7".into()), session: None };
    for query in [AuditQuery::default(), by_user, AuditQuery { user: None, session: Some(id) }] {
        store.audit(&query, None, 10).await.unwrap();
        made("audit").await;
    }
}

fn put(user: &str) -> PutUser {
    PutUser { user: user.into(), was: None, settings: Some("{}".into()), last_sign_in: None }
}

/// How often all of a table was read, once the connections that did it have told.
async fn scans(server: &str, schema: &str) -> Vec<(String, i64)> {
    let mut connection = PgConnection::connect(server).await.unwrap();
    let mut last = Vec::new();
    // A connection that is closed tells what it counted as it ends; two looks that agree have seen it.
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let rows = sqlx::query(
            "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE schemaname = $1 \
             AND relname IN ('slot', 'account', 'audit') ORDER BY 1",
        )
        .bind(schema)
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let now: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let others = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND pid <> pg_backend_pid()";
        let others: i64 =
            sqlx::query(others).bind(format!("%{schema}%")).fetch_one(&mut connection).await.unwrap().get(0);
        if others == 0 && last == now {
            break;
        }
        last = now;
    }
    last
}

/// MariaDB counts every row that it reads: a call reads what it works on, not the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i8_mariadb_uses_its_indexes() {
    // Of its own: the whole server's count is looked at.
    let Some((server, filling)) = private(Kind::MariaDb, &[]).await else { return };
    let address = private_address(Kind::MariaDb, &server);
    let id = begin(&filling, "anna").await;
    filling.update(id, &set("a", "1"), NOW).await.unwrap();
    filling.put_user(&put("anna")).await.unwrap();
    let mut connection = MySqlConnection::connect(&address).await.unwrap();
    let fill = "INSERT INTO cloakroom_slot (id, revision, version, seen, created_at, idle, ends_at, user_id, idempotency, \
         due_at, ended_at, ending, head, recent, data) \
         SELECT UNHEX(LPAD(HEX(n.seq), 36, '0')), revision, version, seen, created_at, idle, ends_at, \
         CONCAT('user ', n.seq DIV 5), IF(n.seq % 9 = 0, UNHEX(SHA2(n.seq, 256)), NULL), due_at + n.seq, \
         IF(n.seq % 3 = 0, created_at + n.seq, NULL), IF(n.seq % 3 = 0, '{\"at\":1,\"reason\":\"signed_out\"}', NULL), \
         head, recent, data FROM cloakroom_slot, seq_1_to_20000 AS n; \
         INSERT INTO cloakroom_account SELECT CONCAT('user ', seq), seq, seq, NULL, NULL, '{}' FROM seq_1_to_20000; \
         INSERT INTO cloakroom_audit (id, at, session, user_id, entry) \
         SELECT n.seq, at + n.seq, UNHEX(LPAD(HEX(n.seq), 36, '0')), CONCAT('user ', n.seq DIV 5), entry \
         FROM cloakroom_audit, seq_1_to_20000 AS n; \
         ANALYZE TABLE cloakroom_slot, cloakroom_account, cloakroom_audit";
    connection.execute(sqlx::raw_sql(fill)).await.unwrap();
    drop(filling);
    let store = Rules::new(store::open(&with_parameter(&address, "max_connections", "1")).await.unwrap());
    let mut before = rows_read(&mut connection).await;
    each_call(&store, id, async |call| {
        let now = rows_read(&mut connection).await;
        let (read, itself) = (now - before, rows_read(&mut connection).await - now);
        before = now + itself;
        // An unrestricted list looks at so many sessions at most.
        let most = if call == "find anywhere" { 10_000 } else { 300 };
        assert!(read - itself < most, "{call} read {read} rows, {itself} of them in order to count");
    })
    .await;
}

async fn rows_read(connection: &mut MySqlConnection) -> i64 {
    let rows = sqlx::query(
        "SELECT CAST(SUM(variable_value) AS SIGNED) FROM information_schema.global_status \
         WHERE variable_name IN ('HANDLER_READ_NEXT', 'HANDLER_READ_PREV', 'HANDLER_READ_RND_NEXT')",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    rows.get_unchecked(0)
}
