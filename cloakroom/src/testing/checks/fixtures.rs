//! Short ways to say what checks say often.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::Barrier;

use crate::{
    admission::Limit,
    audit::{AuditEntry, Event},
    change::Change,
    clock::Timestamp,
    data::Json,
    ended::Ending,
    record::{Authentication, Record, SessionInfo},
    rules::{Create, Created, EndAnswer, Gone, Loaded, Reap, Rotated, Rotation, Tombstone, Touch, Updated, Which},
    secrets::Secrets,
    store::{AuditQuery, Cursor, Logged, Query},
    testing::Subject,
    token::{Digest, Partition, SessionId, Token},
};

/// When checks begin: 2026-01-01T00:00:00Z.
pub(in crate::testing) const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// How much data a change may leave, unless a check is about that.
pub(in crate::testing) const MAX_DATA: usize = 64 * 1024;

/// The grace of rotations.
pub(in crate::testing) const GRACE: Duration = Duration::from_secs(30);

/// So many milliseconds after [`NOW`].
pub(in crate::testing) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

pub(in crate::testing) fn json(text: &str) -> Json {
    Json::from_text(text).expect("valid JSON")
}

/// A session about to start.
#[derive(Clone)]
pub(in crate::testing) struct Start {
    pub(in crate::testing) token: Token,
    pub(in crate::testing) create: Create,
    pub(in crate::testing) now: Timestamp,
}

impl Start {
    pub(in crate::testing) fn new(user: Option<&str>, partition: Partition) -> Self {
        let token = Token::generate(SessionId::generate(partition).unwrap()).unwrap();
        let info = SessionInfo {
            user: user.map(Into::into),
            authentication: user.map(|_| Authentication::at(NOW)),
            ..SessionInfo::new(token.id(), NOW)
        };
        let record = Record { ..Record::new(info, Secrets::new(token.digest(), NOW)) };
        Self { token, create: Create { record, limit: None, replaces: None, by: None, note: None }, now: NOW }
    }

    pub(in crate::testing) fn at(mut self, now: Timestamp) -> Self {
        let info = &mut self.create.record.info;
        info.created_at = now;
        info.last_seen_at = now;
        info.authentication = info.user.as_ref().map(|_| Authentication::at(now));
        self.create.record.secrets.issued_at = now;
        self.now = now;
        self
    }

    /// Changes whatever there is no shorter way for.
    pub(in crate::testing) fn with(mut self, edit: impl FnOnce(&mut SessionInfo)) -> Self {
        edit(&mut self.create.record.info);
        self
    }

    pub(super) fn idle(self, millis: u64) -> Self {
        self.with(|info| info.idle_timeout = Some(Duration::from_millis(millis)))
    }

    pub(super) fn ends_at(self, end: Timestamp) -> Self {
        self.with(|info| info.ends_at = Some(end))
    }

    pub(super) fn data(mut self, key: &str, text: &str) -> Self {
        self.create.record.data.insert(key, json(text));
        self
    }

    pub(in crate::testing) fn limit(mut self, limit: Limit) -> Self {
        self.create.limit = Some(limit);
        self
    }

    pub(in crate::testing) fn replaces(mut self, id: SessionId) -> Self {
        self.create.replaces = Some(id);
        self
    }

    pub(in crate::testing) fn idempotency(mut self, key: Digest) -> Self {
        self.create.record.idempotency = Some(key);
        self
    }

    pub(in crate::testing) fn by(mut self, by: &str) -> Self {
        self.create.by = Some(by.into());
        self
    }

    pub(in crate::testing) fn id(&self) -> SessionId {
        self.token.id()
    }
}

pub(super) fn anonymous() -> Start {
    Start::new(None, Partition::random().unwrap())
}

impl Subject {
    pub(super) fn sign_in(&self, user: &str) -> Start {
        Start::new(Some(user), self.store.partition_key().partition_of(user))
    }

    pub(super) async fn create(&self, start: &Start) -> Created {
        self.store.create(&start.create, start.now).await.unwrap()
    }

    /// Starts a session that nothing refuses.
    pub(super) async fn begin(&self, start: Start) -> SessionId {
        let created = self.create(&start).await;
        assert!(matches!(created, Created::Created { .. }), "{created:?}");
        start.id()
    }

    pub(super) async fn load(&self, id: SessionId, now: Timestamp) -> Loaded {
        self.store.load(id, now).await.unwrap()
    }

    pub(super) async fn is_live(&self, id: SessionId, now: Timestamp) -> bool {
        matches!(self.load(id, now).await, Loaded::Live(_))
    }

    pub(super) async fn record(&self, id: SessionId, now: Timestamp) -> Arc<Record> {
        match self.load(id, now).await {
            Loaded::Live(record) => record,
            other => panic!("expected a living session, found {other:?}"),
        }
    }

    pub(super) async fn tombstone(&self, id: SessionId, now: Timestamp) -> Arc<Tombstone> {
        match self.load(id, now).await {
            Loaded::Ended(tombstone) => tombstone,
            other => panic!("expected a tombstone, found {other:?}"),
        }
    }

    pub(super) async fn update(&self, id: SessionId, change: &Change, now: Timestamp) -> Updated {
        self.store.update(id, change, now).await.unwrap()
    }

    /// Applies a change that nothing stands against, at [`NOW`].
    pub(super) async fn apply(&self, id: SessionId, change: &Change) -> Arc<Record> {
        match self.update(id, change, NOW).await {
            Updated::Applied(record) => record,
            other => panic!("expected the change to be applied, found {other:?}"),
        }
    }

    pub(super) async fn touch(&self, id: SessionId, seen_at: Timestamp, now: Timestamp) -> bool {
        let touch = Touch { id, seen_at, grace_ends: None };
        let answers = self.store.touch(&[touch], now).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers[0]
    }

    pub(super) async fn rotate(&self, presented: &Token, successor: &Token, now: Timestamp) -> Rotated {
        let rotation = Rotation {
            presented: presented.digest(),
            successor: successor.digest(),
            grace: GRACE,
            at_once: false,
            by: None,
        };
        self.store.rotate(presented.id(), &rotation, now).await.unwrap()
    }

    pub(super) async fn end(&self, id: SessionId, ending: impl Into<Ending>, now: Timestamp) -> EndAnswer {
        let mut answers = self.store.end(&Which::Ids(vec![id]), &ending.into(), now).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// All that match, read in pages of `page`.
    pub(in crate::testing) async fn find_in_pages(
        &self,
        query: &Query,
        page: usize,
        now: Timestamp,
    ) -> Vec<SessionInfo> {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let part = self.store.find(query, cursor.as_ref(), page, now).await.unwrap();
            assert!(part.items.len() <= page, "a page of {} where {page} were asked for", part.items.len());
            found.extend(part.items);
            let Some(next) = part.next else { return found };
            assert_ne!(Some(&next), cursor.as_ref(), "a cursor that does not move on");
            cursor = Some(next);
        }
    }

    pub(super) async fn find(&self, query: &Query, now: Timestamp) -> Vec<SessionInfo> {
        self.find_in_pages(query, 100, now).await
    }

    /// The ids of a user's living sessions, newest first.
    pub(super) async fn ids_of(&self, user: &str, now: Timestamp) -> Vec<SessionId> {
        self.find(&Query::of_user(user), now).await.into_iter().map(|info| info.id).collect()
    }

    /// The audit log, read in pages of `page`.
    pub(in crate::testing) async fn log_in_pages(&self, query: &AuditQuery, page: usize) -> Vec<AuditEntry> {
        self.log_after(query, None, page).await.into_iter().map(|logged| logged.entry).collect()
    }

    /// What follows a place in the audit log, read in pages of `page`.
    pub(super) async fn log_after(&self, query: &AuditQuery, after: Option<&Cursor>, page: usize) -> Vec<Logged> {
        let (mut entries, mut cursor) = (Vec::new(), after.cloned());
        loop {
            let part = self.store.audit(query, cursor.as_ref(), page).await.unwrap();
            assert!(part.items.len() <= page, "a page of {} where {page} were asked for", part.items.len());
            entries.extend(part.items);
            let Some(next) = part.next else { return entries };
            assert_ne!(Some(&next), cursor.as_ref(), "a cursor that does not move on");
            cursor = Some(next);
        }
    }

    pub(super) async fn log_of(&self, session: SessionId) -> Vec<AuditEntry> {
        self.log_in_pages(&AuditQuery { session: Some(session), user: None }, 100).await
    }

    pub(super) async fn events_of(&self, session: SessionId) -> Vec<Event> {
        self.log_of(session).await.into_iter().map(|entry| entry.event).collect()
    }

    /// Ends everything that expired by `now` and forgets nothing; answers with what it ended.
    pub(super) async fn reap(&self, now: Timestamp) -> Vec<SessionId> {
        let mut ended = Vec::new();
        loop {
            let reaped = self.store.reap(&reap_only(100), now).await.unwrap();
            ended.extend(reaped.ended.into_iter().map(|ended| ended.id));
            if !reaped.more {
                return ended;
            }
        }
    }
}

/// A reap that forgets neither tombstones nor audit entries.
pub(in crate::testing) fn reap_only(limit: usize) -> Reap {
    Reap { limit, tombstones_before: Timestamp::EPOCH, audit_before: Timestamp::EPOCH }
}

pub(super) fn change() -> Change {
    Change::new(MAX_DATA)
}

/// A change that sets one key.
pub(super) fn set(key: &str, text: &str) -> Change {
    let mut change = change();
    change.set(key, json(text));
    change
}

pub(super) fn gone(updated: Updated) -> Gone {
    match updated {
        Updated::Gone(gone) => gone,
        other => panic!("expected that the session is gone, found {other:?}"),
    }
}

pub(in crate::testing) fn token_for(id: SessionId) -> Token {
    Token::generate(id).unwrap()
}

pub(super) fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; Digest::LEN])
}

/// Runs `task(0) .. task(count - 1)` at the same time; their answers in that order.
pub(super) async fn in_parallel<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let (start, task) = (Arc::clone(&start), task(number));
            tokio::spawn(async move {
                start.wait().await;
                task.await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("no task panics"));
    }
    answers
}
