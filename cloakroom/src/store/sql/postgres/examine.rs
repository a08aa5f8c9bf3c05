//! What `doctor` looks at on a PostgreSQL server: its settings, and whether our schema is as it was made.
//!
//! The server itself says how the schema should look: the migrations make another one in a transaction that is rolled
//! back, and its catalogue is compared with ours.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection, Error as SqlError, PgConnection, Row, postgres::PgRow};

use super::{super::address::Namespace, engine::Server, open::MIGRATIONS};
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
    connection: &mut PgConnection,
    pool: &Pool<Server>,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    let server = pool.engine();
    let mut findings = examine_server(connection, pool.max()).await?;
    if server.is_pooled() {
        findings.push(Finding::note(
            "pooler",
            "A pooler stands between this program and the server: statements are sent in one piece instead of being prepared, \
             which costs the server more. Its schema was not compared; give doctor the server's own address for that.",
        ));
        return Ok(findings);
    }
    // The server writes names in full, and takes the time it needs.
    sqlx::raw_sql("SET search_path = pg_catalog; SET statement_timeout = 0").execute(&mut *connection).await?;
    findings.extend(examine_schema(connection, &server.namespace, repair).await?);
    findings.extend(examine_indexes(connection, &server.namespace, repair).await?);
    Ok(findings)
}

async fn examine_server(connection: &mut PgConnection, ours: usize) -> Result<Vec<Finding>, SqlError> {
    let row = sqlx::raw_sql(
        "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'), \
         current_setting('synchronous_commit'), current_setting('default_transaction_isolation'), \
         current_setting('default_transaction_read_only'), pg_is_in_recovery(), \
         current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, \
         (SELECT floor(extract(epoch FROM max(clock_timestamp() - xact_start)))::bigint FROM pg_stat_activity \
          WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid())",
    )
    .fetch_one(connection)
    .await?;
    let mut findings = vec![Finding::fine("version", format!("PostgreSQL {}.", row.try_get::<String, _>(0)?))];
    let durability = |setting: &str, is: &str, loses: &str| {
        (is == "off").then(|| Finding::warning("durability", format!("{setting} is off: {loses}. Set it to on.")))
    };
    let [fsync, pages, commit, isolation, read_only]: [String; 5] =
        [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(5)?];
    let lost = [
        durability("fsync", &fsync, "a power failure may damage the whole database"),
        durability("full_page_writes", &pages, "a power failure may damage pages that were being written"),
        durability("synchronous_commit", &commit, "a crash of the server takes the last moments with it, endings too"),
    ];
    findings.extend(lost.into_iter().flatten());
    if findings.len() == 1 {
        findings.push(Finding::fine("durability", "What was answered is on the disk (fsync, synchronous_commit)."));
    }
    if isolation != "read committed" {
        findings.push(Finding::error(
            "isolation",
            format!(
                "default_transaction_isolation is {isolation}: limits on sessions are not exact and calls fail under load. \
                 ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'read committed'."
            ),
        ));
    }
    if row.try_get::<bool, _>(6)? {
        let text = "The server is a standby and takes no writes: give the address of the primary.";
        findings.push(Finding::error("writable", text));
    } else if read_only == "on" {
        let text = "default_transaction_read_only is on: nothing can be written. Turn it off for this account.";
        findings.push(Finding::error("writable", text));
    }
    let room: i32 = row.try_get(7)?;
    if i64::try_from(ours).unwrap_or(i64::MAX) > i64::from(room) {
        findings.push(Finding::warning(
            "connections",
            format!(
                "This address may open {ours} connections, and the server has {room} for everybody: lower \
                 max_connections in the address, or raise it on the server."
            ),
        ));
    }
    let oldest: Option<i64> = row.try_get(8)?;
    if let Some(seconds) = oldest.filter(|seconds| *seconds > LONG_TRANSACTION) {
        findings.push(Finding::note(
            "transactions",
            format!(
                "A transaction on this server has been open for {} minutes. What was changed since is kept for it, so tables \
                 grow: SELECT * FROM pg_stat_activity ORDER BY xact_start names it.",
                seconds / 60
            ),
        ));
    }
    Ok(findings)
}

/// Seconds.
const LONG_TRANSACTION: i64 = 600;

async fn examine_schema(
    connection: &mut PgConnection,
    namespace: &Namespace,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    let ours = Catalogue::read(connection, namespace.as_str()).await?;
    let expected = match expected(connection, namespace).await {
        Ok(expected) => expected,
        Err(SqlError::Database(error)) => {
            let text = format!("Tables and functions could not be compared with new ones: {error}.");
            return Ok(vec![Finding::note("schema", text)]);
        }
        Err(error) => return Err(error),
    };
    let mut findings = Vec::new();
    for (name, expected) in expected.0 {
        let problem = match ours.0.get(&name) {
            Some(found) if found.normal == expected.normal => continue,
            Some(_) => "is another one than it was made",
            None => "is gone",
        };
        let mend = expected.mend.filter(|_| ours.0.contains_key("table meta"));
        let remedy = if mend.is_some() { "use --repair to make it anew" } else { "restore a backup" };
        let mut repaired = false;
        let mut failed = String::new();
        if let Some(mend) = mend.filter(|_| repair) {
            // One index cannot take the place of another; a function can.
            let index = name.strip_prefix("index ").filter(|_| ours.0.contains_key(&name));
            let drop = index.map(|index| format!("DROP INDEX CONCURRENTLY \"{namespace}\".\"{index}\""));
            match run_all(connection, drop.into_iter().chain([mend])).await {
                Ok(()) => repaired = true,
                Err(SqlError::Database(error)) => failed = format!(" That failed: {error}."),
                Err(error) => return Err(error),
            }
        }
        let done = if repaired { " Repaired." } else { &failed };
        findings.push(Finding::error("schema", format!("The {name} {problem}: {remedy}.{done}")).repaired(repaired));
    }
    if findings.is_empty() {
        let text = format!("Its version is {}, and all is as it was made.", MIGRATIONS.len());
        findings.push(Finding::fine("schema", text));
    }
    Ok(findings)
}

/// Runs each by itself: what is made while others work cannot be made in a transaction.
async fn run_all(connection: &mut PgConnection, statements: impl Iterator<Item = String>) -> Result<(), SqlError> {
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Indexes that a build which broke off has left behind are kept up to date and never used.
async fn examine_indexes(
    connection: &mut PgConnection,
    namespace: &Namespace,
    repair: bool,
) -> Result<Vec<Finding>, SqlError> {
    let invalid = sqlx::query(
        "SELECT index.relname::text FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid \
         JOIN pg_namespace ON pg_namespace.oid = index.relnamespace \
         WHERE nspname = $1 AND NOT (indisvalid AND indisready) ORDER BY 1",
    )
    .bind(namespace.as_str())
    .fetch_all(&mut *connection)
    .await?;
    let mut findings = Vec::new();
    for row in invalid {
        let index: String = row.try_get(0)?;
        let mut text =
            format!("The index {index} is not valid: calls are slow without it, and a unique one lets doubles in.");
        if repair {
            let reindex = format!("REINDEX INDEX CONCURRENTLY \"{namespace}\".\"{index}\"");
            sqlx::raw_sql(AssertSqlSafe(reindex)).execute(&mut *connection).await?;
            text += " Made anew. Repaired.";
        } else {
            text += " Use --repair to make it anew.";
        }
        findings.push(Finding::error("schema", text).repaired(repair));
    }
    Ok(findings)
}

/// The objects of a schema: what each is called, and what it is.
struct Catalogue(BTreeMap<String, Object>);

struct Object {
    /// What it is, without the name of its schema.
    normal: String,
    /// The statement that makes it anew.
    mend: Option<String>,
}

/// The objects that the migrations make. Nothing of it stays.
async fn expected(connection: &mut PgConnection, namespace: &Namespace) -> Result<Catalogue, SqlError> {
    // A name that nobody else has, and that needs no quotation marks.
    let scratch = format!("cloakroom_examined_{:016x}", crate::change::Change::new(0).id);
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {scratch}"))).execute(&mut *transaction).await?;
    for migration in MIGRATIONS {
        let migration = migration.replace('~', &format!("\"{scratch}\"."));
        sqlx::raw_sql(AssertSqlSafe(migration)).execute(&mut *transaction).await?;
    }
    let mut catalogue = Catalogue::read(&mut transaction, &scratch).await?;
    transaction.rollback().await?;
    let ours = |text: &str| {
        let quoted = format!("\"{namespace}\".");
        text.replace(&format!("\"{scratch}\"."), &quoted).replace(&format!("{scratch}."), &quoted)
    };
    for object in catalogue.0.values_mut() {
        object.mend = object.mend.as_deref().map(ours);
    }
    Ok(catalogue)
}

impl Catalogue {
    async fn read(connection: &mut PgConnection, schema: &str) -> Result<Self, SqlError> {
        // Kind and name, definition, and the statement that makes it.
        const OBJECTS: &str = "
            SELECT 'table ' || relname AS name, '' AS definition, NULL AS mend
            FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p')
            UNION ALL
            SELECT CASE relkind WHEN 'c' THEN 'type ' ELSE 'table ' END || relname || ', column ' || attname,
                   format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END, NULL
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p', 'c') AND attnum > 0 AND NOT attisdropped
            UNION ALL
            SELECT 'index ' || pg_class.relname, pg_get_indexdef(indexrelid),
                   CASE WHEN conname IS NULL
                        THEN regexp_replace(pg_get_indexdef(indexrelid), ' INDEX ', ' INDEX CONCURRENTLY ') END
            FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid LEFT JOIN pg_constraint ON conindid = indexrelid
            WHERE relnamespace = $1::regnamespace
            UNION ALL
            SELECT 'constraint ' || conname || ' of ' || relname, pg_get_constraintdef(pg_constraint.oid), NULL
            FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid WHERE connamespace = $1::regnamespace
            UNION ALL
            SELECT 'function ' || proname, pg_get_functiondef(oid), pg_get_functiondef(oid)
            FROM pg_proc WHERE pronamespace = $1::regnamespace AND prokind = 'f'";
        // The name is of letters, digits and _ alone, and quoted it is nobody's keyword.
        let objects = OBJECTS.replace("$1", &format!("'\"{schema}\"'"));
        let rows = sqlx::raw_sql(AssertSqlSafe(objects)).fetch_all(connection).await?;
        let object = |row: &PgRow| {
            let definition: String = row.try_get(1)?;
            // Its own name is all that may differ.
            let normal = definition.replace(&format!("\"{schema}\"."), ".").replace(&format!("{schema}."), ".");
            Ok((row.try_get(0)?, Object { normal, mend: row.try_get(2)? }))
        };
        Ok(Self(rows.iter().map(object).collect::<Result<_, SqlError>>()?))
    }
}
