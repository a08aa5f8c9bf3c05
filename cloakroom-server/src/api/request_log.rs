//! One line, and one count, for each request. It names the route, never the path or a header: those may hold what is secret.

use std::{sync::Arc, time::Instant};

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
        let key = caller.map(|caller| &*caller.name);
        let took = self.started.elapsed();
        self.metrics.count(path, status, took);
        let (method, status) = (&self.method, status.as_u16());
        let ms = (took.as_secs_f64() * 10_000.0).round() / 10.0;
        if ["/healthz", "/readyz", "/metrics"].contains(&path) {
            tracing::debug!(%method, path, status, ms, "request");
        } else {
            tracing::info!(%method, path, status, ms, key, "request");
        }
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
