//! What applications keep in a session: named values, each an opaque piece of JSON text.
//!
//! The text is kept byte for byte: `-0.0`, `u64::MAX`, `1e400`, the order of nested keys and an escaped U+0000 come
//! back exactly as they were set, on every store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    sync::Arc,
};

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

    /// The value, borrowed.
    #[expect(clippy::should_implement_trait, reason = "the trait wants a reference, and this is more than one")]
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
        Ok(Self(raw.get().into()))
    }
}

impl From<&RawValue> for Json {
    fn from(raw: &RawValue) -> Self {
        Self(raw.get().into())
    }
}

/// A value where a session's [`Data`] keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct JsonRef<'a>(&'a str);

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

/// All values of one session, sorted by key. Cloning shares them.
///
/// Sessions hold few keys and are read far more often than written, so all of it is one block of memory: hardly anything
/// to wait for when it is read, and written anew when it changes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data(Option<Arc<[u8]>>);

impl Data {
    /// So many bytes of keys and values fit, with room for the numbers beside them.
    pub(crate) const MAX_BYTES: usize = 1 << 30;

    /// No values.
    pub const fn new() -> Self {
        Self(None)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<JsonRef<'_>> {
        let block = self.block();
        Some(block.value(block.position(key)?))
    }

    /// Sets `key`, and returns what it was.
    pub fn insert(&mut self, key: impl AsRef<str>, value: Json) -> Option<Json> {
        let (key, value) = (key.as_ref(), value.as_str());
        let mut entries: Vec<_> = self.texts().collect();
        let before = match entries.binary_search_by(|(stored, _)| (*stored).cmp(key)) {
            Ok(at) => Some(std::mem::replace(&mut entries[at].1, value).into()),
            Err(at) => {
                entries.insert(at, (key, value));
                None
            }
        };
        *self = Self::of_sorted(&entries);
        before.map(Json)
    }

    /// Removes `key`, and returns what it was.
    pub fn remove(&mut self, key: &str) -> Option<Json> {
        let before = self.get(key)?.to_json();
        let entries: Vec<_> = self.texts().filter(|(stored, _)| *stored != key).collect();
        *self = Self::of_sorted(&entries);
        Some(before)
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Keys and values in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, JsonRef<'_>)> {
        self.texts().map(|(key, value)| (key, JsonRef(value)))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.block().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What counts towards the size limit: the bytes of all keys and values.
    pub fn size(&self) -> usize {
        self.block().size()
    }

    /// Removes all keys or some, and sets others, in one go.
    pub(crate) fn change(&mut self, all: bool, remove: &BTreeSet<Arc<str>>, set: &BTreeMap<Arc<str>, Json>) {
        let mut entries = Vec::with_capacity(self.len() + set.len());
        let mut set = set.iter().map(|(key, value)| (&**key, value.as_str())).peekable();
        for kept in self.texts().filter(|(key, _)| !all && !remove.contains(*key)) {
            entries.extend(iter::from_fn(|| set.next_if(|(key, _)| *key < kept.0)));
            if set.peek().is_none_or(|(key, _)| *key != kept.0) {
                entries.push(kept);
            }
        }
        entries.extend(set);
        *self = Self::of_sorted(&entries);
    }

    fn of_sorted(entries: &[(&str, &str)]) -> Self {
        if entries.is_empty() {
            return Self::new();
        }
        let start = (1 + 2 * entries.len()) * NUMBER;
        let size: usize = entries.iter().map(|(key, value)| entry_size(key, value)).sum();
        // Filled in its place: a list that becomes shared is copied.
        let mut block: Arc<[u8]> = iter::repeat_n(0, start + size).collect();
        let (numbers, texts) = Arc::get_mut(&mut block).expect("nobody else has it yet").split_at_mut(start);
        let mut end = start;
        let mut numbers = numbers.chunks_exact_mut(NUMBER);
        let mut number = |end: usize| {
            let bytes = u32::try_from(end).expect("limits keep data under 4 GiB").to_ne_bytes();
            numbers.next().expect("there is one for each text").copy_from_slice(&bytes);
        };
        number(start);
        for text in entries.iter().flat_map(|(key, value)| [key, value]) {
            texts[end - start..][..text.len()].copy_from_slice(text.as_bytes());
            end += text.len();
            number(end);
        }
        Self(Some(block))
    }

    fn texts(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let block = self.block();
        (0..block.len()).map(move |at| (block.key(at), block.value(at).0))
    }

    fn block(&self) -> Block<'_> {
        Block(self.0.as_deref().unwrap_or_default())
    }
}

/// The bytes of a numbers' place in a block.
const NUMBER: usize = size_of::<u32>();

/// Nothing at all, or: where the first text begins, where each text ends, and the texts, each key before its value.
#[derive(Clone, Copy)]
struct Block<'a>(&'a [u8]);

impl<'a> Block<'a> {
    fn len(self) -> usize {
        if self.0.is_empty() { 0 } else { self.number(0) / (2 * NUMBER) }
    }

    fn size(self) -> usize {
        if self.0.is_empty() { 0 } else { self.0.len() - self.number(0) }
    }

    fn key(self, at: usize) -> &'a str {
        text(self.bytes(2 * at))
    }

    fn value(self, at: usize) -> JsonRef<'a> {
        JsonRef(text(self.bytes(2 * at + 1)))
    }

    fn position(self, key: &str) -> Option<usize> {
        /// Up to so many keys are compared one by one. Where they end lies together and their texts do not, so hardly any
        /// text is fetched from memory, where a search would fetch several.
        const FEW: usize = 32;
        let count = self.len();
        if count <= FEW {
            return (0..count).find(|at| *self.bytes(2 * at) == *key.as_bytes());
        }
        let at = partition_point(count, |at| self.bytes(2 * at) < key.as_bytes());
        (at < count && *self.bytes(2 * at) == *key.as_bytes()).then_some(at)
    }

    /// Keys have even numbers, their values the odd ones behind.
    fn bytes(self, at: usize) -> &'a [u8] {
        &self.0[self.number(at)..self.number(at + 1)]
    }

    fn number(self, at: usize) -> usize {
        let bytes = self.0[at * NUMBER..].first_chunk().expect("a block begins with its numbers");
        u32::from_ne_bytes(*bytes) as usize
    }
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("it was text when it was put in")
}

/// The first number that is not before, or `count`.
fn partition_point(count: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if is_before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// What one entry counts towards the size limit.
pub(crate) fn entry_size(key: &str, value: &str) -> usize {
    key.len() + value.len()
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
        let texts: Vec<_> = entries.iter().map(|(key, value)| (&**key, value.as_str())).collect();
        Self::of_sorted(&texts)
    }
}

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
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
        assert_eq!(data.iter().map(|(key, value)| (key, value.as_str())).collect::<Vec<_>>(), [("b", "3"), ("c", "4")]);
        assert_eq!((data.len(), data.size()), (2, 4));
        assert_eq!(data.insert("b", Json::from_stored("55")).unwrap().as_str(), "3");
        assert_eq!(data.remove("a"), None);
        assert_eq!((data.len(), data.size()), (2, 5));
        data.remove("b");
        data.remove("c");
        assert_eq!((data.len(), data.size(), data.get("c"), &data), (0, 0, None, &Data::new()));
    }

    #[test]
    fn a_change_is_as_good_as_its_steps() {
        let data = |entries: &[(&str, &str)]| -> Data {
            entries.iter().map(|(key, value)| ((*key).into(), Json::from_stored(*value))).collect()
        };
        let start = data(&[("a", "1"), ("c", "2"), ("ключ", "3")]);
        let remove = ["c", "missing"].map(Arc::from).into();
        let set = [("b", "4"), ("ключ", "\"ё\"")].map(|(key, value)| (key.into(), Json::from_stored(value))).into();
        let mut changed = start.clone();
        changed.change(false, &remove, &set);
        assert_eq!(changed, data(&[("a", "1"), ("b", "4"), ("ключ", "\"ё\"")]));
        changed.change(true, &remove, &set);
        assert_eq!(changed, data(&[("b", "4"), ("ключ", "\"ё\"")]));
        changed.change(true, &remove, &BTreeMap::new());
        assert_eq!(changed, Data::new());
        assert_eq!(start.len(), 3, "a clone shares what it held, not what it becomes");
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
