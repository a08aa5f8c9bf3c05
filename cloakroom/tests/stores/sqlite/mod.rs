//! The SQLite store as a file on a disk: what it opens and what it refuses, what is kept in it, and what survives.

mod doctor;
mod forged;
#[cfg(target_os = "linux")]
mod full;
mod keeping;
mod opening;
#[cfg(unix)]
mod restoring;
mod surviving;

use std::{fs, path::PathBuf, sync::Arc};

use cloakroom::{
    Change, Json, Record, SessionId, SessionInfo, Timestamp, Token,
    record::Authentication,
    rules::{Create, Created, Loaded, Rules, Updated},
    store::{Query, Secrets, SqliteStore},
};
use rusqlite::Connection;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

struct Place {
    _directory: TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { file: directory.path().join("sessions.db"), _directory: directory }
    }

    fn holding(contents: &[u8]) -> Self {
        let place = Self::new();
        fs::write(&place.file, contents).unwrap();
        place
    }

    fn address(&self) -> &str {
        self.file.to_str().unwrap()
    }

    async fn open(&self) -> Rules {
        Rules::on(SqliteStore::open(&self.file).await.unwrap())
    }

    fn sqlite(&self) -> Connection {
        Connection::open(&self.file).unwrap()
    }
}

fn record(store: &Rules, user: &str) -> Record {
    let id = SessionId::generate(store.partition_key().partition_of(user)).unwrap();
    let info = SessionInfo {
        user: Some(user.into()),
        authentication: Some(Authentication::at(NOW)),
        ..SessionInfo::new(id, NOW)
    };
    let secrets = Secrets::new(Token::generate(id).unwrap().digest(), NOW);
    Record::new(info, secrets)
}

fn creation(record: Record) -> Create {
    Create { record, limit: None, replaces: None, by: None, note: None }
}

async fn started(store: &Rules, user: &str) -> SessionId {
    let create = creation(record(store, user));
    assert!(matches!(store.create(&create, NOW).await.unwrap(), Created::Created { .. }));
    create.record.info.id
}

fn setting(key: &str, value: &str) -> Change {
    let mut change = Change::new(1 << 20);
    change.set(key, Json::from_text(value).unwrap());
    change
}

async fn set(store: &Rules, id: SessionId, key: &str, value: &str) -> cloakroom::Result<()> {
    match store.update(id, &setting(key, value), NOW).await? {
        Updated::Applied(_) => Ok(()),
        other => panic!("{other:?}"),
    }
}

async fn live(store: &Rules, id: SessionId) -> Arc<Record> {
    match store.load(id, NOW).await.unwrap() {
        Loaded::Live(record) => record,
        other => panic!("{other:?}"),
    }
}

async fn sessions_of(store: &Rules, user: &str) -> Vec<SessionInfo> {
    store.find(&Query::of_user(user), None, 1000, NOW).await.unwrap().items
}
