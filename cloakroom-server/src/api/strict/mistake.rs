//! What is wrong with what a request brings, in the API's own words.

use std::fmt;

use serde::de;

use super::{
    super::problem::{Code, Problem},
    node::Path,
};

/// A mistake, and where it is as soon as the place that read it has said so.
#[derive(Debug)]
pub(super) struct Mistake {
    code: Code,
    /// The field beneath the place, for mistakes that are told by those who look for fields.
    name: Option<String>,
    place: Option<String>,
    problem: String,
}

impl Mistake {
    pub(super) fn new(code: Code, problem: impl Into<String>) -> Self {
        Self { code, name: None, place: None, problem: problem.into() }
    }

    /// A value that is not what it has to be.
    pub(super) fn value(problem: impl Into<String>) -> Self {
        Self::new(Code::InvalidField, problem)
    }

    fn of_field(code: Code, name: &str, problem: impl Into<String>) -> Self {
        Self { name: Some(shortened(name)), ..Self::new(code, problem) }
    }

    /// The innermost place that is named counts.
    pub(super) fn at(mut self, path: &Path<'_>) -> Self {
        if self.place.is_none() {
            self.place = Some(match self.name.take() {
                Some(name) => Path::Field(path, &name).to_string(),
                None => path.to_string(),
            });
        }
        self
    }

    pub(super) fn in_body(self) -> Problem {
        let field = self.at(&Path::Root);
        match field.place.as_deref() {
            _ if field.code == Code::MalformedJson => Problem::new(field.code, field.problem),
            None | Some("") => Problem::new(field.code, format!("The body: {}.", field.problem)),
            Some(place) => Problem::field(field.code, place, format!("{place}: {}", field.problem)),
        }
    }

    pub(super) fn in_query(self) -> Problem {
        let parameter = self.at(&Path::Root);
        let place = parameter.place.as_deref().unwrap_or_default();
        Problem::parameter(place, &parameter.problem)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(message.to_string())
    }

    /// Types are checked before a visitor sees a value, so this is for visitors that take one kind of several.
    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::value(format!("it must be {expected}"))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::value(format!("it must be {expected}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::value(format!("{:?} is not one of {}", shortened(variant), expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let problem = match expected {
            [] => "unknown; nothing is taken here".to_owned(),
            _ => format!("unknown; known are {}", expected.join(", ")),
        };
        Self::of_field(Code::UnknownField, field, problem)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::of_field(Code::MissingField, field, "it is missing")
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::of_field(Code::DuplicateField, field, "it is given twice")
    }
}

/// Of what a client made up, so much is repeated.
fn shortened(text: &str) -> String {
    const MOST: usize = 100;
    match text.floor_char_boundary(MOST) {
        cut if cut < text.len() => format!("{}…", &text[..cut]),
        _ => text.to_owned(),
    }
}
