//! One line, and one count, for each request. It names the route, never the path or a header: those may hold what is secret.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{Method, StatusCode};

use super::{App, Metrics, forward_auth};
use crate::keys::Caller;

pub(super) async fn log(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let other = if forward_auth::concerns(request.uri().path()) { forward_auth::ROUTE } else { "-" };
    let method = request.method().clone();
    let mut line = Line { metrics: app.metrics, method, path, other, started: Instant::now(), answered: false };
    let response = next.run(request).await;
    line.write(response.status(), response.extensions().get());
    response
}

/// The line of a request. Dropped before it was written, it says that the client went away first.
struct Line {
    metrics: Arc<Metrics>,
    method: Method,
    path: Option<MatchedPath>,
    /// What it is called where no path of the list matched.
    other: &'static str,
    started: Instant,
    answered: bool,
}

impl Line {
    fn write(&mut self, status: StatusCode, caller: Option<&Caller>) {
        self.answered = true;
        let path = self.path.as_ref().map_or(self.other, MatchedPath::as_str);
        write(&self.metrics, self.method.as_str(), path, status, self.started.elapsed(), caller);
    }
}

/// A request over gRPC.
pub(super) fn log_check(app: &App, path: &'static str, status: StatusCode, took: Duration) {
    write(&app.metrics, "Check", path, status, took, None);
}

fn write(metrics: &Metrics, method: &str, path: &str, status: StatusCode, took: Duration, caller: Option<&Caller>) {
    let key = caller.map(|caller| &*caller.name);
    metrics.count(path, status, took);
    let status = status.as_u16();
    let ms = (took.as_secs_f64() * 10_000.0).round() / 10.0;
    if ["/healthz", "/readyz", "/metrics"].contains(&path) {
        tracing::debug!(method, path, status, ms, "request");
    } else {
        tracing::info!(method, path, status, ms, key, "request");
    }
}

/// What servers log for a request that nobody waits for any more; no client ever gets it.
const CLIENT_GONE: u16 = 499;

impl Drop for Line {
    fn drop(&mut self) {
        if !self.answered
            && let Ok(status) = StatusCode::from_u16(CLIENT_GONE)
        {
            self.write(status, None);
        }
    }
}
