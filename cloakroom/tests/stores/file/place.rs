//! A directory for a test, and short ways to say what happens to the sessions in it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cloakroom::{
    Change, Error, Json, Record, SessionId, SessionInfo, Timestamp, Token,
    record::Authentication,
    rules::{Create, Created, Loaded, Rules, Updated},
    store::{FileStore, Query, Secrets},
};
use tempfile::TempDir;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub(crate) const IMPATIENT: Duration = Duration::from_millis(50);

pub(crate) struct Place {
    _scratch: TempDir,
    pub(crate) directory: PathBuf,
}

impl Place {
    /// A directory that is not there yet.
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        Self { directory: scratch.path().join("sessions"), _scratch: scratch }
    }

    pub(crate) async fn open(&self) -> Rules {
        Rules::on(FileStore::open(&self.directory).await.unwrap())
    }

    /// Why it cannot be opened.
    pub(crate) async fn refusal(&self) -> String {
        refusal(&self.directory).await
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// The file of a session that lives.
    pub(crate) fn file_of(&self, id: SessionId) -> PathBuf {
        self.at(&format!("sessions/{:02x}/{id}.json", id.as_bytes()[0]))
    }
}

pub(crate) async fn refusal(directory: &Path) -> String {
    let error = FileStore::open(directory).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(directory.to_str().unwrap()), "{text}");
    text
}

pub(crate) fn record(store: &Rules, user: &str) -> Record {
    let id = SessionId::generate(store.partition_key().partition_of(user)).unwrap();
    let info = SessionInfo {
        user: Some(user.into()),
        authentication: Some(Authentication::at(NOW)),
        ..SessionInfo::new(id, NOW)
    };
    Record::new(info, Secrets::new(Token::generate(id).unwrap().digest(), NOW))
}

pub(crate) fn creation(record: Record) -> Create {
    Create { record, limit: None, replaces: None, by: None, note: None }
}

pub(crate) async fn started(store: &Rules, user: &str) -> SessionId {
    let create = creation(record(store, user));
    assert!(matches!(store.create(&create, NOW).await.unwrap(), Created::Created { .. }));
    create.record.info.id
}

pub(crate) async fn set(store: &Rules, id: SessionId, key: &str, value: &str) -> cloakroom::Result<()> {
    let mut change = Change::new(1 << 20);
    change.set(key, Json::from_text(value).unwrap());
    match store.update(id, &change, NOW).await? {
        Updated::Applied(_) => Ok(()),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn live(store: &Rules, id: SessionId) -> Arc<Record> {
    match store.load(id, NOW).await.unwrap() {
        Loaded::Live(record) => record,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn sessions_of(store: &Rules, user: &str) -> Vec<SessionInfo> {
    store.find(&Query::of_user(user), None, 10_000, NOW).await.unwrap().items
}

/// Starts this test program again to run one test, which asks [`told_as_child`].
pub(crate) fn child(mut again: Command, directory: &Path, argument: &str) -> Child {
    again.env(CHILD_DIRECTORY, directory).env(CHILD_ARGUMENT, argument).stdout(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn told_as_child() -> Option<(String, String)> {
    Some((std::env::var(CHILD_DIRECTORY).ok()?, std::env::var(CHILD_ARGUMENT).ok()?))
}

const CHILD_DIRECTORY: &str = "CLOAKROOM_TEST_CHILD_DIRECTORY";
const CHILD_ARGUMENT: &str = "CLOAKROOM_TEST_CHILD_ARGUMENT";
