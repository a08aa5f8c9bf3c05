//! What compares and swaps heads: rotations, leases, graces.

use std::{sync::Arc, time::Duration};

use crate::{
    audit::{AuditEntry, Event},
    change::random_id,
    clock::Timestamp,
    error::Result,
    record::Record,
    rules::{Gone, Locked, Rotated, Rotation},
    rules::{Rules, look, transaction::commit},
    store::slots::{Expect, Outcome, Transaction, Write},
    token::SessionId,
};

/// What was decided about a head.
pub(super) struct Decided<T> {
    pub(super) answer: T,
    /// Whether it is changed.
    pub(super) write: bool,
    pub(super) log: Option<AuditEntry>,
}

/// What the caller does with the record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// Nothing.
    Nothing,
    /// Looks at it.
    Record,
    /// Relies on its data to be no older than the change.
    FreshData,
}

/// Changes the head of a session, if it lives, as `decide` says of the record as it is. Answers with the record too.
pub(super) async fn change<T>(
    rules: &Rules,
    id: SessionId,
    wants: Wants,
    now: Timestamp,
    mut decide: impl FnMut(&mut Record) -> Decided<T>,
) -> Result<Result<(T, Arc<Record>), Gone>> {
    let mut attempts = rules.turns.at_session(id);
    let mut slot = match wants {
        Wants::Nothing => look::head(rules, id).await?,
        Wants::Record | Wants::FreshData => look::session(rules, id).await?,
    };
    loop {
        let record = match look::living(slot, now) {
            Ok(record) => record,
            Err(gone) => return Ok(Err(gone)),
        };
        let mut changed = (*record).clone();
        let Decided { answer, write, log } = decide(&mut changed);
        if !write {
            return Ok(Ok((answer, record)));
        }
        let mut transaction = Transaction::new(now).relying_on([Expect::Live(id), Expect::Head(id, record.revision)]);
        // Data that change all the time must not keep anyone from the lock: then they are read once more.
        let same_data = wants == Wants::FreshData && attempts.made() < 2;
        if same_data {
            transaction = transaction.relying_on([Expect::Version(id, record.info.version)]);
        }
        drop(record);
        changed.revision = random_id();
        let changed = Arc::new(changed);
        transaction = transaction.writing(Write::Head(Arc::clone(&changed)));
        if let Some(entry) = log {
            transaction.log(entry);
        }
        match commit(rules, &transaction).await? {
            Outcome::Committed(_) if wants == Wants::FreshData && !same_data => {
                let fresh = look::living(look::session(rules, id).await?, now);
                return Ok(fresh.map(|record| (answer, record)));
            }
            Outcome::Committed(_) => return Ok(Ok((answer, changed))),
            Outcome::Conflict(fresh) => slot = fresh,
        }
        attempts.again().await?;
    }
}

pub(super) async fn rotate(rules: &Rules, id: SessionId, rotation: &Rotation, now: Timestamp) -> Result<Rotated> {
    let rotated = change(rules, id, Wants::Record, now, |record| {
        let before = record.secrets.rotations;
        let answer = rotation.apply_to(&mut record.secrets, now);
        let write = record.secrets.rotations != before;
        let entry = || AuditEntry { by: rotation.by.clone(), ..AuditEntry::about(&record.info, Event::Rotated, now) };
        Decided { answer, write, log: write.then(entry) }
    });
    Ok(match rotated.await? {
        Ok((true, record)) => Rotated::Rotated(record),
        Ok((false, record)) => Rotated::Superseded(record),
        Err(gone) => Rotated::Gone(gone),
    })
}

pub(super) async fn lock(rules: &Rules, id: SessionId, lease: Duration, now: Timestamp) -> Result<Locked> {
    let locked = change(rules, id, Wants::FreshData, now, |record| {
        let taken = record.lease.take(lease, now);
        Decided { answer: taken, write: taken, log: None }
    });
    Ok(match locked.await? {
        Ok((true, record)) => Locked::Granted(record),
        Ok((false, record)) => Locked::Held { until: record.lease.until },
        Err(gone) => Locked::Gone(gone),
    })
}

pub(super) async fn renew(rules: &Rules, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> Result<bool> {
    let renewed = change(rules, id, Wants::Nothing, now, |record| {
        let before = record.lease;
        let held = record.lease.renew(number, lease, now);
        Decided { answer: held, write: record.lease != before, log: None }
    });
    Ok(renewed.await?.is_ok_and(|(held, _)| held))
}

pub(super) async fn unlock(rules: &Rules, id: SessionId, number: u64, now: Timestamp) -> Result<bool> {
    let released = change(rules, id, Wants::Nothing, now, |record| {
        let held = record.lease.release(number, now);
        Decided { answer: held, write: held, log: None }
    });
    Ok(released.await?.is_ok_and(|(held, _)| held))
}
