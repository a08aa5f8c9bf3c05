//! Calls of the API that the console makes for an operator, within this process.

use std::time::Duration;

use axum::{Router, body::Body, response::Response};
use http::{HeaderValue, Method, Request, StatusCode, header, request};
use http_body_util::BodyExt;
use serde_json::Value;
use tower_service::Service;

use super::{access::Operator, fault::Fault};
use crate::api::{App, guard::Admitted};

/// The API, without the key: the operator showed it when they signed in.
#[derive(Clone, Debug)]
pub(super) struct Calls(Router);

/// What a call answered.
#[derive(Debug)]
pub(super) enum Answer {
    Done(Value),
    /// It goes on as the job of this id.
    Job(String),
}

impl Calls {
    /// An operator rather watches a job than a page that does not come.
    const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

    pub(super) fn new(app: &App, calls: Router<App>) -> Self {
        let mut app = app.clone();
        app.bounds.answer_within = app.bounds.answer_within.min(Self::ANSWER_WITHIN);
        Self(calls.with_state(app))
    }

    pub(super) async fn make(
        &self,
        operator: &Operator,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Fault> {
        let request = Self::request(operator, method, path);
        let request = match body {
            Some(body) => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(serde_json::to_vec(body).map_err(|error| failed(&error))?)),
            None => request.body(Body::empty()),
        };
        let response = self.answer(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
        let body: Value = serde_json::from_slice(&body).map_err(|error| failed(&error))?;
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if status == StatusCode::ACCEPTED {
            return Ok(Answer::Job(text("/job/id")));
        }
        if status.is_success() {
            return Ok(Answer::Done(body));
        }
        Err(Fault::new(status, text("/title"), text("/detail")))
    }
    /// An answer that goes on.
    pub(super) async fn follow(
        &self,
        operator: &Operator,
        path: &str,
        last_event_id: Option<&HeaderValue>,
    ) -> Result<Response, Fault> {
        let mut request = Self::request(operator, Method::GET, path);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = self.answer(request.body(Body::empty())).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Fault::new(response.status(), "The log cannot be followed", "Load the page again."))
    }

    fn request(operator: &Operator, method: Method, path: &str) -> request::Builder {
        Request::builder().method(method).uri(path).extension(Admitted(operator.caller.clone()))
    }

    async fn answer(&self, request: http::Result<Request<Body>>) -> Result<Response, Fault> {
        let request = request.map_err(|error| failed(&error))?;
        Ok(self.0.clone().call(request).await.unwrap_or_else(|never| match never {}))
    }
}

fn failed(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "The server failed", error.to_string())
}
