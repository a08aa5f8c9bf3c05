//! From what is pending to what is stored.

use std::sync::Arc;

use super::{
    CookieOrder, Session, Stage, State,
    pending::{self, Operation},
};
use crate::{
    change::Change,
    data::{Json, JsonRef},
    error::{Error, Result},
    record::Record,
    sessions::SignIn,
    token::SessionId,
};

/// A change that was sent, and how many of the pending operations it holds.
#[derive(Clone)]
pub(super) struct InFlight {
    change: Arc<Change>,
    operations: usize,
}

/// Who looks at the session once it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    Somebody,
    Nobody,
}

impl Session {
    /// Stores what is pending. The layer does this before the response's head is sent; a task that outlives its response
    /// does it itself.
    pub async fn commit(&self) -> Result<()> {
        if self.state().pending.is_empty() {
            return Ok(());
        }
        let _turn = self.0.turn.lock().await;
        self.commit_in_turn().await
    }

    /// As [`commit`](Self::commit), for a session that nobody else holds and nobody will look at again.
    pub(crate) async fn commit_at_last(&self) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        self.commit_until_stored(Afterwards::Nobody).await
    }

    pub(super) async fn commit_in_turn(&self) -> Result<()> {
        self.commit_until_stored(Afterwards::Somebody).await
    }

    async fn commit_until_stored(&self, looks: Afterwards) -> Result<()> {
        loop {
            let (record, sent) = {
                let mut state = self.state();
                if state.pending.is_empty() {
                    return Ok(());
                }
                match &state.stage {
                    Stage::Anonymous { .. } if state.pending.change().set.is_empty() => {
                        state.pending.discard();
                        return Ok(());
                    }
                    Stage::Anonymous { .. } => (None, None),
                    Stage::LetGo { .. } => return Err(Error::UnknownSession),
                    Stage::Stored { record, .. } => (Some(Arc::clone(record)), state.in_flight.clone()),
                }
            };
            match record {
                // Boxed: it happens once in a session's life, and needs much room.
                None => return Box::pin(self.start_with_pending()).await.map(drop),
                Some(record) => self.send(record, sent, looks).await?,
            }
        }
    }

    /// Starts the session of a visitor who has none, with what is pending.
    pub(super) async fn start_anonymous(&self) -> Result<SessionId> {
        let _turn = self.0.turn.lock().await;
        if let Some(id) = self.id() {
            return Ok(id);
        }
        Box::pin(self.start_with_pending()).await
    }

    /// Stores a visitor's first values.
    async fn start_with_pending(&self) -> Result<SessionId> {
        let data = {
            let state = self.state();
            self.check_new_cookie(&state)?;
            state.view()
        };
        let start = SignIn::anonymous().data(data).client(self.0.origin.client());
        let started = self.0.sessions.start(start).await?;
        let id = started.record.info.id;
        self.state().become_stored(started);
        Ok(id)
    }

    async fn send(&self, record: Arc<Record>, mut again: Option<InFlight>, looks: Afterwards) -> Result<()> {
        let mut first = true;
        let stored = self.0.sessions.modify_with(record, |record| {
            let mut state = self.state();
            if let Some(sent) = again.take() {
                first = false;
                return Ok(sent.change);
            }
            if !std::mem::take(&mut first) {
                state.rebase(Arc::clone(record), None)?;
            }
            let sent = InFlight { change: state.under_lease(state.pending.change()), operations: state.pending.len() };
            state.in_flight = Some(sent.clone());
            if looks == Afterwards::Nobody {
                state.stage.let_go();
            }
            Ok(sent.change)
        });
        let stored = stored.await;
        let mut state = self.state();
        match stored {
            Ok(fresh) => {
                let operations = state.in_flight.take().map_or(0, |sent| sent.operations);
                state.stage.see(Arc::clone(&fresh));
                state.pending.stored(operations, &fresh.data)?;
                state.release_if_stored();
                Ok(())
            }
            Err(error @ Error::OutcomeUnknown { .. }) => Err(error),
            Err(error) => {
                state.in_flight = None;
                Err(error)
            }
        }
    }

    /// Stores one key's pending operations and one more, at once, and answers the value that is stored.
    pub(super) async fn store_key_now(&self, key: Arc<str>, last: Operation) -> Result<Option<Json>> {
        let _turn = self.0.turn.lock().await;
        if self.state().pending.removes_all() {
            self.commit_in_turn().await?;
        }
        let (record, before) = {
            let state = self.state();
            (state.stage.record().cloned(), state.pending.of(&key))
        };
        let stored = match record {
            None => {
                self.check_new_cookie(&self.state())?;
                let mut change = self.0.sessions.change();
                pending::play(&before, &last, self.state().stage.data(), &mut change)?;
                let Some(value) = change.set.remove(&key) else { return Ok(None) };
                let data = [(Arc::clone(&key), value)].into_iter().collect();
                let start = SignIn::anonymous().data(data).client(self.0.origin.client());
                let started = self.0.sessions.start(start).await?;
                let record = Arc::clone(&started.record);
                let mut state = self.state();
                state.cookie = CookieOrder::Set(started.token.clone(), Box::new(record.info.clone()));
                state.stage = Stage::Stored { record: started.record, token: started.token };
                record
            }
            Some(record) => {
                let fresh = self.0.sessions.modify_with(record, |record| {
                    let mut change = self.0.sessions.change();
                    pending::play(&before, &last, &record.data, &mut change)?;
                    Ok(self.state().under_lease(Arc::new(change)))
                });
                let fresh = fresh.await?;
                self.state().stage.see(Arc::clone(&fresh));
                fresh
            }
        };
        self.state().pending.stored_key(&key, &stored.data)?;
        Ok(stored.data.get(&key).map(JsonRef::to_json))
    }

    /// Whether a new session may be made: its cookie must still fit into the head, and a request whose token was
    /// replaced must not overwrite the cookie that the browser has by now.
    fn check_new_cookie(&self, state: &State) -> Result<()> {
        if state.head_sent {
            return Err(Error::HeadSent);
        }
        match &state.stage {
            Stage::Anonymous { lapsed: Some(ended), .. } if self.0.sessions.has_fresh_successor(ended) => {
                Err(ended.clone().into())
            }
            Stage::Anonymous { .. } | Stage::Stored { .. } | Stage::LetGo { .. } => Ok(()),
        }
    }
}
