//! What `doctor` looks at on a MariaDB server: its settings, and whether our tables are as they were made.
//!
//! How tables should look the server says itself: the migrations make temporary ones, which go with the connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sqlx::{AssertSqlSafe, Error as SqlError, MySqlConnection, Row, mysql::MySqlRow};

use super::{
    super::address::Namespace,
    engine::{SMALLEST_PACKET, Server},
    open::{MIGRATIONS, binlog_problem},
};
use crate::{
    error::{Error, Result},
    store::{
        Finding,
        sql::{
            fault::{Fault, Kind},
            pool::{CALL_TIMEOUT, Pool},
        },
    },
};

/// In a task of its own: what a caller that goes away had begun is finished.
pub(super) async fn examine(pool: &Arc<Pool<Server>>, repair: bool) -> Result<Vec<Finding>> {
    let pool = Arc::clone(pool);
    let task = tokio::spawn(async move {
        let fault = |fault: Fault| fault.into_error::<Server>(Kind::Read);
        let mut lease = pool.acquire(CALL_TIMEOUT).await.map_err(fault)?;
        // Its settings are others from now on, so it is not put to rest.
        let examined = examine_on(lease.take_over(), &pool, repair).await;
        examined.map_err(|error| fault(Fault::of::<Server>(error, Duration::ZERO)))
    });
    task.await.unwrap_or_else(|stopped| Err(Error::store("the examination stopped midway", stopped)))
}

async fn examine_on(
    connection: &mut MySqlConnection,
    pool: &Pool<Server>,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    let namespace = &pool.engine().namespace;
    sqlx::raw_sql("SET max_statement_time = 0").execute(&mut *connection).await?;
    let mut findings = examine_server(connection, namespace, pool.max()).await?;
    let schema = examine_tables(connection, namespace, repair).await?;
    if schema.is_empty() {
        let text = format!("Its version is {}, and all is as it was made.", MIGRATIONS.len());
        findings.push(Finding::fine("schema", text));
    }
    findings.extend(schema);
    Ok(findings)
}

async fn examine_server(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
    ours: usize,
) -> Result<Vec<Finding>, SqlError> {
    let row = sqlx::raw_sql(
        "SELECT CAST(VERSION() AS BINARY), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), \
         CAST(@@innodb_doublewrite AS BINARY), CAST(@@log_bin AS SIGNED), CAST(@@sync_binlog AS SIGNED), \
         CAST(@@read_only AS SIGNED), CAST(@@max_connections AS SIGNED), CAST(@@max_allowed_packet AS SIGNED), \
         CAST(@@binlog_format AS BINARY)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let number = |column: usize| row.try_get_unchecked::<i64, _>(column);
    let version = text(&row, 0)?;
    let mut findings = vec![Finding::fine("version", format!("MariaDB {}.", version.trim_start_matches("5.5.5-")))];
    let warning = |text: &str| Finding::warning("durability", text);
    match number(1)? {
        1 => {}
        0 => findings.push(warning(
            "innodb_flush_log_at_trx_commit is 0: a crash of the server takes the last second with it, endings too. Set \
             it to 1.",
        )),
        _ => findings.push(warning(
            "innodb_flush_log_at_trx_commit is not 1: a crash of the machine takes the last second with it, endings too. \
             Set it to 1.",
        )),
    }
    if ["0", "OFF"].contains(&text(&row, 2)?.as_str()) {
        let text = "innodb_doublewrite is off: a power failure may damage pages that were being written. Turn it on.";
        findings.push(warning(text));
    }
    if number(3)? == 1 && number(4)? != 1 {
        let text = "sync_binlog is not 1: after a crash of the machine replicas may have less, or more, than the server. \
                    Set it to 1 if there are replicas.";
        findings.push(warning(text));
    }
    if findings.len() == 1 {
        let text = "What was answered is on the disk (innodb_flush_log_at_trx_commit = 1).";
        findings.push(Finding::fine("durability", text));
    }
    if number(5)? != 0 {
        let text = "The server is read_only, as replicas are: give the address of the primary.";
        findings.push(Finding::error("writable", text));
    } else if number(3)? == 1 && text(&row, 8)? == "STATEMENT" {
        findings.push(Finding::error("writable", format!("{}.", capitalised(&binlog_problem()))));
    } else if let Some(problem) = write_and_take_back(connection, namespace).await? {
        findings.push(Finding::error("writable", format!("Nothing can be written: {problem}.")));
    }
    let room = number(6)?;
    if i64::try_from(ours).unwrap_or(i64::MAX) > room {
        findings.push(Finding::warning(
            "connections",
            format!(
                "This address may open {ours} connections, and the server has {room} for everybody: lower \
                 max_connections in the address, or raise it on the server."
            ),
        ));
    }
    let packet = number(7)?;
    if usize::try_from(packet).is_ok_and(|packet| packet < SMALLEST_PACKET) {
        findings.push(Finding::warning(
            "packets",
            format!("max_allowed_packet is {packet} bytes: large sessions cannot be stored. Set it to 16M."),
        ));
    }
    Ok(findings)
}

/// What keeps a write that needs room from being done, if anything does.
async fn write_and_take_back(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
) -> Result<Option<String>, SqlError> {
    let write = super::health::written_and_taken_back("START TRANSACTION;", namespace);
    let wrote = sqlx::raw_sql(AssertSqlSafe(write)).execute(&mut *connection).await;
    let problem = match wrote {
        Ok(_) => None,
        // The tables are gone, which is told elsewhere.
        Err(SqlError::Database(error)) if error.code().as_deref() == Some(NO_SUCH_TABLE) => None,
        Err(SqlError::Database(error)) => Some(<Server as super::super::pool::Engine>::told(&*error)),
        Err(error) => return Err(error),
    };
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    Ok(problem)
}

const NO_SUCH_TABLE: &str = "42S02";

fn capitalised(text: &str) -> String {
    text[..1].to_uppercase() + &text[1..]
}

async fn examine_tables(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    let mut findings = Vec::new();
    let mut wrong = |text: String, repaired| findings.push(Finding::error("schema", text).repaired(repaired));
    for (name, expected) in match expected_tables(connection, namespace).await {
        Ok(expected) => expected,
        Err(SqlError::Database(error)) => {
            let text = format!("Tables could not be compared with new ones: {error}.");
            return Ok(vec![Finding::note("schema", text)]);
        }
        Err(error) => return Err(error),
    } {
        let Some(found) = Table::read(connection, &format!("{namespace}_{name}")).await? else {
            wrong(format!("The table {namespace}_{name} is gone: restore a backup."), false);
            continue;
        };
        for column in expected.columns.difference(&found.columns) {
            wrong(format!("The table {namespace}_{name} has no column \"{column}\": restore a backup."), false);
        }
        for (index, columns) in &expected.indexes {
            let there = found.indexes.get(index);
            if there == Some(columns) {
                continue;
            }
            let problem = if there.is_some() { "is another one than it was made" } else { "is gone" };
            let mut text = format!("The index {index} of {namespace}_{name} {problem}, and calls are slow without it");
            if repair && index != "PRIMARY" {
                let drop = if there.is_some() { format!("DROP INDEX {index}, ") } else { String::new() };
                let alter = format!("ALTER TABLE {namespace}_{name} {drop}ADD {columns}, LOCK = NONE");
                sqlx::raw_sql(AssertSqlSafe(alter)).execute(&mut *connection).await?;
                wrong(text + ". Made anew. Repaired.", true);
            } else {
                text += if index == "PRIMARY" { ": restore a backup." } else { ": use --repair to make it anew." };
                wrong(text, false);
            }
        }
    }
    Ok(findings)
}

/// A table: its columns with their types, and the definitions of its indexes.
struct Table {
    columns: BTreeSet<String>,
    indexes: BTreeMap<String, String>,
}

/// The tables that the migrations make, by the name behind the prefix.
async fn expected_tables(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
) -> Result<Vec<(String, Table)>, SqlError> {
    let statements = MIGRATIONS.iter().flat_map(|migration| migration.split("\n%\n"));
    let mut names = Vec::new();
    for statement in statements {
        // What stands before it are comments.
        let lines = statement.lines().skip_while(|line| line.starts_with("--")).collect::<Vec<_>>().join("\n");
        let statement = lines.trim();
        if !(statement.starts_with("CREATE TABLE ") || statement.starts_with("ALTER TABLE ")) {
            continue;
        }
        let made = statement.strip_prefix("CREATE TABLE IF NOT EXISTS ~");
        if let Some(name) = made.and_then(|made| made.split_whitespace().next()) {
            names.push(name.to_owned());
        }
        let statement = statement.replace("CREATE TABLE IF NOT EXISTS", "CREATE TEMPORARY TABLE");
        let statement = statement.replace('~', &format!("{namespace}_expected_"));
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    let mut tables = Vec::new();
    for name in names {
        if let Some(table) = Table::read(connection, &format!("{namespace}_expected_{name}")).await? {
            tables.push((name, table));
        }
    }
    Ok(tables)
}

impl Table {
    /// None if there is none.
    async fn read(connection: &mut MySqlConnection, name: &str) -> Result<Option<Self>, SqlError> {
        let show = format!("SHOW CREATE TABLE {name}");
        let row = match sqlx::raw_sql(AssertSqlSafe(show)).fetch_one(connection).await {
            Ok(row) => row,
            Err(SqlError::Database(error)) if error.code().as_deref() == Some(NO_SUCH_TABLE) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self::parse(&text(&row, 1)?)))
    }

    /// Reads what `SHOW CREATE TABLE` answers: a column or an index a line.
    fn parse(made_by: &str) -> Self {
        let mut table = Self { columns: BTreeSet::new(), indexes: BTreeMap::new() };
        for line in made_by.lines().map(|line| line.trim().trim_end_matches(',')) {
            if line.starts_with('`') {
                table.columns.insert(line.replace('`', ""));
            } else if line.starts_with("PRIMARY KEY") {
                table.indexes.insert("PRIMARY".into(), line.into());
            } else if line.starts_with("KEY `") || line.starts_with("UNIQUE KEY `") {
                let name = line.split('`').nth(1).unwrap_or_default();
                table.indexes.insert(name.into(), line.into());
            }
        }
        table
    }
}

fn text(row: &MySqlRow, column: usize) -> Result<String, SqlError> {
    Ok(String::from_utf8_lossy(&row.try_get_unchecked::<Vec<u8>, _>(column)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_the_server_shows_it() {
        let table = Table::parse(
            "CREATE TABLE `a` (\n  `id` binary(18) NOT NULL,\n  `user_id` varbinary(1024) DEFAULT NULL,\n  \
             PRIMARY KEY (`id`),\n  KEY `by_user` (`user_id`,`id`)\n) ENGINE=InnoDB",
        );
        assert_eq!(table.columns.iter().next().unwrap(), "id binary(18) NOT NULL");
        assert_eq!(table.indexes["by_user"], "KEY `by_user` (`user_id`,`id`)");
        assert_eq!((table.columns.len(), table.indexes.len()), (2, 2));
    }
}
