//! Moving what one store holds into another.
//!
//! ```
//! use std::sync::Arc;
//! use cloakroom::store::{self, MemoryStore, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> cloakroom::Result<()> {
//! let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(MemoryStore::new()?), Arc::new(MemoryStore::new()?));
//! let copied = store::copy(&from, &to, None, |_| {}).await?;
//! assert_eq!(copied.sessions.total(), 0);
//! # Ok(())
//! # }
//! ```

mod copy;
mod key;
mod users;

use std::sync::Arc;

pub use self::copy::{Copied, Progress, Tally, copy};
pub(super) use self::key::AdoptableKey;
use crate::{
    Error, PartitionKey, Record, Result, SessionId, Timestamp,
    store::{BoxFuture, Cursor, Loaded, Page, Tombstone},
};

/// Taking out what a store holds, and putting it into another one as it is.
///
/// What moves are records with all that belongs to them, tombstones and the fences of users, so that the ended stay
/// ended and the disabled stay disabled. [`copy`] takes the directory of users along. The audit log stays where it was written.
///
/// Nothing here decides by time: what expired and was not reaped moves as it is, and expires there.
pub trait Transfer {
    /// Reads what the store holds: sessions, then tombstones, then fences, so that a session that ends meanwhile comes
    /// at least as a tombstone. At most `limit` (one or more) in a page, which may hold fewer, or nothing, although more
    /// follow. The order is stable: going on from a cursor, even after this process ended, shows everything that was
    /// there throughout. A cursor that this store did not give is [`Cursor::invalid`].
    fn export<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<Item>>>;

    /// Puts items in, each whole or not at all, each id and user at most once in a call, and answers in the order asked.
    /// Writes no audit entries. Harmless when repeated. The rules, so that it is harmless in a store in use too:
    ///
    /// - A session whose id has a tombstone is left alone, as is one that is ahead of the item in version,
    ///   rotations, last-seen or lock number. One that is there and is not ahead becomes what the item is.
    /// - A tombstone takes the place of a living session; the tombstone that is there first stays.
    /// - Of two fences comes one that lets nobody in whom either of them keeps out.
    ///
    /// A session in a partition that is not its user's under this store's key is [`Error::InvalidArgument`], and
    /// nothing is put in: see [`adopt_partition_key`](Self::adopt_partition_key).
    fn import<'a>(&'a self, items: &'a [Item]) -> BoxFuture<'a, Result<Vec<Imported>>>;

    /// Takes over another store's key, under which the ids of the sessions to come were made. The key must be the same
    /// already, or there must be neither session nor tombstone nor fence, nor anybody in the directory: otherwise it is [`Error::InvalidArgument`],
    /// and nothing changes. This store uses the key from then on; others that have the same place open must open it again.
    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>>;
}

/// One thing that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A session that was not ended.
    Session(Arc<Record>),
    /// One that was, not long ago.
    Ended(Arc<Tombstone>),
    /// What keeps a user's sign-ins out.
    Fence(UserFence),
}

/// What the partition of a user remembers. See [`Fence`](crate::store::Fence).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFence {
    /// Whose sign-ins it is about.
    pub user: Arc<str>,
    /// Whether every sign-in is refused.
    pub disabled: bool,
    /// Sign-ins that authenticated before this time are refused.
    pub ended_before: Option<Timestamp>,
}

/// What became of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It was not there, and is now.
    Added,
    /// Something older was there, and is now as the item says.
    Updated,
    /// It was there exactly so.
    Unchanged,
    /// What is there is newer, or ended, and stays.
    Kept,
}

impl Imported {
    /// What becomes of a session that finds this under its id.
    pub(crate) fn of_session(record: &Record, there: &Loaded) -> Self {
        match there {
            Loaded::Unknown => Self::Added,
            Loaded::Ended(_) => Self::Kept,
            Loaded::Live(there) if **there == *record => Self::Unchanged,
            Loaded::Live(there) if is_ahead(there, record) => Self::Kept,
            Loaded::Live(_) => Self::Updated,
        }
    }

    /// What becomes of a tombstone that finds this under its id.
    pub(crate) fn of_tombstone(tombstone: &Tombstone, there: &Loaded) -> Self {
        match there {
            Loaded::Unknown => Self::Added,
            Loaded::Live(_) => Self::Updated,
            Loaded::Ended(there) if **there == *tombstone => Self::Unchanged,
            Loaded::Ended(_) => Self::Kept,
        }
    }

    /// Whether the item must be written.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Added | Self::Updated)
    }
}

fn is_ahead(there: &Record, record: &Record) -> bool {
    there.info.version > record.info.version
        || there.secrets.rotations > record.secrets.rotations
        || there.info.last_seen_at > record.info.last_seen_at
        || there.lease.number > record.lease.number
}

impl UserFence {
    /// The fence there is when this one comes to `there`, and what that makes of this one.
    pub(crate) fn united_with(&self, there: Option<&Self>) -> (Self, Imported) {
        let Some(there) = there else { return (self.clone(), Imported::Added) };
        let united = Self {
            user: Arc::clone(&self.user),
            disabled: self.disabled || there.disabled,
            ended_before: self.ended_before.max(there.ended_before),
        };
        let imported = match () {
            () if united != *there => Imported::Updated,
            () if united == *self => Imported::Unchanged,
            () => Imported::Kept,
        };
        (united, imported)
    }
}

impl Item {
    /// The session it is about, if it is about one.
    pub(crate) fn session_id(&self) -> Option<SessionId> {
        match self {
            Self::Session(record) => Some(record.info.id),
            Self::Ended(tombstone) => Some(tombstone.ended.id),
            Self::Fence(_) => None,
        }
    }
}

/// Refuses sessions that this key would not have placed where they are.
pub(crate) fn check_places(items: &[Item], key: &PartitionKey) -> Result<()> {
    for item in items {
        if let Item::Session(record) = item
            && let Some(user) = &record.info.user
            && key.partition_of(user) != record.info.id.partition()
        {
            let problem =
                format!("session {} was made under another partition key: adopt that one first", record.info.id);
            return Err(Error::InvalidArgument { what: "import", problem });
        }
    }
    Ok(())
}

/// What a store answers that cannot take over another key.
pub(super) fn holds_others() -> Error {
    let problem = "it holds sessions of its own, whose ids were made under another partition key: copy into an empty \
                   one (another file, directory, schema or prefix)";
    Error::InvalidArgument { what: "target", problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_fences_keep_out_whom_either_keeps_out() {
        let fence = |disabled, ended_before: Option<i64>| UserFence {
            user: "anna".into(),
            disabled,
            ended_before: ended_before.map(Timestamp::from_millis),
        };
        for (comes, there, united, imported) in [
            (fence(true, Some(1)), None, fence(true, Some(1)), Imported::Added),
            (fence(true, Some(1)), Some(fence(true, Some(1))), fence(true, Some(1)), Imported::Unchanged),
            (fence(false, Some(1)), Some(fence(true, Some(1))), fence(true, Some(1)), Imported::Kept),
            (fence(false, Some(2)), Some(fence(true, Some(1))), fence(true, Some(2)), Imported::Updated),
            (fence(true, None), Some(fence(false, Some(1))), fence(true, Some(1)), Imported::Updated),
        ] {
            assert_eq!(comes.united_with(there.as_ref()), (united, imported));
        }
    }
}
