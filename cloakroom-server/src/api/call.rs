//! What a request is, once it was understood whole. Every handler takes one, last, so that none acts on half of a request.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use cloakroom_api::{
    Nothing,
    schemars::{JsonSchema, Schema, SchemaGenerator},
};
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::{
    App,
    operation::Attempt,
    problem::{Code, Problem},
    strict,
};
use crate::keys::Caller;

/// A request: its query parameters and its body, as types that say what the call takes. The default is none of either.
#[derive(Debug)]
pub(super) struct Call<Q = Nothing, B = NoBody> {
    /// Its sessions are those of the caller: what they write into the audit log names its key.
    pub(super) app: App,
    pub(super) caller: Option<Caller>,
    /// Which call it is, where a repeat has to be recognised.
    pub(super) attempt: Option<Attempt>,
    pub(super) params: Q,
    pub(super) body: B,
}

/// The body of a call that takes none.
#[derive(Debug)]
pub(super) struct NoBody;

/// What can be made of a body.
pub(super) trait FromBody: Sized {
    fn from_body(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem>;

    /// What it looks like, for the OpenAPI document; `None` where there is none.
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
}

impl FromBody for NoBody {
    fn from_body(_: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Ok(Self);
        }
        let detail = "This call takes no body; nothing was done. Its parameters belong in the query.";
        Err(Problem::new(Code::UnexpectedBody, detail))
    }

    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
}

impl<T: DeserializeOwned + JsonSchema> FromBody for T {
    fn from_body(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        if !body.is_empty() {
            check_type(headers)?;
        }
        strict::body(body)
    }

    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<T>())
    }
}

impl<Q: DeserializeOwned + Send, B: FromBody> FromRequest<App> for Call<Q, B> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let params = strict::query(parts.uri.query())?;
        // The guard read the body already, so this cannot fail for its size or for the connection.
        let bytes = Bytes::from_request(Request::new(body), app).await;
        let bytes = bytes.map_err(|error| Problem::new(Code::BodyTooLarge, error.body_text()))?;
        let body = B::from_body(&parts.headers, &bytes)?;
        let caller: Option<Caller> = parts.extensions.remove();
        let mut app = app.clone();
        if let Some(caller) = &caller {
            app.sessions = app.sessions.acting_through(Arc::clone(&caller.name));
        }
        Ok(Self { app, caller, attempt: parts.extensions.remove(), params, body })
    }
}

/// JSON is UTF-8 and nothing else (RFC 8259).
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let given = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
    let mut parts = given.unwrap_or_default().split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let is_utf8 = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    if is_json && parts.all(is_utf8) {
        return Ok(());
    }
    let detail = "Send the header Content-Type: application/json, and the body in UTF-8.";
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

/// Bodies are read as they are: what was compressed, or otherwise encoded, is not understood.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let is_plain = |value: &http::HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Ok(());
    }
    let detail = "Send the body as it is, without a Content-Encoding.";
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}
