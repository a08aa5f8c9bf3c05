//! The HTTP API: one file for each group of calls. `docs/api.md` is its reference.

use std::sync::Arc;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{any, get, post},
};
use cloakroom::{Sessions, TrustedProxies};
use tokio::sync::watch;

use crate::{Bounds, keys::ApiKeys};

mod audit;
mod events;
mod forward_auth;
mod guard;
mod health;
mod impersonate;
mod json;
mod metrics;
mod number;
mod patch;
mod problem;
mod request_log;
mod revoke;
mod sessions;
mod start;
mod users;
mod view;

pub(crate) use metrics::Metrics;
use problem::{Code, Problem};

/// What every handler works on.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) sessions: Sessions,
    pub(crate) keys: Arc<ApiKeys>,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) trusted_proxies: Option<Arc<TrustedProxies>>,
    /// Becomes true when the server shuts down: what would go on for ever ends then.
    pub(crate) closing: Arc<watch::Sender<bool>>,
}

/// All paths of the server.
pub(crate) fn router(app: App) -> Router {
    let keyed = Router::new()
        .route("/v1/sessions", get(sessions::list).post(start::start))
        .route("/v1/sessions/resume", post(sessions::resume))
        .route("/v1/sessions/resume-many", post(sessions::resume_many))
        .route("/v1/sessions/rotate", post(sessions::rotate))
        .route("/v1/sessions/revoke", post(revoke::revoke))
        .route("/v1/sessions/impersonate", post(impersonate::start))
        .route("/v1/sessions/impersonate/stop", post(impersonate::stop))
        .route("/v1/sessions/{id}", get(sessions::show).patch(patch::patch).delete(sessions::end))
        .route("/v1/users", get(users::list))
        .route("/v1/users/{user}", get(users::show).patch(users::patch).delete(users::delete))
        .route("/v1/users/{user}/clear-sessions", post(users::clear_sessions))
        .route("/v1/audit", get(audit::list))
        .route("/v1/events", get(events::follow))
        .route("/v1/reap", post(audit::reap))
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(from_fn_with_state(app.clone(), guard::admit));
    let open = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .route("/auth", any(forward_auth::decide))
        .route("/auth/{*path}", any(forward_auth::decide))
        .method_not_allowed_fallback(method_not_allowed);
    let log = from_fn_with_state(app.clone(), request_log::log);
    keyed.merge(open).fallback(path_unknown).layer(log).with_state(app)
}

async fn path_unknown() -> Problem {
    Problem::new(Code::PathUnknown, "There is nothing at this path. The API's paths start with /v1/.")
}

async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "The header Allow names the methods that this path takes.")
}
