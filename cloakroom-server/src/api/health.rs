//! Whether the server lives, and whether it can work.

use axum::response::Response;
use cloakroom::{ClockOffset, Error};
use http::StatusCode;
use serde_json::json;

use super::{
    call::Call,
    json::ok,
    problem::{Code, Problem},
};

/// The process answers.
pub(super) async fn alive(_: Call) -> Response {
    ok(&json!({ "status": "ok" }))
}

/// The store answers in time, and its clock agrees with ours: deadlines are decided by this machine's.
pub(super) async fn ready(Call { app, .. }: Call) -> Result<Response, Problem> {
    let measured = tokio::time::timeout(app.bounds.ping_timeout, app.sessions.measure_clock_offset()).await;
    let message = || format!("it did not answer within {:?}", app.bounds.ping_timeout);
    let measured = measured.unwrap_or_else(|_| Err(Error::Unavailable { message: message(), source: None }));
    match measured.map_err(not_ready)? {
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

/// Whatever it is: those who ask are told not to send anything here.
fn not_ready(error: Error) -> Problem {
    let problem = Problem::from(error);
    if problem.status() == StatusCode::SERVICE_UNAVAILABLE { problem } else { problem.retold_as(Code::NotReady) }
}
