//! The console at `/console`: who is signed in, and ending it, for people with a browser.
//!
//! Pages are made here and work without scripts, which only add to them. Operators sign in with an API key, and what a page
//! does goes through the API's own calls, so that scope, strictness, jobs and the audit log are the same.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Redirect, Response},
    routing::{any, get, post},
};

use cloakroom::web::{CookieConfig, CsrfLayer};
use http::{HeaderValue, StatusCode, header, request::Parts};

use crate::api::{App, guard};

mod access;
mod assets;
mod audit;
mod bulk;
mod calls;
mod fault;
mod feed;
mod fields;
mod filter;
mod html;
mod ledger;
mod list;
mod living;
mod overview;
mod refusals;
mod session;
mod single;
mod users;

use calls::Calls;
use fault::Fault;
use ledger::Ledger;
use living::Living;

/// What every page works on.
#[derive(Clone, Debug)]
pub(super) struct Console {
    app: App,
    calls: Calls,
    ledger: Arc<Ledger>,
    living: Arc<Living>,
}

/// Where all of it is.
pub(crate) const PATH: &str = "/console";

/// The console's cookie is its own: an application on the same host keeps its visitors' sessions.
const COOKIE: &str = "__Host-cloakroom-console";

/// The console's paths, and `/`, which leads there. `calls` are those of the API.
pub(crate) fn router(app: App, calls: Router<App>) -> Router {
    let sessions = app.sessions.layer().cookie(CookieConfig::new(COOKIE)).expect("the name keeps what its prefix says");
    let of_client = app.clone();
    let sessions = sessions
        .client_ip(move |parts: &Parts| guard::client(&of_client, parts))
        .on_refusal(|refused, _| Some(refusals::page_of_refusal(refused)))
        .on_commit_error(refusals::page_of_error);
    let console = Console { calls: Calls::new(&app, calls), app, ledger: Arc::default(), living: Arc::default() };
    let pages = Router::new()
        .route("/console", get(overview::show))
        .route("/console/sign-in", get(access::show).post(access::sign_in))
        .route("/console/sign-out", post(access::sign_out))
        .route("/console/sessions", get(list::show))
        .route("/console/sessions/end", get(bulk::confirm).post(bulk::end))
        .route("/console/sessions/{id}", get(session::show))
        .route("/console/sessions/{id}/end", post(session::end))
        .route("/console/jobs/{id}", get(bulk::job))
        .route("/console/users", get(users::list))
        .route("/console/users/{user}", get(users::show).post(users::save))
        .route("/console/users/{user}/disable", post(users::disable))
        .route("/console/users/{user}/enable", post(users::enable))
        .route("/console/users/{user}/sign-out", post(users::sign_out))
        .route("/console/audit", get(audit::show))
        .route("/console/audit/live", get(feed::live))
        .route("/console/audit/export", get(feed::export))
        .route("/console/{*path}", any(nothing_here))
        .layer(CsrfLayer::new())
        .layer(sessions);
    Router::new()
        .route("/", get(async || Redirect::to("/console")))
        .route("/console/", get(async || Redirect::to("/console")))
        .route("/console/assets/{name}", get(assets::show))
        .merge(pages)
        .layer(from_fn(with_headers))
        .layer(from_fn_with_state(console.clone(), in_time))
        .with_state(console)
}

async fn nothing_here() -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "There is no such page", "The address is wrong, or the page is gone.")
}

/// What browsers must not do with a page, whatever is in it.
async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action \
             'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A form that does not arrive, and a page that does not come, hold nobody up for ever.
async fn in_time(State(console): State<Console>, request: Request, next: Next) -> Response {
    let within = console.app.bounds.body_timeout;
    tokio::time::timeout(within, next.run(request)).await.unwrap_or_else(|_| {
        let detail = "The request did not arrive in time, or the store did not answer. Try again.";
        Fault::new(StatusCode::REQUEST_TIMEOUT, "That took too long", detail).into_response()
    })
}
