//! The PostgreSQL store passes the whole suite, each check in a schema of its own.

use std::path::Path;

use crate::common::{is_there, namespace, service, with_parameter};
use cloakroom::{store::PostgresStore, testing::conformance};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

conformance!(|dir| PostgresStore::open(&address(&dir)).await.unwrap(), raw: everything(&dir).await, if: is_there(VARIABLE));

cloakroom::testing::slots!(mod slots: |dir| PostgresStore::open(&address(&dir)).await.unwrap(), if: is_there(VARIABLE));

fn address(directory: &Path) -> String {
    let schema = namespace(directory);
    with_parameter(&with_parameter(&service(VARIABLE), "schema", &schema), "max_connections", "8")
}

const VARIABLE: &str = "CLOAKROOM_TEST_POSTGRES_URL";

/// Every row of every table as text. Bytes are in it as hexadecimal digits.
async fn everything(directory: &Path) -> Vec<u8> {
    let schema = namespace(directory);
    let mut connection = PgConnection::connect(&service(VARIABLE)).await.unwrap();
    let tables = sqlx::query("SELECT table_name::text FROM information_schema.tables WHERE table_schema = $1")
        .bind(&schema)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let mut bytes = Vec::new();
    for table in tables {
        let select =
            format!("SELECT everything::text FROM \"{schema}\".\"{}\" AS everything", table.get::<String, _>(0));
        for row in sqlx::query(AssertSqlSafe(select)).fetch_all(&mut connection).await.unwrap() {
            bytes.extend(row.get::<String, _>(0).into_bytes());
        }
    }
    bytes
}
