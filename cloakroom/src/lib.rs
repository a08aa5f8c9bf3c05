//! Cloakroom

#![forbid(unsafe_code)]

mod audit;
mod change;
mod clock;
mod data;
mod ended;
mod error;
mod lease;
mod record;
mod seal;
mod secrets;
mod session;
mod sessions;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
pub mod web;

pub use audit::{AuditEntry, Event, ParseEventError};
pub use change::{Applied, Change, Fields};
pub use clock::{Clock, ParseTimestampError, SystemClock, Timestamp};
pub use data::{Data, Json};
pub use ended::{Ended, Ending, ParseReasonError, Reason};
pub use error::{Error, Result};
pub use lease::Lease;
pub use record::{Client, RecentChanges, Record, SessionInfo};
pub use secrets::{Predecessor, Presented, Secrets};
pub use session::{Entry, Key, Session, ValueKey};
pub use sessions::{
    Assurance, Builder, Found, Lifetimes, RotatedToken, Sessions, SignIn, Start, Started, format_period, parse_period,
};
pub use token::{Digest, ParseSessionIdError, Partition, PartitionKey, SessionId, Token};
#[cfg(feature = "axum")]
pub use web::SignedIn;
