//! What moves from one store to another.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::Record,
    rules::{Loaded, Tombstone},
    token::{PartitionKey, SessionId},
};

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

/// What the partition of a user remembers. See [`Fence`](crate::rules::Fence).
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
    pub(super) fn of_session(record: &Record, there: &Loaded) -> Self {
        match there {
            Loaded::Unknown => Self::Added,
            Loaded::Ended(_) => Self::Kept,
            Loaded::Live(there) if **there == *record => Self::Unchanged,
            Loaded::Live(there) if is_ahead(there, record) => Self::Kept,
            Loaded::Live(_) => Self::Updated,
        }
    }

    /// What becomes of a tombstone that finds this under its id.
    pub(super) fn of_tombstone(tombstone: &Tombstone, there: &Loaded) -> Self {
        match there {
            Loaded::Unknown => Self::Added,
            Loaded::Live(_) => Self::Updated,
            Loaded::Ended(there) if **there == *tombstone => Self::Unchanged,
            Loaded::Ended(_) => Self::Kept,
        }
    }

    /// Whether the item must be written.
    pub(super) fn writes(self) -> bool {
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
    pub(super) fn united_with(&self, there: Option<&Self>) -> (Self, Imported) {
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
    pub(super) fn session_id(&self) -> Option<SessionId> {
        match self {
            Self::Session(record) => Some(record.info.id),
            Self::Ended(tombstone) => Some(tombstone.ended.id),
            Self::Fence(_) => None,
        }
    }
}

/// Refuses sessions that this key would not have placed where they are.
pub(super) fn check_places(items: &[Item], key: &PartitionKey) -> Result<()> {
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
