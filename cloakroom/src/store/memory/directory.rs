//! The directory of users, each beside their sessions.

use std::{ops::Bound, sync::Arc};

use super::{MemoryStore, SHARDS, Shard, shard_number};
use crate::{
    Result, SessionInfo,
    store::{BoxFuture, Cursor, Directory, LastSignIn, Page, Put, PutUser, StoredUser},
};

impl Directory for MemoryStore {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        Box::pin(async move { Ok(self.shard_of(user).beside.directory.get(user).cloned()) })
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { Ok(self.shard_of(&put.user).put_user(put)) })
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        Box::pin(async move { self.users_after(after, limit) })
    }
}

impl MemoryStore {
    /// By shard, then by name.
    fn users_after(&self, after: Option<&Cursor>, limit: usize) -> Result<Page<StoredUser>> {
        let after = after.map(Cursor::name).transpose()?;
        let first = after.as_deref().map_or(0, |after| shard_number(self.key.partition_of(after)));
        let mut items: Vec<StoredUser> = Vec::new();
        for number in first..SHARDS {
            let behind = after.as_deref().filter(|_| number == first).map_or(Bound::Unbounded, Bound::Excluded);
            let shard = self.shard_at(number);
            for (_, user) in shard.beside.directory.range::<str, _>((behind, Bound::Unbounded)) {
                if items.len() == limit {
                    let next = items.last().map(|last| Cursor::behind(&last.user));
                    return Ok(Page { items, next });
                }
                items.push(user.clone());
            }
        }
        Ok(Page { items, next: None })
    }
}

impl Shard {
    fn put_user(&mut self, put: &PutUser) -> bool {
        match put.decide(self.beside.directory.get(&put.user)) {
            Put::Refuse => return false,
            Put::Leave => {}
            Put::Keep(user) => drop(self.beside.directory.insert(Arc::clone(&put.user), user)),
            Put::Delete => drop(self.beside.directory.remove(&put.user)),
        }
        true
    }

    pub(super) fn note_sign_in(&mut self, info: &SessionInfo) {
        if let Some((user, sign_in)) = LastSignIn::of(info)
            && let Some(stored) = self.beside.directory.get_mut(user)
        {
            stored.last_sign_in = LastSignIn::latest(stored.last_sign_in, Some(sign_in));
        }
    }
}
