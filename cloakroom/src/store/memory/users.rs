//! The sessions and the fences of users.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{SessionId, Timestamp};

/// When a session started, and which it is: the order in which a user's sessions are listed.
pub(super) type Place = (Timestamp, SessionId);

/// The users that have sessions or fences.
#[derive(Default)]
pub(super) struct Users(HashMap<Arc<str>, User>);

#[derive(Default)]
pub(super) struct User {
    sessions: Places,
    pub(super) disabled: bool,
    pub(super) ended_before: Option<Timestamp>,
}

impl Users {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    pub(super) fn get(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }

    /// Oldest first.
    pub(super) fn sessions_of(&self, name: &str) -> impl DoubleEndedIterator<Item = &Place> {
        self.get(name).into_iter().flat_map(User::sessions)
    }

    pub(super) fn add_session(&mut self, name: &Arc<str>, place: Place) {
        self.get_or_add(name).sessions.insert(place);
    }

    pub(super) fn remove_session(&mut self, name: &str, place: &Place) {
        self.change(name, |user| user.sessions.remove(place));
    }

    pub(super) fn get_or_add(&mut self, name: &Arc<str>) -> &mut User {
        self.0.entry(Arc::clone(name)).or_default()
    }

    /// Changes a user, if there is such a one, and forgets who has neither sessions nor fences afterwards.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut User)) {
        let Some(user) = self.0.get_mut(name) else { return };
        change(user);
        if matches!(user.sessions, Places::None) && !user.disabled && user.ended_before.is_none() {
            self.0.remove(name);
        }
    }
}

impl User {
    /// Oldest first.
    pub(super) fn sessions(&self) -> impl DoubleEndedIterator<Item = &Place> {
        let (one, many) = match &self.sessions {
            Places::None => (None, None),
            Places::One(place) => (Some(place), None),
            Places::Many(places) => (None, Some(places)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Most users have one session: theirs lies here, without a tree.
#[derive(Default)]
enum Places {
    #[default]
    None,
    One(Place),
    Many(BTreeSet<Place>),
}

impl Places {
    fn insert(&mut self, place: Place) {
        match self {
            Self::None => *self = Self::One(place),
            Self::One(other) if *other == place => {}
            Self::One(other) => *self = Self::Many([*other, place].into()),
            Self::Many(places) => {
                places.insert(place);
            }
        }
    }

    fn remove(&mut self, place: &Place) {
        match self {
            Self::One(only) if only == place => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Many(places) => {
                places.remove(place);
                if let (1, Some(last)) = (places.len(), places.first()) {
                    *self = Self::One(*last);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_no_session_one_or_many() {
        let name: Arc<str> = "anna".into();
        let place = |n: u8| (Timestamp::from_millis(n.into()), SessionId::from_bytes([n; SessionId::LEN]));
        let mut users = Users::default();
        let list = |users: &Users| users.sessions_of("anna").map(|(at, _)| at.as_millis()).collect::<Vec<_>>();
        for (add, n, left) in [
            (true, 2, vec![2]),
            (false, 1, vec![2]),
            (true, 1, vec![1, 2]),
            (true, 3, vec![1, 2, 3]),
            (false, 2, vec![1, 3]),
            (false, 1, vec![3]),
            (true, 3, vec![3]),
            (false, 3, vec![]),
        ] {
            if add {
                users.add_session(&name, place(n));
            } else {
                users.remove_session(&name, &place(n));
            }
            assert_eq!(list(&users), left);
        }
        assert!(users.get("anna").is_none(), "who has nothing is forgotten");
    }
}
