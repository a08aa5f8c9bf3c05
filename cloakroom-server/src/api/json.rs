//! Strict JSON in, JSON out. What is not understood is refused by name, never ignored.

use std::{fmt, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::{IntoResponse, Response},
};
use cloakroom::{Json, SessionId, Token};
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};

use super::problem::{Code, Problem};

/// A request's body. An empty one counts as `{}`.
pub(crate) struct Strict<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Strict<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        // The guard read the body already, so this cannot fail for its size or for the connection.
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|error| Problem::new(Code::BodyTooLarge, error.body_text()))?;
        if body.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !content_type.as_ref().is_some_and(is_json) {
            let detail = "Send the header Content-Type: application/json.";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        parse(&body).map(Self)
    }
}

fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, &error.into_inner())
    })?;
    deserializer.end().map_err(|error| describe("", &error))?;
    Ok(value)
}

fn describe(path: &str, error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    if !error.is_data() {
        return Problem::new(Code::MalformedJson, format!("The body is not JSON: {message}."))
            .with("line", &error.line())
            .with("column", &error.column());
    }
    let code = classify(&message);
    // For these serde's path already ends with the field or stops above it; the message names it in any case.
    let named = message.split('`').nth(1).filter(|_| code != Code::InvalidField);
    let field = match (path, named) {
        ("." | "", Some(name)) => name.to_owned(),
        (path, Some(name)) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        (path, Some(name)) => format!("{path}.{name}"),
        (path, None) => path.to_owned(),
    };
    Problem::field(code, &field, format!("{field}: {message}"))
}

/// Serde tells kinds of mistakes apart in its messages alone.
fn classify(message: &str) -> Code {
    [
        ("unknown field", Code::UnknownField),
        ("missing field", Code::MissingField),
        ("duplicate field", Code::DuplicateField),
    ]
    .into_iter()
    .find_map(|(start, code)| message.starts_with(start).then_some(code))
    .unwrap_or(Code::InvalidField)
}

/// A request's query parameters.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => {
                let source = std::error::Error::source(&error).map_or_else(|| error.body_text(), ToString::to_string);
                Err(Problem::new(Code::InvalidParameter, source))
            }
        }
    }
}

/// The session that a path names. What is not an id names no session.
pub(crate) struct PathId(pub(crate) SessionId);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(id)| id.parse().ok());
        id.map(Self).ok_or_else(Problem::unknown_session)
    }
}

/// A token in a request's body: any text, which opens nothing unless it is a token.
#[derive(Debug)]
pub(crate) struct TokenText(Option<Token>);

impl TokenText {
    /// The token; text that cannot be one names no session.
    pub(crate) fn token(&self) -> Result<&Token, Problem> {
        self.0.as_ref().ok_or_else(Problem::unknown_session)
    }
}

impl<'de> Deserialize<'de> for TokenText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = TokenText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TokenText, E> {
                Ok(TokenText(Token::parse(text)))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The entries of a JSON object, values byte for byte as they came. A key that comes twice is refused: which of its
/// values was meant cannot be known.
#[derive(Debug, Default)]
pub(crate) struct Entries(pub(crate) Vec<(Arc<str>, Json)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Arc<str>>()? {
                    if !seen.insert(Arc::clone(&key)) {
                        return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
                    }
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// An answer.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(body))
            .into_response(),
        Err(error) => Problem::new(Code::Internal, format!("the answer cannot be written: {error}")).into_response(),
    }
}

/// An answer that all is well.
pub(crate) fn ok(body: &impl Serialize) -> Response {
    answer(StatusCode::OK, body)
}
