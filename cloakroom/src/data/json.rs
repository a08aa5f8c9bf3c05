//! One value: JSON text, kept byte for byte.

use std::{fmt, sync::Arc};

use serde::{
    Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::value::RawValue;

use super::strict::Strict;

/// One value: valid JSON text, never interpreted by a store. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Arc<str>);

impl Json {
    /// How many lists and objects may lie within each other. Readers of JSON stop somewhere, many at 128, and an answer that
    /// lists sessions has some around each value.
    pub const MAX_LEVELS: usize = 120;

    /// Takes JSON text as it is. Surrounding white space is not part of the value. More than
    /// [`MAX_LEVELS`](Self::MAX_LEVELS) are an error.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Self(raw.get().into()).bounded()
    }

    /// Text that a store kept, valid because it was when it was set.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// `value` as JSON. What could not be read again is an error: NaN, infinity, and more than
    /// [`MAX_LEVELS`](Self::MAX_LEVELS).
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        Self(serde_json::to_string(&Strict(value))?.into()).bounded()
    }

    fn bounded(self) -> Result<Self, serde_json::Error> {
        let levels = self.levels();
        if levels <= Self::MAX_LEVELS {
            return Ok(self);
        }
        let most = Self::MAX_LEVELS;
        Err(serde_json::Error::custom(format_args!("its {levels} levels of lists and objects are more than {most}")))
    }

    /// How many lists and objects lie within each other.
    pub fn levels(&self) -> usize {
        let (mut level, mut most) = (0_usize, 0);
        let mut bytes = self.0.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'[' | b'{' => {
                    level += 1;
                    most = most.max(level);
                }
                b']' | b'}' => level = level.saturating_sub(1),
                b'"' => {
                    while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                        if byte == b'\\' {
                            bytes.next();
                        }
                    }
                }
                _ => {}
            }
        }
        most
    }

    /// The value as a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value, borrowed.
    pub fn as_ref(&self) -> JsonRef<'_> {
        JsonRef(&self.0)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Applications put personal data into sessions: it does not belong in logs.
        write!(f, "Json({} bytes)", self.0.len())
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_ref().serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self(raw.get().into()).bounded().map_err(D::Error::custom)
    }
}

/// A value where a session's [`Data`](crate::Data) keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct JsonRef<'a>(pub(super) &'a str);

impl<'a> JsonRef<'a> {
    /// The text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The value as a `T`.
    pub fn decode<T: DeserializeOwned>(self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0)
    }

    /// A copy of its own.
    pub fn to_json(self) -> Json {
        Json(self.0.into())
    }
}

impl fmt::Debug for JsonRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

impl Serialize for JsonRef<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_text() {
        for text in ["-0.0", "18446744073709551615", "1e400", r#"{"b":1,"a":2}"#, r#""\u0000""#, "[1, 2]"] {
            assert_eq!(Json::from_text(text).unwrap().as_str(), text);
            let json: Json = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&json).unwrap(), text);
        }
        assert!(Json::from_text("{").is_err());
        assert!(Json::from_text("1 2").is_err());
    }

    #[test]
    fn i17_what_could_not_be_read_again_is_refused() {
        #[derive(Serialize)]
        struct Measured {
            celsius: f64,
        }
        #[derive(Serialize)]
        enum Reading {
            One(f32),
            Two(u8, f32),
            Named { celsius: f32 },
        }
        for no_number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            #[expect(clippy::cast_possible_truncation, reason = "neither is a number")]
            let short = no_number as f32;
            for refused in [
                Json::encode(&no_number),
                Json::encode(&short),
                Json::encode(&Some(no_number)),
                Json::encode(&[1.0, no_number]),
                Json::encode(&(1, no_number)),
                Json::encode(&Measured { celsius: no_number }),
                Json::encode(&[Reading::One(short)]),
                Json::encode(&[Reading::Two(1, short)]),
                Json::encode(&[Reading::Named { celsius: short }]),
                Json::encode(&std::collections::BTreeMap::from([("celsius", no_number)])),
            ] {
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("is no number of JSON"), "{error}");
            }
        }
        assert_eq!(
            Json::encode(&Measured { celsius: f64::MIN }).unwrap().decode::<serde_json::Value>().unwrap()["celsius"],
            f64::MIN
        );
        for text in ["1e400", "[-0.0]", r#"{"a":1e999}"#] {
            let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
            assert_eq!(Json::encode(&Some(raw)).unwrap().as_str(), text, "text is kept as it is");
        }
    }

    #[test]
    fn i17_no_value_nests_deeper_than_it_can_be_read() {
        let lists = |levels| "[".repeat(levels) + &"]".repeat(levels);
        let objects = |levels| r#"{"[\"{":"#.repeat(levels) + "1" + &"}".repeat(levels);
        for nested in [lists, objects] {
            let text = nested(Json::MAX_LEVELS);
            let json = Json::from_text(&text).unwrap();
            assert_eq!(json.levels(), Json::MAX_LEVELS);
            let value: serde_json::Value = json.decode().unwrap();
            assert_eq!(Json::encode(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), json);
            for levels in [Json::MAX_LEVELS + 1, 128, 20_000] {
                let text = nested(levels);
                let raw: Box<RawValue> = serde_json::from_str(&text).unwrap();
                for refused in [Json::from_text(&text), Json::encode(&raw), serde_json::from_str(&text)] {
                    let error = refused.unwrap_err().to_string();
                    assert!(error.contains(&format!("its {levels} levels")), "{error}");
                }
            }
        }
        for (text, levels) in [("1", 0), (r#""[[\"[[""#, 0), ("[[],[]]", 2), (r#"{"a":[{}],"b":[]}"#, 3)] {
            assert_eq!(Json::from_text(text).unwrap().levels(), levels, "{text}");
        }
    }
}
