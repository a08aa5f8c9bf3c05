//! What happens beside requests: when sessions were last seen is written, and what expired is ended.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle};

use super::{Inner, Sessions, clock_offset::keep_measuring};
use crate::{
    change::Change,
    clock::Timestamp,
    error::Result,
    record::Record,
    rules::{Loaded, Reap, Touch},
    token::SessionId,
};

/// Touches that wait to be written together. They wait until the store has answered: a flush that fails, or whose future
/// is dropped, leaves them here.
#[derive(Default)]
pub(super) struct Touches {
    waiting: Mutex<HashMap<SessionId, Touch>>,
    first: Notify,
    /// Held by whoever writes them, so that none is written by two at once.
    flushing: tokio::sync::Mutex<()>,
}

impl Touches {
    fn add(&self, touch: Touch) {
        let mut waiting = self.lock();
        let was_empty = waiting.is_empty();
        let merged = waiting.entry(touch.id).or_insert(touch);
        merged.seen_at = merged.seen_at.max(touch.seen_at);
        merged.grace_ends = merged.grace_ends.or(touch.grace_ends);
        drop(waiting);
        if was_empty {
            self.first.notify_one();
        }
    }

    /// Lets those that waited be written.
    pub(super) fn wake(&self) {
        self.first.notify_one();
    }

    /// Those that wait now.
    fn waiting(&self) -> Vec<Touch> {
        let mut touches: Vec<_> = self.lock().values().copied().collect();
        // One order on every node: unordered batches of row locks can deadlock.
        touches.sort_unstable_by_key(|touch| touch.id);
        touches
    }

    /// Forgets what was written. What came meanwhile goes on waiting.
    fn written(&self, touches: &[Touch]) {
        let mut waiting = self.lock();
        for written in touches {
            let Entry::Occupied(mut entry) = waiting.entry(written.id) else { continue };
            if entry.get() == written {
                entry.remove();
            } else if entry.get().grace_ends == written.grace_ends {
                // A later rotation has a grace of its own, which this one must not begin.
                entry.get_mut().grace_ends = None;
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn last_seen(&self, id: SessionId) -> Option<Timestamp> {
        self.lock().get(&id).map(|touch| touch.seen_at)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Touch>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a touch may wait for others before all are written together.
const FLUSH_DELAY: Duration = Duration::from_secs(1);
/// So many touches are written by one call.
const TOUCH_BATCH: usize = 500;
/// So many sessions are reaped by one call.
const REAP_BATCH: usize = 500;

/// A session's use is recorded at most this often: a twentieth of its idle timeout, never over a minute. A session
/// ends early by at most this, and never late.
pub(crate) fn touch_throttle(idle: Duration) -> Duration {
    (idle / 20).min(Duration::from_mins(1))
}

impl Sessions {
    /// Notes that a session was used now, if that is due. Where its deadline might pass before what waits is written, it is
    /// written before this returns.
    pub(crate) async fn note_use(&self, record: &Record, now: Timestamp) {
        let info = &record.info;
        let throttle = touch_throttle(info.idle_timeout.unwrap_or(Duration::MAX));
        if now.since(info.last_seen_at) < throttle || now <= info.last_seen_at {
            return;
        }
        if self.0.touches.last_seen(info.id).is_some_and(|seen| now.since(seen) < throttle) {
            return;
        }
        let touch = Touch { id: info.id, seen_at: now, grace_ends: None };
        self.queue_touch(touch);
        let left = info.idle_timeout.map(|idle| info.last_seen_at.after(idle).since(now));
        if left.is_some_and(|left| left < FLUSH_DELAY * 2) && !self.is_read_only() {
            Box::pin(self.write_use(touch)).await;
        }
    }

    async fn write_use(&self, touch: Touch) {
        match self.touch_now(touch).await {
            Ok(()) => self.0.touches.written(&[touch]),
            // It waits with the others, and the session is served as long as it does.
            Err(error) => tracing::debug!(%error, session = %touch.id, "a use could not be written at once"),
        }
    }

    /// When a session was last used through this process, where that is not written yet.
    pub(super) fn used(&self, id: SessionId) -> Option<Timestamp> {
        self.0.touches.last_seen(id)
    }

    pub(super) fn queue_touch(&self, touch: Touch) {
        self.0.touches.add(touch);
    }

    /// Writes that one session was used, without waiting for others.
    pub(crate) async fn touch_now(&self, touch: Touch) -> Result<()> {
        if self.is_read_only() {
            if let Loaded::Live(_) = self.load(touch.id, self.now()).await? {
                self.queue_touch(touch);
            }
            return Ok(());
        }
        self.store_write(self.rules().touch(&[touch], self.now())).await.map(drop)
    }

    /// Writes when sessions were last seen, as far as it is not written yet. Happens by itself within a second or so.
    /// What cannot be written, or is not when the future is dropped, waits for the next time. In
    /// [read-only mode](super::Builder::read_only) all goes on waiting.
    pub async fn flush(&self) -> Result<()> {
        let touches = &self.0.touches;
        let _flushing = touches.flushing.lock().await;
        if self.is_read_only() {
            return Ok(());
        }
        for batch in touches.waiting().chunks(TOUCH_BATCH) {
            // Touches never move time backwards, so writing one twice is harmless.
            self.store_write(self.rules().touch(batch, self.now())).await?;
            touches.written(batch);
        }
        Ok(())
    }

    /// Writes what waits before this process ends, and says what could not be written.
    pub(super) async fn flush_for_good(&self) {
        let Err(first) = self.flush().await else { return };
        tracing::debug!(error = %first, "touches are written once more before the end");
        if let Err(error) = self.flush().await {
            let sessions = self.0.touches.count();
            tracing::warn!(%error, sessions, "the latest times of use of these sessions could not be written");
        }
    }

    /// Ends every session that has expired, and forgets what is old enough. Answers how many ended. Happens by itself
    /// at the configured interval. Where this node's clock is ahead of the store's, it waits for the store's.
    pub async fn reap(&self) -> Result<u64> {
        // What was used shortly before its deadline must not be reaped for want of a note.
        self.flush().await?;
        let wait = self.wait_before_reaping().await;
        let mut count = 0;
        loop {
            let now = self.now().before(wait);
            let reap = Reap {
                limit: REAP_BATCH,
                tombstones_before: now.before(self.config().tombstone_retention),
                audit_before: now.before(self.config().audit_retention),
            };
            let reaped = self.store_write(self.rules().reap(&reap, now)).await?;
            count += reaped.ended.len() as u64;
            for ended in &reaped.ended {
                self.watchers().tell(ended);
            }
            if !reaped.more {
                break;
            }
        }
        if count > 0 {
            tracing::info!(count, "expired sessions ended");
        }
        Ok(count)
    }

    pub(super) fn start_upkeep(&self, runtime: &tokio::runtime::Handle) {
        self.keep_task(runtime.spawn(keep_flushing(Arc::clone(&self.0.touches), Arc::downgrade(&self.0))));
        self.keep_task(runtime.spawn(keep_reaping(Arc::downgrade(&self.0), self.config().reap_interval)));
        self.keep_task(runtime.spawn(keep_measuring(Arc::downgrade(&self.0))));
    }

    /// Has a task stopped when the service is.
    pub(super) fn keep_task(&self, task: JoinHandle<()>) {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

/// Tasks hold the service weakly, so that dropping its last handle ends them.
pub(super) fn upgrade(service: &Weak<Inner>) -> Option<Sessions> {
    service.upgrade().map(|inner| Sessions(inner, None))
}

async fn keep_flushing(touches: Arc<Touches>, service: Weak<Inner>) {
    let mut failing = false;
    loop {
        touches.first.notified().await;
        tokio::time::sleep(FLUSH_DELAY).await;
        let Some(sessions) = upgrade(&service) else { break };
        match sessions.flush().await {
            Ok(()) => failing = false,
            Err(error) if failing => tracing::debug!(%error, "touches still cannot be written"),
            Err(error) => {
                tracing::warn!(%error, "touches cannot be written; they are kept and tried again");
                failing = true;
            }
        }
        // Only the first that waits wakes this task, and some wait already. In read-only mode its end does.
        if !sessions.is_read_only() && touches.count() > 0 {
            touches.wake();
        }
    }
}

async fn keep_reaping(service: Weak<Inner>, interval: Duration) {
    loop {
        let spread = interval / 10;
        let random = Change::new(0).id % u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
        tokio::time::sleep(interval.saturating_sub(spread / 2) + Duration::from_millis(random)).await;
        let Some(sessions) = upgrade(&service) else { break };
        if sessions.is_read_only() {
            continue;
        }
        if let Err(error) = sessions.reap().await {
            tracing::warn!(%error, "expired sessions could not be ended; they stay unusable and are tried again");
        }
    }
}
