//! What goes wrong, as clients see it: `application/problem+json` with a stable `code`.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use cloakroom::{Ended, Error, Refusal};
pub(crate) use cloakroom_api::Code;
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, ser::SerializeMap};
use serde_json::value::{RawValue, to_raw_value};

/// A problem: its kind, what happened this time, and what a program may want to know about it.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    members: Vec<(&'static str, Box<RawValue>)>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), members: Vec::new() }
    }

    /// Adds a member of its own to the document.
    pub(crate) fn with(mut self, name: &'static str, value: &impl Serialize) -> Self {
        if let Ok(value) = to_raw_value(value) {
            self.members.push((name, value));
        }
        self
    }

    pub(crate) fn field(code: Code, field: &str, detail: impl Into<String>) -> Self {
        Self::new(code, detail).with("field", &field)
    }

    pub(crate) fn parameter(name: &str, problem: &str) -> Self {
        Self::new(Code::InvalidParameter, format!("{name}: {problem}")).with("parameter", &name)
    }

    /// A cursor comes by different names.
    pub(crate) fn of_cursor(name: &str, error: Error) -> Self {
        match error {
            Error::InvalidCursor { problem } => Self::parameter(name, &problem),
            error => error.into(),
        }
    }

    /// Of a call whose arguments stand in the query.
    pub(crate) fn of_parameter(error: Error) -> Self {
        match error {
            Error::InvalidArgument { what, problem } => Self::parameter(field_of(what), &problem),
            error => error.into(),
        }
    }

    /// The same under another code.
    pub(crate) fn retold_as(self, code: Code) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn unknown_session() -> Self {
        Self::new(Code::SessionUnknown, "There is no such session, or it ended so long ago that it is forgotten.")
    }

    pub(crate) fn ended(ended: &Ended) -> Self {
        Self::new(Code::SessionEnded, format!("The session ended at {}: {}.", ended.at, ended.reason.text()))
            .with("session_id", &ended.id)
            .with("reason", &ended.reason.code())
            .with("reason_text", &ended.reason.text())
            .with("ended_at", &ended.at)
            .with("by", &ended.by.as_deref())
            .with("note", &ended.note.as_deref())
    }

    pub(crate) fn title(&self) -> &'static str {
        self.code.title()
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (status, code, title) = (self.code.status(), self.code.name(), self.code.title());
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:cloakroom:problem:{code}"))?;
        map.serialize_entry("title", title)?;
        map.serialize_entry("status", &status)?;
        map.serialize_entry("detail", &self.detail)?;
        map.serialize_entry("code", code)?;
        for (name, value) in &self.members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.code {
            Code::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"cloakroom\""));
            }
            Code::RequestTimeout => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // Of the others it is an operator who must do something.
            Code::Contended | Code::StoreUnavailable | Code::OutcomeUnknown | Code::OutOfFiles | Code::ShuttingDown => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Ended(ended) => Self::ended(&ended),
            Error::UnknownSession => Self::unknown_session(),
            Error::Refused(Refusal::LimitReached { max }) => Self::new(Code::SessionLimit, detail).with("limit", &max),
            Error::Refused(Refusal::UserDisabled) => Self::new(Code::UserDisabled, detail),
            Error::Refused(Refusal::NetworkNotAllowed) => Self::new(Code::NetworkNotAllowed, detail),
            Error::Refused(Refusal::NotInDirectory) => Self::new(Code::NotInDirectory, detail),
            Error::Refused(Refusal::AuditForbidden) => Self::new(Code::AuditForbidden, detail),
            Error::Refused(_) => Self::new(Code::EndedMeanwhile, detail),
            Error::ImpersonationRefused(why) => Self::new(Code::ImpersonationRefused, detail).with("why", &why.code()),
            Error::InvalidKey { key, .. } => Self::new(Code::InvalidKey, detail).with("key", &key),
            Error::TooLarge { key, size, limit } => {
                Self::new(Code::DataTooLarge, detail).with("key", &key).with("size", &size).with("limit", &limit)
            }
            Error::InvalidCursor { problem } => Self::parameter("cursor", &problem),
            Error::InvalidArgument { what, problem } => {
                let field = field_of(what);
                Self::field(Code::InvalidField, field, format!("{field}: {problem}"))
            }
            Error::LockLost => Self::new(Code::LockLost, detail),
            Error::Contended { .. } => Self::new(Code::Contended, detail),
            Error::Locked { .. } => Self::new(Code::Locked, detail),
            Error::ReadOnly => Self::new(Code::ReadOnly, detail),
            Error::Unavailable { .. } | Error::Store { .. } if is_out_of_files(&error) => {
                let detail = "The server has as many files and connections open as it may: raise its limit of open files \
                              (ulimit -n; LimitNOFILE with systemd).";
                Self { detail: detail.into(), ..failed(Code::OutOfFiles, &error) }
            }
            Error::Unavailable { .. } => failed(Code::StoreUnavailable, &error),
            Error::OutcomeUnknown { .. } => failed(Code::OutcomeUnknown, &error),
            Error::Store { .. } => failed(Code::StoreFailed, &error),
            _ => failed(Code::Internal, &error),
        }
    }
}

/// What the API calls an argument of the library.
fn field_of(argument: &'static str) -> &'static str {
    match argument {
        "idle timeout" => "idle_seconds",
        "absolute lifetime" => "ends_at",
        "idempotency key" => "Idempotency-Key",
        "limit" => "limit.max",
        same => same,
    }
}

/// What the operator must hear of too.
fn failed(code: Code, error: &Error) -> Problem {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, source, "a request failed");
    Problem::new(code, error.to_string())
}

/// Whether a file or connection could not be opened because too many are. Some databases do not pass the cause on, so that
/// opening one more tells.
fn is_out_of_files(error: &Error) -> bool {
    // EMFILE and ENFILE have these numbers on every Unix. Stores wrap and copy their errors, but keep the text.
    let tells = |cause: &dyn std::error::Error| {
        let text = cause.to_string();
        ["(os error 24)", "(os error 23)"].iter().any(|number| text.contains(number))
    };
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    cfg!(unix) && (causes.any(tells) || std::fs::File::open("/").is_err_and(|error| tells(&error)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cloakroom::{Reason, SessionId, Timestamp, error::ImpersonationRefusal};

    use super::*;

    #[test]
    fn the_api_and_the_library_have_one_code_for_an_error() {
        let id = SessionId::from_bytes([0; SessionId::LEN]);
        let at = Timestamp::from_millis(0);
        let ended = Ended { id, user: None, at, reason: Reason::SignedOut, by: None, note: None };
        let refusals = [
            Refusal::LimitReached { max: 1 },
            Refusal::UserDisabled,
            Refusal::EndedMeanwhile,
            Refusal::NetworkNotAllowed,
            Refusal::NotInDirectory,
            Refusal::AuditForbidden,
        ];
        let (time, text) = (Duration::from_secs(1), String::new);
        let source = || serde_json::from_str::<u8>("x").unwrap_err();
        let errors = [
            ended.into(),
            Error::UnknownSession,
            Error::ImpersonationRefused(ImpersonationRefusal::Policy),
            Error::InvalidKey { key: text(), problem: text() },
            Error::InvalidValue { key: text(), action: "decoded", source: source() },
            Error::TooLarge { key: None, size: 2, limit: 1 },
            Error::InvalidArgument { what: "user", problem: text() },
            Error::InvalidCursor { problem: text() },
            Error::HeadSent,
            Error::Locked { waited: time },
            Error::LockLost,
            Error::Contended { attempts: 1 },
            Error::Unavailable { message: text(), source: None },
            Error::OutcomeUnknown { after: time },
            Error::ReadOnly,
            Error::Store { message: text(), source: None },
            Error::StoreUrl(text()),
        ];
        for error in errors.into_iter().chain(refusals.map(Error::Refused)) {
            let code = error.code();
            assert_eq!(Problem::from(error).code.name(), code);
        }
    }

    #[test]
    fn the_documentation_lists_every_code_with_its_status() {
        let documentation = include_str!("../../../docs/api.md");
        for code in Code::ALL {
            let row = format!("| `{}` | {} |", code.name(), code.status());
            assert!(documentation.contains(&row), "docs/api.md has no row {row}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn too_many_open_files_are_told_as_what_they_are() {
        let os = || std::io::Error::from_raw_os_error(24);
        for error in [
            Error::unavailable("sessions/lock could not be read", os()),
            Error::store("the database cannot be opened", std::sync::Arc::new(os())),
            Error::store("the database cannot be opened", os().to_string()),
        ] {
            let response = Problem::from(error).into_response();
            assert_eq!(
                (response.status().as_u16(), response.headers()[header::RETRY_AFTER].as_bytes()),
                (503, &b"1"[..])
            );
        }
        let other = Problem::from(Error::store("damaged", std::io::Error::from_raw_os_error(5)));
        assert_eq!((other.code, other.status().as_u16()), (Code::StoreFailed, 500));
    }

    #[test]
    fn what_waiting_does_not_help_has_no_retry_after() {
        for code in Code::ALL.iter().filter(|code| code.status() == 503) {
            let response = Problem::new(*code, "").into_response();
            let waits = ["contended", "store_unavailable", "outcome_unknown", "out_of_files", "shutting_down"];
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), waits.contains(&code.name()), "{code:?}");
        }
    }

    #[test]
    fn a_problem_is_a_document_with_a_stable_code() {
        let problem = Problem::new(Code::DataTooLarge, "70,000 bytes").with("limit", &65_536);
        assert_eq!(
            serde_json::to_string(&problem).unwrap(),
            r#"{"type":"urn:cloakroom:problem:data_too_large","title":"The session's data would be too large","#
                .to_owned()
                + r#""status":413,"detail":"70,000 bytes","code":"data_too_large","limit":65536}"#
        );
    }
}
