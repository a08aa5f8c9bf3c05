//! Which sign-ins are admitted: how many sessions a user may have, and why there is no further one.

/// How many sessions a user may have at once, and what a further sign-in does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At least 1.
    pub max: u32,
    /// What a sign-in beyond it does.
    pub when_full: WhenFull,
}

impl Limit {
    /// A limit that ends the least recently seen sessions to make room.
    pub const fn evict(max: u32) -> Self {
        Self { max, when_full: WhenFull::Evict }
    }

    /// A limit that refuses further sign-ins.
    pub const fn refuse(max: u32) -> Self {
        Self { max, when_full: WhenFull::Refuse }
    }
}

/// What a sign-in beyond the limit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Ends the least recently seen sessions.
    Evict,
    /// Is refused.
    Refuse,
}

/// Why a session was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The user has as many sessions as allowed.
    #[error("the limit of {max} sessions is reached: sign out elsewhere first")]
    LimitReached {
        /// The limit.
        max: u32,
    },
    /// The user is disabled.
    #[error("the user is disabled")]
    UserDisabled,
    /// All sessions of the user were ended after the person had authenticated.
    #[error("all sessions of the user were ended while this sign-in was under way: sign in again")]
    EndedMeanwhile,
    /// The directory of users lets them in from some networks only, and this is none of them.
    #[error("the user may not come from this address")]
    NetworkNotAllowed,
    /// The directory of users does not know them, and only those it knows are let in.
    #[error("the user is not in the directory")]
    NotInDirectory,
    /// The deployment's [policy](crate::Builder::may_audit) does not let the auditor in.
    #[error("the policy does not let this auditor into the user's account")]
    AuditForbidden,
}

impl Refusal {
    /// The stable name of why: in answers, and for an application that tells visitors in their own language.
    pub const fn code(self) -> &'static str {
        match self {
            Self::LimitReached { .. } => "session_limit",
            Self::UserDisabled => "user_disabled",
            Self::EndedMeanwhile => "ended_meanwhile",
            Self::NetworkNotAllowed => "network_not_allowed",
            Self::NotInDirectory => "not_in_directory",
            Self::AuditForbidden => "audit_forbidden",
        }
    }
}
