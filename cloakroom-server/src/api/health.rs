//! Whether the server lives, and whether it can work.

use axum::response::Response;
use cloakroom::{Error, sessions::ClockOffset};
use cloakroom_api::Health;
use http::StatusCode;

use super::{
    call::Call,
    json::ok,
    problem::{Code, Problem},
};

/// The process answers.
pub(super) async fn alive(_: Call) -> Response {
    ok(&Health { status: "ok".into() })
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
        _ => Ok(ok(&Health { status: "ready".into() })),
    }
}

/// Whatever it is: those who ask are told not to send anything here.
fn not_ready(error: Error) -> Problem {
    let problem = Problem::from(error);
    if problem.status() == StatusCode::SERVICE_UNAVAILABLE { problem } else { problem.retold_as(Code::NotReady) }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn whatever_is_wrong_not_ready_is_503() {
        let damaged = Error::store("the database is damaged", std::io::Error::other("page 7"));
        let unreachable = Error::unavailable("it cannot be reached", std::io::Error::other("refused"));
        for (error, code, waits) in [
            (damaged, "not_ready", false),
            (unreachable, "store_unavailable", true),
            (Error::UnknownSession, "not_ready", false),
        ] {
            let response = not_ready(error).into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers().contains_key("retry-after"), waits, "{code}");
        }
    }
}
