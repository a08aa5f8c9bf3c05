//! How the service is set up.

use std::time::Duration;

use super::{Lifetimes, Sessions};
use crate::admission::Limit;

/// How a session service is set up, as far as its clients may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How long sessions live.
    pub lifetimes: Lifetimes,
    /// How long they live on mobile devices, if that differs.
    pub mobile_lifetimes: Option<Lifetimes>,
    /// How many sessions a user may have.
    pub limit: Option<Limit>,
    /// How long a rotated token is served after its successor was first presented.
    pub rotation_grace: Duration,
    /// How large the data of one session may be: bytes of all keys and values.
    pub max_data_bytes: usize,
    /// How long a key may be, in bytes.
    pub max_key_bytes: usize,
    /// How long a lock is held without being renewed.
    pub lock_lease: Duration,
    /// How long somebody may act as another, or look into their account.
    pub impersonation_limit: Duration,
    /// How long it is known how a session ended.
    pub tombstone_retention: Duration,
    /// How long the audit log is kept.
    pub audit_retention: Duration,
}

impl Sessions {
    /// How the service is set up.
    pub fn settings(&self) -> Settings {
        let config = self.config();
        Settings {
            lifetimes: config.lifetimes,
            mobile_lifetimes: config.mobile_lifetimes,
            limit: config.limit,
            rotation_grace: config.rotation_grace,
            max_data_bytes: config.max_data_bytes,
            max_key_bytes: config.max_key_bytes,
            lock_lease: config.lock_lease,
            impersonation_limit: config.impersonation_limit,
            tombstone_retention: config.tombstone_retention,
            audit_retention: config.audit_retention,
        }
    }
}
