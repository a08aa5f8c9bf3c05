//! What applications keep in a session: named values, each an opaque piece of JSON text.
//!
//! The text is kept byte for byte: `-0.0`, `u64::MAX`, `1e400`, the order of nested keys and an escaped U+0000 come
//! back exactly as they were set, on every store.

use std::{fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::Error;

/// One value: valid JSON text, never interpreted by a store. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Arc<str>);

impl Json {
    /// Takes JSON text as it is. Surrounding white space is not part of the value.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(Self(raw.get().into()))
    }

    /// Text that a store kept, valid because it was when it was set.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// `value` as JSON.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self(serde_json::to_string(value)?.into()))
    }

    /// The value as a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
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
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(raw.get().into()))
    }
}

impl From<&RawValue> for Json {
    fn from(raw: &RawValue) -> Self {
        Self(raw.get().into())
    }
}

/// All values of one session, sorted by key.
///
/// Sessions hold few keys and are read far more often than written, so this is a sorted list: one allocation to
/// clone, and few texts to look at.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data(Vec<(Arc<str>, Json)>);

impl Data {
    /// No values.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.position(key).map(|at| &self.0[at].1)
    }

    /// Sets `key`, and returns what it was.
    pub fn insert(&mut self, key: impl AsRef<str> + Into<Arc<str>>, value: Json) -> Option<Json> {
        match self.find(key.as_ref()) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key.into(), value));
                None
            }
        }
    }

    /// Removes `key`, and returns what it was.
    pub fn remove(&mut self, key: &str) -> Option<Json> {
        self.position(key).map(|at| self.0.remove(at).1)
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Keys and values in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Json)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What counts towards the size limit: the bytes of all keys and values.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(key, value)| entry_size(key, value)).sum()
    }

    fn position(&self, key: &str) -> Option<usize> {
        /// Up to so many keys are compared one by one. Their lengths lie in the list and their texts do not, so hardly any
        /// text is fetched from memory, where a search would fetch several.
        const FEW: usize = 32;
        if self.0.len() > FEW {
            return self.find(key).ok();
        }
        self.0.iter().position(|(stored, _)| **stored == *key)
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(stored, _)| stored.as_ref().cmp(key))
    }
}

/// What one entry counts towards the size limit.
pub(crate) fn entry_size(key: &str, value: &Json) -> usize {
    key.len() + value.0.len()
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl FromIterator<(Arc<str>, Json)> for Data {
    /// The last value of a key that comes twice counts.
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Json)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.reverse();
        entries.dedup_by(|a, b| a.0 == b.0);
        entries.reverse();
        Self(entries)
    }
}

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, value)| (&**key, value)))
    }
}

/// Refuses keys that no store could keep or no log could show: empty, too long, or with control characters.
pub(crate) fn check_key(key: &str, max_bytes: usize) -> Result<(), Error> {
    let problem = if key.is_empty() {
        "it is empty".to_owned()
    } else if key.len() > max_bytes {
        format!("it has {} bytes, the limit is {max_bytes}", key.len())
    } else if has_control_character(key) {
        "it contains a control character".to_owned()
    } else {
        return Ok(());
    };
    let mut shown: String = key.chars().take(40).collect();
    if shown.len() < key.len() {
        shown.push('…');
    }
    Err(Error::InvalidKey { key: shown, problem })
}

fn has_control_character(text: &str) -> bool {
    // Most keys are ASCII: their bytes need no decoding.
    if text.is_ascii() { text.bytes().any(|byte| byte.is_ascii_control()) } else { text.chars().any(char::is_control) }
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
    fn data_is_a_sorted_map() {
        let mut data: Data =
            [("b", "1"), ("a", "2"), ("b", "3")].map(|(k, v)| (k.into(), Json::from_stored(v))).into_iter().collect();
        assert_eq!(data.get("b").unwrap().as_str(), "3");
        assert_eq!(data.insert("c", Json::from_stored("4")), None);
        assert_eq!(data.remove("a").unwrap().as_str(), "2");
        assert_eq!(data.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(data.size(), 4);
    }

    #[test]
    fn every_key_is_found_among_few_and_among_many() {
        for count in [0, 1, 32, 33, 100] {
            let key = |n: usize| format!("{n:03}");
            let data: Data = (0..count).map(|n| (key(n).into(), Json::from_stored(key(n)))).collect();
            assert!((0..count).all(|n| data.get(&key(n)).is_some_and(|value| value.as_str() == key(n))));
            assert_eq!(data.get(&key(count)), None);
        }
    }

    #[test]
    fn i11_bad_keys_are_refused_with_the_reason() {
        assert!(check_key("cart.items[0]\"$\\ ключ", 128).is_ok());
        for (key, reason) in [
            ("", "empty"),
            ("a\u{0}b", "control"),
            ("tab\t", "control"),
            ("\u{7f}", "control"),
            ("é\u{85}", "control"),
            (&"k".repeat(129), "129"),
        ] {
            let error = check_key(key, 128).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
