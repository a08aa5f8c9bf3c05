//! How a PostgreSQL server is reached and spoken to, and what its errors mean.

use std::{
    borrow::Cow,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use sqlx::{
    AssertSqlSafe, Connection as _, Error as SqlError, PgConnection,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgDatabaseError, PgRow, Postgres as Driver},
};

use super::{super::address::Namespace, statement::Statement};
use crate::store::sql::{fault::Severity, pool::Engine};

/// One PostgreSQL server, directly or behind a pooler.
pub(super) struct Server {
    pub(super) namespace: Namespace,
    /// None where connections are the application's.
    options: Option<PgConnectOptions>,
    /// Whether a pooler stands in between that may hand each transaction to another server.
    is_pooled: AtomicBool,
}

impl Server {
    pub(super) fn at(options: PgConnectOptions, namespace: Namespace) -> Self {
        // Nothing here reads fractions, and PgBouncer as it comes refuses to be told how.
        let options = options.extra_float_digits(None);
        Self { namespace, options: Some(options), is_pooled: AtomicBool::new(false) }
    }

    /// On connections of the application's.
    pub(super) fn lent(namespace: Namespace) -> Self {
        Self { namespace, options: None, is_pooled: AtomicBool::new(false) }
    }

    pub(super) fn is_lent(&self) -> bool {
        self.options.is_none()
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.is_pooled.load(Ordering::Relaxed)
    }

    /// From now on statements are sent in one piece.
    pub(super) fn is_behind_a_pooler(&self) {
        self.is_pooled.store(true, Ordering::Relaxed);
    }
}

/// What the role, the database or the server's configuration may have set otherwise. Keepalive probes of the server's hold
/// the way open through whatever forgets silent connections.
const SETTINGS: [(&str, &str); 14] = [
    // Functions that take arrays would be planned anew at each call.
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    // Statements are planned while tables are small, and run when they are large.
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("search_path", "pg_catalog"),
    ("standard_conforming_strings", "on"),
    ("bytea_output", "hex"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("lock_timeout", "0"),
    // Longer than any call of ours waits.
    ("statement_timeout", "10s"),
    ("tcp_keepalives_idle", "60"),
    ("tcp_keepalives_interval", "10"),
];

/// A setting that tells whether [`SETTINGS`] arrived, and its value.
pub(super) const TELLTALE: (&str, &str) = SETTINGS[0];

impl Engine for Server {
    type Db = Driver;
    type Statement = Statement;
    type Answer = Vec<PgRow>;

    const NAME: &'static str = "PostgreSQL";

    async fn connect(&self) -> Result<PgConnection, SqlError> {
        let options = self.options.clone().unwrap_or_default();
        if self.is_pooled() {
            return PgConnection::connect_with(&options).await;
        }
        match PgConnection::connect_with(&options.clone().options(SETTINGS)).await {
            Err(SqlError::Database(error)) if is_of_a_pooler(&*error) => {
                self.is_behind_a_pooler();
                PgConnection::connect_with(&options).await
            }
            connected => connected,
        }
    }

    async fn run(&self, connection: &mut PgConnection, statement: &Statement) -> Result<Vec<PgRow>, SqlError> {
        if self.is_pooled() {
            return sqlx::raw_sql(AssertSqlSafe(statement.in_one_piece())).fetch_all(connection).await;
        }
        let text = AssertSqlSafe(std::sync::Arc::clone(&statement.text));
        sqlx::query_with(text, statement.bind()?).fetch_all(connection).await
    }

    fn severity(error: &dyn DatabaseError) -> Severity {
        match &*error.code().unwrap_or(Cow::Borrowed("")) {
            // Shut down, crashed or starting; broken connections.
            "57P01" | "57P02" | "57P03" | "57P05" => Severity::Disconnected,
            code if code.starts_with("08") => Severity::Disconnected,
            // A standby, or a server that became one; a transaction that something left open; statements that are not
            // there, or changed their meaning.
            "25006" | "25P01" | "25P02" | "26000" | "42P05" | "0A000" => Severity::Stuck,
            // Undone for the sake of others, or overtaken by another that made the same row.
            "40P01" | "40001" | "23505" => Severity::Undone,
            // Lock and statement timeouts.
            "55P03" | "57014" => Severity::Unavailable,
            // No disk, memory or connections; the server's own files.
            code if code.starts_with("53") || code.starts_with("58") => Severity::Unavailable,
            code if code.starts_with("22") || code.starts_with("23") => Severity::Refused,
            _ => Severity::Broken,
        }
    }

    fn told(error: &dyn DatabaseError) -> String {
        let code = error.code().unwrap_or_default();
        // The driver would name a line of PostgreSQL's own source.
        let mut told = format!("{} ({code})", error.message());
        if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
            for more in [error.detail(), error.hint()].into_iter().flatten() {
                told = format!("{told}. {more}");
            }
        }
        if code == "25006" {
            told += ": it is a standby, or default_transaction_read_only is on";
        }
        told
    }
}

/// PgBouncer refuses parameters that it does not know.
fn is_of_a_pooler(error: &dyn DatabaseError) -> bool {
    error.message().contains("unsupported startup parameter")
}

/// Why a server that speaks PostgreSQL's protocol is none that will do, from what it says of itself.
pub(super) fn foreign(version: &str) -> Option<String> {
    const OTHERS: [(&str, &str); 7] = [
        ("CockroachDB", "CockroachDB"),
        ("-YB-", "YugabyteDB"),
        ("Greenplum", "Greenplum"),
        ("Redshift", "Amazon Redshift"),
        ("Materialize", "Materialize"),
        ("QuestDB", "QuestDB"),
        ("openGauss", "openGauss"),
    ];
    let known = OTHERS.iter().find(|(mark, _)| version.contains(mark)).map(|(_, name)| *name);
    let name = known.or_else(|| (!version.starts_with("PostgreSQL ")).then_some(version))?;
    Some(format!(
        "{name} speaks PostgreSQL's protocol, and locks and merges otherwise: sessions would be lost in it. Use PostgreSQL"
    ))
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_only_speak_the_protocol_are_named() {
        for (version, name) in [
            ("CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024/05/15)", "CockroachDB"),
            ("PostgreSQL 11.2-YB-2.21.0.0-b0 on x86_64-pc-linux-gnu, compiled by clang", "YugabyteDB"),
            ("PostgreSQL 9.4.26 (Greenplum Database 6.20.0) on x86_64", "Greenplum"),
            ("PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC, Redshift 1.0.12103", "Amazon Redshift"),
            ("Something Else 1", "Something Else 1"),
        ] {
            let refusal = foreign(version).unwrap();
            assert!(refusal.starts_with(name), "{refusal}");
        }
        for version in
            ["PostgreSQL 13.1 on x86_64", "PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on aarch64", "PostgreSQL 18beta1"]
        {
            assert_eq!(foreign(version), None);
        }
    }
}
