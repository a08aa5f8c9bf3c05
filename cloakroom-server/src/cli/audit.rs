//! `cloakroom audit`.

use std::collections::VecDeque;

use clap::Args;
use cloakroom::{Clock, Timestamp, audit::Event, clock::SystemClock, period::parse_period};
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Failure, Target, query};
use crate::{
    client::Client,
    output::{self, Members, Style},
};

#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    about: About,
    /// Since then: a time such as 2030-01-31T12:00:00Z, a day, or so long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Until then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// So many, the latest first
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with_all = ["all", "after"])]
    limit: usize,
    /// All of them, the oldest first
    #[arg(long)]
    all: bool,
    /// All of them behind this cursor, the oldest first
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
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
    /// Of this kind, such as signed_in or ended; may be given several times
    #[arg(long, value_name = "EVENT")]
    event: Vec<Event>,
}

/// A time, a day, or how long ago.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(span) = parse_period(text) {
        return Ok(SystemClock.now().before(span));
    }
    let day = format!("{text}T00:00:00Z");
    text.parse().or_else(|_| day.parse()).map_err(|_| {
        "write a time such as 2030-01-31T12:00:00Z, a day such as 2030-01-31, or how long ago, such as 90m or 2d"
            .to_owned()
    })
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let style = self.target.style();
        let (since, until) = (self.since, self.until);
        let is_wanted =
            |entry: &Entry| since.is_none_or(|since| entry.at >= since) && until.is_none_or(|until| entry.at <= until);
        let in_order = self.all || self.after.is_some();
        let mut reader = Reader::new(self.about, self.after);
        let mut latest = VecDeque::new();
        let mut left_out = false;
        loop {
            let page = reader.read(&client)?;
            for entry in page.entries.into_iter().filter(is_wanted) {
                if in_order {
                    entry.print(style)?;
                    continue;
                }
                latest.push_front(entry);
                if latest.len() > self.limit {
                    latest.pop_back();
                    left_out = true;
                }
            }
            if !page.more {
                break;
            }
        }
        latest.iter().try_for_each(|entry| entry.print(style))?;
        if left_out {
            output::tell("There are older ones: ask with a larger --limit, or for --all.");
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
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// Whether there may be others behind them already.
    pub(super) more: bool,
}

/// An entry, as the API has it.
pub(super) struct Entry {
    at: Timestamp,
    json: Box<RawValue>,
}

impl Reader {
    pub(super) fn new(about: About, after: Option<String>) -> Self {
        Self { about, after }
    }

    /// The next entries.
    pub(super) fn read(&mut self, client: &Client) -> Result<Page, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            entries: Vec<Box<RawValue>>,
            next: Option<String>,
        }

        #[derive(Deserialize)]
        struct Known {
            cursor: String,
            at: Timestamp,
            event: String,
        }

        let query = query(&[
            ("user", self.about.user.as_deref()),
            ("session", self.about.session.as_deref()),
            ("limit", Some("500")),
            ("after", self.after.as_deref()),
        ]);
        let answer = client.call(Method::GET, &format!("/v1/audit{query}"), None)?;
        let Answer { entries, next } = serde_json::from_str(&answer)?;
        let mut page = Page { entries: Vec::with_capacity(entries.len()), more: next.is_some() };
        for json in entries {
            let Known { cursor, at, event } = serde_json::from_str(json.get())?;
            self.after = Some(cursor);
            if self.about.event.is_empty() || self.about.event.iter().any(|wanted| wanted.code() == event) {
                page.entries.push(Entry { at, json });
            }
        }
        self.after = next.or(self.after.take());
        Ok(page)
    }
}

impl Entry {
    /// A line each: a log of any length can be piped.
    pub(super) fn print(&self, style: Style) -> Result<(), Failure> {
        match style {
            Style::Json => output::json(self.json.get())?,
            Style::Human => output::entry(&serde_json::from_str::<Members>(self.json.get())?)?,
        }
        Ok(())
    }
}
