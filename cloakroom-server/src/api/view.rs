//! Sessions as the API shows them.

use std::sync::Arc;

use cloakroom::{Assurance, Client, Data, Record, SessionId, SessionInfo, Timestamp};
use serde::Serialize;

/// A session in JSON. Listings leave the data out.
#[derive(Debug, Serialize)]
pub(crate) struct SessionView<'a> {
    id: SessionId,
    user: Option<&'a str>,
    full_name: Option<&'a str>,
    user_type: Option<&'a str>,
    created_at: Timestamp,
    last_seen_at: Timestamp,
    expires_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    authenticated_at: Option<Timestamp>,
    methods: Option<&'a str>,
    level: Option<u8>,
    idle_seconds: Option<u64>,
    remember: bool,
    client: ClientView<'a>,
    impersonated_by: Option<&'a str>,
    audit_user: Option<&'a str>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Data>,
}

#[derive(Debug, Serialize)]
struct ClientView<'a> {
    ip: Option<String>,
    user_agent: Option<&'a str>,
    device: Option<&'a str>,
    country: Option<&'a str>,
}

impl<'a> From<&'a Record> for SessionView<'a> {
    fn from(record: &'a Record) -> Self {
        Self { data: Some(&record.data), ..Self::from(&record.info) }
    }
}

impl<'a> From<&'a SessionInfo> for SessionView<'a> {
    fn from(info: &'a SessionInfo) -> Self {
        let text = |text: &'a Option<Arc<str>>| text.as_deref();
        let Client { ip, user_agent, device, country } = &info.client;
        Self {
            id: info.id,
            user: text(&info.user),
            full_name: text(&info.full_name),
            user_type: text(&info.user_type),
            created_at: info.created_at,
            last_seen_at: info.last_seen_at,
            expires_at: info.expires_at(),
            ends_at: info.ends_at,
            authenticated_at: info.authenticated_at,
            methods: text(&info.methods),
            level: info.level.map(Assurance::number),
            idle_seconds: info.idle_timeout.map(|idle| idle.as_secs()),
            remember: info.remember,
            client: ClientView {
                ip: ip.map(|ip| ip.to_string()),
                user_agent: text(user_agent),
                device: text(device),
                country: text(country),
            },
            impersonated_by: text(&info.impersonated_by),
            audit_user: text(&info.audit_user),
            version: info.version,
            data: None,
        }
    }
}
