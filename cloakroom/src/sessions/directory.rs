//! The directory that is kept in the store: reading it, and changing it together with what it means for sessions.

use std::sync::Arc;

use super::{Sessions, check_name, check_text};
use crate::{
    ended::{Ended, Ending, Reason},
    error::{Error, Result},
    rules::Fence,
    store::{Cursor, LastSignIn, Page, PutUser, StoredUser},
    users::{User, UserPatch},
};

/// How often a change of an entry is tried while others change the same one.
const MAX_ATTEMPTS: u32 = 32;

/// A user of the directory that is kept in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Who.
    pub user: Arc<str>,
    /// What is settled about them.
    pub settings: User,
    /// When they last signed in, and where from, since they are in the directory.
    pub last_sign_in: Option<LastSignIn>,
}

/// The directory of users that is kept in the store: see [`Sessions::users`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Directory<'a>(&'a Sessions);

impl Sessions {
    /// The directory of users that is kept in the store: whether they may have sessions, how many, and from where. It counts
    /// where the service was built with [`stored_users`](super::Builder::stored_users).
    pub fn users(&self) -> Directory<'_> {
        Directory(self)
    }
}

impl Directory<'_> {
    /// A user of the directory in the store.
    pub async fn get(&self, user: &str) -> Result<Option<DirectoryEntry>> {
        check_name("user", Some(user))?;
        let stored = self.0.store_read(self.0.rules().user(user)).await?;
        stored.map(DirectoryEntry::of).transpose()
    }

    /// A page of the directory in the store, in an order of the store's own.
    pub async fn list(&self, after: Option<&Cursor>, limit: usize) -> Result<Page<DirectoryEntry>> {
        let Page { items, next } = self.0.store_read(self.0.rules().users(after, limit)).await?;
        let items = items.into_iter().map(DirectoryEntry::of).collect::<Result<_>>()?;
        Ok(Page { items, next })
    }

    /// Writes all that the directory in the store says of a user. See [`patch`](Self::patch).
    pub async fn put(
        &self,
        user: impl Into<Arc<str>>,
        settings: User,
        by: Option<Arc<str>>,
    ) -> Result<(DirectoryEntry, Vec<Ended>)> {
        self.patch(user, &settings.into(), by).await
    }

    /// Changes some of what the directory in the store says of a user, and makes the entry if there is none. Answers with
    /// it as it is now, and with the sessions that ended, newest first.
    ///
    /// With `enabled: Some(false)` all sessions of the user end, sign-ins under way are refused, and so are later
    /// ones. With `Some(true)` they are let in again. The steps are ordered so that a crash between them leaves the user
    /// out rather than in; doing the same again finishes it.
    pub async fn patch(
        &self,
        user: impl Into<Arc<str>>,
        patch: &UserPatch,
        by: Option<Arc<str>>,
    ) -> Result<(DirectoryEntry, Vec<Ended>)> {
        let user = user.into();
        check_name("user", Some(&user))?;
        check_text("by", by.as_deref())?;
        check_settings(&User::default().patched(patch))?;

        let ended = match patch.enabled {
            Some(false) => self.disable(Arc::clone(&user), by).await?,
            Some(true) | None => Vec::new(),
        };
        let entry = self.change_entry(&user, patch).await?;
        if patch.enabled == Some(true) {
            self.enable(&user).await?;
        }
        self.forget(&user);
        tracing::info!(user = &*user, enabled = entry.settings.enabled, "user changed");
        Ok((entry, ended))
    }

    /// Takes a user out of the directory in the store and ends all of their sessions. Answers whether they were in it, and
    /// which sessions ended, newest first. Doing it again is harmless, and finishes what a crash broke off.
    ///
    /// Who is not in the directory has no restrictions of their own, unless [only known users](super::Builder::only_known_users)
    /// are let in: to keep somebody out, disable them. Who was disabled stays so until
    /// [enabled](Self::enable).
    pub async fn delete(&self, user: impl Into<Arc<str>>, by: Option<Arc<str>>) -> Result<(bool, Vec<Ended>)> {
        let user = user.into();
        check_name("user", Some(&user))?;
        let ending = Ending { by, ..Ending::new(Reason::UserDisabled) };
        let ended = self.0.end_all_of(Arc::clone(&user), Vec::new(), &ending).await?;
        let mut was_there = false;
        for _ in 0..MAX_ATTEMPTS {
            let Some(stored) = self.0.store_read(self.0.rules().user(&user)).await? else {
                self.forget(&user);
                tracing::info!(user = &*user, "user deleted");
                return Ok((was_there, ended));
            };
            was_there = true;
            let put =
                PutUser { user: Arc::clone(&user), was: Some(stored.settings), settings: None, last_sign_in: None };
            self.0.store_write(self.0.rules().put_user(&put)).await?;
        }
        Err(Error::Contended { attempts: MAX_ATTEMPTS })
    }

    /// Ends all sessions of a user and refuses further ones until [`enable`](Self::enable).
    pub async fn disable(&self, user: impl Into<Arc<str>>, by: Option<Arc<str>>) -> Result<Vec<Ended>> {
        let ending = Ending { by, ..Ending::new(Reason::UserDisabled) };
        self.0.end_of_user(user.into(), Vec::new(), Fence::Disabled, &ending).await
    }

    /// Lets a disabled user sign in again.
    pub async fn enable(&self, user: &str) -> Result<()> {
        self.0.store_write(self.0.rules().enable_user(user, self.0.now())).await
    }

    /// Forgets what the directory said of a user, so that the next request asks it again. On this node: others do within
    /// [`users_cache`](super::Builder::users_cache).
    pub fn forget(&self, user: &str) {
        if let Some(known) = &self.0.0.known_users {
            known.forget(user);
        }
    }

    async fn change_entry(&self, user: &Arc<str>, patch: &UserPatch) -> Result<DirectoryEntry> {
        for _ in 0..MAX_ATTEMPTS {
            let stored = self.0.store_read(self.0.rules().user(user)).await?;
            let before = stored.as_ref().map(decode).transpose()?.unwrap_or_default();
            let settings = before.patched(patch);
            let put = PutUser {
                user: Arc::clone(user),
                was: stored.as_ref().map(|stored| Arc::clone(&stored.settings)),
                settings: Some(encode(&settings)),
                last_sign_in: None,
            };
            if self.0.store_write(self.0.rules().put_user(&put)).await? {
                let last_sign_in = stored.and_then(|stored| stored.last_sign_in);
                return Ok(DirectoryEntry { user: Arc::clone(user), settings, last_sign_in });
            }
        }
        Err(Error::Contended { attempts: MAX_ATTEMPTS })
    }
}

impl DirectoryEntry {
    fn of(stored: StoredUser) -> Result<Self> {
        Ok(Self { settings: decode(&stored)?, user: stored.user, last_sign_in: stored.last_sign_in })
    }
}

fn encode(settings: &User) -> Arc<str> {
    serde_json::to_string(settings).expect("its fields are text, numbers and lists of them").into()
}

pub(super) fn decode(stored: &StoredUser) -> Result<User> {
    serde_json::from_str(&stored.settings).map_err(|error| {
        Error::store(format_args!("the directory's entry of {:?} is damaged: write it anew", stored.user), error)
    })
}

/// What no entry may say, whoever wrote it.
pub(super) fn check_settings(settings: &User) -> Result<()> {
    settings.check()?;
    check_text("full_name", settings.full_name.as_deref())?;
    check_text("user_type", settings.user_type.as_deref())
}
