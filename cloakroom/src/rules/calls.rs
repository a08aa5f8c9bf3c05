//! What the calls of the rules take, and what they answer.

use std::{sync::Arc, time::Duration};

use crate::{
    admission::{Limit, Refusal},
    audit::{AuditEntry, Event},
    clock::Timestamp,
    ended::Ended,
    error::Error,
    record::Record,
    secrets::Secrets,
    token::{Digest, SessionId},
};

/// What became of an attempt to lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locked {
    /// The caller holds the lock, under the number in [`Record::lease`].
    Granted(Arc<Record>),
    /// Somebody else holds it, until then at the latest.
    Held {
        /// When that lease runs out.
        until: Timestamp,
    },
    /// There is no such living session.
    Gone(Gone),
}

/// A record to create, and what must hold for it.
#[derive(Clone, Debug)]
pub struct Create {
    /// The record. Its id is a fresh one: only a repeated try of the same call has it again. Its user's fence is compared
    /// with [`SessionInfo::fenced_at`](crate::SessionInfo::fenced_at).
    pub record: Record,
    /// How many sessions its user may have.
    pub limit: Option<Limit>,
    /// The session this one takes the place of.
    pub replaces: Option<SessionId>,
    /// Who starts it, if not its user.
    pub by: Option<Arc<str>>,
    /// A remark for its audit entry, that of a refusal too.
    pub note: Option<Arc<str>>,
}

impl Create {
    /// The entry of the audit log about a start that was refused.
    pub fn refused(&self, refusal: Refusal, now: Timestamp) -> AuditEntry {
        let note = Some(self.refusal_note(refusal));
        AuditEntry { by: self.by.clone(), note, ..AuditEntry::about(&self.record.info, Event::Refused, now) }
    }

    /// The entry of the audit log about the start.
    pub fn started(&self, now: Timestamp) -> AuditEntry {
        AuditEntry { by: self.by.clone(), note: self.note.clone(), ..AuditEntry::started(&self.record, now) }
    }

    /// What the audit log says of a refusal: why, and in parentheses the remark that came with the start.
    pub fn refusal_note(&self, refusal: Refusal) -> Arc<str> {
        match &self.note {
            Some(note) => format!("{refusal} ({note})").into(),
            None => refusal.to_string().into(),
        }
    }
}

/// What became of a creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The session lives; these ended for it.
    Created {
        /// The replaced, the earlier try's and the evicted sessions, in any order.
        ended: Vec<Ended>,
    },
    /// It does not.
    Refused(Refusal),
}

/// A session as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It lives.
    Live(Arc<Record>),
    /// It ended not long ago.
    Ended(Arc<Tombstone>),
    /// There is none, or it was forgotten.
    Unknown,
}

/// How a session ended, and the digests that tell its holder from a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// How it ended.
    pub ended: Ended,
    /// Its secrets when it did.
    pub secrets: Secrets,
}

/// Why a call on one session found nothing to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It ended.
    Ended(Ended),
    /// There is none, or it was forgotten.
    Unknown,
}

impl From<Gone> for Error {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Ended(ended) => ended.into(),
            Gone::Unknown => Self::UnknownSession,
        }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// It is in the record, which is now so.
    Applied(Arc<Record>),
    /// Something it relied on is different. Nothing was changed; the record is so.
    Conflict(Arc<Record>),
    /// The writer no longer holds the session's lock. Nothing was changed.
    LeaseLost,
    /// The data would have this many bytes, more than the change allows. Nothing was changed.
    TooLarge(usize),
    /// There is no such living session.
    Gone(Gone),
}

/// A note that a session was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The session.
    pub id: SessionId,
    /// When it was used.
    pub seen_at: Timestamp,
    /// Set when the current secret was presented while a predecessor still waited for it: until when predecessors are
    /// served from now on. See [`Secrets::confirm`].
    pub grace_ends: Option<Timestamp>,
}

/// A new secret for a session.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// What the client holds.
    pub presented: Digest,
    /// What it shall hold.
    pub successor: Digest,
    /// How long the predecessor is served after the successor was first presented.
    pub grace: Duration,
    /// Whether every earlier secret is [withdrawn](Secrets::withdraw_predecessors) instead, and so dead at once.
    pub at_once: bool,
    /// Who rotates, if not the session's user.
    pub by: Option<Arc<str>>,
}

impl Rotation {
    /// Makes the successor current, as [`Secrets::rotate`] does. Says whether it is.
    pub fn apply_to(&self, secrets: &mut Secrets, now: Timestamp) -> bool {
        let before = secrets.rotations;
        let rotated = secrets.rotate(&self.presented, self.successor, self.grace, now);
        if self.at_once && secrets.rotations != before {
            secrets.withdraw_predecessors();
        }
        rotated
    }
}

/// What became of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The successor is current.
    Rotated(Arc<Record>),
    /// It is not: somebody else's rotation came first. What the client holds keeps working for its grace.
    Superseded(Arc<Record>),
    /// There is no such living session.
    Gone(Gone),
}

/// Which sessions to end.
#[derive(Clone, Debug)]
pub enum Which {
    /// These.
    Ids(Vec<SessionId>),
    /// All of a user, in one transaction with the fence that keeps sign-ins under way from slipping past.
    OfUser {
        /// The user.
        user: Arc<str>,
        /// Sessions that stay.
        except: Vec<SessionId>,
        /// What the user's partition remembers.
        fence: Fence,
    },
}

/// What a user's partition remembers, to be checked by every [`create`](super::Rules::create).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Sign-ins that authenticated before now are refused; those of this very millisecond are not. It never moves back.
    EndedBefore,
    /// Every sign-in is refused until [`enable_user`](super::Rules::enable_user), and after that those from before now.
    Disabled,
}

/// What became of one session to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndAnswer {
    /// It ended now.
    EndedNow(Ended),
    /// It had ended before, or had expired.
    EndedBefore(Ended),
    /// There is none, or it was forgotten.
    Unknown(SessionId),
}

impl EndAnswer {
    /// How the session ended, if it ended now.
    pub fn ended_now(self) -> Option<Ended> {
        match self {
            Self::EndedNow(ended) => Some(ended),
            Self::EndedBefore(_) | Self::Unknown(_) => None,
        }
    }
}

/// How much to reap.
#[derive(Clone, Copy, Debug)]
pub struct Reap {
    /// At most so many sessions, tombstones and audit entries each.
    pub limit: usize,
    /// Tombstones of sessions that ended at or before this are forgotten.
    pub tombstones_before: Timestamp,
    /// Audit entries of this time or before are forgotten, the oldest first. One that was written behind a newer entry,
    /// such as an expiry that was noticed late, may stay as long as that.
    pub audit_before: Timestamp,
}

/// What was reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Sessions that ended.
    pub ended: Vec<Ended>,
    /// Whether the limit may have left something to do.
    pub more: bool,
}
