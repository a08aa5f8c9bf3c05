//! What `doctor` looks at on a MariaDB server: its settings, and whether our tables and routines are as they were made.
//!
//! How tables should look the server says itself: the migrations make temporary ones, which go with the connection.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Error as SqlError, MySqlConnection, Row, mysql::MySqlRow};

use super::{super::remote::Namespace, MIGRATIONS, STRICT};
use crate::store::Finding;

pub(super) async fn examine(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
    max_connections: u32,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    // Rows that are looked at are not locked, and what does not fit is an error.
    let prepare = format!("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; {STRICT}");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await?;
    let mut findings = examine_server(connection, max_connections).await?;
    let before = findings.len();
    findings.extend(examine_tables(connection, namespace, repair).await?);
    findings.extend(examine_routines(connection, namespace, repair).await?);
    if !findings[before..].iter().any(|finding| finding.subject == "schema") {
        let text = format!("Its version is {}, and all is as it was made.", MIGRATIONS.len());
        findings.push(Finding::fine("schema", text));
    }
    Ok(findings)
}

async fn examine_server(connection: &mut MySqlConnection, ours: u32) -> Result<Vec<Finding>, SqlError> {
    let row = sqlx::query(
        "SELECT CAST(VERSION() AS BINARY), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), \
         CAST(@@innodb_doublewrite AS BINARY), CAST(@@log_bin AS SIGNED), CAST(@@sync_binlog AS SIGNED), \
         CAST(@@read_only AS SIGNED), CAST(@@max_connections AS SIGNED), CAST(@@max_allowed_packet AS SIGNED)",
    )
    .fetch_one(connection)
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
    }
    let room = number(6)?;
    if i64::from(ours) > room {
        findings.push(Finding::warning(
            "connections",
            format!(
                "This address may open {ours} connections, and the server has {room} for everybody: lower \
                 max_connections in the address, or raise it on the server."
            ),
        ));
    }
    let packet = number(7)?;
    if packet < SMALLEST_PACKET {
        findings.push(Finding::warning(
            "packets",
            format!("max_allowed_packet is {packet} bytes: large sessions cannot be stored. Set it to 16M."),
        ));
    }
    Ok(findings)
}

/// Calls carry values as hexadecimal digits: twice the largest session, and a little more.
const SMALLEST_PACKET: i64 = 1 << 18;

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
        const NO_SUCH_TABLE: &str = "42S02";
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

async fn examine_routines(
    connection: &mut MySqlConnection,
    namespace: &Namespace,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    let select = "SELECT CAST(routine_name AS BINARY), CAST(routine_definition AS BINARY) FROM information_schema.routines \
                  WHERE routine_schema = DATABASE()";
    let mut found = BTreeMap::new();
    for row in sqlx::raw_sql(select).fetch_all(&mut *connection).await? {
        let definition: Option<Vec<u8>> = row.try_get_unchecked(1)?;
        found.insert(text(&row, 0)?, definition.map(|definition| String::from_utf8_lossy(&definition).into_owned()));
    }
    let mut findings = Vec::new();
    let mut hidden = 0;
    for (name, statement) in expected_routines(namespace) {
        let problem = match found.get(&name) {
            Some(Some(definition)) if statement.trim_end().ends_with(definition.trim()) => continue,
            Some(Some(_)) => "is another one than it was made",
            Some(None) => {
                hidden += 1;
                continue;
            }
            None => "is gone",
        };
        let (repaired, remedy) = if repair {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
            (true, "Made anew. Repaired.")
        } else {
            (false, "Use --repair to make it anew.")
        };
        findings.push(Finding::error("schema", format!("The routine {name} {problem}. {remedy}")).repaired(repaired));
    }
    if hidden > 0 {
        let text = format!("{hidden} routines could not be compared: this account may call them and not see them.");
        findings.push(Finding::note("routines", text));
    }
    Ok(findings)
}

/// The latest version of each routine that the migrations make, and the statement that makes it.
fn expected_routines(namespace: &Namespace) -> BTreeMap<String, String> {
    let statements = MIGRATIONS.iter().flat_map(|migration| migration.split("\n%\n"));
    let routines = statements.filter_map(|statement| {
        let start = ["CREATE OR REPLACE PROCEDURE ~", "CREATE OR REPLACE FUNCTION ~"]
            .into_iter()
            .find_map(|begins| statement.find(begins).map(|at| at + begins.len()))?;
        let name = &statement[start..];
        let name = &name[..name.find('(')?];
        Some((format!("{namespace}_{name}"), statement.replace('~', &format!("{namespace}_"))))
    });
    routines.collect()
}

fn text(row: &MySqlRow, column: usize) -> Result<String, SqlError> {
    Ok(String::from_utf8_lossy(&row.try_get_unchecked::<Vec<u8>, _>(column)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routines_are_found_in_the_migrations() {
        let routines = expected_routines(&Namespace::default());
        let made = MIGRATIONS.iter().flat_map(|migration| migration.split("CREATE OR REPLACE ").skip(1));
        let names: BTreeSet<_> = made.filter_map(|routine| routine.split(['~', '(']).nth(1)).collect();
        assert_eq!(routines.len(), names.len());
        assert!(routines["cloakroom_load_1"].contains("cloakroom_record_1") && routines.len() > 20);
    }

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
