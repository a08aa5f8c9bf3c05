//! The same small web application three times: without sessions, with Cloakroom's, with tower-sessions'.
//!
//! Most binaries drive it in this process, without sockets: `speed` compares times, `memory` allocations and bytes, `hot`
//! repeats one operation for an instruction counter. `http` serves it over HTTP on every store, beside the peers.

mod application;
#[cfg(test)]
mod instructions;
mod subject;

pub use application::{KEYS, PAYLOAD_BYTES, READ_KEY, Route, WRITTEN_KEY, data_of, user_of};
pub use subject::{Subject, drive, just_read, sent_back};
