//! How the server is set up, for those who write bindings to it.

use axum::response::Response;
use cloakroom::{Assurance, Json, Lifetimes, sessions::Settings, web::CookieAttributes};
use cloakroom_api::{Config, ConfigCookie, ConfigLifetimes, ConfigLimits, ConfigLock, Feature};

use super::{
    call::Call,
    json::ok,
    locks::{MOST_LEASE, MOST_WAIT},
    sessions::MOST_ON_A_PAGE,
    view::same_site_name,
};
use crate::cli::VERSION;

const FEATURES: [Feature; 7] = [
    Feature::Deadlines,
    Feature::Replace,
    Feature::ResumeAndChange,
    Feature::Locks,
    Feature::RotateAtOnce,
    Feature::IdempotencyKeys,
    Feature::Count,
];

pub(super) async fn show(Call { app, .. }: Call) -> Response {
    let settings: Settings = app.sessions.settings();
    let cookie = app.sessions.cookie();
    let CookieAttributes { path, domain, secure, http_only, same_site, partitioned } = cookie.attributes();
    ok(&Config {
        version: VERSION.to_owned(),
        lifetimes: lifetimes(&settings.lifetimes),
        mobile_lifetimes: settings.mobile_lifetimes.as_ref().map(lifetimes),
        rotation_grace_seconds: settings.rotation_grace.as_secs(),
        ended_known_for_seconds: settings.tombstone_retention.as_secs(),
        audit_kept_for_seconds: settings.audit_retention.as_secs(),
        limits: ConfigLimits {
            sessions: settings.limit.map(|limit| limit.max),
            when_full: settings.limit.map(|limit| limit.when_full),
            data_bytes: settings.max_data_bytes,
            key_bytes: settings.max_key_bytes,
            value_levels: Json::MAX_LEVELS,
            body_bytes: app.bounds.max_body,
            page: MOST_ON_A_PAGE,
            impersonation_minutes: settings.impersonation_limit.as_secs() / 60,
        },
        lock: ConfigLock {
            lease_seconds: settings.lock_lease.as_secs(),
            most_lease_seconds: MOST_LEASE,
            most_wait_seconds: MOST_WAIT,
        },
        cookie: ConfigCookie {
            name: cookie.name().to_owned(),
            path: path.to_owned(),
            domain: domain.map(ToOwned::to_owned),
            secure,
            http_only,
            same_site: same_site_name(same_site).into(),
            partitioned,
        },
        features: FEATURES.to_vec(),
    })
}

fn lifetimes(lifetimes: &Lifetimes) -> ConfigLifetimes {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    ConfigLifetimes {
        idle_milliseconds: millis(lifetimes.idle),
        absolute_milliseconds: lifetimes.absolute.map(millis),
        remember_idle_milliseconds: millis(lifetimes.remember_idle),
        remember_absolute_milliseconds: lifetimes.remember_absolute.map(millis),
        level: lifetimes.assurance.map(Assurance::number),
        may_never_end: lifetimes.assurance.is_none(),
    }
}
