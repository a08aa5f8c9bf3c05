//! One line, and one count, for each request. It names the route, never the path or a header: those may hold what is secret.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};

use super::{App, forward_auth};
use crate::keys::Caller;

pub(super) async fn log(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let other = if forward_auth::concerns(request.uri().path()) { forward_auth::ROUTE } else { "-" };
    let response = next.run(request).await;

    let path = path.as_ref().map_or(other, MatchedPath::as_str);
    let key = response.extensions().get::<Caller>().map(|caller| &*caller.name);
    let took = started.elapsed();
    app.metrics.count(path, response.status(), took);
    let status = response.status().as_u16();
    let ms = (took.as_secs_f64() * 10_000.0).round() / 10.0;
    if ["/healthz", "/readyz", "/metrics"].contains(&path) {
        tracing::debug!(%method, path, status, ms, "request");
    } else {
        tracing::info!(%method, path, status, ms, key, "request");
    }
    response
}
