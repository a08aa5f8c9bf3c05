//! `cloakroom copy`.

mod progress;
mod state;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use cloakroom::{
    store::{PartitionKey, Store},
    transfer::{self, Copied, Tally},
};
use serde::Serialize;

use self::{progress::Shown, state::State};
use super::{
    Failure,
    target::{expect_store, on_stores, setting},
};
use crate::{output, redact, stores};

#[derive(Debug, Args)]
#[command(
    after_help = "What was copied before is not written again: interrupted, the same command goes on where it was; \
                        run once more, it carries over what changed."
)]
pub(super) struct Copy {
    /// The store to read, such as sqlite:cloakroom.db, or @FILE for an address in a file; left out, the one in CLOAKROOM_STORE.
    /// Then the store to write, such as postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(value_names = ["FROM-URL", "TO-URL"], num_args = 1..=2, required = true)]
    stores: Vec<String>,
    #[arg(skip)]
    from: String,
    #[arg(skip)]
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
    pub(super) fn run(mut self) -> Result<(), Failure> {
        let mut named = std::mem::take(&mut self.stores);
        self.to = stores::address(&named.pop().unwrap_or_default())?;
        let from = named.pop().or_else(|| setting("CLOAKROOM_STORE")).ok_or_else(|| {
            Failure::new(Failure::USAGE, "name the store to read before the one to write, or set CLOAKROOM_STORE to it")
        })?;
        self.from = stores::address(&from)?;
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
        expect_store(&self.from).await?;
        Ok(stores::open(&self.from).await?)
    }

    async fn copy(&self) -> Result<(), Failure> {
        let from = self.source().await?;
        let to = stores::open(&self.to).await?;
        let source = fingerprint(from.partition_key());
        let mut state = State::load(&redact::address(&self.from), &redact::address(&self.to))?;
        // A target that was made anew has another key until it takes over the source's.
        let is_same = state.source == source && fingerprint(to.partition_key()) == source;
        if !is_same || self.restart {
            state.begin(source);
        }
        let resumed = state.items > 0;
        if resumed {
            output::tell(&format!("going on behind {} items that an earlier copy took", state.items));
        }
        let before = state.items;
        let mut shown = Shown::new(before);
        let mut failed = None;
        let copied = transfer::copy(&from, &to, state.reached(), |progress| {
            let items = before + total(&progress.copied);
            shown.tell(items);
            if let Some(reached) = &progress.reached {
                failed = state.save(items, reached).err().or(failed.take());
            }
        });
        let copied = copied.await;
        shown.finish();
        if let Some(failure) = failed {
            output::complain(&failure.message);
        }
        let copied = copied?;
        state.remove();
        self.print(&copied, resumed)
    }

    async fn count(&self) -> Result<(), Failure> {
        let from = self.source().await?;
        let to = stores::schema(&self.to).await?;
        let counted = transfer::count(&from).await?;
        let Copied { sessions, tombstones, fences, users, entries } = counted;
        if self.json {
            self.print(&counted, false)?;
        } else {
            let target = if to.found.is_some() { "which is there" } else { "which would be made" };
            output::line(&format!(
                "{} sessions, {} tombstones, {} fences, {} users and {entries} log entries would go to {}, {target}",
                sessions.total(),
                tombstones.total(),
                fences.total(),
                users.total(),
                redact::address(&self.to),
            ))?;
        }
        Ok(())
    }

    fn print(&self, copied: &Copied, resumed: bool) -> Result<(), Failure> {
        let Copied { sessions, tombstones, fences, users, entries } = copied;
        if self.json {
            let result = Report {
                from: redact::address(&self.from),
                to: redact::address(&self.to),
                dry_run: self.dry_run,
                resumed,
                sessions: sessions.into(),
                tombstones: tombstones.into(),
                fences: fences.into(),
                users: users.into(),
                log_entries: *entries,
            };
            return Ok(output::json(&serde_json::to_string(&result)?)?);
        }
        for (name, tally) in [("sessions", sessions), ("tombstones", tombstones), ("fences", fences), ("users", users)]
        {
            let Tally { added, updated, unchanged, kept } = tally;
            output::line(&format!(
                "{name:<11} {added} copied, {updated} brought up to date, {unchanged} were the same, {kept} are newer there"
            ))?;
        }
        output::line(&format!("{:<11} {entries} are there", "log entries"))?;
        Ok(())
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
    /// Entries of the audit log that the target has now.
    log_entries: u64,
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
    let Copied { sessions, tombstones, fences, users, entries } = copied;
    sessions.total() + tombstones.total() + fences.total() + users.total() + entries
}

/// Tells stores apart, and nothing about their keys.
fn fingerprint(key: &PartitionKey) -> String {
    URL_SAFE_NO_PAD.encode(&key.keyed_digest(b"cloakroom copy").as_bytes()[..9])
}
