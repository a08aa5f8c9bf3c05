//! `cloakroom copy`.

mod progress;
mod state;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use cloakroom::{
    PartitionKey,
    store::{self, Copied, Item, Store, Tally},
};
use serde::Serialize;

use self::{progress::Shown, state::State};
use super::{Failure, on_stores};
use crate::{config::without_password, output};

#[derive(Debug, Args)]
#[command(
    after_help = "What was copied before is not written again: interrupted, the same command goes on where it was; \
                        run once more, it carries over what changed."
)]
pub(super) struct Copy {
    /// The store to read, such as sqlite:cloakroom.db
    #[arg(value_name = "FROM-URL")]
    from: String,
    /// The store to write, such as postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(value_name = "TO-URL")]
    to: String,
    /// Count what there is to copy, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Begin at the beginning, even if an earlier copy was interrupted
    #[arg(long)]
    restart: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Copy {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.from == self.to {
            return Err(Failure::new(Failure::USAGE, "the two stores are the same one: name another one to copy to"));
        }
        if [&self.from, &self.to].iter().any(|store| store.starts_with("memory:")) {
            let message = "memory: is this program's own memory, which ends with it: name a store that stays";
            return Err(Failure::new(Failure::USAGE, message));
        }
        on_stores(async {
            if self.dry_run {
                return self.count().await;
            }
            tokio::select! {
                done = self.copy() => done,
                _ = tokio::signal::ctrl_c() => {
                    let message = "interrupted: what was copied stays, and the same command goes on from there";
                    Err(Failure::new(Failure::FAILED, message))
                }
            }
        })
    }

    async fn source(&self) -> Result<Arc<dyn Store>, Failure> {
        super::expect_store(&self.from).await?;
        Ok(store::open(&self.from).await?)
    }

    async fn copy(&self) -> Result<(), Failure> {
        let from = self.source().await?;
        let to = store::open(&self.to).await?;
        let source = fingerprint(from.partition_key());
        let mut state = State::load(&without_password(&self.from), &without_password(&self.to))?;
        // A target that was made anew has another key until it takes over the source's.
        let is_same = state.source == source && fingerprint(to.partition_key()) == source;
        if !is_same || self.restart {
            state.begin(source);
        }
        let resumed = state.items > 0;
        if resumed {
            eprintln!("going on behind {} items that an earlier copy took", state.items);
        }
        let before = state.items;
        let mut shown = Shown::new(before);
        let mut failed = None;
        let copied = store::copy(&from, &to, state.reached(), |progress| {
            let items = before + total(&progress.copied);
            shown.tell(items);
            if let Some(reached) = &progress.reached {
                failed = state.save(items, reached).err().or(failed.take());
            }
        });
        let copied = copied.await;
        shown.finish();
        if let Some(failure) = failed {
            eprintln!("cloakroom: {}", failure.message);
        }
        let copied = copied?;
        state.remove();
        self.print(&copied, resumed);
        Ok(())
    }

    async fn count(&self) -> Result<(), Failure> {
        let from = self.source().await?;
        let to = store::schema(&self.to).await?;
        let mut counted = Copied::default();
        let mut after = None;
        loop {
            let page = from.export(after.as_ref(), 500).await?;
            for item in &page.items {
                match item {
                    Item::Session(_) => counted.sessions.added += 1,
                    Item::Ended(_) => counted.tombstones.added += 1,
                    Item::Fence(_) => counted.fences.added += 1,
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = from.users(after.as_ref(), 500).await?;
            counted.users.added += page.items.len() as u64;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let Copied { sessions, tombstones, fences, users } = counted;
        if self.json {
            self.print(&counted, false);
        } else {
            let target = if to.found.is_some() { "which is there" } else { "which would be made" };
            output::line(&format!(
                "{} sessions, {} tombstones, {} fences and {} users would go to {}, {target}",
                sessions.total(),
                tombstones.total(),
                fences.total(),
                users.total(),
                without_password(&self.to),
            ));
        }
        Ok(())
    }

    fn print(&self, copied: &Copied, resumed: bool) {
        let Copied { sessions, tombstones, fences, users } = copied;
        if self.json {
            let result = Report {
                from: without_password(&self.from),
                to: without_password(&self.to),
                dry_run: self.dry_run,
                resumed,
                sessions: sessions.into(),
                tombstones: tombstones.into(),
                fences: fences.into(),
                users: users.into(),
            };
            output::line(&serde_json::to_string(&result).expect("it has string keys"));
            return;
        }
        for (name, tally) in [("sessions", sessions), ("tombstones", tombstones), ("fences", fences), ("users", users)]
        {
            let Tally { added, updated, unchanged, kept } = tally;
            output::line(&format!(
                "{name:<11} {added} copied, {updated} brought up to date, {unchanged} were the same, {kept} are newer there"
            ));
        }
    }
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Report {
    from: String,
    to: String,
    dry_run: bool,
    resumed: bool,
    sessions: Counts,
    tombstones: Counts,
    fences: Counts,
    users: Counts,
}

#[derive(Debug, Serialize)]
struct Counts {
    added: u64,
    updated: u64,
    unchanged: u64,
    kept: u64,
}

impl From<&Tally> for Counts {
    fn from(tally: &Tally) -> Self {
        let Tally { added, updated, unchanged, kept } = *tally;
        Self { added, updated, unchanged, kept }
    }
}

fn total(copied: &Copied) -> u64 {
    let Copied { sessions, tombstones, fences, users } = copied;
    sessions.total() + tombstones.total() + fences.total() + users.total()
}

/// Tells stores apart, and nothing about their keys.
fn fingerprint(key: &PartitionKey) -> String {
    URL_SAFE_NO_PAD.encode(&key.keyed_digest(b"cloakroom copy").as_bytes()[..9])
}
