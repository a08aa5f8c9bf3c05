//! What is run.

use std::{env, fmt, process::exit, time::Duration};

const USAGE: &str = "\
usage: http [OPTIONS]
  --stores memory,sqlite,redis,postgres,mysql
  --systems floor,cloakroom,tower-sessions,actix-session
  --requests untouched,read,write,sign-in   write: read a number and store it raised by one
  --meets no,yes          whether connections have sessions of their own, or meet on one of as many at random
  --seconds 3 --rounds 2  of each subject with each request, in turn
  --minutes N             N times 60 s of each request instead, without turns
  --connections 64 --sessions 1024
  --trips                 count round trips too
Stores that are servers are at CLOAKROOM_TEST_REDIS_URL, …POSTGRES_URL and …MARIADB_URL, and keep what is theirs apart.";

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) stores: Vec<StoreKind>,
    pub(crate) systems: Vec<String>,
    pub(crate) requests: Vec<Request>,
    pub(crate) meets: Vec<bool>,
    pub(crate) time: Duration,
    pub(crate) rounds: usize,
    pub(crate) minutes: usize,
    pub(crate) connections: usize,
    pub(crate) sessions: usize,
    pub(crate) trips: bool,
}

impl Options {
    pub(crate) fn read(arguments: &[String]) -> Self {
        let mut options = Self {
            stores: StoreKind::ALL.to_vec(),
            systems: ["floor", "cloakroom", "tower-sessions", "actix-session"].map(ToOwned::to_owned).to_vec(),
            requests: Request::ALL.to_vec(),
            meets: vec![false, true],
            time: Duration::from_secs(3),
            rounds: 2,
            minutes: 0,
            connections: 64,
            sessions: 1024,
            trips: false,
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--trips" {
                options.trips = true;
                continue;
            }
            let value = arguments.next().unwrap_or_else(|| refuse(name));
            match name.as_str() {
                "--stores" => options.stores = list(value, StoreKind::named),
                "--systems" => options.systems = list(value, |name| Some(name.to_owned())),
                "--requests" => options.requests = list(value, Request::named),
                "--meets" => {
                    options.meets = list(value, |name| match name {
                        "no" => Some(false),
                        "yes" => Some(true),
                        _ => None,
                    });
                }
                "--seconds" => options.time = Duration::from_secs(number(value)),
                "--rounds" => options.rounds = number(value),
                "--minutes" => {
                    options.minutes = number(value);
                    options.time = Duration::from_mins(1);
                }
                "--connections" => options.connections = number(value),
                "--sessions" => options.sessions = number(value),
                other => refuse(other),
            }
        }
        options
    }
}

fn list<T>(value: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
    value.split(',').map(|name| read(name).unwrap_or_else(|| refuse(name))).collect()
}

fn number<T: std::str::FromStr>(value: &str) -> T {
    value.parse().unwrap_or_else(|_| refuse(value))
}

fn refuse(what: &str) -> ! {
    eprintln!("{what} is not understood\n{USAGE}");
    exit(2);
}

/// What a request asks of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Untouched,
    Read,
    Write,
    SignIn,
}

impl Request {
    const ALL: [Self; 4] = [Self::Untouched, Self::Read, Self::Write, Self::SignIn];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|request| request.to_string() == name)
    }

    pub(crate) fn line(self) -> &'static str {
        match self {
            Self::Untouched => "GET /untouched",
            Self::Read => "GET /read",
            Self::Write => "POST /write",
            Self::SignIn => "POST /sign-in",
        }
    }

    /// A sign-in takes the session from those who share it.
    pub(crate) fn may_meet(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "untouched",
            Self::Read => "read",
            Self::Write => "write",
            Self::SignIn => "sign-in",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Memory,
    Sqlite,
    Redis,
    Postgres,
    Mysql,
}

impl StoreKind {
    const ALL: [Self; 5] = [Self::Memory, Self::Sqlite, Self::Redis, Self::Postgres, Self::Mysql];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|store| store.to_string() == name)
    }

    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Memory | Self::Sqlite => "",
            Self::Redis => "CLOAKROOM_TEST_REDIS_URL",
            Self::Postgres => "CLOAKROOM_TEST_POSTGRES_URL",
            Self::Mysql => "CLOAKROOM_TEST_MARIADB_URL",
        }
    }

    /// Of the server; a file is a new one each time.
    pub(crate) fn address(self) -> Option<String> {
        let id = std::process::id();
        match self {
            Self::Memory => Some("memory:".into()),
            Self::Sqlite => {
                Some(format!("sqlite:{}", env::temp_dir().join(format!("cloakroom-bench-{id}.db")).display()))
            }
            // A database that nothing else is likely to use.
            Self::Redis => Some(format!("{}/15", env::var(self.variable()).ok()?)),
            Self::Postgres | Self::Mysql => env::var(self.variable()).ok(),
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        })
    }
}
