//! Slots as files, each with the markers that lead to it.

use std::sync::Arc;

use super::{
    audit,
    fault::Fault,
    format::{self, Part, Stored},
    layout::{self, Dated, Due, UserDigest},
    view::View,
};
use crate::{
    clock::Timestamp,
    data::Data,
    record::Record,
    store::{
        embedded::Tables,
        head,
        slots::{LogEntry, SeenAt, Slot, Transaction, UserSlot, Write},
    },
    token::{Digest, Partition, PartitionKey, SessionId},
};

/// The directory as one call sees it.
#[derive(Clone, Copy)]
pub(super) struct Within<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) key: &'a PartitionKey,
    /// What of a slot the call needs.
    part: Part,
}

impl<'a> Within<'a> {
    pub(super) fn new(view: &'a View<'a>, key: &'a PartitionKey) -> Self {
        Self { view, key, part: Part::All }
    }

    /// For a transaction. One that ends a session does so though its data are damaged.
    pub(super) fn for_transaction(view: &'a View<'a>, key: &'a PartitionKey, transaction: &Transaction) -> Self {
        let changes_data = transaction.writes.iter().any(|write| matches!(write, Write::Data { .. }));
        Self { view, key, part: if changes_data { Part::All } else { Part::Whole } }
    }

    pub(super) fn stored(self, id: SessionId, part: Part) -> Result<Option<Stored>, Fault> {
        stored(self.view, id, part)
    }

    /// The open slot of a session, without data; none for one that is damaged, which lists leave out.
    pub(super) fn listed(self, id: SessionId) -> Result<Option<Arc<Record>>, Fault> {
        Ok(match whole(self.stored(id, Part::Head))?.flatten().map(|stored| stored.slot) {
            Some(Slot::Open(record)) => Some(record),
            Some(Slot::Ended(_)) | None => None,
        })
    }

    pub(super) fn digest(self, user: &str) -> UserDigest {
        digest_of(self.key, user)
    }

    /// All sessions of a user that were not ended, newest first.
    pub(super) fn sessions_of(self, user: &UserDigest) -> Result<Vec<Dated<SessionId>>, Fault> {
        self.dated(&layout::user(user))
    }

    /// What the markers in a directory stand for, latest first.
    fn dated(self, directory: &str) -> Result<Vec<Dated<SessionId>>, Fault> {
        let names = self.view.list(directory)?;
        let mut dated: Vec<Dated<SessionId>> = names.iter().filter_map(|name| name.parse().ok()).collect();
        dated.sort_unstable();
        dated.reverse();
        Ok(dated)
    }

    pub(super) fn user_at(self, digest: &UserDigest) -> Result<Option<(Arc<str>, UserSlot)>, Fault> {
        let file = layout::user_slot(digest);
        self.view.read(&file)?.map(|bytes| format::decode_user(&file, &bytes)).transpose()
    }

    pub(super) fn touch(self, touch: &SeenAt, now: Timestamp) -> Result<bool, Fault> {
        let file = layout::session(touch.id);
        let Some(bytes) = self.view.read(&file)? else { return Ok(false) };
        let mut stored = Stored::decode(&file, touch.id, &bytes, Part::Head)?;
        let Slot::Open(record) = &mut stored.slot else { return Ok(false) };
        if record.info.expiry(now).is_some() {
            return Ok(false);
        }
        if touch.at > record.info.last_seen_at {
            Arc::make_mut(record).info.last_seen_at = touch.at;
            self.write_line(&stored, &bytes);
        }
        Ok(true)
    }

    /// Writes the first line of a file anew; its data stay byte for byte.
    fn write_line(self, stored: &Stored, before: &[u8]) {
        let mut bytes = stored.encode_line();
        bytes.extend_from_slice(&before[format::first_line(before).unwrap_or(before.len())..]);
        self.view.write(layout::session(stored.slot.id()), bytes);
    }

    /// Writes the markers that lead to a slot, in the place of those that led to what was there.
    fn replace_markers(self, before: Option<&Stored>, after: &Stored) -> Result<(), Fault> {
        let markers = markers(after, self.key);
        for marker in before.iter().flat_map(|before| self::markers(before, self.key)) {
            if markers.contains(&marker) {
                continue;
            }
            let tries = marker.rsplit_once('/').map(|(directory, _)| directory).filter(|_| layout::is_try(&marker));
            if let Some(tries) = tries
                && self.latest_try(tries)? == Some(after.slot.id())
            {
                self.view.remove(layout::latest_try(tries));
            }
            self.view.remove(marker);
        }
        for marker in markers {
            self.view.mark(marker);
        }
        Ok(())
    }

    fn latest_try(self, tries: &str) -> Result<Option<SessionId>, Fault> {
        let file = layout::latest_try(tries);
        let read = self.view.read(&file)?.map(|bytes| format::decode(&file, &bytes)).transpose();
        Ok(whole(read)?.flatten())
    }

    /// Changes the first line of an open slot, and its markers with it.
    fn change_line(self, id: SessionId, change: impl FnOnce(&mut Stored)) -> Result<(), Fault> {
        let file = layout::session(id);
        let Some(bytes) = self.view.read(&file)? else { return Ok(()) };
        let before = Stored::decode(&file, id, &bytes, Part::Head)?;
        let mut after = before.clone();
        change(&mut after);
        self.replace_markers(Some(&before), &after)?;
        self.write_line(&after, &bytes);
        Ok(())
    }

    /// Sets aside what is damaged of a user's sessions: what is settled about the user now, they would not hear of.
    fn set_damaged_aside(self, user: &UserDigest) -> Result<(), Fault> {
        for marker in self.sessions_of(user)? {
            if whole(self.stored(marker.name, Part::Head))?.is_none() {
                let file = layout::session(marker.name);
                tracing::error!(
                    session = %marker.name,
                    "the file {file} is damaged and was moved to {}: it cannot be told what was settled about its user",
                    layout::set_aside(&file)
                );
                set_aside(self.view, file)?;
                self.view.remove(layout::session_of_user(user, marker.at, marker.name));
            }
        }
        Ok(())
    }
}

impl Tables for Within<'_> {
    type Fault = Fault;

    fn slot(&self, id: SessionId) -> Result<Option<Slot>, Fault> {
        Ok(self.stored(id, self.part)?.map(|stored| stored.slot))
    }

    fn user(&self, name: &str) -> Result<Option<UserSlot>, Fault> {
        Ok(self.user_at(&self.digest(name))?.map(|(_, slot)| slot))
    }

    fn count(&self, user: &str, now: Timestamp) -> Result<usize, Fault> {
        let mut count = 0;
        for marker in self.sessions_of(&self.digest(user))? {
            let record = self.listed(marker.name)?;
            let counts =
                record.is_some_and(|record| record.info.impersonator().is_none() && record.info.expiry(now).is_none());
            count += usize::from(counts);
        }
        Ok(count)
    }

    fn started_with(&self, partition: Partition, key: &Digest) -> Result<Option<SessionId>, Fault> {
        let directory = layout::tries_with(partition, key);
        let tries = self.dated(&directory)?;
        // Most often there is one.
        let latest = if tries.len() > 1 { self.latest_try(&directory)? } else { None };
        let latest = latest.filter(|latest| tries.iter().any(|a_try| a_try.name == *latest));
        Ok(latest.or(tries.first().map(|a_try| a_try.name)))
    }

    fn is_logged(&self, session: SessionId, entry: u64) -> Result<bool, Fault> {
        audit::is_logged(self.view, session, entry)
    }

    fn put(&self, slot: &Slot) -> Result<(), Fault> {
        let due = match slot {
            Slot::Open(record) => head::columns(record).due_at,
            Slot::Ended(_) => None,
        };
        let after = Stored { slot: slot.clone(), due };
        // What led to a damaged one is found by who looks for damage.
        let before = whole(self.stored(slot.id(), Part::Head))?.flatten();
        self.replace_markers(before.as_ref(), &after)?;
        if let Slot::Open(record) = slot
            && let Some(key) = &record.idempotency
        {
            let tries = layout::tries_with(record.info.id.partition(), key);
            self.view.write(layout::latest_try(&tries), format::encode(&record.info.id));
        }
        self.view.write(layout::session(slot.id()), after.encode());
        Ok(())
    }

    fn put_head(&self, record: &Record) -> Result<(), Fault> {
        self.change_line(record.info.id, |stored| {
            *stored = Stored { slot: Slot::Open(Arc::new(record.clone())), due: head::columns(record).due_at };
        })
    }

    fn put_data(&self, _before: &Data, record: &Record) -> Result<(), Fault> {
        let due = self.stored(record.info.id, Part::Head)?.and_then(|stored| stored.due);
        let stored = Stored { slot: Slot::Open(Arc::new(record.clone())), due };
        self.view.write(layout::session(record.info.id), stored.encode());
        Ok(())
    }

    fn put_due(&self, id: SessionId, due: Option<Timestamp>) -> Result<(), Fault> {
        self.change_line(id, |stored| stored.due = due)
    }

    fn put_user(&self, name: &str, slot: Option<&UserSlot>) -> Result<(), Fault> {
        let digest = self.digest(name);
        let before = self.user_at(&digest)?.map(|(_, slot)| slot);
        if before.as_ref().map(|slot| slot.revision) != slot.map(|slot| slot.revision) {
            self.set_damaged_aside(&digest)?;
        }
        let marker = |slot: Option<&UserSlot>| Some(Due::User.marker(slot?.due_at?, &digest));
        let (old, new) = (marker(before.as_ref()), marker(slot));
        if let Some(old) = old.filter(|old| new.as_ref() != Some(old)) {
            self.view.remove(old);
        }
        if let Some(new) = new {
            self.view.mark(new);
        }
        match slot {
            Some(slot) => self.view.write(layout::user_slot(&digest), format::encode_user(name, slot)),
            None => self.view.remove(layout::user_slot(&digest)),
        }
        Ok(())
    }

    fn log(&self, entry: &LogEntry) -> Result<(), Fault> {
        self.view.log(&format::encode_entry(entry));
        Ok(())
    }
}

pub(super) fn stored(view: &View<'_>, id: SessionId, part: Part) -> Result<Option<Stored>, Fault> {
    /// Longer than nearly every first line.
    const BEGINNING: usize = 4096;
    let file = layout::session(id);
    if part == Part::Head {
        let beginning = view.read_at(&file, 0, BEGINNING)?;
        if format::first_line(&beginning).is_some() {
            return Stored::decode(&file, id, &beginning, part).map(Some);
        }
    }
    view.read(&file)?.map(|bytes| Stored::decode(&file, id, &bytes, part)).transpose()
}

/// The empty files whose names lead to a slot.
pub(super) fn markers(stored: &Stored, key: &PartitionKey) -> Vec<String> {
    match &stored.slot {
        Slot::Open(record) => {
            let info = &record.info;
            let of_user = info.user.as_ref();
            let of_user = of_user.map(|user| layout::session_of_user(&digest_of(key, user), info.created_at, info.id));
            let a_try = record.idempotency.as_ref().map(|key| layout::a_try(key, info.created_at, info.id));
            let due = stored.due.map(|at| Due::Session.marker(at, info.id));
            [of_user, a_try, due].into_iter().flatten().collect()
        }
        Slot::Ended(slot) => vec![Due::Ended.marker(slot.ended.at, slot.ended.id)],
    }
}

fn digest_of(key: &PartitionKey, user: &str) -> UserDigest {
    UserDigest::new(&key.keyed_digest(user.as_bytes()))
}

/// What was read, unless its file is damaged.
pub(super) fn whole<T>(read: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Damaged { .. }) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Moves a damaged file to where nobody reads it.
pub(super) fn set_aside(view: &View<'_>, file: String) -> Result<(), Fault> {
    let bytes = view.read(&file)?.unwrap_or_default();
    // The journal holds UTF-8 alone.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    view.write(layout::set_aside(&file), text.into_bytes());
    view.remove(file);
    Ok(())
}

/// What is due by `now`, earliest first, behind a place, at most `most` and a little more.
pub(super) fn due<N: std::str::FromStr + Ord>(
    view: &View<'_>,
    kind: Due,
    after: Option<&Dated<N>>,
    now: Timestamp,
    most: usize,
) -> Result<Vec<Dated<N>>, Fault> {
    let root = kind.root();
    let from = after.map_or(Timestamp::EPOCH, |after| after.at);
    let mut due = Vec::new();
    for day in Due::passed(0, view.list(root)?, from, now) {
        let day = format!("{root}/{day}");
        for minute in Due::passed(1, view.list(&day)?, from, now) {
            let names = view.list(&format!("{day}/{minute}"))?;
            let dated = names.iter().filter_map(|name| name.parse::<Dated<N>>().ok());
            let behind = |dated: &Dated<N>| dated.at <= now && after.is_none_or(|after| dated > after);
            let mut passed: Vec<_> = dated.filter(behind).collect();
            passed.sort_unstable();
            due.extend(passed);
            if due.len() >= most {
                return Ok(due);
            }
        }
    }
    Ok(due)
}
