//! Accounts of this machine: which one this process runs as, and what the others are called.

use std::{fmt, fs};

/// An account, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account(pub(crate) u32);

/// The one whose rights this process has.
pub(crate) fn effective() -> Account {
    Account(rustix::process::geteuid().as_raw())
}

impl Account {
    fn name(self) -> Option<String> {
        let accounts = fs::read_to_string("/etc/passwd").ok()?;
        let named = accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?);
            (id.parse() == Ok(self.0)).then_some(name)
        });
        named.map(str::to_owned)
    }

    /// As `sudo -u` takes it.
    pub(crate) fn for_sudo(self) -> String {
        self.name().unwrap_or_else(|| format!("'#{}'", self.0))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (uid {})", self.0),
            None => write!(f, "uid {}", self.0),
        }
    }
}
