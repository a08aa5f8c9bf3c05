//! Kinds of values that requests are made of.

use std::{borrow::Cow, fmt, marker::PhantomData};

use cloakroom::{Assurance, Timestamp, Token};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::schema;

/// By this name [`Nullable`] asks a deserializer for what it is.
pub const NULLABLE: &str = "cloakroom::Nullable";
/// By this name [`Entries`] ask a deserializer for their text.
pub const RAW_OBJECT: &str = "cloakroom::RawObject";

/// A field that `null` empties: `None` where it is left out, `Some(None)` where it is null. Everywhere else `null` is refused:
/// it is not the same as left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nullable<T>(pub Option<Option<T>>);

impl<T> Nullable<T> {
    /// Whether the field is left out.
    pub fn is_left_out(&self) -> bool {
        self.0.is_none()
    }
}

impl<T> Default for Nullable<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Serialize> Serialize for Nullable<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Nullable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Value<T> {
            type Value = Nullable<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or null")
            }

            fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Nullable(Some(None)))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                T::deserialize(deserializer).map(|value| Nullable(Some(Some(value))))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                Option::deserialize(deserializer).map(|value| Nullable(Some(value)))
            }
        }

        deserializer.deserialize_newtype_struct(NULLABLE, Value(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Nullable<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Nullable_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        // `anyOf` with a null is what an `Option` gets too, and there null is refused.
        json_schema!({ "oneOf": [value, { "type": "null" }] })
    }
}

/// A list of at most so many items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AtMost<T, const N: usize>(pub Vec<T>);

impl<T, const N: usize> AtMost<T, N> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T, const N: usize> Default for AtMost<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = AtMost<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == N {
                        return Err(de::Error::custom(format_args!("it has more than {N} items")));
                    }
                    list.push(item);
                }
                Ok(AtMost(list))
            }
        }

        deserializer.deserialize_seq(Items(PhantomData))
    }
}

impl<T: JsonSchema, const N: usize> JsonSchema for AtMost<T, N> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("AtMost_{N}_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "items": items, "maxItems": N })
    }
}

/// Keys and values, byte for byte as they came: the text of a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries(Box<str>);

impl Entries {
    /// The object's text, such as `{"theme": "dark"}`.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.trim_start_matches('{').trim_start().starts_with('}')
    }

    /// Of an object, or whatever else is written as one.
    pub fn of(object: &impl Serialize) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_string(object)?;
        if text.starts_with('{') { Ok(Self(text.into())) } else { Err(de::Error::custom("it is no object")) }
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self("{}".into())
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Entries, E> {
                Ok(Entries(text.into()))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entries, D::Error> {
                let raw = Box::<RawValue>::deserialize(deserializer)?;
                if raw.get().starts_with('{') {
                    Ok(Entries(raw.get().into()))
                } else {
                    Err(de::Error::custom("it must be an object"))
                }
            }
        }

        deserializer.deserialize_newtype_struct(RAW_OBJECT, Text)
    }
}

impl JsonSchema for Entries {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Entries".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema::Object::json_schema(generator)
    }
}

/// A token in a request: any text, which opens nothing unless it is a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenText(Box<str>);

impl TokenText {
    /// Of a token's text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The token, if it can be one.
    pub fn token(&self) -> Option<Token> {
        Token::parse(&self.0)
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(…)")
    }
}

impl JsonSchema for TokenText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Token".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A session's token." })
    }
}

/// When a session ends whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It does not: `"never"`, and every time from 9999-12-30 on, as languages write their latest time.
    Never,
    /// Then.
    At(Timestamp),
}

impl End {
    fn parse(text: &str) -> Option<Self> {
        if text == "never" {
            return Some(Self::Never);
        }
        if let Ok(time) = text.parse() {
            return Some(if time < Timestamp::MAX { Self::At(time) } else { Self::Never });
        }
        // Later than this crate can tell apart, but a time all the same.
        let day = text.strip_prefix("9999-12-3")?;
        format!("9998-12-3{day}").parse::<Timestamp>().is_ok().then_some(Self::Never)
    }
}

impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Never => serializer.serialize_str("never"),
            Self::At(time) => time.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom("not a time: it must be RFC 3339, such as 2030-01-31T12:00:00Z, or \"never\"")
        })
    }
}

impl JsonSchema for End {
    fn schema_name() -> Cow<'static, str> {
        "End".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let time = generator.subschema_for::<schema::Time>();
        json_schema!({ "oneOf": [{ "const": "never" }, time], "description": "A time, or \"never\"." })
    }
}

/// An assurance level by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Level(pub Assurance);

impl TryFrom<u8> for Level {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Assurance::from_number(number).map(Self).ok_or_else(|| format!("{number} is no level: 1, 2 or 3"))
    }
}

impl From<Level> for u8 {
    fn from(Level(level): Level) -> Self {
        level.number()
    }
}

impl JsonSchema for Level {
    fn schema_name() -> Cow<'static, str> {
        "Level".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 3, "description": "An assurance level." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_time_of_every_language_means_never() {
        for never in [
            "never",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999999Z",
            "9999-12-31T23:59:59.9999999+00:00",
            "9999-12-30T00:00:00Z",
        ] {
            assert_eq!(End::parse(never), Some(End::Never), "{never}");
        }
        let time = End::parse("2030-01-31T12:00:00Z");
        assert_eq!(time, Some(End::At(Timestamp::from_millis(1_896_091_200_000))));
        for wrong in ["", "Never", "9999-12-32T00:00:00Z", "9999-12-3", "10000-01-01T00:00:00Z", "tomorrow"] {
            assert_eq!(End::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn values_read_what_they_write_with_any_deserializer() {
        let emptied: Nullable<u8> = serde_json::from_str("null").unwrap();
        assert_eq!(emptied, Nullable(Some(None)));
        assert_eq!(serde_json::from_str::<Nullable<u8>>("7").unwrap(), Nullable(Some(Some(7))));
        let entries: Entries = serde_json::from_str(r#"{"a": -0.0}"#).unwrap();
        assert_eq!(serde_json::to_string(&entries).unwrap(), r#"{"a": -0.0}"#);
        assert!(serde_json::from_str::<Entries>("[1]").is_err());
        assert!(Entries::default().is_empty() && !entries.is_empty());
        assert_eq!(format!("{:?}", TokenText::new("secret")), "TokenText(…)");
    }
}
