//! Making transactions, and committing them.

use crate::{
    audit::AuditEntry,
    change::random_id,
    clock::Timestamp,
    error::Result,
    rules::{Rules, look::unasked},
    store::slots::{Expect, LogEntry, Outcome, Transaction, Write},
};

impl Transaction {
    /// Of nothing yet.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { id: random_id(), now, relies_on: Vec::new(), writes: Vec::new(), log: Vec::new() }
    }

    pub(super) fn relying_on(mut self, expects: impl IntoIterator<Item = Expect>) -> Self {
        self.relies_on.extend(expects);
        self
    }

    pub(super) fn writing(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    pub(super) fn telling(mut self, entry: AuditEntry) -> Self {
        self.log(entry);
        self
    }

    pub(super) fn log(&mut self, entry: AuditEntry) {
        self.log.push(LogEntry { id: random_id(), entry });
    }
}

/// Commits one transaction.
pub(super) async fn commit(rules: &Rules, transaction: &Transaction) -> Result<Outcome> {
    rules.store.commit(std::slice::from_ref(transaction), false).await?.pop().ok_or_else(unasked)
}

/// Appends an entry that tells of no change.
pub(super) async fn log(rules: &Rules, entry: &AuditEntry, now: Timestamp) -> Result<()> {
    match commit(rules, &Transaction::new(now).telling(entry.clone())).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict(_) => Err(unasked()),
    }
}
