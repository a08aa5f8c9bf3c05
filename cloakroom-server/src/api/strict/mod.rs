//! Reading what a request brings, strictly: what is not understood is refused by the API's own name for it, never ignored.
//!
//! Types say what a call takes by deriving `Deserialize` with `deny_unknown_fields`, in one place for bodies and query
//! parameters. Their deserializer is stricter than `serde_json`'s: an object is never read from a list, `null` is not the
//! same as left out, and every mistake names its field.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::problem::{Code, Problem};

mod mistake;
mod node;
mod parameters;

use mistake::Mistake;
use node::{Node, Path};

/// A request's body, of which an empty one counts as `{}`.
pub(super) fn body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let whole: &RawValue = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    T::deserialize(Node::json(whole.get(), &Path::Root)).map_err(Mistake::in_body)
}

/// A request's query parameters.
pub(super) fn query<T: DeserializeOwned>(query: Option<&str>) -> Result<T, Problem> {
    let parameters = parameters::parse(query.unwrap_or_default()).map_err(Mistake::in_query)?;
    T::deserialize(Node::parameters(&parameters)).map_err(Mistake::in_query)
}

/// A member of a body that is JSON as far as it was looked at, and has an escape that stands for no character.
pub(super) fn malformed_in(field: &str, error: &serde_json::Error) -> Problem {
    Problem::field(Code::MalformedJson, field, format!("{field}: it is not JSON: {}.", without_place(error)))
}

/// What is wrong. Lines and columns of a part mean nothing to those who sent the whole.
fn without_place(error: &impl fmt::Display) -> String {
    let message = error.to_string();
    let is_place = |place: &str| place.bytes().all(|byte| byte.is_ascii_digit() || b" column".contains(&byte));
    match message.rsplit_once(" at line ") {
        Some((before, place)) if is_place(place) => before.to_owned(),
        _ => message,
    }
}

fn malformed(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    let detail = format!("The body is not JSON: {}, in line {line} at column {column}.", without_place(error));
    Problem::new(Code::MalformedJson, detail).with("line", &line).with("column", &column)
}

#[cfg(test)]
mod tests {
    use cloakroom_api::{AtMost, Entries, Nothing, Nullable};
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "what is read is not looked at")]
    struct Request {
        name: Option<String>,
        count: Option<u8>,
        on: Option<bool>,
        limit: Option<Limit>,
        list: Option<AtMost<Limit, 2>>,
        #[serde(default)]
        emptied: Nullable<u8>,
        data: Option<Entries>,
        when_full: Option<cloakroom::WhenFull>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "what is read is not looked at")]
    struct Limit {
        max: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Parameters {
        name: Option<String>,
        limit: Option<usize>,
    }

    fn document(problem: &Problem) -> Value {
        serde_json::to_value(problem).unwrap()
    }

    #[test]
    fn what_is_understood_is_read() {
        for text in [
            "",
            "{}",
            r#" {"name":"é\u00e9\n","count":255,"on":false,"limit":{"max":1},"list":[{"max":1},{"max":2}]} "#,
            r#"{"emptied":null,"data":{"a":[[]]},"when_full":"evict"}"#,
        ] {
            body::<Request>(text.as_bytes()).unwrap();
        }
        let read: Request = body(br#"{"name":"\u00e9\n\"","emptied":7}"#).unwrap();
        assert_eq!((read.name.as_deref(), read.emptied.0), (Some("é\n\""), Some(Some(7))));
        assert_eq!(body::<Request>(b"{}").unwrap().emptied.0, None);
        assert_eq!(body::<Request>(br#"{"emptied":null}"#).unwrap().emptied.0, Some(None));
        let read: Parameters = query(Some("name=a%20b+%C3%A9&limit=7")).unwrap();
        assert_eq!((read.name.as_deref(), read.limit), (Some("a b é"), Some(7)));
        query::<Parameters>(None).unwrap();
        query::<Nothing>(Some("")).unwrap();
    }

    #[test]
    fn s2_every_mistake_in_a_body_names_its_field() {
        for (text, code, field, says) in [
            ("[]", "invalid_field", None, "an object, not a list"),
            ("null", "invalid_field", None, "not null"),
            (r#"{"name":1}"#, "invalid_field", Some("name"), "text, not a number"),
            (r#"{"name":null}"#, "invalid_field", Some("name"), "null"),
            (r#"{"count":256}"#, "invalid_field", Some("count"), "from 0 to 255"),
            (r#"{"count":-1}"#, "invalid_field", Some("count"), "from 0 to 255"),
            (r#"{"count":1.0}"#, "invalid_field", Some("count"), "whole number"),
            (r#"{"count":"1"}"#, "invalid_field", Some("count"), "whole number"),
            (r#"{"on":"yes"}"#, "invalid_field", Some("on"), "true or false"),
            (r#"{"limit":[1]}"#, "invalid_field", Some("limit"), "an object, not a list"),
            (r#"{"limit":{}}"#, "missing_field", Some("limit.max"), "missing"),
            (r#"{"limit":{"max":null}}"#, "invalid_field", Some("limit.max"), "null"),
            (r#"{"limit":{"max":1,"most":2}}"#, "unknown_field", Some("limit.most"), "max"),
            (r#"{"list":[{"max":1},[2]]}"#, "invalid_field", Some("list[1]"), "not a list"),
            (r#"{"list":[{"max":1},{"max":2},{"max":3}]}"#, "invalid_field", Some("list"), "more than 2"),
            (r#"{"list":{}}"#, "invalid_field", Some("list"), "a list, not an object"),
            (r#"{"emptied":"x"}"#, "invalid_field", Some("emptied"), "whole number"),
            (r#"{"data":[["a",1]]}"#, "invalid_field", Some("data"), "an object, not a list"),
            (r#"{"when_full":"explode"}"#, "invalid_field", Some("when_full"), "evict, refuse"),
            (r#"{"nmae":1}"#, "unknown_field", Some("nmae"), "name"),
            (r#"{"name":"a","name":"b"}"#, "duplicate_field", Some("name"), "twice"),
        ] {
            let problem = document(&body::<Request>(text.as_bytes()).unwrap_err());
            assert_eq!(problem["code"], code, "{text}: {problem}");
            assert_eq!(problem.get("field").and_then(Value::as_str), field, "{text}: {problem}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(says), "{text}: {detail}");
            for leak in ["u8", "u32", "usize", "struct", "Option", "sequence", "column", "unit"] {
                assert!(!detail.contains(leak), "{text}: {detail}");
            }
        }
    }

    #[test]
    fn s2_text_that_is_not_json_is_told_where() {
        for text in ["{", "nonsense", "{}{}", "{\"name\":\"\u{1}\"}", "  ", r#"{"name":"\ud800"}"#, "{,}"] {
            assert_eq!(document(&body::<Request>(text.as_bytes()).unwrap_err())["code"], "malformed_json", "{text}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(document(&body::<Request>(deep.as_bytes()).unwrap_err())["code"], "invalid_field");
        assert_eq!(document(&body::<Request>(b"{\"name\":\"\xff\"}").unwrap_err())["code"], "malformed_json");
    }

    #[test]
    fn s2_every_mistake_in_a_query_names_its_parameter() {
        for (text, parameter, says) in [
            ("zz=1", "zz", "known are name, limit"),
            ("limit=1&limit=2", "limit", "twice"),
            ("limit=many", "limit", "whole number"),
            ("limit=", "limit", "whole number"),
            ("limit=-1", "limit", "whole number"),
            ("limit=+1", "limit", "whole number"),
            ("name=%ff", "name", "UTF-8"),
            ("name=%zz", "name", "%"),
            ("limit", "limit", "whole number"),
        ] {
            let problem = document(&query::<Parameters>(Some(text)).unwrap_err());
            assert_eq!(problem["code"], "invalid_parameter", "{text}: {problem}");
            assert_eq!(problem["parameter"], parameter, "{text}: {problem}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(says) && !detail.contains("usize"), "{text}: {detail}");
        }
        let problem = document(&query::<Nothing>(Some("dry_run=true")).unwrap_err());
        assert!(problem["detail"].as_str().unwrap().contains("nothing is taken"), "{problem}");
    }
}
