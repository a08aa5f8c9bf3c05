//! What the application keeps in a session, and its routes.

use std::cell::Cell;

/// Ten values a session, as a shop might keep them: names and how their texts begin.
pub const KEYS: [&str; 10] =
    ["address", "campaign", "cart", "currency", "language", "last_page", "notice", "referrer", "theme", "visits"];

/// The one that is read.
pub const READ_KEY: &str = "last_page";

/// The one that is written.
pub const WRITTEN_KEY: &str = "visits";

/// Bytes of the keys and of the values as JSON.
pub const PAYLOAD_BYTES: usize = {
    let mut bytes = 0;
    let mut at = 0;
    while at < KEYS.len() {
        bytes += KEYS[at].len() + VALUE_LEN + 2;
        at += 1;
    }
    bytes
};

const VALUE_LEN: usize = 24;

/// The values of session `number`: each one's text is as long as every other.
pub fn data_of(number: usize) -> impl Iterator<Item = (&'static str, String)> {
    KEYS.into_iter().map(move |key| (key, format!("{key:-<12}{number:012}")))
}

/// Who is signed in to session `number`.
pub fn user_of(number: usize) -> String {
    format!("user{number:012}")
}

/// What a request asks of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nothing.
    Untouched,
    /// One key of ten.
    Read,
    /// One key, to a value it did not have.
    Write,
    /// A sign-in of the user who is signed in: a new session, or a new id, with the same data.
    SignIn,
}

impl Route {
    /// Every route.
    pub const ALL: [Self; 4] = [Self::Untouched, Self::Read, Self::Write, Self::SignIn];

    /// Where it is mounted.
    pub fn path(self) -> &'static str {
        match self {
            Self::Untouched => "/untouched",
            Self::Read => "/read",
            Self::Write => "/write",
            Self::SignIn => "/sign-in",
        }
    }
}

/// A number that this thread did not write before.
pub(crate) fn next_number() -> u64 {
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(1_000_000_000) });
    NEXT.with(|next| next.replace(next.get() + 1))
}
