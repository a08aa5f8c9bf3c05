//! What goes wrong, as a page.

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use cloakroom::Error;
use http::{HeaderValue, StatusCode, header};
use maud::html;

use super::html::{bare, stranger};
use crate::api::Problem;

/// A page that says what is wrong and what to do.
#[derive(Debug)]
pub(super) struct Fault {
    status: StatusCode,
    title: String,
    detail: String,
}

impl Fault {
    pub(super) fn new(status: StatusCode, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, title: title.into(), detail: detail.into() }
    }

    /// A field of a form, or a parameter of an address.
    pub(super) fn field(name: &str, problem: &str) -> Self {
        let title = "A field cannot be used";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, title, format!("{name}: {problem}"))
    }

    /// An error of the library. It is told to the log once.
    pub(super) fn of_error(error: &Error) -> Self {
        match error {
            Error::Unavailable { .. } | Error::OutcomeUnknown { .. } | Error::Contended { .. } => {
                tracing::error!(%error, "a page of the console failed");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "The session store does not answer", error.to_string())
            }
            error => {
                tracing::error!(%error, "a page of the console failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The server failed", error.to_string())
            }
        }
    }

    pub(super) fn into_bytes(self) -> http::Response<Bytes> {
        let page = bare(
            &self.title,
            &html! {
                div.card.narrow {
                    h1 { (self.title) }
                    p { (stranger(&self.detail)) }
                    p { a href="/console" { "Back to the console" } }
                }
            },
        );
        let mut response = http::Response::new(Bytes::from(page.into_string()));
        *response.status_mut() = self.status;
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        response
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        self.into_bytes().map(Body::from)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if let Error::InvalidArgument { what, problem } = &error {
            return Self::field(what, problem);
        }
        let problem = Problem::from(error);
        Self::new(problem.status(), problem.title(), problem.detail())
    }
}
