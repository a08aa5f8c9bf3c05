//! What is settled about a user, as their slot keeps it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    change::random_id,
    clock::Timestamp,
    ended::{Ended, Ending},
    error::{Error, Result},
    record::Record,
    rules::Fence,
    store::{
        LastSignIn,
        slots::{Expect, UserSlot, Write},
    },
    token::SessionId,
};

/// Stands in a slot for a sign-in that there was not yet, because none at all would make the store forget one that came
/// meanwhile.
const NEVER: LastSignIn = LastSignIn { at: Timestamp::EPOCH, ip: None };

/// What is settled about a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct User {
    /// The directory's entry.
    pub(super) settings: Option<Arc<str>>,
    /// When they last signed in, as far as they were in the directory then.
    pub(super) last_sign_in: Option<LastSignIn>,
    /// Whether every sign-in is refused.
    pub(super) disabled: bool,
    /// Sign-ins that authenticated before are refused.
    pub(super) ended_before: Option<Timestamp>,
    /// Grows each time all sessions are ended. Sessions note it when they start, for time cannot tell those that started
    /// before from those that started after.
    pub(super) epoch: u64,
    /// Endings of all sessions that are under way.
    pub(super) to_end: Vec<ToEnd>,
    revision: u64,
    unknown: BTreeMap<String, serde_json::Value>,
}

/// An ending of all sessions of a user that is under way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToEnd {
    /// Of those that started under an earlier one.
    pub(super) epoch: u64,
    pub(super) at: Timestamp,
    pub(super) ending: Ending,
    /// But not these.
    pub(super) except: Vec<SessionId>,
}

impl ToEnd {
    pub(super) fn covers(&self, record: &Record) -> bool {
        record.user_epoch < self.epoch && !self.except.contains(&record.info.id)
    }
}

impl User {
    pub(super) fn of(slot: Option<UserSlot>) -> Result<Self> {
        let Some(slot) = slot else { return Ok(Self::default()) };
        let damaged = |problem: &dyn std::fmt::Display| Error::Store {
            message: format!("what is settled about a user is damaged in the store: {problem}"),
            source: None,
        };
        let text: Text = serde_json::from_str(&slot.text).map_err(|error| damaged(&error))?;
        let to_end: Result<Vec<_>> = text
            .to_end
            .into_iter()
            .map(|text| {
                let reason = text.reason.parse().map_err(|error| damaged(&error))?;
                let ending = Ending { reason, by: text.by, note: text.note };
                Ok(ToEnd { epoch: text.epoch, at: Timestamp::from_millis(text.at), ending, except: text.except })
            })
            .collect();
        Ok(Self {
            settings: text.settings,
            last_sign_in: slot.last_sign_in.filter(|last| last.at > NEVER.at),
            disabled: text.disabled,
            ended_before: text.ended.map(Timestamp::from_millis),
            epoch: text.epoch,
            to_end: to_end?,
            revision: slot.revision,
            unknown: text.unknown,
        })
    }

    /// That nothing else was settled meanwhile.
    pub(super) fn unchanged(&self, user: &Arc<str>) -> Expect {
        Expect::User(Arc::clone(user), self.revision)
    }

    /// That this is settled from now on.
    pub(super) fn write(&self, user: &Arc<str>) -> Write {
        let settled =
            self.settings.is_some() || self.is_fenced() || !self.to_end.is_empty() || !self.unknown.is_empty();
        let slot = settled.then(|| UserSlot {
            text: self.text(),
            revision: random_id().max(1),
            last_sign_in: self.settings.as_ref().map(|_| self.last_sign_in.unwrap_or(NEVER)),
            // What is under way is due at any time.
            due_at: if self.to_end.is_empty() { self.ended_before } else { Some(Timestamp::EPOCH) },
        });
        Write::User(Arc::clone(user), slot)
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.disabled || self.ended_before.is_some()
    }

    /// Settles that all sessions end, and keeps sign-ins out.
    pub(super) fn end_all(&mut self, fence: Fence, ending: &Ending, except: &[SessionId], now: Timestamp) -> ToEnd {
        self.disabled |= fence == Fence::Disabled;
        self.ended_before = self.ended_before.max(Some(now));
        self.epoch = u64::try_from(now.as_millis()).unwrap_or(0).max(self.epoch + 1);
        let to_end = ToEnd { epoch: self.epoch, at: now, ending: ending.clone(), except: except.to_vec() };
        self.to_end.push(to_end.clone());
        to_end
    }

    fn text(&self) -> Arc<str> {
        let Self { settings, last_sign_in: _, disabled, ended_before, epoch, to_end, revision: _, unknown } = self;
        let text = Text {
            settings: settings.clone(),
            disabled: *disabled,
            ended: ended_before.map(Timestamp::as_millis),
            epoch: *epoch,
            to_end: to_end.iter().map(ToEndText::of).collect(),
            unknown: unknown.clone(),
        };
        serde_json::to_string(&text).expect("texts and numbers can be written").into()
    }
}

/// Short names, and absent for nothing. What a newer version wrote is written back.
#[derive(Serialize, Deserialize)]
struct Text {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settings: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<i64>,
    #[serde(default)]
    epoch: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to_end: Vec<ToEndText>,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct ToEndText {
    epoch: u64,
    at: i64,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<SessionId>,
}

impl ToEndText {
    fn of(to_end: &ToEnd) -> Self {
        let ToEnd { epoch, at, ending: Ending { reason, by, note }, except } = to_end;
        Self {
            epoch: *epoch,
            at: at.as_millis(),
            reason: reason.code().into(),
            by: by.clone(),
            note: note.clone(),
            except: except.clone(),
        }
    }
}

/// In the order in which a user's sessions are listed: newest first.
pub(super) fn newest_first(mut ended: Vec<(Timestamp, Ended)>) -> Vec<Ended> {
    ended.sort_unstable_by_key(|(started, ended)| std::cmp::Reverse((*started, ended.id)));
    ended.into_iter().map(|(_, ended)| ended).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::Reason;

    #[test]
    fn what_is_settled_comes_back_with_what_a_newer_version_wrote() {
        let name: Arc<str> = "anna".into();
        let slot = |user: &User| match user.write(&name) {
            Write::User(_, slot) => slot,
            other => panic!("{other:?}"),
        };
        let mut user = User::of(None).unwrap();
        assert_eq!(slot(&user), None, "nothing is settled");
        user.settings = Some("{\"a\":\"\\u0000\"}".into());
        let ending = Ending::new(Reason::UserDisabled).by("root").note("left");
        let except = [SessionId::from_bytes([7; SessionId::LEN])];
        user.end_all(Fence::Disabled, &ending, &except, Timestamp::from_millis(5));
        user.end_all(Fence::EndedBefore, &ending, &[], Timestamp::from_millis(3));
        assert_eq!((user.epoch, user.ended_before), (6, Some(Timestamp::from_millis(5))));

        let mut stored = slot(&user).unwrap();
        assert_eq!((stored.due_at, stored.last_sign_in), (Some(Timestamp::EPOCH), Some(NEVER)));
        stored.text = stored.text.replacen('{', "{\"of tomorrow\":[1],", 1).into();
        let read = User::of(Some(stored.clone())).unwrap();
        assert_eq!((&read.settings, &read.to_end, read.last_sign_in), (&user.settings, &user.to_end, None));
        assert_eq!(read.unchanged(&name), Expect::User(Arc::clone(&name), stored.revision));
        let again = slot(&read).unwrap();
        assert!(again.text.contains("\"of tomorrow\":[1]") && again.revision != stored.revision, "{again:?}");

        let damaged = UserSlot { text: "[".into(), ..stored };
        assert!(User::of(Some(damaged)).unwrap_err().to_string().contains("damaged"));
    }
}
