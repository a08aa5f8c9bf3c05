//! `cloakroom list`.

use clap::Args;
use cloakroom::{Clock, Timestamp, clock::SystemClock};
use http::Method;
use serde::Deserialize;

use super::{Failure, Target, query};
use crate::output::{self, Column, Members, Paint, Style, Table, age};

#[derive(Debug, Args)]
pub(super) struct List {
    /// Of this user
    #[arg(long)]
    user: Option<String>,
    /// Started from this address
    #[arg(long)]
    ip: Option<String>,
    /// On this device
    #[arg(long)]
    device: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// In full, however wide the terminal is
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Listed {
    sessions: Vec<Box<serde_json::value::RawValue>>,
    next: Option<String>,
}

impl List {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut sessions = Vec::new();
        let mut cursor: Option<String> = None;
        let mut more = false;
        while sessions.len() < self.limit {
            let page = (self.limit - sessions.len()).min(500).to_string();
            let query = query(&[
                ("user", self.user.as_deref()),
                ("ip", self.ip.as_deref()),
                ("device", self.device.as_deref()),
                ("limit", Some(&page)),
                ("cursor", cursor.as_deref()),
            ]);
            let answer = client.call(Method::GET, &format!("/v1/sessions{query}"), None)?;
            let listed: Listed = serde_json::from_str(&answer)?;
            sessions.extend(listed.sessions);
            more = listed.next.is_some();
            cursor = listed.next;
            if cursor.is_none() {
                break;
            }
        }
        match self.target.style() {
            Style::Json => output::json(&serde_json::json!({ "sessions": sessions }).to_string())?,
            Style::Human => {
                let sessions: Vec<Members> =
                    sessions.iter().map(|session| serde_json::from_str(session.get())).collect::<Result<_, _>>()?;
                print(&sessions, self.wide)?;
                if more {
                    output::tell("There may be more: ask with a larger --limit.");
                }
            }
        }
        Ok(())
    }
}

/// A line each. Where another person acts, or an auditor looks in, all lines say so.
fn print(sessions: &[Members], wide: bool) -> Result<(), Failure> {
    let now = SystemClock.now();
    let distance =
        |time: Option<Timestamp>| time.map(|time| age(time.since(now).max(now.since(time)))).unwrap_or_default();
    let others: Vec<_> = sessions.iter().map(another).collect();
    let shows_others = others.iter().any(Option::is_some);
    let mut columns = vec![Column::whole("ID"), Column::cut("USER", 6)];
    columns.extend(shows_others.then_some(Column::cut("REALLY", 6)));
    columns.extend([Column::cut("IP", 7), Column::cut("DEVICE", 6), Column::whole("SEEN"), Column::whole("EXPIRES")]);
    let mut table = Table::new(columns);
    for (session, another) in sessions.iter().zip(&others) {
        let text = |name: &str| session.text(name).unwrap_or_default();
        let (id, user, ip, device) = (text("id"), session.text("user"), text("client.ip"), text("client.device"));
        let (seen, expires) = (distance(session.time("last_seen_at")), distance(session.time("expires_at")));
        let mut cells = vec![(id.as_str(), Paint::Plain), (user.as_deref().unwrap_or("(anonymous)"), Paint::Plain)];
        let paint = if another.is_some() { Paint::Warning } else { Paint::Plain };
        cells.extend(shows_others.then(|| (another.as_deref().unwrap_or_default(), paint)));
        cells.extend([ip.as_str(), &device, &seen, &expires].map(|text| (text, Paint::Plain)));
        table.row(cells);
    }
    Ok(table.print(wide)?)
}

/// A person in the session who is not its user.
fn another(session: &Members) -> Option<String> {
    match (session.text("impersonated_by"), session.text("audit_user")) {
        (Some(actor), _) => Some(actor),
        (None, Some(auditor)) => Some(format!("{auditor} (audit)")),
        (None, None) => None,
    }
}
