//! Shared by the tests of this store's parts.

use crate::{
    clock::Timestamp,
    record::{Client, SessionInfo},
    token::SessionId,
};

pub(super) fn info(id: SessionId) -> SessionInfo {
    SessionInfo {
        id,
        user: None,
        full_name: None,
        user_type: None,
        created_at: Timestamp::EPOCH,
        last_seen_at: Timestamp::EPOCH,
        idle_timeout: None,
        ends_at: None,
        authenticated_at: None,
        methods: None,
        level: None,
        remember: false,
        client: Client::default(),
        impersonated_by: None,
        returns_to: None,
        audit_user: None,
        version: 0,
    }
}
