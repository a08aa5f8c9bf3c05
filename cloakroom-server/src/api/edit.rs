//! Changing the data and deadlines of a session, whichever call brings the change.

use std::{collections::HashSet, sync::Arc};

use cloakroom::{
    Change, Data, Error, Found, Json, JsonRef, Record, SessionId, Sessions,
    rules::{Gone, Updated},
    sessions::Deadlines,
};
use cloakroom_api::{AtMost, Entries};

use super::{
    json::entries,
    number::{NoSum, sum},
    operation::Attempt,
    problem::{Code, Problem},
    view,
};

/// The fields of a request that change data.
pub(super) struct Given {
    pub(super) set: Entries,
    pub(super) remove: AtMost<Arc<str>, 10_000>,
    pub(super) remove_all: bool,
    pub(super) replace: Option<Entries>,
    pub(super) add: Entries,
    pub(super) if_version: Option<u64>,
    pub(super) lock: Option<u64>,
}

/// Those of a request that has others too.
macro_rules! given {
    ($request:expr) => {
        $crate::api::edit::Given {
            set: $request.set,
            remove: $request.remove,
            remove_all: $request.remove_all,
            replace: $request.replace,
            add: $request.add,
            if_version: $request.if_version,
            lock: $request.lock,
        }
    };
}
pub(super) use given;

/// What is asked for, looked at.
pub(super) struct Edit {
    set: Vec<(Arc<str>, Json)>,
    remove: Vec<Arc<str>>,
    remove_all: bool,
    add: Vec<(Arc<str>, Json)>,
    pub(super) if_version: Option<u64>,
    pub(super) lock: Option<u64>,
    pub(super) deadlines: Deadlines,
    /// The same for a repeat, which the session recognises by it.
    id: Option<u64>,
}

/// Why a change was not made.
pub(super) enum NotMade {
    Error(Error),
    Problem(Problem),
}

impl From<Error> for NotMade {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Problem> for NotMade {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<NotMade> for Problem {
    fn from(not_made: NotMade) -> Self {
        match not_made {
            NotMade::Error(error) => error.into(),
            NotMade::Problem(problem) => problem,
        }
    }
}

impl Edit {
    pub(super) fn read(given: Given, sessions: &Sessions, attempt: Option<&Attempt>) -> Result<Self, Problem> {
        let Given { set, remove: AtMost(remove), remove_all, replace, add, if_version, lock } = given;
        let beside = !set.is_empty() || !remove.is_empty() || remove_all || !add.is_empty();
        if replace.is_some() && beside {
            let detail = "replace: it is the whole of the data: leave out set, remove, remove_all and add";
            return Err(Problem::field(Code::InvalidField, "replace", detail));
        }
        let (field, set) = replace.as_ref().map_or(("set", &set), |replace| ("replace", replace));
        let edit = Self {
            set: entries(set, field, sessions)?,
            remove,
            remove_all: remove_all || replace.is_some(),
            add: entries(&add, "add", sessions)?,
            if_version,
            lock,
            deadlines: Deadlines::default(),
            id: attempt.map(Attempt::number),
        };
        edit.check()?;
        Ok(edit)
    }

    fn check(&self) -> Result<(), Problem> {
        let mut seen = HashSet::new();
        let named = self.set.iter().map(|(key, _)| key).chain(&self.remove).chain(self.add.iter().map(|(key, _)| key));
        for key in named {
            if !seen.insert(key) {
                let detail = format!("{key:?} comes twice: each key can be set, removed or added to, once");
                return Err(Problem::new(Code::DuplicateField, detail).with("key", key));
            }
        }
        let not_a_number = self.add.iter().find(|(_, value)| sum(&zero(), value) == Err(NoSum::NotANumber));
        match not_a_number {
            Some((key, _)) => {
                let detail = format!("add.{key}: only a number can be added");
                Err(Problem::field(Code::InvalidField, &format!("add.{key}"), detail))
            }
            None => Ok(()),
        }
    }

    /// Whether it changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.deadlines == Deadlines::default() && !self.remove_all && self.remove.is_empty() && !self.sets_something()
    }

    /// Whether a session would begin with it.
    pub(super) fn sets_something(&self) -> bool {
        !self.set.is_empty() || !self.add.is_empty()
    }

    /// What a session starts with that has nothing to be changed yet.
    pub(super) fn first_data(&self) -> Result<Data, Problem> {
        let sums = self.add.iter().map(|(key, addend)| {
            let total = sum(&zero(), addend).map_err(|why| no_sum(key, why))?;
            Ok((Arc::clone(key), total))
        });
        let set = self.set.iter().cloned().map(Ok);
        Ok(set.chain(sums).collect::<Result<Vec<_>, Problem>>()?.into_iter().collect())
    }

    /// Makes the change. Starts from `record`, where it was loaded already.
    pub(super) async fn apply(
        &self,
        sessions: &Sessions,
        id: SessionId,
        record: Option<Arc<Record>>,
    ) -> Result<Arc<Record>, NotMade> {
        let depends = !self.add.is_empty() || self.deadlines != Deadlines::default();
        if !depends && !self.is_empty() {
            return self.send(sessions, id, &self.change(sessions)).await;
        }
        let record = match record {
            Some(record) => record,
            None => live(sessions, id).await?,
        };
        if self.is_empty() {
            return self.agrees(sessions, record);
        }
        let made = if self.if_version.is_some() {
            // What depends on the version depends on nothing that could change without it.
            match self.decide(sessions, &record) {
                Ok(change) => self.send(sessions, id, &change).await,
                Err(refused) => Err(refused),
            }
        } else {
            self.decide_until_made(sessions, record).await
        };
        match made {
            // What the first try did may be why it would be refused now.
            Err(NotMade::Problem(problem)) => match self.was_made(sessions, id).await? {
                Some(record) => Ok(record),
                None => Err(problem.into()),
            },
            made => made,
        }
    }

    async fn send(&self, sessions: &Sessions, id: SessionId, change: &Change) -> Result<Arc<Record>, NotMade> {
        match sessions.update(id, change).await? {
            Updated::Applied(record) => Ok(record),
            Updated::Conflict(record) => Err(conflict(&record).into()),
            Updated::Gone(gone) => Err(Error::from(gone).into()),
            Updated::TooLarge(_) | Updated::LeaseLost => unreachable!("Sessions::update makes it an error"),
        }
    }

    async fn decide_until_made(&self, sessions: &Sessions, record: Arc<Record>) -> Result<Arc<Record>, NotMade> {
        let mut refused = None;
        let modified = sessions.modify(record, |record| {
            Ok(self.decide(sessions, record).unwrap_or_else(|problem| {
                refused = Some(problem);
                sessions.change()
            }))
        });
        let record = modified.await?;
        refused.map_or(Ok(record), Err)
    }

    /// The session as it is, if an earlier try of this call made the change.
    async fn was_made(&self, sessions: &Sessions, id: SessionId) -> Result<Option<Arc<Record>>, NotMade> {
        let Some(number) = self.id else { return Ok(None) };
        let mut probe = sessions.change();
        probe.id = number;
        // No session has it, so that nothing is changed now.
        probe.if_version = Some(u64::from(u32::MAX) << 16);
        match sessions.update(id, &probe).await? {
            Updated::Applied(record) => Ok(Some(record)),
            Updated::Gone(Gone::Ended(ended)) => Err(Error::from(ended).into()),
            _ => Ok(None),
        }
    }

    /// A session that nothing is to be changed in, if it is what the call relies on.
    fn agrees(&self, sessions: &Sessions, record: Arc<Record>) -> Result<Arc<Record>, NotMade> {
        if self.if_version.is_some_and(|version| version != record.info.version) {
            return Err(conflict(&record).into());
        }
        if self.lock.is_some_and(|number| !record.lease.permits(number, sessions.now())) {
            return Err(Error::LockLost.into());
        }
        Ok(record)
    }

    fn change(&self, sessions: &Sessions) -> Change {
        let mut change = sessions.change();
        change.id = self.id.unwrap_or(change.id);
        if self.remove_all {
            change.remove_all();
        }
        for key in &self.remove {
            change.remove(Arc::clone(key));
        }
        for (key, value) in &self.set {
            change.set(Arc::clone(key), value.clone());
        }
        change.if_version = self.if_version;
        change.lease = self.lock;
        change
    }

    /// The change, as far as it depends on the session as it is.
    fn decide(&self, sessions: &Sessions, record: &Record) -> Result<Change, NotMade> {
        let mut change = self.change(sessions);
        if self.deadlines != Deadlines::default() {
            change.fields = sessions.moved_deadlines(&record.info, &self.deadlines).map_err(Problem::from)?;
        }
        for (key, addend) in &self.add {
            let stored = record.data.get(key).map(JsonRef::to_json).filter(|_| !self.remove_all);
            let total = sum(stored.as_ref().unwrap_or(&zero()), addend).map_err(|why| no_sum(key, why))?;
            if !self.remove_all {
                change.relied_on.insert(Arc::clone(key), stored);
            }
            change.set(Arc::clone(key), total);
        }
        Ok(change)
    }
}

/// What a key that is absent counts as.
fn zero() -> Json {
    Json::from_stored("0")
}

async fn live(sessions: &Sessions, id: SessionId) -> Result<Arc<Record>, Error> {
    match sessions.get(id).await? {
        Found::Live(record) => Ok(record),
        Found::Ended(ended) => Err(ended.into()),
        Found::Unknown => Err(Error::UnknownSession),
    }
}

fn conflict(record: &Record) -> Problem {
    let detail = format!("The session has version {} by now: decide anew from it.", record.info.version);
    Problem::new(Code::VersionConflict, detail).with("session", &view::session(record))
}

fn no_sum(key: &str, why: NoSum) -> Problem {
    let problem = match why {
        NoSum::NotANumber => Problem::new(Code::NotANumber, format!("The value of {key:?} is not a number.")),
        NoSum::Overflow => Problem::new(Code::NumberOverflow, format!("The sum for {key:?} is too large.")),
    };
    problem.with("key", &key)
}
