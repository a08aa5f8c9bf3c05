//! Passing the audit log on: to the application's own log, to a queue, to another system.

use std::{
    error::Error as StdError,
    future::poll_fn,
    io,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use super::{Sessions, upkeep::upgrade};
use crate::{
    error::{Error, Result},
    store::{AuditQuery, BoxFuture, Cursor, Logged, Page},
};

/// Where audit entries go beside the store. See [`AuditLog::follow`].
pub trait AuditSink: Send + Sync + 'static {
    /// Takes entries, oldest first. A sink that must not see an entry twice after a restart keeps the cursor of the
    /// last one, in one transaction with what it does. An error brings the same entries again, a little later.
    fn take<'a>(&'a self, entries: &'a [Logged]) -> BoxFuture<'a, Result<(), Fault>>;
}

type Fault = Box<dyn StdError + Send + Sync>;

/// A sink that makes each entry an event of [`tracing`], at level `INFO` under the target `cloakroom::audit`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

impl AuditSink for TracingSink {
    fn take<'a>(&'a self, entries: &'a [Logged]) -> BoxFuture<'a, Result<(), Fault>> {
        for Logged { cursor, entry, .. } in entries {
            tracing::info!(
                target: "cloakroom::audit",
                cursor = cursor.as_str(),
                at = %entry.at,
                event = %entry.event,
                session = %entry.session,
                user = entry.user.as_deref(),
                impersonated_by = entry.impersonated_by.as_deref(),
                audit_user = entry.audit_user.as_deref(),
                ip = entry.ip.map(tracing::field::display),
                reason = entry.reason.map(tracing::field::display),
                by = entry.by.as_deref(),
                note = entry.note.as_deref(),
            );
        }
        Box::pin(async { Ok(()) })
    }
}

/// How many entries are read, and passed on, at a time.
const BATCH: usize = 500;
/// How often a follower looks for what is new.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a sink answers. One that panics has failed: it must not end the follower in silence.
async fn caught(mut taking: BoxFuture<'_, Result<(), Fault>>) -> Result<(), Fault> {
    poll_fn(|context| {
        let polled = panic::catch_unwind(AssertUnwindSafe(|| taking.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err("the sink panicked".into())))
    })
    .await
}

/// The audit log of the store: see [`Sessions::audit_log`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct AuditLog<'a>(&'a Sessions);

impl Sessions {
    /// The audit log: who started, refused, changed and ended which session, and why.
    pub fn audit_log(&self) -> AuditLog<'_> {
        AuditLog(self)
    }
}

impl AuditLog<'_> {
    /// A page of the audit log, oldest first.
    pub async fn page(&self, query: &AuditQuery, after: Option<&Cursor>, limit: usize) -> Result<Page<Logged>> {
        self.0.store_read(self.0.store().audit(query, after, limit)).await
    }

    /// Passes every audit entry on to a sink, in the log's order, until [`shutdown`](Sessions::shutdown): those behind
    /// `after`, or all that are kept, and then what comes, within a second or so. Entries are written with what they
    /// tell of, whether or not anybody follows, so none is missed; one may come twice.
    ///
    /// Must be called within a Tokio runtime. It follows the whole log, on whichever node it was written: one
    /// process does, not each.
    pub fn follow(&self, sink: impl AuditSink, after: Option<Cursor>) -> Result<()> {
        let problem = "call it within a Tokio runtime".to_owned();
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::InvalidArgument { what: "AuditLog::follow", problem })?;
        let service = Arc::downgrade(&self.0.0);
        let task = runtime.spawn(async move {
            let mut after = after;
            let mut failing = false;
            loop {
                let Some(sessions) = upgrade(&service) else { break };
                match sessions.audit_log().pass(&sink, &mut after).await {
                    Ok(()) => failing = false,
                    Err(error) if failing => tracing::debug!(%error, "audit entries still cannot be passed on"),
                    Err(error) => {
                        tracing::warn!(%error, "audit entries cannot be passed on; they are tried again");
                        failing = true;
                    }
                }
                drop(sessions);
                tokio::time::sleep(INTERVAL).await;
            }
        });
        self.0.keep_task(task);
        Ok(())
    }

    /// Passes what the log holds behind `after` on to a sink, once, and moves `after` behind what the sink took.
    pub async fn pass(&self, sink: &dyn AuditSink, after: &mut Option<Cursor>) -> Result<()> {
        loop {
            let page = self.page(&AuditQuery::default(), after.as_ref(), BATCH).await?;
            if let Some(last) = page.items.last() {
                let taken = caught(Box::pin(async { sink.take(&page.items).await })).await;
                taken.map_err(|error| Error::unavailable("a sink of the audit log failed", error))?;
                *after = Some(last.cursor.clone());
            }
            match page.next {
                None => return Ok(()),
                Some(next) => *after = Some(next),
            }
        }
    }

    /// Writes the audit entries that match as JSON Lines, oldest first: a JSON object a line, as [`Logged`] is
    /// serialised. Answers how many.
    pub async fn export(&self, query: &AuditQuery, mut to: impl io::Write) -> Result<u64> {
        let failed = |error: io::Error| Error::unavailable("the audit log could not be written out", error);
        let mut count = 0;
        let mut after = None;
        loop {
            let page = self.page(query, after.as_ref(), BATCH).await?;
            for logged in &page.items {
                serde_json::to_writer(&mut to, logged).map_err(|error| failed(error.into()))?;
                to.write_all(b"\n").map_err(failed)?;
                count += 1;
            }
            after = page.next;
            if after.is_none() {
                to.flush().map_err(failed)?;
                return Ok(count);
            }
        }
    }
}
