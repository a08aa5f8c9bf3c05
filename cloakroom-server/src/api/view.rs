//! Sessions, and what hands them to browsers, as the API shows them.

use std::{borrow::Cow, sync::Arc};

use cloakroom::{
    Assurance, Client, Data, Record, SessionInfo, Sessions, Token,
    web::{CookieAttributes, SameSite},
};
use cloakroom_api as wire;

/// A session in JSON. Listings leave the data out.
pub(super) type SessionView<'a> = wire::Session<'a, &'a Data>;

/// A session with its data.
pub(super) fn session(record: &Record) -> SessionView<'_> {
    SessionView { data: Some(&record.data), ..listed(&record.info) }
}

/// A session without its data.
pub(super) fn listed(info: &SessionInfo) -> SessionView<'_> {
    let Client { ip, user_agent, device, country } = &info.client;
    let idle = info.idle_timeout.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
    SessionView {
        id: info.id,
        user: text(info.user.as_ref()),
        full_name: text(info.full_name.as_ref()),
        user_type: text(info.user_type.as_ref()),
        created_at: info.created_at,
        last_seen_at: info.last_seen_at,
        expires_at: info.expires_at(),
        ends_at: info.ends_at,
        authenticated_at: info.authenticated_at(),
        methods: info.methods().map(Cow::Borrowed),
        level: info.level().map(Assurance::number),
        idle_seconds: idle.map(|idle| idle / 1000),
        idle_milliseconds: idle,
        remember: info.remember,
        client: wire::Client {
            ip: *ip,
            user_agent: text(user_agent.as_ref()),
            device: text(device.as_ref()),
            country: text(country.as_ref()),
        },
        impersonated_by: text(info.impersonator()),
        audit_user: text(info.audit_user.as_ref()),
        version: info.version,
        data: None,
    }
}

pub(super) fn text(text: Option<&Arc<str>>) -> Option<Cow<'_, str>> {
    text.map(|text| Cow::Borrowed(&**text))
}

/// The session of a call that shows one.
pub(super) fn shown(record: &Record) -> wire::Shown<'_, &Data> {
    wire::Shown { session: session(record) }
}

/// How a browser gets a token.
pub(super) struct Handed {
    pub(super) set_cookie: String,
    pub(super) cookie: wire::Cookie,
}

impl Handed {
    pub(super) fn new(sessions: &Sessions, token: &Token, info: &SessionInfo) -> Self {
        let (config, now) = (sessions.cookie(), sessions.now());
        let CookieAttributes { path, domain, secure, http_only, same_site, partitioned } = config.attributes();
        let cookie = wire::Cookie {
            name: config.name().to_owned(),
            value: token.reveal(),
            path: path.to_owned(),
            domain: domain.map(ToOwned::to_owned),
            max_age: config.max_age(info, now).map(|age| age.as_secs()),
            secure,
            http_only,
            same_site: same_site_name(same_site).into(),
            partitioned,
        };
        Self { set_cookie: config.set(token, info, now, None), cookie }
    }
}

pub(super) fn same_site_name(same_site: SameSite) -> &'static str {
    match same_site {
        SameSite::Strict => "Strict",
        SameSite::Lax => "Lax",
        SameSite::None => "None",
    }
}
