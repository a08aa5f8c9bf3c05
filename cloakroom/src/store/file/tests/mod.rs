//! What only shows from inside: every call to the disk fails or is the last one, and what calls cost.

mod costs;
mod disk;
mod faults;
mod journal;

use std::time::Duration;

use self::disk::{MemoryDisk, Used};
use super::{
    fault::Fault,
    journal::{Journal, Limits},
    open,
    transaction::Transaction,
};
use crate::{
    Client, Data, PartitionKey, RecentChanges, Record, Secrets, SessionId, SessionInfo, Timestamp, Token, store::Create,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn at(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

/// A disk with an empty store on it, and its key.
fn new_store() -> (MemoryDisk, PartitionKey) {
    let disk = MemoryDisk::default();
    open::prepare(&disk, Duration::ZERO).unwrap();
    let key = open::read_format(&disk, "memory".as_ref()).unwrap();
    (disk, key)
}

const LIMITS: Limits = Limits { patience: Duration::ZERO, journal: u64::MAX, audit_file: u64::MAX };

fn journal(disk: &MemoryDisk, limits: Limits) -> Box<Journal> {
    Box::new(Journal::new(disk.clone(), limits))
}

/// One call with a commit of its own.
fn commit<T>(journal: &Journal, work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
    journal.write(|changes| {
        let mut own = Transaction::new(journal.disk(), changes);
        let answer = work(&mut own)?;
        let own = own.into_changes();
        changes.extend(own);
        Ok(answer)
    })
}

fn sign_in(key: &PartitionKey, user: &str) -> Create {
    let id = SessionId::generate(key.partition_of(user)).unwrap();
    let info = SessionInfo {
        id,
        user: Some(user.into()),
        full_name: None,
        user_type: None,
        created_at: NOW,
        last_seen_at: NOW,
        idle_timeout: Some(Duration::from_hours(1)),
        ends_at: None,
        authenticated_at: None,
        methods: None,
        level: None,
        remember: false,
        client: Client::default(),
        impersonated_by: None,
        returns_to: None,
        audit_user: None,
        version: 0,
    };
    let record = Record {
        revision: 0,
        user_epoch: 0,
        extra: None,
        info,
        data: Data::new(),
        secrets: Secrets::new(Token::generate(id).unwrap().digest(), NOW),
        recent_changes: RecentChanges::default(),
        lease: crate::Lease::default(),
        idempotency: None,
    };
    Create { record, limit: None, replaces: None, by: None, note: None }
}
