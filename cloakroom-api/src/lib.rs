//! What the session server takes and answers, once: the server reads and writes these types, its OpenAPI document describes
//! them, and clients in Rust use them.
//!
//! ```
//! use cloakroom_api::{Code, PatchSession};
//!
//! let patch = PatchSession { touch: true, ..PatchSession::default() };
//! assert_eq!(serde_json::to_string(&patch)?, r#"{"touch":true}"#);
//! assert_eq!((Code::SessionEnded.name(), Code::SessionEnded.status()), ("session_ended", 410));
//! # Ok::<(), serde_json::Error>(())
//! ```

#![forbid(unsafe_code)]

mod answers;
mod config;
mod log;
mod problem;
mod requests;
pub mod schema;
mod users;
mod values;

pub use schemars;

pub use answers::{
    Client, Cookie, Counted, Ended, HandedOver, Health, Job, JobState, Jobs, Listed, Locked, Reaped, Renewed, Resumed,
    ResumedMany, ResumedOne, Revoked, Rotated, Session, Shown, Started, Unlocked,
};
pub use config::{Config, ConfigCookie, ConfigLifetimes, ConfigLimits, ConfigLock, Feature};
pub use log::{Audited, Events, ListAudit, LogEntry};
pub use problem::{Code, Problem};
pub use requests::{
    ClearSessions, ClientFacts, Count, EndSession, Impersonate, Limit, ListSessions, Lock, Nothing, PatchSession,
    Renew, Resume, ResumeMany, Revoke, Rotate, Start, StopImpersonating, Unlock,
};
pub use users::{Deleted, LastSignIn, ListUsers, ListedUsers, PatchUser, PatchedUser, ShownUser, User};
pub use values::{AtMost, End, Entries, Level, NULLABLE, Nullable, RAW_OBJECT, TokenText};
