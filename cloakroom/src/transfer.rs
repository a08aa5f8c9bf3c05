//! Copying what one store holds into another.
//!
//! ```
//! use std::sync::Arc;
//! use cloakroom::{
//!     store::{MemoryStore, Store},
//!     transfer::copy,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> cloakroom::Result<()> {
//! let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(MemoryStore::new()?), Arc::new(MemoryStore::new()?));
//! let copied = copy(&from, &to, None, |_| {}).await?;
//! assert_eq!(copied.sessions.total(), 0);
//! # Ok(())
//! # }
//! ```

use std::{collections::VecDeque, sync::Arc};

use tokio::task::{JoinHandle, JoinSet};

use crate::{
    error::{Error, Result},
    rules::{Imported, Item, Rules},
    store::{AuditQuery, Cursor, PutUser, Store, StoredUser},
};

/// How much was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Sessions.
    pub sessions: Tally,
    /// Tombstones, which tell why a session ended.
    pub tombstones: Tally,
    /// Fences, which keep out users who were disabled or whose sessions were all ended.
    pub fences: Tally,
    /// Entries of the directory of users.
    pub users: Tally,
    /// Entries of the audit log that the target has now.
    pub entries: u64,
}

/// What became of items of one kind. See [`Imported`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Were not there.
    pub added: u64,
    /// Replaced something older.
    pub updated: u64,
    /// Were there exactly so.
    pub unchanged: u64,
    /// Found something newer, or an end, which stays.
    pub kept: u64,
}

impl Tally {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { added, updated, unchanged, kept } = self;
        added + updated + unchanged + kept
    }

    fn count(&mut self, imported: Imported) {
        *match imported {
            Imported::Added => &mut self.added,
            Imported::Updated => &mut self.updated,
            Imported::Unchanged => &mut self.unchanged,
            Imported::Kept => &mut self.kept,
        } += 1;
    }
}

impl Copied {
    fn count(&mut self, batch: &[Item], imported: &[Imported]) {
        for (item, imported) in batch.iter().zip(imported) {
            match item {
                Item::Session(_) => self.sessions.count(*imported),
                Item::Ended(_) => self.tombstones.count(*imported),
                Item::Fence(_) => self.fences.count(*imported),
            }
        }
    }
}

/// How far a copy has come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What this copy has done.
    pub copied: Copied,
    /// Everything before this place is in the target; `None` when all of it is.
    pub reached: Option<Cursor>,
}

/// Copies everything from one store into another, which takes over its partition key: what the source has and the
/// target has not, or has older. `after` is where an earlier copy had [come](Progress::reached); `tell` hears of each batch
/// that the target has taken.
///
/// Copy once more what changed meanwhile: it is a fraction of the time, for what is the same is not written again. The
/// last copy must begin after the last change to the source, and end before the target is used. Two copies must not be
/// further apart than the source keeps tombstones: a session whose end it has forgotten would live on in the target.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if the target holds sessions of its own; whatever either store answers. What was copied
/// by then stays.
pub async fn copy(
    from: &Arc<dyn Store>,
    to: &Arc<dyn Store>,
    after: Option<Cursor>,
    mut tell: impl FnMut(&Progress),
) -> Result<Copied> {
    let mut place = Some(Place::parse(after)?);
    let (from, to) = (&Rules::new(Arc::clone(from)), &Rules::new(Arc::clone(to)));
    to.adopt_partition_key(from.partition_key()).await?;
    let mut copied = Copied::default();
    while let Some(part) = place {
        place = match part {
            Place::Items(after) => {
                copy_items(from, to, after, &mut copied, &mut tell).await?;
                Some(Place::Users(None))
            }
            Place::Users(after) => {
                copy_users(from, to, after, &mut copied, &mut tell).await?;
                Some(Place::Log(None))
            }
            Place::Log(after) => {
                copy_log(from, to, after, &mut copied, &mut tell).await?;
                None
            }
        };
    }
    Ok(copied)
}

/// What a copy of this store would take, all of it as [added](Tally::added). Changes nothing.
pub async fn count(from: &Arc<dyn Store>) -> Result<Copied> {
    let from = Rules::new(Arc::clone(from));
    let mut counted = Copied::default();
    let mut after = None;
    loop {
        let page = from.export(after.as_ref(), BATCH).await?;
        let added = vec![Imported::Added; page.items.len()];
        counted.count(&page.items, &added);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    loop {
        let page = from.users(after.as_ref(), BATCH).await?;
        counted.users.added += page.items.len() as u64;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    loop {
        let page = from.audit(&AuditQuery::default(), after.as_ref(), BATCH).await?;
        counted.entries += page.items.len() as u64;
        after = page.next;
        if after.is_none() {
            return Ok(counted);
        }
    }
}

async fn copy_items(
    from: &Rules,
    to: &Rules,
    after: Option<Cursor>,
    copied: &mut Copied,
    tell: &mut impl FnMut(&Progress),
) -> Result<()> {
    let mut under_way = VecDeque::new();
    let mut place = Some(after);
    while place.is_some() || !under_way.is_empty() {
        if under_way.len() < AT_ONCE
            && let Some(after) = place.take()
        {
            let page = from.export(after.as_ref(), BATCH).await?;
            place = page.next.clone().map(Some);
            under_way.push_back(Batch { importing: import(to, page.items), reached: page.next });
            continue;
        }
        // In the order they were read, so that nothing before the place that was reached is missing.
        if let Some(Batch { importing, reached }) = under_way.pop_front() {
            let (items, imported) = importing.await.map_err(|error| Error::store("a task panicked", error))??;
            copied.count(&items, &imported);
            let reached = reached.map_or(Place::Users(None), |reached| Place::Items(Some(reached)));
            tell(&Progress { copied: *copied, reached: Some(reached.cursor()) });
        }
    }
    Ok(())
}

async fn copy_users(
    from: &Rules,
    to: &Rules,
    mut after: Option<Cursor>,
    copied: &mut Copied,
    tell: &mut impl FnMut(&Progress),
) -> Result<()> {
    loop {
        let page = from.users(after.as_ref(), BATCH).await?;
        for imported in put_users(to, page.items).await? {
            copied.users.count(imported);
        }
        let reached = page.next.clone().map_or(Place::Log(None), |next| Place::Users(Some(next)));
        tell(&Progress { copied: *copied, reached: Some(reached.cursor()) });
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Entries of one session stay in their order: one page after the other.
async fn copy_log(
    from: &Rules,
    to: &Rules,
    mut after: Option<Cursor>,
    copied: &mut Copied,
    tell: &mut impl FnMut(&Progress),
) -> Result<()> {
    loop {
        let page = from.audit(&AuditQuery::default(), after.as_ref(), BATCH).await?;
        copied.entries += page.items.len() as u64;
        to.import_log(page.items).await?;
        let reached = page.next.clone().map(|next| Place::Log(Some(next)).cursor());
        tell(&Progress { copied: *copied, reached });
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// How far a copy has come: in what the source exports, in its directory, or in its audit log.
enum Place {
    Items(Option<Cursor>),
    Users(Option<Cursor>),
    Log(Option<Cursor>),
}

impl Place {
    fn parse(cursor: Option<Cursor>) -> Result<Self> {
        let Some(cursor) = cursor else { return Ok(Self::Items(None)) };
        match cursor.as_str().split_once('/') {
            Some(("items", place)) => Ok(Self::Items(Some(Cursor::new(place)))),
            Some(("users", "")) => Ok(Self::Users(None)),
            Some(("users", place)) => Ok(Self::Users(Some(Cursor::new(place)))),
            Some(("log", "")) => Ok(Self::Log(None)),
            Some(("log", place)) => Ok(Self::Log(Some(Cursor::new(place)))),
            _ => Err(Cursor::invalid()),
        }
    }

    fn cursor(self) -> Cursor {
        let (kind, place) = match &self {
            Self::Items(place) => ("items", place),
            Self::Users(place) => ("users", place),
            Self::Log(place) => ("log", place),
        };
        Cursor::new(format!("{kind}/{}", place.as_ref().map_or("", Cursor::as_str)))
    }
}

/// So many items travel together.
const BATCH: usize = 500;

/// So many batches are on their way.
const AT_ONCE: usize = 4;

struct Batch {
    importing: JoinHandle<Result<(Vec<Item>, Vec<Imported>)>>,
    reached: Option<Cursor>,
}

fn import(to: &Rules, items: Vec<Item>) -> JoinHandle<Result<(Vec<Item>, Vec<Imported>)>> {
    let to = to.clone();
    tokio::spawn(async move {
        let imported = if items.is_empty() { Vec::new() } else { to.import(&items).await? };
        Ok((items, imported))
    })
}

/// Puts users into the target as they are, many at the same time.
async fn put_users(to: &Rules, users: Vec<StoredUser>) -> Result<Vec<Imported>> {
    let (mut users, mut putting, mut imported) = (users.into_iter(), JoinSet::new(), Vec::new());
    loop {
        while putting.len() < USERS_AT_ONCE
            && let Some(user) = users.next()
        {
            let to = to.clone();
            putting.spawn(async move { put_user(&to, user).await });
        }
        match putting.join_next().await {
            Some(put) => imported.push(put.map_err(|error| Error::store("a task panicked", error))??),
            None => return Ok(imported),
        }
    }
}

/// So many users are written at the same time.
const USERS_AT_ONCE: usize = 32;

/// The source's settings count, and the later sign-in.
async fn put_user(to: &Rules, user: StoredUser) -> Result<Imported> {
    let there = to.user(&user.user).await?;
    if there.as_ref() == Some(&user) {
        return Ok(Imported::Unchanged);
    }
    let StoredUser { user, settings, last_sign_in } = user;
    let was = there.map(|there| there.settings);
    let done = if was.is_none() { Imported::Added } else { Imported::Updated };
    let put = PutUser { user, was, settings: Some(settings), last_sign_in };
    // Another writer settled it meanwhile.
    Ok(if to.put_user(&put).await? { done } else { Imported::Kept })
}
