//! Calls read what they work on, by indexes, and never all of a table.

use std::{fmt::Write, time::Duration};

use cloakroom::{
    Digest, Reason, SessionId,
    store::{self, AuditQuery, Fence, Limit, PutUser, Query, Reap, Touch, Which},
};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row};

use super::{NOW, address, begin, is_here, private::Kind, set, start, with_parameter};

/// Sessions and users enough that reading all of a table is never the cheaper plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i8_postgres_uses_its_indexes() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let filling = store::open(&address).await.unwrap();
    let (server, parameter) = address.split_once('?').unwrap();
    let schema = parameter.split_once('=').unwrap().1;
    let mut connection = PgConnection::connect(server).await.unwrap();
    let id = begin(&*filling, "anna").await;
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

    let store = store::open(&with_parameter(&address, "max_connections", "1")).await.unwrap();
    let (token, mut create) = start(&*store, "anna");
    create.limit = Some(Limit::evict(2));
    create.record.idempotency = Some(Digest::from_bytes([7; Digest::LEN]));
    store.create(&create, NOW).await.unwrap();
    store.load(id, NOW).await.unwrap();
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    let changes = [id, token.id()].map(|id| (id, set("b", "1")));
    join_all(changes.iter().map(|(id, change)| store.update(*id, change, NOW))).await;
    let touches = [id, token.id()].map(|id| Touch { id, seen_at: NOW, grace_ends: None });
    store.touch(&touches[..1], NOW).await.unwrap();
    store.touch(&touches, NOW).await.unwrap();
    store.find(&Query::of_user("anna"), None, 10, NOW).await.unwrap();
    store.find(&Query::default(), None, 10, NOW).await.unwrap();
    store.end(&Which::Ids(vec![token.id()]), &Reason::SignedOut.into(), NOW).await.unwrap();
    let all = Which::OfUser { user: "anna".into(), except: Vec::new(), fence: Fence::Disabled };
    store.end(&all, &Reason::UserDisabled.into(), NOW).await.unwrap();
    store.user("user 7").await.unwrap();
    store.users(None, 10).await.unwrap();
    let reap = Reap { limit: 10, tombstones_before: NOW, audit_before: NOW };
    store.reap(&reap, NOW).await.unwrap();
    let by_user = AuditQuery { user: Some("user 7".into()), session: None };
    for query in [AuditQuery::default(), by_user, AuditQuery { user: None, session: Some(id) }] {
        store.audit(&query, None, 10).await.unwrap();
    }
    drop(store);
    assert_eq!(scans(server, schema).await, before, "a call reads all of a table");
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
    if !is_here(Kind::MariaDb) {
        return;
    }
    let address = address(Kind::MariaDb);
    let store = store::open(&address).await.unwrap();
    let (server, parameter) = address.split_once('?').unwrap();
    let prefix = parameter.split_once('=').unwrap().1;
    let id = begin(&*store, "anna").await;
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    let mut connection = MySqlConnection::connect(server).await.unwrap();
    let fill = format!(
        "INSERT INTO {prefix}_session SELECT UNHEX(LPAD(HEX(n.seq), 36, '0')), CONCAT('user ', n.seq DIV 5), NULL, NULL, \
         created_at, last_seen_at, idle_timeout, ends_at, authenticated_at, methods, level, remember, ip, user_agent, device, \
         country, impersonated_by, returns_to, audit_user, version, secret, secret_issued_at, rotations, predecessors, recent_changes, \
         lease_number, lease_until, NULL, reap_at + n.seq FROM {prefix}_session, seq_1_to_20000 AS n; \
         INSERT INTO {prefix}_session_data SELECT id, 'a', '1' FROM {prefix}_session WHERE user_id <> 'anna'; \
         INSERT INTO {prefix}_audit (at, event, session, user_id) \
         SELECT at + n.seq, event, UNHEX(LPAD(HEX(n.seq), 36, '0')), CONCAT('user ', n.seq DIV 5) \
         FROM {prefix}_audit, seq_1_to_20000 AS n; \
         ANALYZE TABLE {prefix}_session, {prefix}_session_data, {prefix}_audit"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(fill))).await.unwrap();
    let (token, _) = start(&*store, "anna");
    let (hex_id, hex_new, now) = (hex(id), hex(token.id()), NOW.as_millis());
    for call in [
        format!("load_1(X'{hex_id}')"),
        format!(
            "create_1(1, {now}, 1, TRUE, NULL, NULL, 'signed_in', NULL, '', '', '', X'{hex_new}', 'anna', NULL, NULL, {now}, {now}, \
             NULL, NULL, NULL, NULL, NULL, FALSE, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, '', 0, 0, '', '', 0, 0, NULL, '[]')"
        ),
        format!(
            "update_1(X'{hex_new}', {now}, X'0102030405060708', NULL, NULL, '[[\"62\",\"\"]]', FALSE, '[]', '[[\"61\",\"31\"]]', \
             1000, TRUE, FALSE, NULL, FALSE, NULL, TRUE, 10000, FALSE, NULL)"
        ),
        format!("touch_1('[[\"{hex_new}\",{now},null]]', {now})"),
        format!("rotate_1(X'{hex_new}', '', X'01', 0, 0, FALSE, NULL, {now})"),
        format!("find_of_user_1('anna', 9223372036854775807, '', NULL, NULL, NULL, NULL, {now}, 10)"),
        format!("find_anywhere_1('', NULL, NULL, NULL, NULL, {now}, 10, 100)"),
        format!("end_1('[\"{hex_new}\"]', 'signed_out', NULL, NULL, {now})"),
        format!("end_of_user_1(1, 'user 7', '[]', TRUE, 'signed_out', NULL, NULL, {now})"),
        format!("reap_1(10, 10, {now}, 10, {now}, 10, {now} + 3600020)"),
        "audit_1(0, 0, 0, 'user 7', NULL, 10)".to_owned(),
        format!("audit_1(0, 0, 0, NULL, X'{hex_id}', 10)"),
        "audit_1(0, 0, 0, NULL, NULL, 10)".to_owned(),
    ] {
        let before = rows_read(&mut connection).await;
        let call_text = format!("CALL {prefix}_{call}");
        connection.fetch_all(AssertSqlSafe(call_text)).await.unwrap_or_else(|error| panic!("{call}: {error}"));
        let read = rows_read(&mut connection).await - before;
        assert!(read < 1500, "{call} read {read} rows");
    }
}

async fn rows_read(connection: &mut MySqlConnection) -> i64 {
    let rows = sqlx::query(
        "SELECT CAST(SUM(variable_value) AS SIGNED) FROM information_schema.session_status \
         WHERE variable_name IN ('HANDLER_READ_NEXT', 'HANDLER_READ_PREV', 'HANDLER_READ_RND_NEXT')",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    rows.get_unchecked(0)
}

/// Bytes as hexadecimal digits.
fn hex(id: SessionId) -> String {
    id.as_bytes().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}
