//! What people read in a terminal.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use cloakroom::{Clock, SystemClock, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

/// For whom a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Human,
    Json,
}

/// A session, as the API shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Session {
    id: String,
    user: Option<String>,
    full_name: Option<String>,
    user_type: Option<String>,
    created_at: Timestamp,
    last_seen_at: Timestamp,
    expires_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    client: Client,
    impersonated_by: Option<String>,
    audit_user: Option<String>,
    version: u64,
    data: Option<BTreeMap<String, Box<RawValue>>>,
}

#[derive(Debug, Deserialize)]
struct Client {
    ip: Option<String>,
    user_agent: Option<String>,
    device: Option<String>,
}

impl Session {
    /// All there is to say about it.
    pub(crate) fn print(&self) {
        let optional = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                line(&format!("{name:<11} {value}"));
            }
        };
        let times = |name: &str, time: Option<Timestamp>| optional(name, time.map(readable).as_deref());
        optional("id", Some(&self.id));
        optional("user", Some(self.user.as_deref().unwrap_or("(anonymous)")));
        optional("full name", self.full_name.as_deref());
        optional("user type", self.user_type.as_deref());
        optional("acting", self.impersonated_by.as_deref());
        optional("audit user", self.audit_user.as_deref());
        optional("ip", self.client.ip.as_deref());
        optional("device", self.client.device.as_deref());
        optional("browser", self.client.user_agent.as_deref());
        times("created", Some(self.created_at));
        times("last seen", Some(self.last_seen_at));
        times("expires", self.expires_at);
        times("ends", self.ends_at);
        optional("version", Some(&self.version.to_string()));
        for (key, value) in self.data.iter().flatten() {
            line(&format!("data        {key} = {value}"));
        }
    }
}

/// A table of sessions.
pub(crate) fn sessions(sessions: &[Session]) {
    let mut rows = vec![["ID", "USER", "TYPE", "IP", "DEVICE", "LAST SEEN", "EXPIRES"].map(str::to_owned)];
    for session in sessions {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        rows.push([
            session.id.clone(),
            session.user.clone().unwrap_or_else(|| "(anonymous)".into()),
            or_dash(&session.user_type),
            or_dash(&session.client.ip),
            or_dash(&session.client.device),
            readable(session.last_seen_at),
            session.expires_at.map_or_else(|| "-".into(), readable),
        ]);
    }
    table(&rows);
}

/// A user of the directory, as the API shows them.
#[derive(Debug, Deserialize)]
pub(crate) struct User {
    id: String,
    enabled: bool,
    full_name: Option<String>,
    #[serde(rename = "user_type")]
    kind: Option<String>,
    session_limit: Option<u32>,
    when_full: Option<String>,
    allowed_networks: Vec<String>,
    last_sign_in: Option<LastSignIn>,
}

#[derive(Debug, Deserialize)]
struct LastSignIn {
    at: Timestamp,
    ip: Option<String>,
}

impl User {
    /// All there is to say about them.
    pub(crate) fn print(&self) {
        let row = |name: &str, value: &str| line(&format!("{name:<12} {value}"));
        row("user", &self.id);
        row("enabled", if self.enabled { "yes" } else { "no" });
        row("full name", self.full_name.as_deref().unwrap_or("-"));
        row("user type", self.kind.as_deref().unwrap_or("-"));
        row("sessions", &self.limit());
        row("from", &self.networks("anywhere"));
        row("last sign-in", &self.last_sign_in());
    }

    fn limit(&self) -> String {
        let max = self.session_limit.map(|max| max.to_string());
        match (max, self.when_full.as_deref()) {
            (None, None) => "-".into(),
            (max, when_full) => {
                format!("{}, {}", max.as_deref().unwrap_or("-"), when_full.unwrap_or("-"))
            }
        }
    }

    fn networks(&self, all: &str) -> String {
        if self.allowed_networks.is_empty() { all.into() } else { self.allowed_networks.join(", ") }
    }

    fn last_sign_in(&self) -> String {
        self.last_sign_in.as_ref().map_or_else(
            || "-".into(),
            |last| match &last.ip {
                Some(ip) => format!("{} from {ip}", readable(last.at)),
                None => readable(last.at),
            },
        )
    }
}

/// A table of users.
pub(crate) fn users(users: &[User]) {
    let mut rows = vec![["USER", "ENABLED", "NAME", "TYPE", "SESSIONS", "FROM", "LAST SIGN-IN"].map(str::to_owned)];
    for user in users {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        rows.push([
            user.id.clone(),
            if user.enabled { "yes" } else { "no" }.into(),
            or_dash(&user.full_name),
            or_dash(&user.kind),
            user.limit(),
            user.networks("-"),
            user.last_sign_in(),
        ]);
    }
    table(&rows);
}

/// An audit entry, as the API shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    at: Timestamp,
    event: String,
    session: String,
    user: Option<String>,
    impersonated_by: Option<String>,
    audit_user: Option<String>,
    ip: Option<String>,
    reason: Option<String>,
    by: Option<String>,
    note: Option<String>,
}

impl Entry {
    /// One line.
    pub(crate) fn print(&self) {
        let user = self.user.as_deref().unwrap_or("(anonymous)");
        let mut text = format!("{}  {:<12}  {}  {user}", seconds(self.at), self.event, self.session);
        for (name, value) in [
            ("reason", &self.reason),
            ("by", &self.by),
            ("acting", &self.impersonated_by),
            ("audit user", &self.audit_user),
            ("ip", &self.ip),
            ("note", &self.note),
        ] {
            if let Some(value) = value {
                write!(text, "  {name}: {value}").expect("writing to a string cannot fail");
            }
        }
        line(&text);
    }
}

/// Prints a line. What browsers named themselves may hold control characters; terminals obey them.
pub(crate) fn line(text: &str) {
    // A reader that has seen enough closed the pipe: nothing is left to do for it.
    if writeln!(io::stdout(), "{}", printable(text)).is_err() {
        READER_LEFT.store(true, Ordering::Relaxed);
    }
}

/// Whether somebody still reads what is printed, as far as the last line could tell.
pub(crate) fn is_read() -> bool {
    !READER_LEFT.load(Ordering::Relaxed)
}

static READER_LEFT: AtomicBool = AtomicBool::new(false);

/// The text without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

pub(crate) fn table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn readable(time: Timestamp) -> String {
    relative(time, SystemClock.now())
}

/// A time, and how far it is from now.
fn relative(time: Timestamp, now: Timestamp) -> String {
    let (distance, ahead) = if time > now { (time.since(now), true) } else { (now.since(time), false) };
    let minutes = distance.as_secs() / 60;
    let distance = match minutes {
        0 => format!("{} s", distance.as_secs()),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    };
    if ahead { format!("{} (in {distance})", seconds(time)) } else { format!("{} ({distance} ago)", seconds(time)) }
}

/// `2026-01-31 12:00:00Z`.
fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((whole, _)) => format!("{}Z", whole.replace('T', " ")),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        let time: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let at = |text: &str| relative(time, text.parse().unwrap());
        assert_eq!(at("2026-01-31T12:00:05Z"), "2026-01-31 12:00:00Z (5 s ago)");
        assert_eq!(at("2026-01-31T11:15:00Z"), "2026-01-31 12:00:00Z (in 45 min)");
        assert_eq!(at("2026-01-31T09:00:00Z"), "2026-01-31 12:00:00Z (in 3 h)");
        assert_eq!(at("2026-02-10T12:00:00Z"), "2026-01-31 12:00:00Z (10 days ago)");
    }

    #[test]
    fn terminals_are_told_nothing_by_strangers() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
