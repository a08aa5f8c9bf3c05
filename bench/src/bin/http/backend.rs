//! What the store's server uses, by its own counters and the system's.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    options::StoreKind,
    process::{children_of, cpu_of, parent_of},
};

/// What Cloakroom's tables are apart by.
pub(crate) const SCHEMA: &str = "cloakroom_bench";

pub(crate) enum Backend {
    /// In the subject.
    None(StoreKind),
    Redis(String),
    /// The process that starts the others.
    Postgres(u32),
    Mysql(Option<u32>),
}

impl Backend {
    pub(crate) async fn at(store: StoreKind, address: &str) -> Self {
        let backend = match store {
            StoreKind::Memory | StoreKind::Sqlite => Self::None(store),
            StoreKind::Redis => Self::Redis(host(address).to_owned()),
            StoreKind::Postgres => {
                let mut connection = PgConnection::connect(address).await.expect("PostgreSQL answers");
                let id: i32 =
                    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await.expect("it tells");
                Self::Postgres(parent_of(id.cast_unsigned()).expect("PostgreSQL runs on this machine"))
            }
            StoreKind::Mysql => {
                let mut connection = MySqlConnection::connect(address).await.expect("MariaDB answers");
                let file: String =
                    sqlx::query_scalar("SELECT CONCAT(IF(LEFT(@@pid_file, 1) = '/', '', @@datadir), @@pid_file)")
                        .fetch_one(&mut connection)
                        .await
                        .expect("it tells");
                Self::Mysql(std::fs::read_to_string(file).ok().and_then(|id| id.trim().parse().ok()))
            }
        };
        backend.clear(address).await;
        backend
    }

    pub(crate) fn is_remote(&self) -> bool {
        !matches!(self, Self::None(_))
    }

    /// Until now; None where it cannot be told.
    pub(crate) async fn cpu(&self) -> Option<Duration> {
        match self {
            Self::None(_) => None,
            Self::Redis(host) => {
                let info = ask_redis(host, "INFO cpu").await;
                let seconds = |name: &str| {
                    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default()
                };
                Some(Duration::from_secs_f64(seconds("used_cpu_user") + seconds("used_cpu_sys")))
            }
            Self::Postgres(id) => {
                let children = children_of(*id).into_iter().filter_map(|child| cpu_of(child, false));
                Some(cpu_of(*id, true)? + children.sum::<Duration>())
            }
            Self::Mysql(id) => cpu_of((*id)?, false),
        }
    }

    /// Takes away what a run leaves.
    pub(crate) async fn clear(&self, address: &str) {
        match self {
            Self::None(StoreKind::Sqlite) => {
                let file = address.trim_start_matches("sqlite:");
                for file in [file.to_owned(), format!("{file}-peer")] {
                    for end in ["", "-wal", "-shm", "-journal"] {
                        let _ = std::fs::remove_file(format!("{file}{end}"));
                    }
                }
            }
            Self::None(_) => {}
            Self::Redis(host) => drop(ask_redis(host, "SELECT 15\r\nFLUSHDB").await),
            Self::Postgres(_) => {
                let mut connection = PgConnection::connect(address).await.expect("PostgreSQL answers");
                for schema in [SCHEMA, "tower_sessions"] {
                    let drop = AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {schema} CASCADE"));
                    sqlx::raw_sql(drop).execute(&mut connection).await.expect("it goes");
                }
            }
            Self::Mysql(_) => {
                let mut connection = MySqlConnection::connect(address).await.expect("MariaDB answers");
                let ours = "SELECT CONCAT('DROP ', IF(TABLE_TYPE = 'VIEW', 'VIEW ', 'TABLE '), TABLE_NAME) FROM information_schema.TABLES \
                    WHERE TABLE_SCHEMA = DATABASE() AND (TABLE_NAME LIKE 'cloakroom\\_bench%' OR TABLE_NAME = 'session') \
                    UNION SELECT CONCAT('DROP ', ROUTINE_TYPE, ' ', ROUTINE_NAME) FROM information_schema.ROUTINES \
                    WHERE ROUTINE_SCHEMA = DATABASE() AND ROUTINE_NAME LIKE 'cloakroom\\_bench%'";
                let drops: Vec<String> = sqlx::query_scalar(ours).fetch_all(&mut connection).await.expect("it lists");
                sqlx::raw_sql("SET foreign_key_checks = 0").execute(&mut connection).await.expect("it is set");
                for drop in drops {
                    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.expect("it goes");
                }
            }
        }
    }
}

/// `HOST:PORT` of an address.
pub(crate) fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    rest[..end].rsplit('@').next().unwrap_or_default()
}

/// Answers everything the server says until it closes the connection.
async fn ask_redis(host: &str, command: &str) -> String {
    let mut stream = TcpStream::connect(host).await.expect("Redis answers");
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await.expect("Redis reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("Redis answers");
    answer
}
