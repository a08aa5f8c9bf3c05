//! How far a copy is, for a person who waits.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

pub(super) struct Shown {
    begin: Instant,
    before: u64,
    last: Instant,
    on_terminal: bool,
    /// A line is on the terminal that is not over yet.
    is_open: bool,
}

impl Shown {
    /// `before` items are done already.
    pub(super) fn new(before: u64) -> Self {
        let now = Instant::now();
        Self { begin: now, before, last: now, on_terminal: stderr().is_terminal(), is_open: false }
    }

    pub(super) fn tell(&mut self, items: u64) {
        let pause = if self.on_terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
        if self.last.elapsed() < pause {
            return;
        }
        self.last = Instant::now();
        let line = format!("{items} copied, {} a second", self.rate(items));
        if self.on_terminal {
            self.is_open = true;
            write!(stderr(), "\r{line}   ").unwrap_or_default();
        } else {
            writeln!(stderr(), "{line}").unwrap_or_default();
        }
    }

    pub(super) fn finish(&self) {
        if self.is_open {
            writeln!(stderr()).unwrap_or_default();
        }
    }

    fn rate(&self, items: u64) -> u128 {
        u128::from(items - self.before) * 1000 / self.begin.elapsed().as_millis().max(1)
    }
}
