//! Colour, for terminals alone.

use std::{borrow::Cow, env};

/// What a text is, which a terminal shows in colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Heading,
    Good,
    Warning,
    Bad,
}

impl Paint {
    /// The text, in colour if it goes to a terminal of a person who did not ask for none.
    pub(crate) fn on(self, text: &str, terminal: bool) -> Cow<'_, str> {
        let code = match self {
            Self::Plain => return text.into(),
            Self::Heading => "1",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
        };
        if terminal && is_welcome() { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }
}

/// By the convention of <https://no-color.org>.
fn is_welcome() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}
