//! Whether the server lives, and whether it can work.

use axum::{extract::State, response::Response};
use cloakroom::{ClockOffset, Error};
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

/// The store answers in time, and its clock agrees with ours: deadlines are decided by this machine's.
pub(super) async fn ready(State(app): State<App>) -> Result<Response, Problem> {
    let measured = tokio::time::timeout(app.bounds.ping_timeout, app.sessions.measure_clock_offset()).await;
    let message = || format!("it did not answer within {:?}", app.bounds.ping_timeout);
    match measured.unwrap_or_else(|_| Err(Error::Unavailable { message: message(), source: None }))? {
        Some(offset) if offset.is_too_large() => {
            let detail = format!(
                "This server's clock is {offset}, and at most {:?} are allowed: synchronise it.",
                ClockOffset::MAX
            );
            Err(Problem::new(Code::ClockSkew, detail))
        }
        _ => Ok(ok(&json!({ "status": "ready" }))),
    }
}
