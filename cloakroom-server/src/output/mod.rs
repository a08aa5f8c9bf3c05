//! What people read in a terminal, and programs in a pipe. Everything that is written is checked: a full disk is a failure.

use std::io::{self, IsTerminal, Write};

use cloakroom::{Clock, Timestamp, clock::SystemClock};

use crate::escape;

mod members;
mod paint;
mod table;

pub(crate) use members::{Members, detail, details, entry};
pub(crate) use paint::Paint;
pub(crate) use table::{Column, Table, age};

/// For whom a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Human,
    Json,
}

/// Standard output does not take what is printed.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written: {0}")]
pub(crate) struct Unwritten(#[from] io::Error);

impl Unwritten {
    pub(crate) fn into_io(self) -> io::Error {
        self.0
    }

    /// Whether the reader closed the pipe, as `head` does when it has seen enough.
    pub(crate) fn is_reader_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints a line of text.
pub(crate) fn line(text: &str) -> Result<(), Unwritten> {
    painted_line(&escape::shown(text))
}

/// Prints JSON on a line.
pub(crate) fn json(json: &str) -> Result<(), Unwritten> {
    painted_line(&escape::shown_json(json))
}

/// Prints what this program made itself, as it is.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Unwritten> {
    Ok(io::stdout().write_all(bytes)?)
}

/// Prints a line that is safe already.
fn painted_line(text: &str) -> Result<(), Unwritten> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// Hands what was printed to the operating system.
pub(crate) fn flush() -> Result<(), Unwritten> {
    Ok(io::stdout().flush()?)
}

/// Tells a person something beside the output. If standard error does not take it, there is nowhere left to say so.
pub(crate) fn tell(text: &str) {
    let mut lines = text.lines().map(escape::shown);
    let first = lines.next().unwrap_or_default();
    // Indented, so that no text of a stranger's looks like a message of ours.
    let told = lines.fold(first.into_owned(), |told, line| told + "\n  " + &line);
    writeln!(io::stderr(), "{told}").unwrap_or_default();
}

/// What went wrong.
pub(crate) fn complain(text: &str) {
    let name = Paint::Bad.on("cloakroom:", io::stderr().is_terminal());
    write!(io::stderr(), "{name} ").unwrap_or_default();
    tell(text);
}

/// A time, and how far it is from now.
pub(crate) fn readable(time: Timestamp) -> String {
    relative(time, SystemClock.now())
}

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
}
