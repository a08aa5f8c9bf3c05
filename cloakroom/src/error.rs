//! What can go wrong, by who can do what about it.

use std::{
    error::Error as StdError,
    fmt::{self, Write},
    time::Duration,
};

use crate::{admission::Refusal, assurance::Assurance, ended::Ended, period::rounded};

pub use crate::{
    audit::ParseEventError, client::ParseClientIpError, clock::ParseTimestampError, ended::ParseReasonError,
    network::ParseNetworkError, token::ParseSessionIdError,
};

/// A `Result` of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// What can go wrong, by who can do what about it.
///
/// That a session is missing, expired or ended is not an error but an answer, except where a caller needed it to live:
/// then it is [`Ended`](Error::Ended) or [`UnknownSession`](Error::UnknownSession).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The session ended meanwhile. The person may sign in again.
    #[error("{0}")]
    Ended(Box<Ended>),

    /// No such session, or it ended so long ago that it is forgotten.
    #[error("there is no such session")]
    UnknownSession,

    /// The store refused to start a session.
    #[error("{0}")]
    Refused(Refusal),

    /// Acting as another user is not allowed, or there is no such session to leave.
    #[error("acting as another user is refused: {0}")]
    ImpersonationRefused(ImpersonationRefusal),

    /// The person must prove who they are once more: see [`Session::reauthenticate`](crate::Session::reauthenticate).
    #[error("{}", reauthentication(*max_age, *level))]
    ReauthenticationRequired {
        /// How long ago they may have proved it.
        max_age: Option<Duration>,
        /// How strongly they must prove it.
        level: Option<Assurance>,
    },

    /// A key the application used cannot be stored. A mistake in the application.
    #[error("session key {key:?} cannot be used: {problem}")]
    InvalidKey {
        /// The key, shortened.
        key: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A value the application set is not JSON, or a stored one is not what the application expects. It is left as it is.
    #[error("the session's value of {key:?} cannot be {action}")]
    InvalidValue {
        /// The value's key.
        key: String,
        /// `encoded` or `decoded`.
        action: &'static str,
        /// What the codec said.
        source: serde_json::Error,
    },

    /// The session's data would be too large. Nothing was written.
    #[error(
        "the session's data would have {size} bytes, the limit is {limit}{}",
        key.as_ref().map(|key| format!("; the largest value being set is {key:?}")).unwrap_or_default()
    )]
    TooLarge {
        /// The largest value being set.
        key: Option<String>,
        /// How large the data would be.
        size: usize,
        /// How large it may be.
        limit: usize,
    },

    /// An argument is outside what is allowed. A mistake in the caller.
    #[error("{what}: {problem}")]
    InvalidArgument {
        /// Which argument.
        what: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// A cursor is not one that this store gave. A mistake in the caller.
    #[error("cursor: {problem}")]
    InvalidCursor {
        /// What is wrong with it.
        problem: String,
    },

    /// The response's head was sent already, so the cookie this needs cannot be set any more.
    #[error("the response's head was sent already: sign in, start or rotate before answering")]
    HeadSent,

    /// Somebody else held the session's lock for all the time there was. Retry later.
    #[error("the session is locked by another request; it was waited for {}", rounded(*waited))]
    Locked {
        /// How long was waited.
        waited: Duration,
    },

    /// The session's lock was held for longer than its lease, and is lost. Nothing was written under it since.
    #[error("the session's lock was held for longer than its lease: nothing was written")]
    LockLost,

    /// Others changed the same values again and again. Retry later.
    #[error("the session was changed by others {attempts} times in a row; try again")]
    Contended {
        /// How often the change was tried.
        attempts: u32,
    },

    /// The store cannot be used now. Retry later.
    #[error("the session store is unavailable: {message}")]
    Unavailable {
        /// What failed, and what may help.
        message: String,
        /// What the backend said.
        source: Option<Source>,
    },

    /// The store's answer did not come in time or was lost on its way, so whether the change was made is unknown. Repeating
    /// the same change is safe.
    #[error("whether the change was made is unknown: {}", unanswered(*after))]
    OutcomeUnknown {
        /// How long after the call it was given up; zero where the store answered that it cannot tell.
        after: Duration,
    },

    /// The service is in [read-only mode](crate::Builder::read_only): nothing was changed. Retry when it is over.
    #[error("sessions are read-only for now: nothing was changed")]
    ReadOnly,

    /// The store is set up wrongly, or what it holds is damaged. An operator must look.
    #[error("the session store cannot be used: {message}")]
    Store {
        /// What is wrong, and what to do.
        message: String,
        /// What the backend said.
        source: Option<Source>,
    },

    /// The store's address cannot be used as it stands.
    #[error("{0}")]
    StoreUrl(String),

    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Randomness {
        /// What it said.
        source: getrandom::Error,
    },
}

/// Why somebody may not act as somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImpersonationRefusal {
    /// The session is an anonymous visitor's.
    #[error("nobody is signed in")]
    NobodySignedIn,
    /// The session is not the actor's own: they act as another in it, or audit.
    #[error("this is somebody else's session already: go back first")]
    Nested,
    /// The impersonation is to stop, and the session is its user's own.
    #[error("this session is its user's own, so there is none to go back to")]
    NotImpersonating,
    /// No reason was given.
    #[error("say why: the reason is kept in the audit log")]
    NoReason,
    /// The other is the actor.
    #[error("this is the same person")]
    Oneself,
    /// The directory of users does not know the other.
    #[error("there is no such user")]
    UnknownUser,
    /// It would last no time, or longer than allowed.
    #[error("it must last some time, and at most {} (h:m:s)", crate::period::format_period(*most))]
    TooLong {
        /// How long it may last.
        most: Duration,
    },
    /// The deployment's policy protects this person, or does not trust the actor.
    #[error("the policy forbids it")]
    Policy,
}

impl ImpersonationRefusal {
    /// The stable name the API uses.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NobodySignedIn => "nobody_signed_in",
            Self::Nested => "nested",
            Self::NotImpersonating => "not_impersonating",
            Self::NoReason => "no_reason",
            Self::Oneself => "oneself",
            Self::UnknownUser => "unknown_user",
            Self::TooLong { .. } => "too_long",
            Self::Policy => "policy",
        }
    }
}

impl Error {
    /// The stable name of what went wrong: in the answers of the layers and of the server's API, and for an application that
    /// tells visitors in their own language.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Ended(_) => "session_ended",
            Self::UnknownSession => "session_unknown",
            Self::Refused(refusal) => refusal.code(),
            Self::ImpersonationRefused(_) => "impersonation_refused",
            Self::ReauthenticationRequired { .. } => "reauthentication_required",
            Self::InvalidKey { .. } => "invalid_key",
            Self::TooLarge { .. } => "data_too_large",
            Self::InvalidArgument { .. } => "invalid_field",
            Self::InvalidCursor { .. } => "invalid_parameter",
            Self::Locked { .. } => "locked",
            Self::LockLost => "lock_lost",
            Self::Contended { .. } => "contended",
            Self::Unavailable { .. } => "store_unavailable",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::ReadOnly => "read_only",
            Self::Store { .. } => "store_failed",
            Self::InvalidValue { .. } | Self::HeadSent | Self::StoreUrl(_) | Self::Randomness { .. } => "internal",
        }
    }

    /// Whether the same call may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Locked { .. }
                | Self::Contended { .. }
                | Self::Unavailable { .. }
                | Self::OutcomeUnknown { .. }
                | Self::ReadOnly
        )
    }

    /// [`Unavailable`](Self::Unavailable), for stores.
    pub fn unavailable(message: impl fmt::Display, source: impl Into<Source>) -> Self {
        Self::Unavailable { message: message.to_string(), source: Some(source.into()) }
    }

    /// [`Store`](Self::Store), for stores.
    pub fn store(message: impl fmt::Display, source: impl Into<Source>) -> Self {
        Self::Store { message: message.to_string(), source: Some(source.into()) }
    }

    pub(crate) fn randomness(source: getrandom::Error) -> Self {
        Self::Randomness { source }
    }
}

fn unanswered(after: Duration) -> String {
    if after.is_zero() {
        return "the session store cannot tell any more".into();
    }
    format!("no answer of the session store had come when it was given up, {} after the call", rounded(after))
}

fn reauthentication(max_age: Option<Duration>, level: Option<Assurance>) -> String {
    let mut text = String::from("confirm that it is you");
    if let Some(level) = level {
        write!(text, ", at level {}", level.number()).expect("writing to a string cannot fail");
    }
    if let Some(max_age) = max_age {
        let seconds = max_age.as_secs();
        write!(text, ": the last time must be at most {seconds} s ago").expect("writing to a string cannot fail");
    }
    text
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Self {
        Self::Ended(Box::new(ended))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_passed_are_not_told_as_deadlines_and_are_rounded_for_people() {
        let text = |after| Error::OutcomeUnknown { after }.to_string();
        let given_up =
            "whether the change was made is unknown: no answer of the session store had come when it was given up, ";
        assert_eq!(text(Duration::from_nanos(1_685_846)), format!("{given_up}2 ms after the call"));
        assert_eq!(text(Duration::from_micros(5_001_234)), format!("{given_up}5 s after the call"));
        assert_eq!(
            text(Duration::ZERO),
            "whether the change was made is unknown: the session store cannot tell any more"
        );
        let locked = Error::Locked { waited: Duration::from_nanos(1_549_846_001) }.to_string();
        assert!(locked.ends_with("it was waited for 1.5 s"), "{locked}");
    }
}
