//! Calls read what they work on, by indexes, and never all of a table.

use std::fmt::Write;

use cloakroom::{SessionId, store};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row};

use super::{NOW, address, begin, is_here, private::Kind, set, start};

/// Sessions and users enough that reading all of a table is never the cheaper plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i8_postgres_uses_its_indexes() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let address = address(Kind::Postgres);
    let store = store::open(&address).await.unwrap();
    let (server, parameter) = address.split_once('?').unwrap();
    let schema = parameter.split_once('=').unwrap().1;
    let mut connection = PgConnection::connect(server).await.unwrap();
    let (token, _) = start(&*store, "anna");
    let id = begin(&*store, "anna").await;
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    let fill = format!(
        "INSERT INTO {schema}.session SELECT sha256(n::text::bytea), 'user ' || n / 5, NULL, NULL, created_at, last_seen_at, \
         idle_timeout, ends_at, authenticated_at, methods, level, remember, ip, user_agent, device, country, \
         impersonated_by, returns_to, audit_user, version, \
         secret, secret_issued_at, rotations, predecessors, recent_changes, lease_number, lease_until, NULL, reap_at + n, \
         logged_in FROM {schema}.session, generate_series(1, 20000) AS n; \
         INSERT INTO {schema}.session_data SELECT id, 'a', '1' FROM {schema}.session WHERE user_id <> 'anna'; \
         INSERT INTO {schema}.tombstone SELECT id, user_id, created_at, 'signed_out', NULL, NULL, secret, 0, 0, '' \
         FROM {schema}.session WHERE user_id <> 'anna'; \
         INSERT INTO {schema}.audit SELECT era, place, seq + n, at + n, event, sha256(n::text::bytea), 'user ' || n / 5, \
         NULL, NULL, NULL, NULL, NULL, NULL FROM {schema}.audit, generate_series(1, 20000) AS n; \
         ANALYZE {schema}.session, {schema}.session_data, {schema}.tombstone, {schema}.audit"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(fill))).await.unwrap();
    // A connection of its own, for its counters begin with nothing.
    let mut connection = PgConnection::connect(server).await.unwrap();
    let (hex_id, hex_new, now) = (hex(id), hex(token.id()), NOW.as_millis());
    for call in [
        format!("load_1('\\x{hex_id}')"),
        format!(
            "create_1(1, {now}, 1, true, NULL, NULL, 'signed_in', NULL, '', '', '', '\\x{hex_new}', 'anna', NULL, NULL, {now}, {now}, \
             NULL, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, '', 0, 0, '', '', 0, 0, '\\x01', '{{}}', '{{}}')"
        ),
        format!(
            "update_1('\\x{hex_new}', {now}, '\\x0102030405060708', NULL, NULL, '{{b}}', '{{NULL}}', false, '{{}}', '{{a}}', '{{1}}', \
             1000, true, false, NULL, false, NULL, true, 10000, false, NULL)"
        ),
        format!("touch_1('{{\"\\\\x{hex_new}\"}}', '{{{now}}}', '{{NULL}}', {now})"),
        format!("rotate_1('\\x{hex_new}', '', '\\x01', 0, 0, false, NULL, {now})"),
        format!("find_of_user_1('anna', 9223372036854775807, '', NULL, NULL, NULL, NULL, {now}, 10)"),
        format!("find_anywhere_1('', NULL, NULL, NULL, NULL, {now}, 10, 100)"),
        format!("end_1('{{\"\\\\x{hex_new}\"}}', 'signed_out', NULL, NULL, {now})"),
        format!("end_of_user_1(1, 'user 7', '{{}}', true, 'signed_out', NULL, NULL, {now})"),
        format!("reap_1(10, 10, {now}, 10, {now}, 10, {now} + 3600020)"),
        "audit_1(1, 0, 0, 'user 7', NULL, 10)".to_owned(),
        format!("audit_1(1, 0, 0, NULL, '\\x{hex_id}', 10)"),
        "audit_1(1, 0, 0, NULL, NULL, 10)".to_owned(),
        "open_1()".to_owned(),
    ] {
        let mut transaction = connection.begin().await.unwrap();
        let select = format!("SELECT * FROM {schema}.{call}");
        transaction.fetch_all(AssertSqlSafe(select)).await.unwrap_or_else(|error| panic!("{call}: {error}"));
        let scanned = sqlx::query(
            "SELECT relname::text, seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = $1 AND seq_scan > 0 \
             AND relname IN ('session', 'session_data', 'tombstone', 'audit')",
        )
        .bind(schema)
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
        let scanned: Vec<String> = scanned.iter().map(|row| row.get(0)).collect();
        assert!(scanned.is_empty(), "{call} reads all of {scanned:?}");
        transaction.commit().await.unwrap();
    }
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
