//! `cloakroom audit`.

use clap::Args;
use http::Method;
use serde::Deserialize;

use super::{Failure, Target, query};
use crate::output::{self, Style};

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// About sessions of this user
    #[arg(long)]
    user: Option<String>,
    /// About this session
    #[arg(long, value_name = "ID", value_parser = super::id)]
    session: Option<String>,
    /// Go on after this cursor
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// At most so many entries, oldest first [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Entries {
    entries: Vec<Box<serde_json::value::RawValue>>,
    next: Option<String>,
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut after = self.after.clone();
        let mut left = self.limit.unwrap_or(usize::MAX);
        while left > 0 {
            let page = left.min(500).to_string();
            let query = query(&[
                ("user", self.user.as_deref()),
                ("session", self.session.as_deref()),
                ("limit", Some(&page)),
                ("after", after.as_deref()),
            ]);
            let answer = client.call(Method::GET, &format!("/v1/audit{query}"), None)?;
            let page: Entries = serde_json::from_str(&answer)?;
            left -= page.entries.len().min(left);
            for entry in &page.entries {
                match self.target.style() {
                    // One document a line: a log of any length can be piped.
                    Style::Json => output::line(entry.get()),
                    Style::Human => serde_json::from_str::<output::Entry>(entry.get())?.print(),
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }
}
