//! Errors as responses: `application/problem+json` (RFC 9457) with a stable `code`.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{admission::Refusal, error::Error};

/// The response for an error, as far as the visitor may know it; the rest is for the log.
pub(super) fn response(error: &Error) -> Response<Bytes> {
    let (status, code) = (status_of(error), error.code());
    let detail = match error {
        Error::Ended(ended) => ended.reason.text().to_owned(),
        Error::UnknownSession
        | Error::Refused(_)
        | Error::ReauthenticationRequired { .. }
        | Error::ImpersonationRefused(_)
        | Error::TooLarge { .. }
        | Error::HeadSent
        | Error::ReadOnly => error.to_string(),
        _ if status == StatusCode::SERVICE_UNAVAILABLE => "Sessions are unavailable for the moment.".to_owned(),
        _ => "The session could not be used.".to_owned(),
    };
    let mut response = plain(status, code, &detail);
    if let Error::Ended(ended) = error {
        *response.body_mut() = body(status, code, &detail, &[("reason", ended.reason.code().into())]);
    }
    if let Error::ReauthenticationRequired { max_age, level } = error {
        // Under the names of RFC 9470, whose own place is an OAuth challenge.
        let max_age = max_age.map(|age| ("max_age", age.as_secs().into()));
        let level = level.map(|level| ("acr_values", format!("aal{}", level.number()).into()));
        let asked: Vec<_> = max_age.into_iter().chain(level).collect();
        *response.body_mut() = body(status, code, &detail, &asked);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The response for an error, and in the log what the visitor may not know.
#[cfg(any(feature = "actix", feature = "axum"))]
pub(super) fn logged(error: &Error) -> Response<Bytes> {
    log(error);
    response(error)
}

/// Puts into the log what the visitor may not know of an error.
pub(super) fn log(error: &Error) {
    if status_of(error).is_server_error() {
        tracing::error!(error = error as &dyn std::error::Error, "a session could not be used");
    }
}

/// The response where the application has made a mistake. What it is stands in the log, and in the answer of a debug build.
pub(super) fn set_up_wrongly(what: &str) -> Response<Bytes> {
    tell(what);
    let detail = if cfg!(debug_assertions) { what } else { "The server is set up wrongly: its log says how." };
    plain(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
}

/// Tells the developer: in the log or, where nothing listens to it, on standard error.
pub(super) fn tell(what: &str) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{what}");
    } else {
        use std::io::Write;
        // A standard error that cannot be written to is no reason to fail.
        drop(writeln!(std::io::stderr(), "cloakroom: {what}"));
    }
}

/// A response with nothing but a code and a sentence.
pub(super) fn plain(status: StatusCode, code: &str, detail: &str) -> Response<Bytes> {
    let mut response = Response::new(body(status, code, detail, &[]));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn body(status: StatusCode, code: &str, detail: &str, more: &[(&str, serde_json::Value)]) -> Bytes {
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    for (name, value) in more {
        problem[*name] = value.clone();
    }
    problem.to_string().into()
}

/// The status of the answer: whether the visitor, the application or the store is to do something.
const fn status_of(error: &Error) -> StatusCode {
    match error {
        Error::Ended(_) | Error::UnknownSession | Error::ReauthenticationRequired { .. } => StatusCode::UNAUTHORIZED,
        Error::Refused(Refusal::LimitReached { .. } | Refusal::EndedMeanwhile) => StatusCode::CONFLICT,
        Error::Refused(_) | Error::ImpersonationRefused(_) => StatusCode::FORBIDDEN,
        Error::Locked { .. }
        | Error::Contended { .. }
        | Error::Unavailable { .. }
        | Error::OutcomeUnknown { .. }
        | Error::ReadOnly => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
