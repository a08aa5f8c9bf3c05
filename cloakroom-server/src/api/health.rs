//! Whether the server lives, and whether it can work.

use std::time::Duration;

use axum::{extract::State, response::Response};
use cloakroom::Error;
use serde_json::json;

use super::{
    App,
    json::ok,
    problem::{Code, Problem},
};

/// The process answers.
pub(super) async fn alive() -> Response {
    ok(&json!({ "status": "ok" }))
}

/// The store answers in time, and its clock agrees with ours.
pub(super) async fn ready(State(app): State<App>) -> Result<Response, Problem> {
    let ping = tokio::time::timeout(app.bounds.ping_timeout, app.sessions.store().ping()).await;
    let message = || format!("it did not answer within {:?}", app.bounds.ping_timeout);
    let clock = ping.unwrap_or_else(|_| Err(Error::Unavailable { message: message(), source: None }))?;
    if let Some(clock) = clock {
        let now = app.sessions.now();
        let skew = now.since(clock).max(clock.since(now));
        if skew > MAX_SKEW {
            let detail = format!("This server's clock is {skew:?} off the store's: synchronise it.");
            return Err(Problem::new(Code::ClockSkew, detail));
        }
    }
    Ok(ok(&json!({ "status": "ready" })))
}

/// Deadlines are decided by this machine's clock, so it may not be further off than this.
const MAX_SKEW: Duration = Duration::from_secs(2);
