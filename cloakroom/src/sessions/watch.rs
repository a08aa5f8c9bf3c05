//! Who waits for a session's end: long-lived connections that must close when it comes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

use super::{Found, Sessions, users::Whence};
use crate::{ended::Ended, error::Result, token::SessionId};

#[derive(Default)]
pub(super) struct Watchers(Mutex<HashMap<SessionId, watch::Sender<Option<Ended>>>>);

impl Watchers {
    /// Wakes those who wait for this session.
    pub(super) fn tell(&self, ended: &Ended) {
        let sender = self.lock().remove(&ended.id);
        if let Some(sender) = sender {
            sender.send_replace(Some(ended.clone()));
        }
    }

    fn subscribe(&self, id: SessionId) -> watch::Receiver<Option<Ended>> {
        let mut watched = self.lock();
        // Those who stopped waiting left their entry behind: sweep when it could matter.
        if watched.len() == watched.capacity() {
            watched.retain(|_, sender| sender.receiver_count() > 0);
        }
        watched.entry(id).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, watch::Sender<Option<Ended>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Waits until a session has ended, and answers how; `None` if there is no such session. At once if it has ended
    /// already.
    ///
    /// Endings by this process wake it at once; those by others, the passing of deadlines, and that the
    /// [directory](super::Builder::users) no longer lets its user have sessions, within
    /// [`WATCH_INTERVAL`](Self::WATCH_INTERVAL).
    pub async fn ended(&self, id: SessionId) -> Result<Option<Ended>> {
        loop {
            // Subscribed before looking, so that no ending falls in between.
            let mut ending = self.watchers().subscribe(id);
            let found = match self.get(id).await? {
                Found::Live(record) => self.judge_if_known(record, Whence::Anywhere, self.now()).await?,
                found => found,
            };
            match found {
                Found::Live(_) => {}
                Found::Ended(ended) => return Ok(Some(ended)),
                Found::Unknown => return Ok(None),
            }
            tokio::select! {
                changed = ending.changed() => if changed.is_ok() {
                    return Ok(ending.borrow_and_update().clone());
                },
                () = tokio::time::sleep(Self::WATCH_INTERVAL) => {}
            }
        }
    }

    /// How often a watched session is looked up for endings that other processes made.
    pub const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);
}
