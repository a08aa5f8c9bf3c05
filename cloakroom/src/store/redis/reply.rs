//! Answers of Redis, taken apart.

use std::{str::FromStr, sync::Arc};

use redis::Value;

use super::keys::Place;
use crate::{clock::Timestamp, error::Error, token::SessionId};

/// What is stored, or what a server answers, is not what we wrote.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0} cannot be read")]
pub(super) struct Damaged(pub(super) &'static str);

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::store("what Redis holds under our keys is damaged, or was written by something else", damaged)
    }
}

/// Taking an answer apart.
pub(super) trait Reply: Sized {
    fn array(self) -> Result<Vec<Value>, Damaged>;
    fn optional_bytes(self) -> Result<Option<Vec<u8>>, Damaged>;

    fn bytes(self) -> Result<Vec<u8>, Damaged> {
        self.optional_bytes()?.ok_or(Damaged("something that is missing"))
    }

    fn text(self) -> Result<String, Damaged> {
        String::from_utf8(self.bytes()?).map_err(|_| Damaged("a text"))
    }

    fn optional_text(self) -> Result<Option<Arc<str>>, Damaged> {
        let text = self.optional_bytes()?.map(String::from_utf8).transpose().map_err(|_| Damaged("a text"))?;
        Ok(text.map(Into::into))
    }

    fn optional_number<T: FromStr>(self) -> Result<Option<T>, Damaged> {
        let text = self.optional_text()?;
        text.map(|text| text.parse().map_err(|_| Damaged("a number"))).transpose()
    }

    fn number<T: FromStr>(self) -> Result<T, Damaged> {
        self.optional_number()?.ok_or(Damaged("a number"))
    }

    fn optional_time(self) -> Result<Option<Timestamp>, Damaged> {
        Ok(self.optional_number()?.map(Timestamp::from_millis))
    }

    fn time(self) -> Result<Timestamp, Damaged> {
        self.optional_time()?.ok_or(Damaged("a time"))
    }

    /// An entry of a group's index.
    fn place(self) -> Result<Place, Damaged> {
        Place::from_bytes(&self.bytes()?).ok_or(Damaged("a place in the index"))
    }

    fn id(self) -> Result<SessionId, Damaged> {
        self.text()?.parse().map_err(|_| Damaged("a session id"))
    }
}

impl Reply for Value {
    fn array(self) -> Result<Vec<Value>, Damaged> {
        match self {
            Value::Array(parts) => Ok(parts),
            // In RESP3 a hash has pairs.
            Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(field, value)| [field, value]).collect()),
            _ => Err(Damaged("a list")),
        }
    }

    fn optional_bytes(self) -> Result<Option<Vec<u8>>, Damaged> {
        match self {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::SimpleString(text) => Ok(Some(text.into_bytes())),
            Value::Int(number) => Ok(Some(number.to_string().into_bytes())),
            Value::Nil => Ok(None),
            _ => Err(Damaged("a text")),
        }
    }
}

/// Fields and their values.
pub(super) struct Hash(Vec<(Vec<u8>, Value)>);

impl Hash {
    pub(super) fn read(flat: Value) -> Result<Self, Damaged> {
        let mut parts = flat.array()?.into_iter();
        let mut fields = Vec::with_capacity(parts.len() / 2);
        while let Some(name) = parts.next() {
            fields.push((name.bytes()?, parts.next().ok_or(Damaged("a hash"))?));
        }
        Ok(Self(fields))
    }

    /// The value of a field; nothing if there is no such field.
    pub(super) fn take(&mut self, name: &str) -> Value {
        let at = self.0.iter().position(|(field, _)| field == name.as_bytes());
        at.map_or(Value::Nil, |at| self.0.swap_remove(at).1)
    }

    pub(super) fn into_fields(self) -> Vec<(Vec<u8>, Value)> {
        self.0
    }
}
