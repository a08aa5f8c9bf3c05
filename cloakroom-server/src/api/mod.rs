//! The HTTP API: one file for each group of calls. `docs/api.md` is its reference.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
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

pub(crate) use forward_auth::ForwardAuth;
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
    pub(crate) forward_auth: Arc<ForwardAuth>,
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
        .method_not_allowed_fallback(method_not_allowed);
    let log = from_fn_with_state(app.clone(), request_log::log);
    keyed.merge(open).fallback(elsewhere).layer(log).with_state(app)
}

/// Forward authentication takes every method and paths of every form, and answers none of them with 404 or 405.
async fn elsewhere(State(app): State<App>, request: Request) -> Response {
    if forward_auth::concerns(request.uri().path()) {
        return forward_auth::answer(&app, request).await;
    }
    Problem::new(Code::PathUnknown, "There is nothing at this path. The API's paths start with /v1/.").into_response()
}

async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "The header Allow names the methods that this path takes.")
}
