//! `cloakroom audit`.

use clap::Args;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Failure, Target, query};
use crate::{
    client::Client,
    output::{self, Style},
};

#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    about: About,
    /// Go on after this cursor
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// At most so many entries, oldest first [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    target: Target,
}

/// Which entries.
#[derive(Debug, Args)]
pub(super) struct About {
    /// About sessions of this user
    #[arg(long)]
    user: Option<String>,
    /// About this session
    #[arg(long, value_name = "ID", value_parser = super::id)]
    session: Option<String>,
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut reader = Reader::new(self.about, self.after);
        let mut left = self.limit.unwrap_or(usize::MAX);
        while left > 0 {
            let page = reader.read(&client, left.min(Reader::MOST))?;
            page.print(self.target.style())?;
            left -= page.entries.len().min(left);
            if !page.more {
                break;
            }
        }
        Ok(())
    }
}

/// Reads the log page by page.
pub(super) struct Reader {
    about: About,
    after: Option<String>,
}

/// Some entries, oldest first.
pub(super) struct Entries {
    entries: Vec<Box<RawValue>>,
    /// Whether there may be others behind them already.
    pub(super) more: bool,
}

impl Reader {
    /// As many as a page can have.
    pub(super) const MOST: usize = 500;

    pub(super) fn new(about: About, after: Option<String>) -> Self {
        Self { about, after }
    }

    /// The next entries, at most so many.
    pub(super) fn read(&mut self, client: &Client, most: usize) -> Result<Entries, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            entries: Vec<Box<RawValue>>,
            next: Option<String>,
        }

        #[derive(Deserialize)]
        struct Place {
            cursor: String,
        }

        let query = query(&[
            ("user", self.about.user.as_deref()),
            ("session", self.about.session.as_deref()),
            ("limit", Some(&most.to_string())),
            ("after", self.after.as_deref()),
        ]);
        let answer = client.call(Method::GET, &format!("/v1/audit{query}"), None)?;
        let Answer { entries, next } = serde_json::from_str(&answer)?;
        let more = next.is_some();
        if let Some(next) = next {
            self.after = Some(next);
        } else if let Some(last) = entries.last() {
            self.after = Some(serde_json::from_str::<Place>(last.get())?.cursor);
        }
        Ok(Entries { entries, more })
    }
}

impl Entries {
    /// A line each: a log of any length can be piped.
    pub(super) fn print(&self, style: Style) -> Result<(), Failure> {
        for entry in &self.entries {
            match style {
                Style::Json => output::line(entry.get()),
                Style::Human => serde_json::from_str::<output::Entry>(entry.get())?.print(),
            }
        }
        Ok(())
    }
}
