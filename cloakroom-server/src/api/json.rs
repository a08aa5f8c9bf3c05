//! JSON out, and what requests name in several calls.

use std::{borrow::Cow, collections::HashSet, fmt, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequestParts, Path},
    response::{IntoResponse, Response},
};
use cloakroom::{Json, SessionId, Sessions, Token};
use cloakroom_api::{Entries, TokenText};
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    problem::{Code, Problem},
    strict,
};

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

/// The token that a request gives; text that cannot be one names no session.
pub(crate) fn token(text: &TokenText) -> Result<Token, Problem> {
    text.token().ok_or_else(Problem::unknown_session)
}

/// Refuses what the library would when it acts: a dry run must not say that all is well.
pub(crate) fn check_text(field: &str, text: Option<&str>, may_be_empty: bool) -> Result<(), Problem> {
    const MOST: usize = 256;
    let problem = match text {
        Some("") if !may_be_empty => "it is empty; leave it out instead".to_owned(),
        Some(text) if text.len() > MOST => format!("it has {} bytes, the limit is {MOST}", text.len()),
        Some(text) if text.chars().any(char::is_control) => "it contains a control character".to_owned(),
        _ => return Ok(()),
    };
    Err(Problem::field(Code::InvalidField, field, format!("{field}: {problem}")))
}

/// The entries that a request gives, values byte for byte as they came; `field` is what it calls them.
///
/// More than a session may hold is refused, before any of it is kept; so is a key that comes twice: which of its values
/// was meant cannot be known.
pub(crate) fn entries(
    given: &Entries,
    field: &'static str,
    sessions: &Sessions,
) -> Result<Vec<(Arc<str>, Json)>, Problem> {
    let limit = sessions.max_data_bytes();
    let mut found = Found { limit, ..Found::default() };
    let mut json = serde_json::Deserializer::from_str(given.text());
    if let Err(error) = json.deserialize_map(&mut found) {
        return Err(strict::malformed_in(field, &error));
    }
    if found.size > limit {
        let largest = found.largest.map(|(key, _)| key);
        return Err(Problem::from(cloakroom::Error::TooLarge { key: largest, size: found.size, limit }));
    }
    let mut seen = HashSet::with_capacity(found.entries.len());
    for (key, value) in &found.entries {
        if !seen.insert(key) {
            let name = format!("{field}.{key}");
            return Err(Problem::field(Code::DuplicateField, &name, format!("{name}: it is given twice")));
        }
        let (levels, most) = (value.levels(), Json::MAX_LEVELS);
        if levels > most {
            let detail = format!("{field}.{key}: its {levels} levels are more than {most}.");
            return Err(Problem::new(Code::NestedTooDeep, detail).with("key", key).with("limit", &most));
        }
    }
    Ok(found.entries)
}

/// What was read of an object, and what it would count.
#[derive(Default)]
struct Found {
    limit: usize,
    size: usize,
    largest: Option<(String, usize)>,
    entries: Vec<(Arc<str>, Json)>,
}

impl<'de> Visitor<'de> for &mut Found {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(key) = members.next_key::<Key<'de>>()? {
            let value: &RawValue = members.next_value()?;
            let size = key.0.len() + value.get().len();
            self.size = self.size.checked_add(size).ok_or_else(|| A::Error::custom("it is too large"))?;
            if self.largest.as_ref().is_none_or(|(_, largest)| size > *largest) {
                self.largest = Some((key.0.chars().take(40).collect(), size));
            }
            // What is too much is counted for the answer, and not kept.
            if self.size > self.limit {
                self.entries = Vec::new();
            } else {
                self.entries.push((key.0.into(), Json::from_stored(value.get())));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// An answer.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => written(status, body),
        Err(error) => Problem::new(Code::Internal, format!("the answer cannot be written: {error}")).into_response(),
    }
}

/// An answer that is JSON already.
pub(crate) fn written(status: StatusCode, body: Vec<u8>) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, content_type)], Body::from(body)).into_response()
}

/// An answer that all is well.
pub(crate) fn ok(body: &impl Serialize) -> Response {
    answer(StatusCode::OK, body)
}
