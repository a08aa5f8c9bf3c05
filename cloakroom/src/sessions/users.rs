//! The directory of users: who may start a session, and who may go on with theirs.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Found, Sessions, within};
use crate::{
    AuditEntry, Ending, Error, Event, Reason, Record, Result, Timestamp, User, Users,
    store::{BoxFuture, Create, Limit, Refusal, Store, WhenFull},
};

/// The directory that is kept in the store itself, as [`Users`].
#[derive(Clone, Debug)]
pub struct StoredUsers(Arc<dyn Store>);

impl StoredUsers {
    /// The directory in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }
}

impl Users for StoredUsers {
    fn find<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<User>>> {
        Box::pin(async move {
            let stored = self.0.user(user).await?;
            stored.map(|stored| super::directory::decode(&stored)).transpose()
        })
    }
}

/// A directory, and what it said lately.
#[derive(Debug)]
pub(super) struct Known {
    users: Arc<dyn Users>,
    kept_for: Duration,
    bars_strangers: bool,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    answers: HashMap<Arc<str>, Answer>,
    /// How often something was forgotten: what was asked for before must not be remembered after.
    forgotten: u64,
}

#[derive(Clone, Debug)]
struct Answer {
    user: Option<Arc<User>>,
    at: Timestamp,
}

impl Known {
    /// So many users are remembered.
    const CAPACITY: usize = 10_000;

    pub(super) fn new(users: Arc<dyn Users>, kept_for: Duration, bars_strangers: bool) -> Self {
        Self { users, kept_for, bars_strangers, memory: Mutex::default() }
    }

    fn remembered(&self, user: &str, now: Timestamp) -> Option<Answer> {
        self.memory().answers.get(user).filter(|answer| self.is_fresh(answer, now)).cloned()
    }

    /// A clock that was set back makes no answer live longer.
    fn is_fresh(&self, answer: &Answer, now: Timestamp) -> bool {
        answer.at <= now && now.since(answer.at) < self.kept_for
    }

    fn remember(&self, user: &str, found: Option<Arc<User>>, forgotten: u64, now: Timestamp) {
        let mut memory = self.memory();
        if self.kept_for.is_zero() || memory.forgotten != forgotten {
            return;
        }
        if memory.answers.len() >= Self::CAPACITY {
            memory.answers.retain(|_, answer| self.is_fresh(answer, now));
            if memory.answers.len() >= Self::CAPACITY {
                memory.answers.clear();
            }
        }
        memory.answers.insert(user.into(), Answer { user: found, at: now });
    }

    fn forget(&self, user: &str) {
        let mut memory = self.memory();
        memory.answers.remove(user);
        memory.forgotten += 1;
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why somebody may have no session at all.
    fn bars(&self, user: Option<&User>) -> Option<Refusal> {
        match user {
            Some(user) if !user.enabled => Some(Refusal::UserDisabled),
            None if self.bars_strangers => Some(Refusal::NotInDirectory),
            _ => None,
        }
    }
}

impl Sessions {
    /// Forgets what the directory said of a user, so that the next request asks it again. On this node: others do within
    /// [`users_cache`](super::Builder::users_cache).
    pub fn forget_user(&self, user: &str) {
        if let Some(known) = &self.0.known_users {
            known.forget(user);
        }
    }

    /// What the directory says of a user now; `None` if it does not know them, or there is none.
    pub(crate) async fn find_user(&self, user: &str) -> Result<Option<Arc<User>>> {
        match &self.0.known_users {
            Some(known) => self.ask(known, user, self.now()).await,
            None => Ok(None),
        }
    }

    async fn recall(&self, known: &Known, user: &str, now: Timestamp) -> Result<Option<Arc<User>>> {
        match known.remembered(user, now) {
            Some(answer) => Ok(answer.user),
            None => self.ask(known, user, now).await,
        }
    }

    /// Whatever goes wrong: nobody is let in for it, and later it may work.
    async fn ask(&self, known: &Known, user: &str, now: Timestamp) -> Result<Option<Arc<User>>> {
        let forgotten = known.memory().forgotten;
        let after = self.config().call_timeout;
        let found = within(after, known.users.find(user)).await.unwrap_or_else(|| {
            let message = format!("the directory of users did not answer within {after:?}");
            Err(Error::Unavailable { message, source: None })
        });
        let found = match found {
            Ok(found) => found.map(Arc::new),
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => return Err(Error::unavailable("the directory of users cannot be read", error)),
        };
        known.remember(user, found.clone(), forgotten, now);
        Ok(found)
    }

    /// Asks the directory whether a session may start, and fills in what the call left to it. What it says must be new: a
    /// sign-in is rare.
    pub(super) async fn admit(&self, create: &mut Create, now: Timestamp) -> Result<Result<(), Refusal>> {
        let Some(known) = &self.0.known_users else { return Ok(Ok(())) };
        let info = &mut create.record.info;
        let Some(name) = info.user.clone() else { return Ok(Ok(())) };
        let user = self.ask(known, &name, now).await?;
        let actor = match &info.impersonated_by {
            Some(actor) => self.ask(known, actor, now).await?,
            None => user.clone(),
        };
        if let Some(refusal) = known.bars(user.as_deref()).or(known.bars(actor.as_deref())) {
            return Ok(Err(refusal));
        }
        if actor.is_some_and(|actor| !actor.may_come_from(info.client.ip)) {
            return Ok(Err(Refusal::NetworkNotAllowed));
        }
        let Some(user) = user else { return Ok(Ok(())) };
        super::directory::check_settings(&user)?;
        info.full_name = info.full_name.take().or_else(|| user.full_name.clone());
        info.user_type = info.user_type.take().or_else(|| user.user_type.clone());
        create.limit = create.limit.or_else(|| self.limit_of(&user));
        Ok(Ok(()))
    }

    /// The limit that the directory gives a user, if it gives one.
    pub(super) fn limit_of(&self, user: &User) -> Option<Limit> {
        let configured = self.config().limit;
        let when_full = user.when_full.or(configured.map(|limit| limit.when_full)).unwrap_or(WhenFull::Evict);
        user.session_limit.or(configured.map(|limit| limit.max)).map(|max| Limit { max, when_full })
    }

    /// What a token opens, if the directory still lets its holder in. A user who may have no session loses all of them; who
    /// comes from elsewhere is sent away, and the session stays.
    pub(super) async fn judge(
        &self,
        known: &Known,
        record: Arc<Record>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Found> {
        let info = &record.info;
        let Some(name) = &info.user else { return Ok(Found::Live(record)) };
        let user = self.recall(known, name, now).await?;
        let (actor_name, actor) = match &info.impersonated_by {
            Some(actor) => (actor, self.recall(known, actor, now).await?),
            None => (name, user.clone()),
        };
        for (name, found) in [(name, &user), (actor_name, &actor)] {
            if known.bars(found.as_deref()).is_some() {
                let ending = Ending::new(Reason::UserDisabled);
                self.end_all_of(Arc::clone(name), Vec::new(), &ending).await?;
                // Who acts as somebody else loses this one too.
                return Ok(self.end(info.id, &ending).await?.into());
            }
        }
        if actor.is_some_and(|actor| !actor.may_come_from(ip)) {
            let refusal = Refusal::NetworkNotAllowed;
            let from = ip.map_or_else(|| "an unknown address".to_owned(), |ip| ip.to_string());
            tracing::warn!(session = %info.id, user = info.user.as_deref(), from, %refusal, "request refused");
            let note = Some(format!("{refusal}: {from}").into());
            self.log_refusal(&AuditEntry { note, ..AuditEntry::about(info, Event::Refused, now) }).await;
            return Err(refusal.into());
        }
        Ok(Found::Live(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nobody;

    impl Users for Nobody {
        fn find<'a>(&'a self, _user: &'a str) -> BoxFuture<'a, Result<Option<User>>> {
            Box::pin(async { Ok(None) })
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_never_outlives_its_time() {
        let known = Known::new(Arc::new(Nobody), Duration::from_secs(5), false);
        let at = |seconds: i64| Timestamp::from_millis(1_000_000 + seconds * 1000);
        for n in 0..3 * Known::CAPACITY {
            known.remember(&n.to_string(), None, 0, at(0));
        }
        assert!(known.memory().answers.len() <= Known::CAPACITY);
        known.remember("anna", None, 0, at(0));
        assert!(known.remembered("anna", at(4)).is_some());
        assert!(known.remembered("anna", at(5)).is_none());
        assert!(known.remembered("anna", at(-1)).is_none(), "the clock was set back");
    }

    #[test]
    fn an_answer_that_was_asked_for_before_its_user_was_forgotten_is_not_remembered() {
        let known = Known::new(Arc::new(Nobody), Duration::from_secs(5), false);
        let now = Timestamp::from_millis(0);
        known.forget("anna");
        known.remember("anna", None, 0, now);
        assert!(known.remembered("anna", now).is_none());
        known.remember("anna", None, 1, now);
        assert!(known.remembered("anna", now).is_some());
    }
}
