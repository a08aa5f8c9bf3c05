//! Sessions, tombstones, users and deadlines as files, each with all that must be true of the others.

use std::sync::Arc;

use super::{
    disk::Disk,
    fault::Fault,
    format::{self, Stored, StoredFence},
    layout::{self, Dated, Due, UserDigest},
    transaction::Transaction,
};
use crate::{
    AuditEntry, Digest, Ended, PartitionKey, Record, SessionId, SessionInfo, Timestamp,
    store::{Gone, Loaded, Tombstone},
};

/// What a session is to those who hold no lock.
pub(super) fn load(disk: &dyn Disk, id: SessionId, now: Timestamp) -> Result<Loaded, Fault> {
    // In this order: a session's tombstone is there before its file goes.
    let file = layout::session(id);
    if let Some(bytes) = disk.read(&file).map_err(Fault::io(&file))? {
        let record = Stored::decode(&file, id, &bytes)?.record;
        return Ok(match record.info.expired(now) {
            None => Loaded::Live(Arc::new(record)),
            Some(ended) => Loaded::Ended(Arc::new(Tombstone { ended, secrets: record.secrets })),
        });
    }
    let file = layout::tombstone(id);
    Ok(match disk.read(&file).map_err(Fault::io(&file))? {
        Some(bytes) => Loaded::Ended(Arc::new(format::decode_tombstone(&file, id, &bytes)?)),
        None => Loaded::Unknown,
    })
}

/// A session that was not ended; it may have expired.
pub(super) fn session(directory: &Transaction<'_>, id: SessionId) -> Result<Option<Stored>, Fault> {
    let file = layout::session(id);
    directory.read(&file)?.map(|bytes| Stored::decode(&file, id, &bytes)).transpose()
}

/// The same without its data.
pub(super) fn info(directory: &Transaction<'_>, id: SessionId) -> Result<Option<SessionInfo>, Fault> {
    /// Longer than nearly everything that is known about a session.
    const BEGINNING: usize = 4096;
    let file = layout::session(id);
    let beginning = directory.read_at(&file, 0, BEGINNING)?;
    if beginning.is_empty() {
        // An empty file has no name here: it is not there.
        return Ok(None);
    }
    match Stored::decode_info(&file, id, &beginning)? {
        Some(info) => Ok(Some(info)),
        None => Ok(session(directory, id)?.map(|stored| stored.record.info)),
    }
}

/// A session that lives, or how it ended.
pub(super) fn living(
    directory: &Transaction<'_>,
    id: SessionId,
    now: Timestamp,
) -> Result<Result<Stored, Gone>, Fault> {
    match session(directory, id)? {
        Some(stored) => Ok(match stored.record.info.expired(now) {
            None => Ok(stored),
            Some(ended) => Err(Gone::Ended(ended)),
        }),
        None => Ok(Err(ended(directory, id)?.map_or(Gone::Unknown, Gone::Ended))),
    }
}

/// How a session ended, if there is a tombstone of it.
pub(super) fn ended(directory: &Transaction<'_>, id: SessionId) -> Result<Option<Ended>, Fault> {
    Ok(tombstone(directory, id)?.map(|tombstone| tombstone.ended))
}

pub(super) fn tombstone(directory: &Transaction<'_>, id: SessionId) -> Result<Option<Tombstone>, Fault> {
    let file = layout::tombstone(id);
    directory.read(&file)?.map(|bytes| format::decode_tombstone(&file, id, &bytes)).transpose()
}

/// Writes a session that is there, and sees to it that the reaper looks at it in time.
pub(super) fn put(directory: &mut Transaction<'_>, stored: &mut Stored) {
    let info = &stored.record.info;
    let due = match (stored.due, info.expires_at()) {
        (Some(due), Some(deadline)) if due <= deadline => Some(due),
        (_, deadline) => deadline,
    };
    set_due(directory, stored, due);
    directory.write(layout::session(stored.record.info.id), stored.encode());
}

/// Writes a session so that the reaper looks at it at its deadline and not before.
pub(super) fn put_back(directory: &mut Transaction<'_>, mut stored: Stored) {
    let deadline = stored.record.info.expires_at();
    set_due(directory, &mut stored, deadline);
    directory.write(layout::session(stored.record.info.id), stored.encode());
}

fn set_due(directory: &mut Transaction<'_>, stored: &mut Stored, due: Option<Timestamp>) {
    if stored.due != due {
        let id = stored.record.info.id;
        if let Some(at) = stored.due {
            directory.remove(Due::Session.marker(at, id));
        }
        if let Some(at) = due {
            directory.mark(Due::Session.marker(at, id));
        }
        stored.due = due;
    }
}

pub(super) fn insert(directory: &mut Transaction<'_>, key: &PartitionKey, record: &Record) {
    let info = &record.info;
    if let Some(user) = &info.user {
        directory.mark(layout::session_of_user(&digest_of(key, user), info.created_at, info.id));
    }
    if let Some(key) = &record.idempotency {
        directory.write(layout::first_try(info.id, key), format::encode(&info.id));
    }
    put(directory, &mut Stored { record: record.clone(), due: None });
}

/// Takes a session out of everything and leaves a tombstone and an audit entry.
pub(super) fn bury(
    directory: &mut Transaction<'_>,
    key: &PartitionKey,
    stored: Stored,
    ended: Ended,
) -> Result<(), Fault> {
    directory.log(&AuditEntry::ended(&stored.record.info, &ended));
    remove(directory, key, &stored)?;
    put_tombstone(directory, &Tombstone { ended, secrets: stored.record.secrets });
    Ok(())
}

pub(super) fn put_tombstone(directory: &mut Transaction<'_>, tombstone: &Tombstone) {
    let id = tombstone.ended.id;
    directory.mark(Due::Tombstone.marker(tombstone.ended.at, id));
    directory.write(layout::tombstone(id), format::encode_tombstone(tombstone));
}

/// Takes a session out of everything.
pub(super) fn remove(directory: &mut Transaction<'_>, key: &PartitionKey, stored: &Stored) -> Result<(), Fault> {
    let Record { info, idempotency, .. } = &stored.record;
    directory.remove(layout::session(info.id));
    if let Some(at) = stored.due {
        directory.remove(Due::Session.marker(at, info.id));
    }
    if let Some(user) = &info.user {
        directory.remove(layout::session_of_user(&digest_of(key, user), info.created_at, info.id));
    }
    if let Some(key) = idempotency
        && first_try(directory, info.id, key)? == Some(info.id)
    {
        directory.remove(layout::first_try(info.id, key));
    }
    Ok(())
}

/// The session that was started with an idempotency key, in the partition of `id`.
pub(super) fn first_try(directory: &Transaction<'_>, id: SessionId, key: &Digest) -> Result<Option<SessionId>, Fault> {
    let file = layout::first_try(id, key);
    directory.read(&file)?.map(|bytes| format::decode(&file, &bytes)).transpose()
}

pub(super) fn forget_tombstone(directory: &mut Transaction<'_>, at: Timestamp, id: SessionId) {
    directory.remove(layout::tombstone(id));
    directory.remove(Due::Tombstone.marker(at, id));
}

pub(super) fn digest_of(key: &PartitionKey, user: &str) -> UserDigest {
    UserDigest::new(&key.keyed_digest(user.as_bytes()))
}

/// All sessions of a user that were not ended, newest first.
pub(super) fn sessions_of(directory: &Transaction<'_>, user: &UserDigest) -> Result<Vec<Dated<SessionId>>, Fault> {
    let names = directory.list(&layout::user(user))?;
    let mut sessions: Vec<Dated<SessionId>> = names.iter().filter_map(|name| name.parse().ok()).collect();
    sessions.sort_unstable();
    sessions.reverse();
    Ok(sessions)
}

pub(super) fn fence(directory: &Transaction<'_>, user: &UserDigest) -> Result<StoredFence, Fault> {
    let file = layout::fence(user);
    directory.read(&file)?.map_or(Ok(StoredFence::default()), |bytes| format::decode(&file, &bytes))
}

/// Replaces a fence, and sees to it that the reaper forgets it in time.
pub(super) fn set_fence(directory: &mut Transaction<'_>, user: &UserDigest, before: &StoredFence, fence: &StoredFence) {
    if before == fence {
        return;
    }
    if before.ended_before != fence.ended_before {
        if let Some(at) = before.ended_before {
            directory.remove(Due::Fence.marker(at, user));
        }
        if let Some(at) = fence.ended_before {
            directory.mark(Due::Fence.marker(at, user));
        }
    }
    if !fence.disabled && fence.ended_before.is_none() {
        directory.remove(layout::fence(user));
    } else {
        directory.write(layout::fence(user), format::encode(fence));
    }
}

/// What is to be looked at by `now`, earliest first, at most `most` and a little more.
pub(super) fn due<N: std::str::FromStr + Ord>(
    directory: &Transaction<'_>,
    kind: Due,
    now: Timestamp,
    most: usize,
) -> Result<Vec<Dated<N>>, Fault> {
    let root = kind.root();
    let mut due = Vec::new();
    for day in Due::passed(0, directory.list(root)?, now) {
        let day = format!("{root}/{day}");
        for minute in Due::passed(1, directory.list(&day)?, now) {
            let names = directory.list(&format!("{day}/{minute}"))?;
            let dated = names.iter().filter_map(|name| name.parse::<Dated<N>>().ok());
            let mut passed: Vec<_> = dated.filter(|dated| dated.at <= now).collect();
            passed.sort_unstable();
            due.extend(passed);
            if due.len() >= most {
                return Ok(due);
            }
        }
    }
    Ok(due)
}
