//! The directory of users: who may start a session, and who may go on with theirs.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Found, Sessions, policy::Person, within};
use crate::{
    admission::{Limit, Refusal, WhenFull},
    audit::{AuditEntry, Event},
    client::canonical,
    clock::Timestamp,
    ended::{Ending, Reason},
    error::{Error, Result},
    record::{Record, SessionInfo},
    rules::Create,
    rules::Rules,
    store::{BoxFuture, Store},
    users::{User, Users},
};

/// The directory that is kept in the store itself, as [`Users`].
#[derive(Clone, Debug)]
pub struct StoredUsers(Rules);

impl StoredUsers {
    /// The directory in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(Rules::new(store))
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

    pub(super) fn forget(&self, user: &str) {
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

    /// Whatever goes wrong, nobody is let in for it.
    async fn ask(&self, known: &Known, user: &str, now: Timestamp) -> Result<Option<Arc<User>>> {
        let forgotten = known.memory().forgotten;
        let after = self.config().call_timeout;
        let found = within(after, known.users.find(user)).await.unwrap_or_else(|| {
            let message = format!("the directory of users did not answer within {after:?}");
            Err(Error::Unavailable { message, source: None })
        });
        let found = match found {
            Ok(found) => found.map(Arc::new),
            // What the store says of itself is as good here as in any other call.
            Err(error) if error.is_retryable() || matches!(error, Error::Store { .. }) => return Err(error),
            Err(error) => {
                return Err(Error::store(format!("the directory of users cannot be read: {error}"), error));
            }
        };
        known.remember(user, found.clone(), forgotten, now);
        Ok(found)
    }

    /// Asks the directory and the policy whether a session may start, and fills in what the call left to the directory. What
    /// that says must be new: a sign-in is rare. A refusal is in the audit log.
    pub(super) async fn admit(&self, create: &mut Create, now: Timestamp) -> Result<Result<(), Refusal>> {
        let Some(Objection { refusal, to }) = self.objection(create, now).await? else { return Ok(Ok(())) };
        let mut entry = create.refused(refusal, now);
        if entry.user.as_ref() != Some(&to) {
            entry.note = Some(format!("{to}: {}", create.refusal_note(refusal)).into());
        }
        self.log_refusal(&entry).await;
        Ok(Err(refusal))
    }

    async fn objection(&self, create: &mut Create, now: Timestamp) -> Result<Option<Objection>> {
        let info = &mut create.record.info;
        let known = self.0.known_users.as_ref();
        if known.is_none() && info.audit_user.is_none() {
            return Ok(None);
        }
        let Some(name) = info.user.clone() else { return Ok(None) };
        let at_keyboard = Arc::clone(who_is_at_the_keyboard(info).unwrap_or(&name));
        // Of one who has a session of their own, more was known when it was decided whether they may act as the user.
        let decides = info.impersonator().is_none();
        let mut auditor = info.audit_user.as_ref().filter(|_| decides).map(Person::named);
        if let Some(known) = known {
            let user = self.ask(known, &name, now).await?;
            let person = if at_keyboard == name { user.clone() } else { self.ask(known, &at_keyboard, now).await? };
            if let Some(refusal) = known.bars(user.as_deref()) {
                return Ok(Some(Objection { refusal, to: name }));
            }
            if let Some(refusal) = known.bars(person.as_deref()) {
                return Ok(Some(Objection { refusal, to: at_keyboard }));
            }
            if person.as_ref().is_some_and(|person| !person.may_come_from(info.client.ip)) {
                return Ok(Some(Objection { refusal: Refusal::NetworkNotAllowed, to: at_keyboard }));
            }
            if let Some(user) = user {
                super::directory::check_settings(&user)?;
                if info.audit_user.is_some() {
                    // Not what the call says: a policy that protects a type of users must not be talked out of it.
                    (info.full_name, info.user_type) = (None, None);
                }
                info.full_name = info.full_name.take().or_else(|| user.full_name.clone());
                info.user_type = info.user_type.take().or_else(|| user.user_type.clone());
                create.limit = create.limit.or_else(|| self.limit_of(&user));
            }
            if let Some(person) = person.filter(|_| auditor.is_some()) {
                auditor = Some(Person::known(&at_keyboard, &person));
            }
        }
        let Some((auditor, user)) = auditor.zip(Person::of(info)) else { return Ok(None) };
        let allowed = self.config().audit_policy.allows(&auditor, &user);
        Ok((!allowed).then_some(Objection { refusal: Refusal::AuditForbidden, to: name }))
    }

    /// The limit that the directory gives a user, if it gives one.
    pub(super) fn limit_of(&self, user: &User) -> Option<Limit> {
        let configured = self.config().limit;
        let when_full = user.when_full.or(configured.map(|limit| limit.when_full)).unwrap_or(WhenFull::Evict);
        user.session_limit.or(configured.map(|limit| limit.max)).map(|max| Limit { max, when_full })
    }

    /// A session, if the directory still lets both in: its user, and whoever acts as them or audits them. Who may have no
    /// session loses all of theirs, and this one ends; who comes from elsewhere is sent away, and the session stays.
    pub(super) async fn judge(
        &self,
        known: &Known,
        record: Arc<Record>,
        whence: Whence,
        now: Timestamp,
    ) -> Result<Found> {
        let info = &record.info;
        let Some(name) = &info.user else { return Ok(Found::Live(record)) };
        let user = self.recall(known, name, now).await?;
        let at_keyboard = who_is_at_the_keyboard(info).unwrap_or(name);
        let person = if at_keyboard == name { user.clone() } else { self.recall(known, at_keyboard, now).await? };
        for (name, found) in [(name, &user), (at_keyboard, &person)] {
            if known.bars(found.as_deref()).is_some() {
                let ending = Ending::new(Reason::UserDisabled);
                self.end_all_of(Arc::clone(name), Vec::new(), &ending).await?;
                // Who acts as somebody else, or audits them, loses this one too.
                return Ok(self.end(info.id, &ending).await?.into());
            }
        }
        if let Whence::From(ip) = whence
            && person.is_some_and(|person| !person.may_come_from(ip))
        {
            let refusal = Refusal::NetworkNotAllowed;
            let from = ip.map_or_else(|| "an unknown address".to_owned(), |ip| ip.to_string());
            tracing::warn!(session = %info.id, user = info.user.as_deref(), from, %refusal, "request refused");
            let (by, note) = (self.attributed(None), Some(format!("{refusal}: {from}").into()));
            self.log_refusal(&AuditEntry { by, note, ..AuditEntry::about(info, Event::Refused, now) }).await;
            return Err(refusal.into());
        }
        Ok(Found::Live(record))
    }

    /// As [`judge`](Self::judge), where there may be no directory.
    pub(super) async fn judge_if_known(&self, record: Arc<Record>, whence: Whence, now: Timestamp) -> Result<Found> {
        match &self.0.known_users {
            Some(known) => Box::pin(self.judge(known, record, whence, now)).await,
            None => Ok(Found::Live(record)),
        }
    }
}

/// Who really sends the requests of a session: whoever acts as its user, or audits them, or the user.
fn who_is_at_the_keyboard(info: &SessionInfo) -> Option<&Arc<str>> {
    info.impersonator().or(info.audit_user.as_ref()).or(info.user.as_ref())
}

/// Why a session may not start, and whose fault it is.
struct Objection {
    refusal: Refusal,
    to: Arc<str>,
}

/// Whether it matters where a request comes from.
#[derive(Clone, Copy)]
pub(super) enum Whence {
    /// It does, and this is where, as far as anybody knows.
    From(Option<IpAddr>),
    /// It does not.
    Anywhere,
}

impl Whence {
    pub(super) fn from(address: Option<IpAddr>) -> Self {
        Self::From(canonical(address))
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
