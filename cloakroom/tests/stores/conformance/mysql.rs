//! The MariaDB store passes the whole suite, each check in tables of its own.

use std::path::Path;

use crate::common::{is_there, namespace, service, with_parameter};
use cloakroom::{store::MysqlStore, testing::conformance};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};

conformance!(|dir| MysqlStore::open(&address(&dir)).await.unwrap(), raw: everything(&dir).await, if: is_there(VARIABLE));

cloakroom::testing::slots!(mod slots: |dir| MysqlStore::open(&address(&dir)).await.unwrap(), if: is_there(VARIABLE));

fn address(directory: &Path) -> String {
    let prefix = namespace(directory);
    with_parameter(&with_parameter(&service(VARIABLE), "prefix", &prefix), "max_connections", "8")
}

const VARIABLE: &str = "CLOAKROOM_TEST_MARIADB_URL";

/// Every column of every row of every table.
async fn everything(directory: &Path) -> Vec<u8> {
    let prefix = namespace(directory);
    let mut connection = MySqlConnection::connect(&service(VARIABLE)).await.unwrap();
    let tables = sqlx::query(
        "SELECT CAST(table_name AS BINARY) FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_name LIKE CONCAT(?, '%')",
    )
    .bind(&prefix)
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut bytes = Vec::new();
    for table in tables {
        let table = String::from_utf8(table.get_unchecked::<Vec<u8>, _>(0)).unwrap();
        for row in
            sqlx::query(AssertSqlSafe(format!("SELECT * FROM {table}"))).fetch_all(&mut connection).await.unwrap()
        {
            for column in 0..row.len() {
                bytes.extend(row.get_unchecked::<Option<Vec<u8>>, _>(column).unwrap_or_default());
            }
        }
    }
    bytes
}
