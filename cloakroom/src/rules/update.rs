//! Changing data and fields.

use std::sync::Arc;

use crate::{
    audit::{AuditEntry, Event},
    change::{Applied, Change, Fields, random_id},
    clock::Timestamp,
    error::Result,
    record::Record,
    rules::Updated,
    rules::{
        Rules,
        attempts::Attempts,
        look::{self, living, unasked},
        transaction::commit,
    },
    store::slots::{Committed, DataChange, Expect, Known, Outcome, Slot, Transaction, Write},
    token::SessionId,
};

pub(super) async fn update(rules: &Rules, id: SessionId, change: &Change, now: Timestamp) -> Result<Updated> {
    if change.lease.is_some() || change.fields != Fields::default() {
        return Box::pin(update_with_head(rules, id, change, now)).await;
    }
    let mut applied = Applied::Now;
    let edited = rules.store.edit(id, &mut |record| {
        if record.info.expiry(now).is_none() {
            applied = change.apply_to(Arc::make_mut(record), now);
        }
    });
    if let Some(slot) = edited {
        let answer = living(slot, now).map_or_else(Updated::Gone, |record| answer(applied, record));
        return Ok(answer);
    }
    let transaction = changing_data(id, change, now);
    let slot = match commit(rules, &transaction).await? {
        Outcome::Committed(answers) => return Ok(Updated::Applied(changed(answers, change)?)),
        Outcome::Conflict(slot) => slot,
    };
    Box::pin(update_after(rules, transaction, slot, change)).await
}

/// The change met something else than it relied on.
async fn update_after(
    rules: &Rules,
    transaction: Transaction,
    mut found: Option<Slot>,
    change: &Change,
) -> Result<Updated> {
    let mut attempts: Option<Attempts<'_>> = None;
    loop {
        let record = match living(found, transaction.now) {
            Ok(record) => record,
            Err(gone) => return Ok(Updated::Gone(gone)),
        };
        let id = record.info.id;
        if let Err(answer) = decide(change, record, transaction.now) {
            return Ok(answer);
        }
        // By now it would do.
        attempts.get_or_insert_with(|| rules.turns.at_session(id)).again().await?;
        match commit(rules, &transaction).await? {
            Outcome::Committed(answers) => return Ok(Updated::Applied(changed(answers, change)?)),
            Outcome::Conflict(slot) => found = slot,
        }
    }
}

/// A change that writes the head, or relies on the lease in it.
async fn update_with_head(rules: &Rules, id: SessionId, change: &Change, now: Timestamp) -> Result<Updated> {
    let mut attempts = rules.turns.at_session(id);
    let mut slot = look::session(rules, id).await?;
    loop {
        let record = match living(slot, now) {
            Ok(record) => record,
            Err(gone) => return Ok(Updated::Gone(gone)),
        };
        let revision = record.revision;
        let decided = match decide(change, record, now) {
            Ok(record) => record,
            Err(answer @ Updated::Applied(_)) => return Ok(answer),
            Err(answer) => {
                return unless_applied_before(rules, id, change, now, revision, answer).await;
            }
        };
        let mut transaction = changing_data(id, change, now).relying_on([Expect::Head(id, revision)]);
        let writes_head = change.fields != Fields::default();
        if change.fields.are_audited() {
            transaction.log(AuditEntry::about(&decided.info, Event::Changed, now));
        }
        let head = writes_head.then(|| Record { revision: random_id(), ..decided });
        transaction.writes.extend(head.map(|head| Write::Head(Arc::new(head))));
        match commit(rules, &transaction).await? {
            Outcome::Committed(answers) => return Ok(Updated::Applied(changed(answers, change)?)),
            Outcome::Conflict(fresh) => slot = fresh,
        }
        attempts.again().await?;
    }
}

/// The answer, unless an earlier try of the change had succeeded, which changed what it relied on. Stores need not show
/// the latest changes when they are read.
async fn unless_applied_before(
    rules: &Rules,
    id: SessionId,
    change: &Change,
    now: Timestamp,
    revision: u64,
    answer: Updated,
) -> Result<Updated> {
    // Nothing can be so any more: only an earlier try is found.
    let never = [revision, revision.wrapping_add(1)].map(|revision| Expect::Head(id, revision));
    Ok(match commit(rules, &changing_data(id, change, now).relying_on(never)).await? {
        Outcome::Committed(answers) => Updated::Applied(changed(answers, change)?),
        Outcome::Conflict(_) => answer,
    })
}

/// What the change makes of a record; the answer if it makes nothing of it.
fn decide(change: &Change, record: Arc<Record>, now: Timestamp) -> Result<Record, Updated> {
    let mut changed = (*record).clone();
    match change.apply_to(&mut changed, now) {
        Applied::Now => Ok(changed),
        applied => Err(answer(applied, record)),
    }
}

/// What to say of a change to this record.
fn answer(applied: Applied, record: Arc<Record>) -> Updated {
    match applied {
        Applied::Now | Applied::Before => Updated::Applied(record),
        Applied::Conflict => Updated::Conflict(record),
        Applied::LeaseLost => Updated::LeaseLost,
        Applied::TooLarge { size } => Updated::TooLarge(size),
    }
}

fn changing_data(id: SessionId, change: &Change, now: Timestamp) -> Transaction {
    let mut relies_on = Vec::with_capacity(change.relied_on.len() + 4);
    relies_on.push(Expect::Live(id));
    relies_on.extend(change.if_version.map(|version| Expect::Version(id, version)));
    relies_on.push(Expect::DataAtMost(id, change.max_data_bytes));
    relies_on.extend(change.relied_on.iter().map(|(key, value)| Expect::Value(id, Arc::clone(key), value.clone())));
    let data = DataChange { remove_all: change.remove_all, remove: change.remove.clone(), set: change.set.clone() };
    let known = known(change, id).map(|record| Known { version: record.info.version, revision: record.revision });
    let writes = vec![Write::Data { id, change: data, known }];
    Transaction { id: change.id, now, relies_on, writes, log: Vec::new() }
}

/// What the caller knows, if it is of this session and the change leaves its head alone.
fn known(change: &Change, id: SessionId) -> Option<&Arc<Record>> {
    change.known.as_ref().filter(|record| record.info.id == id && change.fields == Fields::default())
}

/// The record as it is after a change of data.
fn changed(answers: Vec<Committed>, change: &Change) -> Result<Arc<Record>> {
    match (answers.into_iter().next(), &change.known) {
        (Some(Committed::Record(record)), _) => Ok(record),
        (Some(Committed::AsKnown { seen }), Some(known)) => {
            let mut record = Record::clone(known);
            // The store has found that they are not too many.
            let _ = record.data.change(change.remove_all, &change.remove, &change.set, usize::MAX);
            record.info.version += 1;
            record.info.last_seen_at = seen;
            record.recent_changes.push(change.id);
            Ok(Arc::new(record))
        }
        _ => Err(unasked()),
    }
}
