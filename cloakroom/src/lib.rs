//! Cloakroom

#![forbid(unsafe_code)]

mod audit;
mod change;
mod clock;
mod data;
mod ended;
mod error;
mod record;
mod secrets;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

pub use audit::{AuditEntry, Event, ParseEventError};
pub use change::{Applied, Change, Fields};
pub use clock::{Clock, ParseTimestampError, SystemClock, Timestamp};
pub use data::{Data, Json};
pub use ended::{Ended, Ending, ParseReasonError, Reason};
pub use error::{Error, Result};
pub use record::{Client, RecentChanges, Record, SessionInfo};
pub use secrets::{Predecessor, Presented, Secrets};
pub use token::{Digest, ParseSessionIdError, Partition, PartitionKey, SessionId, Token};
