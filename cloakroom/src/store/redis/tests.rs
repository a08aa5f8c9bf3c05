//! Shared by the tests of this store's parts.

use crate::{clock::Timestamp, record::SessionInfo, token::SessionId};

pub(super) fn info(id: SessionId) -> SessionInfo {
    SessionInfo::new(id, Timestamp::EPOCH)
}
