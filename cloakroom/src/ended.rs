//! How sessions end: the tombstone that stays for a while, and the reason the next request is told.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{clock::Timestamp, token::SessionId};

/// The tombstone of a session: kept for a while after the end, so that the next request learns why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The session that ended.
    pub id: SessionId,
    /// Who was signed in.
    pub user: Option<Arc<str>>,
    /// When it ended; for an expired session its deadline, however late that was noticed.
    pub at: Timestamp,
    /// Why it ended.
    pub reason: Reason,
    /// Who ended it, as [`AuditEntry::by`](crate::audit::AuditEntry::by) says it; `None` where the library itself decided.
    pub by: Option<Arc<str>>,
    /// What they noted about it.
    pub note: Option<Arc<str>>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} ended at {}: {}", self.id, self.at, self.reason.text())
    }
}

/// An ending to be carried out: why, by whom, and what they noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub reason: Reason,
    /// By whom; `None` when the library itself decides.
    pub by: Option<Arc<str>>,
    /// A remark for the audit log.
    pub note: Option<Arc<str>>,
}

impl Ending {
    /// For a reason, by nobody in particular.
    pub fn new(reason: Reason) -> Self {
        Self { reason, by: None, note: None }
    }

    /// Names who ends it.
    pub fn by(mut self, by: impl Into<Arc<str>>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// Adds a remark.
    pub fn note(mut self, note: impl Into<Arc<str>>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The tombstone this ending makes of a session.
    pub fn of(&self, id: SessionId, user: Option<Arc<str>>, now: Timestamp) -> Ended {
        Ended { id, user, at: now, reason: self.reason, by: self.by.clone(), note: self.note.clone() }
    }
}

impl From<Reason> for Ending {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident, $code:literal, $text:literal;)+) => {
        /// Why a session ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The stable name stores and the API use.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The sentence people read.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// The person signed out.
    SignedOut, "signed_out", "User Manually Logged Out";
    /// Nobody used it for as long as its idle timeout.
    IdleTimeout, "idle_timeout", "Session Expired";
    /// Its absolute end came.
    AbsoluteTimeout, "absolute_timeout", "Session Expired";
    /// The person signed in elsewhere and their session limit was reached.
    SignedInElsewhere, "signed_in_elsewhere", "Logged In From Another Session";
    /// The person ended it from another of their sessions.
    SignedOutElsewhere, "signed_out_elsewhere", "Force Logged out by the user";
    /// An administrator ended it.
    RevokedByAdmin, "revoked_by_admin", "Revoked by an administrator";
    /// The user was disabled or deleted.
    UserDisabled, "user_disabled", "User Disabled";
    /// Everyone's sessions were ended.
    AllRevoked, "all_revoked", "Deleted All Active Session";
    /// A token that had been replaced long ago was presented: two parties hold tokens of the session.
    TokenReuse, "token_reuse", "A replaced token was used again";
    /// Somebody acted as another, and has gone back.
    ImpersonationEnded, "impersonation_ended", "Impersonation Ended";
    /// A sign-in made a new session out of this one. For a short while requests that still carry its token leave the
    /// cookie alone: the browser may already hold the new one.
    Replaced, "replaced", "Replaced by a sign-in";
}

impl Reason {
    /// Whether the client may already hold the token of the session that took this one's place.
    pub const fn is_replacement(self) -> bool {
        matches!(self, Self::Replaced)
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// The text is not the name of a reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a reason; reasons are {}", Reason::ALL.iter().map(|reason| reason.code()).collect::<Vec<_>>().join(", "))]
pub struct ParseReasonError {
    text: String,
}

impl FromStr for Reason {
    type Err = ParseReasonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reason = Self::ALL.iter().find(|reason| reason.code() == text);
        reason.copied().ok_or_else(|| ParseReasonError { text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_that_parses_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.code().parse(), Ok(*reason));
        }
        let error = "bored".parse::<Reason>().unwrap_err().to_string();
        assert!(error.contains("bored") && error.contains("signed_out"), "{error}");
    }
}
