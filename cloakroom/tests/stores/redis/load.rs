//! Sessions, and writers that keep account of what was answered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use cloakroom::{
    Change, Ending, Error, Json, Reason, Record, SessionId, SessionInfo, Timestamp, Token,
    record::Authentication,
    rules::{Create, Created, EndAnswer, Loaded, Rules, Updated, Which},
    store::{Digest, Partition, Secrets},
};
use tokio::task::JoinHandle;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

pub(crate) fn sign_in(store: &Rules, user: &str) -> Create {
    creation(Some(user), store.partition_key().partition_of(user))
}

pub(crate) fn anonymous() -> Create {
    creation(None, Partition::random().unwrap())
}

fn creation(user: Option<&str>, partition: Partition) -> Create {
    let id = SessionId::generate(partition).unwrap();
    let info = SessionInfo {
        user: user.map(Into::into),
        authentication: user.map(|_| Authentication::at(NOW)),
        ..SessionInfo::new(id, NOW)
    };
    let record = Record::new(info, Secrets::new(Token::generate(id).unwrap().digest(), NOW));
    Create { record, limit: None, replaces: None, by: None, note: None }
}

pub(crate) async fn begin(store: &Rules, create: Create) -> SessionId {
    let id = create.record.info.id;
    let created = store.create(&create, NOW).await.unwrap();
    assert!(matches!(created, Created::Created { .. }), "{created:?}");
    id
}

pub(crate) fn setting(key: &str, value: usize) -> Change {
    let mut change = Change::new(1 << 20);
    change.set(key, Json::encode(&value).unwrap());
    change
}

pub(crate) async fn live(store: &Rules, id: SessionId) -> Arc<Record> {
    match store.load(id, NOW).await.unwrap() {
        Loaded::Live(record) => record,
        other => panic!("expected a living session, found {other:?}"),
    }
}

pub(crate) fn new_secret(id: SessionId) -> Digest {
    Token::generate(id).unwrap().digest()
}

/// Writers, each counting up a key of its own in sessions of all groups, and ending others.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Account>>,
}

/// What one writer was answered.
#[derive(Default)]
pub(crate) struct Account {
    /// What each session's counter was set to last, and whether a later try is in doubt.
    pub(crate) counters: BTreeMap<SessionId, usize>,
    pub(crate) ended: Vec<SessionId>,
    pub(crate) created: Vec<SessionId>,
    pub(crate) errors: Vec<Error>,
}

impl Load {
    pub(crate) fn start(store: &Rules, writers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let writers = (0..writers)
            .map(|number| tokio::spawn(write(store.clone(), number, Arc::clone(&stop), Arc::clone(&answered))))
            .collect();
        Self { stop, answered, writers }
    }

    /// Waits until so many more calls were answered.
    pub(crate) async fn answers(&self, more: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + more;
        while self.answered.load(Ordering::SeqCst) < goal {
            assert!(!self.writers.iter().all(JoinHandle::is_finished), "all writers have failed");
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn stop(self) -> Vec<Account> {
        self.stop.store(true, Ordering::SeqCst);
        let mut accounts = Vec::new();
        for writer in self.writers {
            accounts.push(writer.await.unwrap());
        }
        accounts
    }
}

async fn write(store: Rules, number: usize, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Account {
    let mut account = Account::default();
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) {
        round += 1;
        let create = sign_in(&store, &format!("user {number} {}", round % 37));
        let id = create.record.info.id;
        match store.create(&create, NOW).await {
            Ok(_) => account.created.push(id),
            Err(error) => {
                account.errors.push(error);
                continue;
            }
        }
        for value in 1..=4 {
            match store.update(id, &setting("counter", value), NOW).await {
                Ok(Updated::Applied(record)) => {
                    // A failover may have lost the one before.
                    assert!(record.info.version <= value as u64, "a change was applied twice");
                    account.counters.insert(id, value);
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    account.errors.push(error);
                    break;
                }
            }
        }
        if round % 2 == 0 {
            let ending = Ending::new(Reason::SignedOut);
            match store.end(&Which::Ids(vec![id]), &ending, NOW).await {
                Ok(answers) => {
                    assert!(matches!(answers[0], EndAnswer::EndedNow(_)), "{answers:?}");
                    account.ended.push(id);
                }
                Err(error) => account.errors.push(error),
            }
        }
        answered.fetch_add(1, Ordering::SeqCst);
    }
    account
}

/// That all that was answered is there. Answers with the errors there were.
pub(crate) async fn settle(store: &Rules, accounts: Vec<Account>, updates_too: bool) -> Vec<Error> {
    let mut errors = Vec::new();
    for account in accounts {
        for id in account.created {
            let ended = account.ended.contains(&id);
            match store.load(id, NOW).await.unwrap() {
                Loaded::Live(record) => {
                    assert!(!ended, "an ended session is back");
                    let counter = record.data.get("counter").map_or(0, |value| value.decode::<usize>().unwrap());
                    let answered = account.counters.get(&id).copied().unwrap_or_default();
                    assert!(!updates_too || counter >= answered, "{counter} is there, {answered} was answered");
                    let version = usize::try_from(record.info.version).unwrap();
                    assert!(version == counter || !updates_too && version < counter, "{version} of {counter}");
                }
                // One whose ending was in doubt may have ended.
                Loaded::Ended(_) => assert!(ended || !account.errors.is_empty()),
                Loaded::Unknown => panic!("a session that was answered is gone"),
            }
        }
        errors.extend(account.errors);
    }
    errors
}
