//! Looking after a store: what is wrong with it, said in words, and mended where that can be done.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It is as it should be.
    Fine,
    /// Worth knowing, or could not be looked at.
    Note,
    /// It works, and promises less than it could: see whether that was meant so.
    Warning,
    /// Sessions are wrong, or will be.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub subject: String,
    /// How bad it is. What was repaired keeps the severity it had.
    pub severity: Severity,
    /// What is so, and if it is wrong, what to do about it.
    pub text: String,
    /// Whether it was wrong and is mended.
    pub repaired: bool,
}

impl Finding {
    /// What was looked at is as it should be.
    pub fn fine(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Fine, subject, text)
    }

    /// Worth knowing.
    pub fn note(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Note, subject, text)
    }

    /// It promises less than it could.
    pub fn warning(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Warning, subject, text)
    }

    /// Sessions are wrong, or will be.
    pub fn error(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Error, subject, text)
    }

    fn new(severity: Severity, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { subject: subject.into(), severity, text: text.into(), repaired: false }
    }

    /// The same, and whether it is mended.
    #[must_use]
    pub fn repaired(self, repaired: bool) -> Self {
        Self { repaired, ..self }
    }

    /// Whether something is wrong still.
    pub fn is_wrong(&self) -> bool {
        self.severity == Severity::Error && !self.repaired
    }
}

/// Things of one kind that are wrong: how many, and a few of them by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage {
    count: usize,
    repaired: usize,
    examples: Vec<String>,
}

impl Damage {
    const EXAMPLES: usize = 3;

    pub(crate) fn add(&mut self, example: impl fmt::Display, repaired: bool) {
        self.count += 1;
        self.repaired += usize::from(repaired);
        if self.examples.len() < Self::EXAMPLES {
            self.examples.push(example.to_string());
        }
    }

    /// What to say: nothing if there is none. `what` reads on from a number, `consequence` is a sentence or two.
    pub(crate) fn finding(&self, subject: &str, what: &str, consequence: &str, remedy: &str) -> Option<Finding> {
        if self.count == 0 {
            return None;
        }
        let more = if self.count > self.examples.len() { ", …" } else { "" };
        let done = match self.repaired {
            0 => String::new(),
            repaired if repaired == self.count => " Repaired.".into(),
            repaired => format!(" {repaired} of them repaired."),
        };
        let repaired = self.repaired == self.count;
        let remedy = if repaired { String::new() } else { format!(" {remedy}") };
        let text = format!("{} {what} ({}{more}). {consequence}{remedy}{done}", self.count, self.examples.join(", "));
        Some(Finding::error(subject, text).repaired(repaired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_repaired_is_wrong_no_longer() {
        let finding = Finding::error("index", "a session is not listed");
        assert!(finding.is_wrong() && !finding.clone().repaired(true).is_wrong());
        assert!(!Finding::warning("disk", "it is a network's").is_wrong());
        assert_eq!(format!("{:<8}|", Severity::Note), "note    |");
    }

    #[test]
    fn damage_is_counted_and_a_few_of_it_are_named() {
        let mut damage = Damage::default();
        assert_eq!(damage.finding("index", "sessions", "", ""), None);
        (0..5).for_each(|n| damage.add(format!("s{n}"), n > 0));
        let finding = damage.finding("index", "sessions are not listed", "Limits miss them.", "Use --repair.").unwrap();
        let text = "5 sessions are not listed (s0, s1, s2, …). Limits miss them. Use --repair. 4 of them repaired.";
        assert_eq!((finding.text.as_str(), finding.repaired), (text, false));
    }
}
