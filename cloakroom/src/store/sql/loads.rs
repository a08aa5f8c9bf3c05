//! Sessions that are read on their own, those that are asked for together in one statement.

use std::{collections::HashMap, marker::PhantomData, sync::Arc, time::Duration};

use super::{
    fault::{Fault, Kind},
    pool::{CALL_TIMEOUT, Engine, Pool},
};
use crate::{
    error::{Error, Result},
    store::{
        BoxFuture,
        batcher::{Carrier, Departure, Work},
        slots::Slot,
    },
    token::SessionId,
};

/// A session to be read, with its data.
pub(super) struct Load<E>(SessionId, PhantomData<fn() -> E>);

impl<E> Load<E> {
    pub(super) fn new(id: SessionId) -> Self {
        Self(id, PhantomData)
    }
}

impl<E: Engine> Work for Load<E> {
    type Answer = Option<Slot>;

    fn keys(&self) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }

    fn weight(&self) -> usize {
        SessionId::LEN
    }

    fn late(after: Duration, was_sent: bool) -> Error {
        Fault::Slow { after, was_sent }.into_error::<E>(Kind::Read)
    }
}

/// How the sessions of one server are read.
pub(super) trait Read: Send + Sync + 'static {
    type Engine: Engine;

    fn pool(&self) -> &Arc<Pool<Self::Engine>>;

    /// A statement that reads these, of which there is one at least.
    fn statement(&self, ids: &[SessionId]) -> <Self::Engine as Engine>::Statement;

    /// What it found. One that cannot be read is an error of its own.
    fn slots(
        &self,
        ids: &[SessionId],
        answer: &<Self::Engine as Engine>::Answer,
    ) -> Result<HashMap<SessionId, Result<Slot>>>;
}

/// The same once more, for another caller.
fn damaged(error: &Error) -> Error {
    let message = match error {
        Error::Store { message, .. } => message.clone(),
        other => other.to_string(),
    };
    Error::Store { message, source: None }
}

/// Reads sessions of one server.
pub(super) struct Loads<R>(pub(super) R);

impl<R: Read> Carrier<Load<R::Engine>> for Loads<R> {
    fn carry(self: Arc<Self>, mut departure: Departure<Load<R::Engine>>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let acquired = self.0.pool().acquire(CALL_TIMEOUT).await;
            let pieces = departure.take();
            let ids: Vec<_> = pieces.iter().map(|piece| piece.work().0).collect();
            let ran = match acquired {
                Ok(_) if pieces.is_empty() => return,
                Ok(lease) => self.0.pool().run(Some(lease), |_| self.0.statement(&ids)).await,
                Err(fault) => Err(fault),
            };
            let found = ran.map(|(answer, _)| self.0.slots(&ids, &answer));
            for piece in pieces {
                let answer = match &found {
                    Ok(Ok(slots)) => match slots.get(&piece.work().0) {
                        Some(Ok(slot)) => Ok(Some(slot.clone())),
                        Some(Err(error)) => Err(damaged(error)),
                        None => Ok(None),
                    },
                    Ok(Err(error)) => Err(damaged(error)),
                    Err(fault) => Err(fault.clone().into_error::<R::Engine>(Kind::Read)),
                };
                piece.answer(answer);
            }
        })
    }
}
