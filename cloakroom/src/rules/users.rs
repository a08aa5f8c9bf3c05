//! The directory of users, and the fences of users.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    error::Result,
    rules::{Rules, look, look::unasked, transaction::commit, user_text::User},
    store::{
        Cursor, Page, Put, PutUser, StoredUser,
        slots::{List, Listed, Outcome, Transaction},
    },
};

pub(super) async fn user(rules: &Rules, user: &str) -> Result<Option<StoredUser>> {
    let name = user.into();
    Ok(User::of(look::user(rules, &name).await?)?.entry(&name))
}

pub(super) async fn list(rules: &Rules, after: Option<&Cursor>, limit: usize) -> Result<Page<StoredUser>> {
    let page = rules.store.list(&List::Users, after, limit).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for listed in page.items {
        let Listed::User(name, slot) = listed else { return Err(unasked()) };
        match User::of(Some(slot)) {
            Ok(user) => items.extend(user.entry(&name)),
            Err(error) => tracing::error!(user = &*name, "the user is left out of the list: {error}"),
        }
    }
    Ok(Page { items, next: page.next })
}

pub(super) async fn put(rules: &Rules, put: &PutUser) -> Result<bool> {
    change(rules, &put.user, Timestamp::EPOCH, |user| match put.decide(user.entry(&put.user).as_ref()) {
        Put::Refuse => (false, false),
        Put::Leave => (true, false),
        Put::Keep(entry) => {
            user.settings = Some(entry.settings);
            user.last_sign_in = entry.last_sign_in;
            (true, true)
        }
        Put::Delete => {
            user.settings = None;
            user.last_sign_in = None;
            (true, true)
        }
    })
    .await
}

pub(super) async fn enable(rules: &Rules, user: &str, now: Timestamp) -> Result<()> {
    change(rules, &user.into(), now, |user| ((), std::mem::take(&mut user.disabled))).await
}

/// Changes what is settled about a user as `decide` says of what is, which tells whether it changed anything.
pub(super) async fn change<T>(
    rules: &Rules,
    name: &Arc<str>,
    now: Timestamp,
    mut decide: impl FnMut(&mut User) -> (T, bool),
) -> Result<T> {
    let mut attempts = rules.turns.at_user(name);
    loop {
        let mut user = User::of(look::user(rules, name).await?)?;
        let unchanged = user.unchanged(name);
        let (answer, write) = decide(&mut user);
        if !write {
            return Ok(answer);
        }
        let transaction = Transaction::new(now).relying_on([unchanged]).writing(user.write(name));
        match commit(rules, &transaction).await? {
            Outcome::Committed(_) => return Ok(answer),
            Outcome::Conflict(_) => attempts.again().await?,
        }
    }
}

impl User {
    /// The entry in the directory.
    fn entry(&self, name: &Arc<str>) -> Option<StoredUser> {
        let settings = self.settings.clone()?;
        Some(StoredUser { user: Arc::clone(name), settings, last_sign_in: self.last_sign_in })
    }
}
