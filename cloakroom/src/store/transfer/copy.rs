//! Copying one store into another.

use std::{collections::VecDeque, sync::Arc};

use tokio::task::JoinHandle;

use super::{Imported, Item};
use crate::{
    Error, Result,
    store::{Cursor, Store},
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
    to.adopt_partition_key(from.partition_key()).await?;
    let mut copied = Copied::default();
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
            tell(&Progress { copied, reached });
        }
    }
    Ok(copied)
}

/// So many items travel together.
const BATCH: usize = 500;

/// So many batches are on their way.
const AT_ONCE: usize = 4;

struct Batch {
    importing: JoinHandle<Result<(Vec<Item>, Vec<Imported>)>>,
    reached: Option<Cursor>,
}

fn import(to: &Arc<dyn Store>, items: Vec<Item>) -> JoinHandle<Result<(Vec<Item>, Vec<Imported>)>> {
    let to = Arc::clone(to);
    tokio::spawn(async move {
        let imported = if items.is_empty() { Vec::new() } else { to.import(&items).await? };
        Ok((items, imported))
    })
}
