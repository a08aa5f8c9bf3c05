//! `cloakroom migrate`.

use clap::Args;
use cloakroom::store::Schema;
use serde::Serialize;

use super::{Failure, target::on_stores};
use crate::{output, redact, stores};

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The store, such as postgres://USER:PASSWORD@HOST/DATABASE, or @FILE for an address in a file
    #[arg(value_name = "STORE-URL", env = "CLOAKROOM_STORE")]
    store: String,
    /// Say which version it has, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What it did, or would do.
#[derive(Debug, Serialize)]
struct Migrated<'a> {
    store: &'a str,
    found: Option<u32>,
    version: u32,
    changed: bool,
    dry_run: bool,
}

impl Migrate {
    pub(super) fn run(mut self) -> Result<(), Failure> {
        self.store = stores::address(&self.store)?;
        if self.store.starts_with("memory:") {
            return Err(Failure::new(Failure::USAGE, "memory: is new each time, there is nothing to migrate"));
        }
        let schema = on_stores(self.migrate())?;
        let shown = redact::address(&self.store);
        let Schema { found, latest } = schema;
        if self.json {
            let (changed, dry_run) = (found != Some(latest), self.dry_run);
            let migrated = Migrated { store: &shown, found, version: latest, changed, dry_run };
            return Ok(output::json(&serde_json::to_string(&migrated)?)?);
        }
        output::line(&match (found, self.dry_run) {
            (Some(found), _) if found == latest => format!("{shown} is current: version {latest}"),
            (Some(found), true) => format!("{shown} has version {found}, and would be brought to version {latest}"),
            (Some(found), false) => format!("{shown} had version {found}, and was brought to version {latest}"),
            (None, true) => format!("{shown} is not there yet, and would be made: version {latest}"),
            (None, false) => format!("{shown} was made: version {latest}"),
        })?;
        Ok(())
    }

    /// Answers with what was found.
    async fn migrate(&self) -> Result<Schema, Failure> {
        let schema = stores::schema(&self.store).await?;
        if schema.is_newer() && self.dry_run {
            let Schema { found, latest } = schema;
            let message = format!(
                "{} has version {}, and this program knows none beyond {latest}: use a newer program",
                redact::address(&self.store),
                found.unwrap_or_default(),
            );
            return Err(Failure::new(Failure::UNAVAILABLE, message));
        }
        if !self.dry_run {
            // It brings up to date what it opens, and refuses what is newer.
            stores::open(&self.store).await?;
        }
        Ok(schema)
    }
}
