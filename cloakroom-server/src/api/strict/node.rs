//! The deserializer: one value, and where it stands.

use std::{borrow::Cow, fmt};

use cloakroom_api::{NULLABLE, RAW_OBJECT};
use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{BorrowedStrDeserializer, CowStrDeserializer},
    },
};
use serde_json::value::RawValue;

use super::{super::problem::Code, Mistake, without_place};

/// Where a value stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// One value of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'de, 'p> {
    value: Value<'de>,
    path: &'p Path<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Value<'de> {
    /// Text that is JSON for certain, without white space around it.
    Json(&'de str),
    /// The value of a query parameter.
    Text(&'de str),
    /// All query parameters.
    Parameters(&'de [(String, String)]),
}

impl<'de, 'p> Node<'de, 'p> {
    pub(super) fn json(text: &'de str, path: &'p Path<'p>) -> Self {
        Self { value: Value::Json(text), path }
    }

    fn wrong(&self, expected: &str) -> Mistake {
        let problem = match self.value {
            Value::Json(text) => format!("it must be {expected}, not {}", kind(text)),
            Value::Text(_) | Value::Parameters(_) => format!("it must be {expected}"),
        };
        Mistake::value(problem).at(self.path)
    }

    fn placed<T>(&self, result: Result<T, Mistake>) -> Result<T, Mistake> {
        result.map_err(|mistake| mistake.at(self.path))
    }

    /// The text of a number, or whatever else stands where one should.
    fn literal(&self) -> &'de str {
        match self.value {
            Value::Json(text) | Value::Text(text) => text,
            Value::Parameters(_) => "",
        }
    }

    fn text(&self) -> Result<Cow<'de, str>, Mistake> {
        match self.value {
            Value::Text(text) => Ok(Cow::Borrowed(text)),
            Value::Json(text) => match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
                Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
                Some(_) => serde_json::from_str(text).map(Cow::Owned).map_err(|_| {
                    let problem = format!("{}: an escape stands for no character", self.path);
                    Mistake::new(Code::MalformedJson, problem).at(self.path)
                }),
                None => Err(self.wrong("text")),
            },
            Value::Parameters(_) => Err(self.wrong("text")),
        }
    }
}

impl<'de> Node<'de, 'static> {
    pub(super) fn parameters(parameters: &'de [(String, String)]) -> Self {
        Self { value: Value::Parameters(parameters), path: &Path::Root }
    }
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

macro_rules! whole_numbers {
    ($($method:ident $type:ty, $visit:ident;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
            let literal = self.literal();
            // Rust would take a plus sign too.
            let number = literal.parse::<$type>().ok().filter(|_| !literal.starts_with('+'));
            match number {
                Some(number) => self.placed(visitor.$visit(number)),
                None => {
                    let expected = format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX);
                    // Of a number it need not be said that it is one.
                    let number = literal.starts_with(|first: char| first == '-' || first.is_ascii_digit());
                    Err(if number {
                        Mistake::value(format!("it must be {expected}")).at(self.path)
                    } else {
                        self.wrong(&expected)
                    })
                }
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Mistake;

    whole_numbers! {
        deserialize_u8 u8, visit_u8;
        deserialize_u16 u16, visit_u16;
        deserialize_u32 u32, visit_u32;
        deserialize_u64 u64, visit_u64;
        deserialize_i8 i8, visit_i8;
        deserialize_i16 i16, visit_i16;
        deserialize_i32 i32, visit_i32;
        deserialize_i64 i64, visit_i64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Parameters(_) => self.deserialize_map(visitor),
            Value::Text(_) => self.deserialize_str(visitor),
            Value::Json(text) => match text.as_bytes().first() {
                Some(b'{') => self.deserialize_map(visitor),
                Some(b'[') => self.deserialize_seq(visitor),
                Some(b'"') => self.deserialize_str(visitor),
                Some(b't' | b'f') => self.deserialize_bool(visitor),
                Some(b'n') => self.placed(visitor.visit_unit()),
                _ => self.deserialize_f64(visitor),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.literal() {
            "true" => self.placed(visitor.visit_bool(true)),
            "false" => self.placed(visitor.visit_bool(false)),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.literal().parse::<f64>() {
            Ok(number) if number.is_finite() => self.placed(visitor.visit_f64(number)),
            _ => Err(self.wrong("a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let visited = match self.text()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        };
        self.placed(visited)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if let Value::Json("null") = self.value {
            return Err(Mistake::value("null means nothing here: give a value, or leave it out").at(self.path));
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Mistake> {
        Err(self.wrong("left out"))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Mistake> {
        match (name, self.value) {
            (NULLABLE, Value::Json("null")) => self.placed(visitor.visit_none()),
            (NULLABLE, _) => visitor.visit_some(self),
            (RAW_OBJECT, Value::Json(text)) if text.starts_with('{') => self.placed(visitor.visit_borrowed_str(text)),
            (RAW_OBJECT, _) => Err(self.wrong("an object")),
            _ => {
                let path = self.path;
                visitor.visit_newtype_struct(self).map_err(|mistake| mistake.at(path))
            }
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Json(text) if text.starts_with('[') => {
                let mut outcome = None;
                let items = Items { visitor, path: self.path, outcome: &mut outcome };
                let read = serde_json::Deserializer::from_str(text).deserialize_seq(items);
                self.placed(decided(outcome, read))
            }
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Json(text) if text.starts_with('{') => {
                let mut outcome = None;
                let members = Members { visitor, path: self.path, outcome: &mut outcome };
                let read = serde_json::Deserializer::from_str(text).deserialize_map(members);
                self.placed(decided(outcome, read))
            }
            Value::Parameters(parameters) => {
                self.placed(visitor.visit_map(Parameters { left: parameters.iter(), current: None }))
            }
            _ => Err(self.wrong("an object")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let text = self.text()?;
        self.placed(visitor.visit_enum(IntoDeserializer::<Mistake>::into_deserializer(text)))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.placed(visitor.visit_unit())
    }
}

/// What the visitor of one level decided, or why the level could not be read.
fn decided<T>(outcome: Option<Result<T, Mistake>>, read: Result<(), serde_json::Error>) -> Result<T, Mistake> {
    match (outcome, read) {
        (Some(Err(mistake)), _) => Err(mistake),
        (_, Err(error)) => Err(syntax(&error)),
        (Some(decided), Ok(())) => decided,
        (None, Ok(())) => Err(Mistake::value("it cannot be read")),
    }
}

/// The whole body was found to be JSON before, but escapes were not looked at.
fn syntax(error: &impl fmt::Display) -> Mistake {
    Mistake::new(Code::MalformedJson, format!("The body is not JSON: {}.", without_place(error)))
}

/// One level of an object. What its visitor decides lies in `outcome`: `serde_json` has errors of its own kind.
struct Members<'a, 'p, V, T> {
    visitor: V,
    path: &'p Path<'p>,
    outcome: &'a mut Option<Result<T, Mistake>>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Members<'_, '_, V, V::Value> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<(), A::Error> {
        let decided = self.visitor.visit_map(Fields { members, path: self.path, current: Cow::Borrowed("") });
        let done = decided.is_ok();
        *self.outcome = Some(decided);
        if done { Ok(()) } else { Err(de::Error::custom("refused")) }
    }
}

struct Fields<'de, 'p, A> {
    members: A,
    path: &'p Path<'p>,
    current: Cow<'de, str>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'de, '_, A> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        let Some(Name(name)) = self.members.next_key().map_err(|error| syntax(&error))? else { return Ok(None) };
        self.current = name;
        seed.deserialize(CowStrDeserializer::new(self.current.clone())).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mistake> {
        let value: &'de RawValue = self.members.next_value().map_err(|error| syntax(&error))?;
        let path = Path::Field(self.path, &self.current);
        // Types that read text first and make something of it then have left the node when they find a mistake.
        seed.deserialize(Node::json(value.get(), &path)).map_err(|mistake| mistake.at(&path))
    }
}

/// One level of a list, as [`Members`].
struct Items<'a, 'p, V, T> {
    visitor: V,
    path: &'p Path<'p>,
    outcome: &'a mut Option<Result<T, Mistake>>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Items<'_, '_, V, V::Value> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        let decided = self.visitor.visit_seq(Elements { items, path: self.path, at: 0 });
        let done = decided.is_ok();
        *self.outcome = Some(decided);
        if done { Ok(()) } else { Err(de::Error::custom("refused")) }
    }
}

struct Elements<'p, A> {
    items: A,
    path: &'p Path<'p>,
    at: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = Mistake;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let Some(value) = self.items.next_element::<&'de RawValue>().map_err(|error| syntax(&error))? else {
            return Ok(None);
        };
        let path = Path::Index(self.path, self.at);
        self.at += 1;
        seed.deserialize(Node::json(value.get(), &path)).map(Some).map_err(|mistake| mistake.at(&path))
    }
}

/// The query's parameters as the fields of a type.
struct Parameters<'de> {
    left: std::slice::Iter<'de, (String, String)>,
    current: Option<&'de (String, String)>,
}

impl<'de> MapAccess<'de> for Parameters<'de> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        self.current = self.left.next();
        let Some((name, _)) = self.current else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mistake> {
        let (name, value) = self.current.map_or(("", ""), |(name, value)| (name, value));
        let path = Path::Field(&Path::Root, name);
        seed.deserialize(Node { value: Value::Text(value), path: &path }).map_err(|mistake| mistake.at(&path))
    }
}

/// The name of a member, borrowed where it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}
