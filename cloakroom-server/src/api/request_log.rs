//! One line for each request. It names the route, never the path or a header: those may hold what is secret.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};

use crate::keys::Caller;

pub(super) async fn log(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;

    let path = path.as_ref().map_or("-", MatchedPath::as_str);
    let key = response.extensions().get::<Caller>().map(|caller| &*caller.name);
    let status = response.status().as_u16();
    let ms = (started.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
    if path == "/healthz" || path == "/readyz" {
        tracing::debug!(%method, path, status, ms, "request");
    } else {
        tracing::info!(%method, path, status, ms, key, "request");
    }
    response
}
