//! Copying the directory of users, which is read and written as applications do.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Imported;
use crate::{
    Error, Result,
    store::{PutUser, Store, StoredUser},
};

/// Puts users into the target as they are, many at the same time.
pub(super) async fn put(to: &Arc<dyn Store>, users: Vec<StoredUser>) -> Result<Vec<Imported>> {
    let (mut users, mut putting, mut imported) = (users.into_iter(), JoinSet::new(), Vec::new());
    loop {
        while putting.len() < AT_ONCE
            && let Some(user) = users.next()
        {
            let to = Arc::clone(to);
            putting.spawn(async move { put_one(&to, user).await });
        }
        match putting.join_next().await {
            Some(put) => imported.push(put.map_err(|error| Error::store("a task panicked", error))??),
            None => return Ok(imported),
        }
    }
}

/// So many users are written at the same time.
const AT_ONCE: usize = 32;

/// The source's settings count, and the later sign-in.
async fn put_one(to: &Arc<dyn Store>, user: StoredUser) -> Result<Imported> {
    let there = to.user(&user.user).await?;
    if there.as_ref() == Some(&user) {
        return Ok(Imported::Unchanged);
    }
    let StoredUser { user, settings, last_sign_in } = user;
    let was = there.map(|there| there.settings);
    let done = if was.is_none() { Imported::Added } else { Imported::Updated };
    let put = PutUser { user, was, settings: Some(settings), last_sign_in };
    // Somebody else settled it meanwhile.
    Ok(if to.put_user(&put).await? { done } else { Imported::Kept })
}
