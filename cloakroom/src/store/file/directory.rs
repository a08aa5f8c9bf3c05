//! The users of the directory, a file each.

use serde::{Deserialize, Serialize};

use super::{
    fault::Fault,
    format,
    layout::{self, UserDigest},
    tables,
    transaction::Transaction,
};
use crate::{
    PartitionKey, SessionInfo, Timestamp,
    store::{Cursor, LastSignIn, Page, Put, PutUser, StoredUser},
};

#[derive(Serialize, Deserialize)]
struct Entry {
    user: String,
    settings: String,
    /// Milliseconds.
    signed_in_at: Option<i64>,
    signed_in_from: Option<std::net::IpAddr>,
}

impl Entry {
    fn of(stored: &StoredUser) -> Self {
        let last = stored.last_sign_in;
        Self {
            user: stored.user.as_ref().to_owned(),
            settings: stored.settings.as_ref().to_owned(),
            signed_in_at: last.map(|last| last.at.as_millis()),
            signed_in_from: last.and_then(|last| last.ip),
        }
    }

    fn into_stored(self) -> StoredUser {
        let at = self.signed_in_at.map(Timestamp::from_millis);
        StoredUser {
            user: self.user.into(),
            settings: self.settings.into(),
            last_sign_in: at.map(|at| LastSignIn { at, ip: self.signed_in_from }),
        }
    }
}

pub(super) fn user(directory: &Transaction<'_>, key: &PartitionKey, user: &str) -> Result<Option<StoredUser>, Fault> {
    read(directory, &layout::directory_entry(&tables::digest_of(key, user)))
}

fn read(directory: &Transaction<'_>, file: &str) -> Result<Option<StoredUser>, Fault> {
    directory.read(file)?.map(|bytes| format::decode::<Entry>(file, &bytes).map(Entry::into_stored)).transpose()
}

pub(super) fn put(directory: &mut Transaction<'_>, key: &PartitionKey, put: &PutUser) -> Result<bool, Fault> {
    let file = layout::directory_entry(&tables::digest_of(key, &put.user));
    match put.decide(read(directory, &file)?.as_ref()) {
        Put::Refuse => return Ok(false),
        Put::Leave => {}
        Put::Keep(stored) => directory.write(file, format::encode(&Entry::of(&stored))),
        Put::Delete => directory.remove(file),
    }
    Ok(true)
}

pub(super) fn note_sign_in(
    directory: &mut Transaction<'_>,
    key: &PartitionKey,
    info: &SessionInfo,
) -> Result<(), Fault> {
    let Some((user, sign_in)) = LastSignIn::of(info) else { return Ok(()) };
    let file = layout::directory_entry(&tables::digest_of(key, user));
    if let Some(mut stored) = read(directory, &file)? {
        stored.last_sign_in = LastSignIn::latest(stored.last_sign_in, Some(sign_in));
        directory.write(file, format::encode(&Entry::of(&stored)));
    }
    Ok(())
}

/// A place in the list of all users, as a cursor says it.
pub(super) fn place(cursor: &Cursor) -> crate::Result<UserDigest> {
    cursor.as_str().parse().map_err(|()| Cursor::invalid())
}

/// In the order of their digests.
pub(super) fn list(
    directory: &Transaction<'_>,
    after: Option<&UserDigest>,
    limit: usize,
) -> Result<Page<StoredUser>, Fault> {
    let mut items = Vec::new();
    let mut last: Option<UserDigest> = None;
    for byte in after.map_or(0, UserDigest::first_byte)..=u8::MAX {
        let names = directory.list(&layout::directory(byte))?;
        let mut digests: Vec<_> = names.iter().filter_map(|name| layout::user_named(name)).collect();
        digests.retain(|digest| after.is_none_or(|after| digest > after));
        digests.sort_unstable();
        for digest in digests {
            if items.len() == limit {
                return Ok(Page { items, next: last.map(|last| Cursor::new(last.to_string())) });
            }
            items.extend(read(directory, &layout::directory_entry(&digest))?);
            last = Some(digest);
        }
    }
    Ok(Page { items, next: None })
}
