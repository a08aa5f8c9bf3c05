//! Noting that sessions were used.

use crate::{
    Record, Result, Timestamp,
    rules::heads::{self, Decided, Wants},
    store::{
        Touch,
        slots::{SeenAt, SlotStore},
    },
};

pub(super) async fn touch<S: SlotStore + ?Sized>(slots: &S, touches: &[Touch], now: Timestamp) -> Result<Vec<bool>> {
    if touches.is_empty() {
        return Ok(Vec::new());
    }
    for touch in touches {
        if let Some(grace_ends) = touch.grace_ends {
            // Once after each rotation.
            let confirm =
                |record: &mut Record| Decided { answer: (), write: record.secrets.confirm(grace_ends), log: None };
            drop(Box::pin(heads::change(slots, touch.id, Wants::Nothing, now, confirm)).await?);
        }
    }
    let seen: Vec<_> = touches.iter().map(|touch| SeenAt { id: touch.id, at: touch.seen_at }).collect();
    slots.touch(&seen, now).await
}
