//! The users that a store knows by name: what is settled about each, and when they last signed in.

use std::{net::IpAddr, sync::Arc};

use crate::{clock::Timestamp, record::SessionInfo};

/// A user as a store keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredUser {
    /// Who.
    pub user: Arc<str>,
    /// What is settled about them, as it was given.
    pub settings: Arc<str>,
    /// When they last signed in, as far as they were in the directory then. Written by [`Write::SignedIn`](super::slots::Write::SignedIn)
    /// in its own transaction; when somebody else acts as them, it is not their sign-in.
    pub last_sign_in: Option<LastSignIn>,
}

/// A user's latest sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSignIn {
    /// When the session started.
    pub at: Timestamp,
    /// Where from.
    pub ip: Option<IpAddr>,
}

impl LastSignIn {
    /// What starting a session says of its user, if it says anything.
    pub fn of(info: &SessionInfo) -> Option<(&Arc<str>, Self)> {
        let user = info.user.as_ref().filter(|_| info.impersonator().is_none())?;
        Some((user, Self { at: info.created_at, ip: info.client.ip }))
    }

    /// The later one; of two at the same time the second.
    pub fn latest(known: Option<Self>, new: Option<Self>) -> Option<Self> {
        match (known, new) {
            (Some(known), Some(new)) if known.at > new.at => Some(known),
            (known, new) => new.or(known),
        }
    }
}

/// What to write about a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutUser {
    /// Who.
    pub user: Arc<str>,
    /// The settings that the new ones take the place of; `None` if there must be no entry.
    pub was: Option<Arc<str>>,
    /// The new ones; `None` deletes the entry, and with it when they last signed in.
    pub settings: Option<Arc<str>>,
    /// When they last signed in, for an entry that is moved from one store to another.
    pub last_sign_in: Option<LastSignIn>,
}

/// What a store that decides in this process does about a [`PutUser`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// Something else is there: nothing.
    Refuse,
    /// It is so already: nothing.
    Leave,
    /// Keep this.
    Keep(StoredUser),
    /// Delete the entry.
    Delete,
}

impl PutUser {
    /// The rule of [`Rules::put_user`](crate::rules::Rules::put_user), for what is there.
    pub fn decide(&self, stored: Option<&StoredUser>) -> Put {
        let is = stored.map(|stored| &stored.settings);
        if is != self.settings.as_ref() && is != self.was.as_ref() {
            return Put::Refuse;
        }
        let Some(settings) = &self.settings else {
            return if stored.is_some() { Put::Delete } else { Put::Leave };
        };
        let known = stored.and_then(|stored| stored.last_sign_in);
        let put = StoredUser {
            user: Arc::clone(&self.user),
            settings: Arc::clone(settings),
            last_sign_in: LastSignIn::latest(known, self.last_sign_in),
        };
        if stored == Some(&put) { Put::Leave } else { Put::Keep(put) }
    }
}
