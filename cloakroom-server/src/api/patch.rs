//! Changing a session's data.

use std::{collections::HashSet, sync::Arc};

use axum::response::Response;
use cloakroom::{Change, Found, Json, JsonRef, Record, SessionId, Sessions, store::Updated};
use serde::Deserialize;

use super::{
    call::Call,
    json::{Entries, PathId, ok},
    number::{NoSum, sum},
    operation::Attempt,
    problem::{Code, Problem},
    sessions::Shown,
    strict::{AtMost, Nothing},
    view::SessionView,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PatchRequest {
    set: Entries,
    remove: AtMost<Arc<str>, 10_000>,
    add: Entries,
    if_version: Option<u64>,
}

/// What is asked for, looked at.
struct Patch {
    set: Vec<(Arc<str>, Json)>,
    remove: Vec<Arc<str>>,
    add: Vec<(Arc<str>, Json)>,
    if_version: Option<u64>,
    /// The same for a repeat, which the session recognises by it.
    id: Option<u64>,
}

pub(super) async fn patch(
    PathId(id): PathId,
    Call { app, attempt, body: request, .. }: Call<Nothing, PatchRequest>,
) -> Result<Response, Problem> {
    let PatchRequest { set, remove: AtMost(remove), add, if_version } = request;
    let (set, add) = (set.read("set", &app.sessions)?, add.read("add", &app.sessions)?);
    let patch = Patch { set, remove, add, if_version, id: attempt.as_ref().map(Attempt::number) };
    patch.check()?;
    let record = if patch.add.is_empty() {
        patch.apply(&app.sessions, id).await?
    } else {
        patch.apply_with_sums(&app.sessions, id).await?
    };
    Ok(ok(&Shown { session: SessionView::from(&*record) }))
}

impl Patch {
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

    fn change(&self, sessions: &Sessions) -> Change {
        let mut change = sessions.change();
        change.id = self.id.unwrap_or(change.id);
        for (key, value) in &self.set {
            change.set(Arc::clone(key), value.clone());
        }
        for key in &self.remove {
            change.remove(Arc::clone(key));
        }
        change.if_version = self.if_version;
        change
    }

    async fn apply(&self, sessions: &Sessions, id: SessionId) -> Result<Arc<Record>, Problem> {
        let change = self.change(sessions);
        if change.is_empty() {
            let record = live(sessions, id).await?;
            return if self.is_outdated(&record) { Err(conflict(&record)) } else { Ok(record) };
        }
        match sessions.update(id, &change).await? {
            Updated::Applied(record) => Ok(record),
            Updated::Conflict(record) => Err(conflict(&record)),
            Updated::Gone(gone) => Err(cloakroom::Error::from(gone).into()),
            Updated::TooLarge(_) | Updated::LeaseLost => unreachable!("Sessions::update makes it an error"),
        }
    }

    async fn apply_with_sums(&self, sessions: &Sessions, id: SessionId) -> Result<Arc<Record>, Problem> {
        let record = live(sessions, id).await?;
        let mut refused = None;
        let modified = sessions.modify(record, |record| {
            Ok(self.change_with_sums(sessions, record).unwrap_or_else(|problem| {
                refused = Some(problem);
                sessions.change()
            }))
        });
        let record = modified.await?;
        refused.map_or(Ok(record), Err)
    }

    fn change_with_sums(&self, sessions: &Sessions, record: &Record) -> Result<Change, Problem> {
        if self.is_outdated(record) {
            return Err(conflict(record));
        }
        let mut change = self.change(sessions);
        for (key, addend) in &self.add {
            let stored = record.data.get(key).map(JsonRef::to_json);
            let total = sum(stored.as_ref().unwrap_or(&zero()), addend).map_err(|why| no_sum(key, why))?;
            change.relied_on.insert(Arc::clone(key), stored);
            change.set(Arc::clone(key), total);
        }
        Ok(change)
    }

    fn is_outdated(&self, record: &Record) -> bool {
        self.if_version.is_some_and(|version| version != record.info.version)
    }
}

/// What a key that is absent counts as.
fn zero() -> Json {
    Json::from_stored("0")
}

async fn live(sessions: &Sessions, id: SessionId) -> Result<Arc<Record>, Problem> {
    match sessions.get(id).await? {
        Found::Live(record) => Ok(record),
        Found::Ended(ended) => Err(Problem::ended(&ended)),
        Found::Unknown => Err(Problem::unknown_session()),
    }
}

fn conflict(record: &Record) -> Problem {
    let detail = format!("The session has version {} by now: decide anew from it.", record.info.version);
    Problem::new(Code::VersionConflict, detail).with("session", &SessionView::from(record))
}

fn no_sum(key: &str, why: NoSum) -> Problem {
    let problem = match why {
        NoSum::NotANumber => Problem::new(Code::NotANumber, format!("The value of {key:?} is not a number.")),
        NoSum::Overflow => Problem::new(Code::NumberOverflow, format!("The sum for {key:?} is too large.")),
    };
    problem.with("key", &key)
}
