//! The sessions of users.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{clock::Timestamp, token::SessionId};

/// When a session started, and which it is: the order in which a user's sessions are listed.
pub(super) type Place = (Timestamp, SessionId);

/// The users that have sessions.
#[derive(Default)]
pub(super) struct Users(HashMap<Arc<str>, Places>);

impl Users {
    /// Oldest first.
    pub(super) fn of(&self, name: &str) -> impl DoubleEndedIterator<Item = &Place> {
        self.0.get(name).into_iter().flat_map(Places::iter)
    }

    pub(super) fn add(&mut self, name: &Arc<str>, place: Place) {
        self.0.entry(Arc::clone(name)).or_default().insert(place);
    }

    /// Who has none left is forgotten.
    pub(super) fn remove(&mut self, name: &str, place: &Place) {
        let Some(places) = self.0.get_mut(name) else { return };
        places.remove(place);
        if matches!(places, Places::None) {
            self.0.remove(name);
        }
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
    /// Oldest first.
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Place> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(place) => (Some(place), None),
            Self::Many(places) => (None, Some(places)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

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
        let list = |users: &Users| users.of("anna").map(|(at, _)| at.as_millis()).collect::<Vec<_>>();
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
                users.add(&name, place(n));
            } else {
                users.remove(&name, &place(n));
            }
            assert_eq!(list(&users), left);
        }
        assert!(users.0.is_empty(), "who has nothing is forgotten");
    }
}
