//! Noting that sessions were used.

use std::sync::Arc;

use crate::{
    change::random_id,
    clock::Timestamp,
    error::Result,
    record::Record,
    rules::Touch,
    rules::{
        Rules,
        heads::{self, Decided, Wants},
        look,
    },
    store::slots::{Expect, Outcome, SeenAt, Transaction, Write},
    token::SessionId,
};

pub(super) async fn touch(rules: &Rules, touches: &[Touch], now: Timestamp) -> Result<Vec<bool>> {
    if touches.is_empty() {
        return Ok(Vec::new());
    }
    let graces = touches.iter().filter_map(|touch| Some((touch.id, touch.grace_ends?)));
    let graces: Vec<_> = graces.collect();
    if !graces.is_empty() {
        // Once after each rotation.
        Box::pin(confirm(rules, &graces, now)).await?;
    }
    let seen: Vec<_> = touches.iter().map(|touch| SeenAt { id: touch.id, at: touch.seen_at }).collect();
    rules.store.touch(&seen, now).await
}

/// Starts the graces of predecessors whose successor was presented.
async fn confirm(rules: &Rules, graces: &[(SessionId, Timestamp)], now: Timestamp) -> Result<()> {
    let ids: Vec<_> = graces.iter().map(|(id, _)| *id).collect();
    let (mut transactions, mut written) = (Vec::new(), Vec::new());
    for (slot, (id, grace_ends)) in look::heads(rules, &ids).await?.into_iter().zip(graces) {
        let Ok(record) = look::living(slot, now) else { continue };
        let mut head = (*record).clone();
        if head.secrets.confirm(*grace_ends) {
            let relies_on = [Expect::Live(*id), Expect::Head(*id, record.revision)];
            head.revision = random_id();
            transactions.push(Transaction::new(now).relying_on(relies_on).writing(Write::Head(Arc::new(head))));
            written.push((*id, *grace_ends));
        }
    }
    if transactions.is_empty() {
        return Ok(());
    }
    for (outcome, (id, grace_ends)) in rules.store.commit(&transactions, false).await?.into_iter().zip(written) {
        if let Outcome::Conflict(_) = outcome {
            let confirm =
                |record: &mut Record| Decided { answer: (), write: record.secrets.confirm(grace_ends), log: None };
            drop(heads::change(rules, id, Wants::Nothing, now, confirm).await?);
        }
    }
    Ok(())
}
