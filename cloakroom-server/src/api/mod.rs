//! The HTTP API: one file for each group of calls. `docs/api.md` is its reference.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
};
use cloakroom::{Sessions, client::TrustedProxies};
use tokio::sync::watch;

use crate::{Bounds, KeyRing, console, keys::Attempts, server::Crowd};

mod audit;
mod call;
mod config;
mod docs_page;
mod edit;
mod events;
mod forward_auth;
pub(crate) mod guard;
mod health;
mod impersonate;
mod jobs;
mod json;
mod locks;
mod metrics;
mod number;
mod openapi;
mod operation;
mod patch;
mod problem;
mod request_log;
mod resume;
mod revoke;
mod routes;
mod sessions;
mod start;
mod strict;
#[cfg(test)]
mod tests;
mod users;
mod view;
mod work;

pub(crate) use forward_auth::{ForwardAuth, ext_authz};
pub(crate) use metrics::Metrics;
pub(crate) use operation::Operations;
use problem::Code;
pub(crate) use problem::Problem;
pub(crate) use work::Work;

/// What every handler works on.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) sessions: Sessions,
    pub(crate) keys: KeyRing,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) trusted_proxies: Option<Arc<TrustedProxies>>,
    pub(crate) forward_auth: Arc<ForwardAuth>,
    /// What callers may ask about again, and what goes on without them.
    pub(crate) operations: Arc<Operations>,
    pub(crate) work: Work,
    /// Becomes true when the server shuts down: what would go on for ever ends then.
    pub(crate) closing: Arc<watch::Sender<bool>>,
}

/// All paths of the server.
pub(crate) fn router(app: App) -> Router {
    let (admit, log) =
        (from_fn_with_state(app.clone(), guard::admit), from_fn_with_state(app.clone(), request_log::log));
    let calls = routes::router().method_not_allowed_fallback(method_not_allowed).route_layer(admit);
    let console = console::router(app.clone(), calls.clone());
    calls.fallback(elsewhere).with_state(app).merge(console).layer(log)
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
