//! What applications keep in a session: named values, each an opaque piece of JSON text.
//!
//! The text is kept byte for byte: `-0.0`, `u64::MAX`, `1e400`, the order of nested keys and an escaped U+0000 come
//! back exactly as they were set, on every store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    ops::Range,
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
        Some(JsonRef(text(block.bytes(2 * block.position(key)? + 1))))
    }

    /// Sets `key`, and returns what it was.
    #[expect(clippy::needless_pass_by_value, reason = "what is inserted is given away, as in every map")]
    pub fn insert(&mut self, key: impl AsRef<str>, value: Json) -> Option<Json> {
        let before = self.get(key.as_ref()).map(JsonRef::to_json);
        self.set(key.as_ref(), &value, usize::MAX).expect("nothing is larger");
        before
    }

    /// Removes `key`, and returns what it was.
    pub fn remove(&mut self, key: &str) -> Option<Json> {
        let before = self.get(key).map(JsonRef::to_json);
        self.unset(key);
        before
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Keys and values in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, JsonRef<'_>)> {
        self.entries().map(|(key, value)| (text(key), JsonRef(text(value))))
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

    /// Removes all keys or some, and sets others, in one go. Where that makes it larger than before and than `most` bytes,
    /// nothing changes, and the size it would have is the error.
    pub(crate) fn change(
        &mut self,
        all: bool,
        remove: &BTreeSet<Arc<str>>,
        set: &BTreeMap<Arc<str>, Json>,
        most: usize,
    ) -> Result<(), usize> {
        match (all, remove.first(), set.first_key_value()) {
            // What most requests do.
            (false, None, Some((key, value))) if set.len() == 1 => return self.set(key, value, most),
            (false, Some(key), None) if remove.len() == 1 => {
                self.unset(key);
                return Ok(());
            }
            (false, None, None) => return Ok(()),
            _ => {}
        }
        let mut entries = Vec::with_capacity(self.len() + set.len());
        let mut set = set.iter().map(|(key, value)| (key.as_bytes(), value.as_str().as_bytes())).peekable();
        let mut remove = remove.iter().map(|key| key.as_bytes()).peekable();
        for (key, value) in self.entries().filter(|_| !all) {
            while let Some(new) = set.next_if(|(new, _)| *new < key) {
                entries.push(new);
            }
            while remove.next_if(|removed| *removed < key).is_some() {}
            if remove.peek() != Some(&key) && set.peek().is_none_or(|(new, _)| *new != key) {
                entries.push((key, value));
            }
        }
        entries.extend(set);
        let size = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.check_size(size, most)?;
        *self = Self::of_sorted(&entries);
        Ok(())
    }

    fn set(&mut self, key: &str, value: &Json, most: usize) -> Result<(), usize> {
        let (block, value) = (self.block(), value.as_str().as_bytes());
        let Some(at) = block.position(key) else {
            self.check_size(block.size() + key.len() + value.len(), most)?;
            *self = block.with(block.place_of(key.as_bytes()), false, Some((key.as_bytes(), value)));
            return Ok(());
        };
        let old = block.range(2 * at + 1);
        self.check_size(block.size() - old.len() + value.len(), most)?;
        if old.len() == value.len()
            && let Some(own) = self.0.as_mut().and_then(Arc::get_mut)
        {
            own[old].copy_from_slice(value);
        } else {
            *self = self.block().with(at, true, Some((key.as_bytes(), value)));
        }
        Ok(())
    }

    fn unset(&mut self, key: &str) {
        if let Some(at) = self.block().position(key) {
            *self = self.block().with(at, true, None);
        }
    }

    fn check_size(&self, size: usize, most: usize) -> Result<(), usize> {
        if size > most && size > self.size() { Err(size) } else { Ok(()) }
    }

    fn of_sorted(entries: &[(&[u8], &[u8])]) -> Self {
        if entries.is_empty() {
            return Self::new();
        }
        let start = (1 + 2 * entries.len()) * NUMBER;
        let size: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        let mut block = zeros(start + size);
        let (numbers, texts) = unshared(&mut block).split_at_mut(start);
        let ends = entries.iter().flat_map(|(key, value)| [key.len(), value.len()]).scan(start, |end, length| {
            *end += length;
            Some(*end)
        });
        write_numbers(numbers, iter::once(start).chain(ends));
        write_texts(texts, entries.iter().flat_map(|(key, value)| [*key, *value]));
        Self(Some(block))
    }

    /// Keys and values as bytes: texts in the order of their bytes.
    fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        let block = self.block();
        (0..block.len()).map(move |at| (block.bytes(2 * at), block.bytes(2 * at + 1)))
    }

    fn block(&self) -> Block<'_> {
        /// Of no entries: the first text would begin behind this number.
        const EMPTY: [u8; NUMBER] = 4_u32.to_ne_bytes();
        Block(self.0.as_deref().unwrap_or(&EMPTY))
    }
}

/// The bytes of a numbers' place in a block.
const NUMBER: usize = size_of::<u32>();

/// Where the first text begins, where each text ends, and the texts, each key before its value.
#[derive(Clone, Copy)]
struct Block<'a>(&'a [u8]);

impl<'a> Block<'a> {
    fn len(self) -> usize {
        self.start() / (2 * NUMBER)
    }

    fn size(self) -> usize {
        self.0.len() - self.start()
    }

    /// Where the first text begins.
    fn start(self) -> usize {
        self.end(0)
    }

    fn position(self, key: &str) -> Option<usize> {
        /// Up to so many keys are compared one by one. Where they end lies together and their texts do not, so hardly any
        /// text is fetched from memory, where a search would fetch several.
        const FEW: usize = 32;
        let (count, key) = (self.len(), key.as_bytes());
        if count > FEW {
            let at = self.place_of(key);
            return (at < count && *self.bytes(2 * at) == *key).then_some(at);
        }
        let mut start = self.start();
        let ends = self.0[NUMBER..start].as_chunks().0;
        ends.as_chunks().0.iter().position(|[key_end, value_end]| {
            let key_start = std::mem::replace(&mut start, number(value_end));
            let key_end = number(key_end);
            key_end - key_start == key.len() && self.0[key_start..key_end] == *key
        })
    }

    /// Where a key is, or would be.
    fn place_of(self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.bytes(2 * middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// With another entry, or none, in place of the one at `at`, or before it.
    fn with(self, at: usize, replaced: bool, new: Option<(&[u8], &[u8])>) -> Data {
        let behind = at + usize::from(replaced);
        let count = self.len() + usize::from(new.is_some()) - usize::from(replaced);
        if count == 0 {
            return Data::new();
        }
        let (old_start, start) = (self.start(), (1 + 2 * count) * NUMBER);
        let (before, after) = (&self.0[old_start..self.end(2 * at)], &self.0[self.end(2 * behind)..]);
        let (key, value) = new.unwrap_or_default();
        let key_end = start + before.len() + key.len();
        let value_end = key_end + value.len();
        let mut block = zeros(value_end + after.len());
        let (numbers, texts) = unshared(&mut block).split_at_mut(start);
        let (kept, rest) = numbers.split_at_mut((2 * at + 1) * NUMBER);
        let (own, moved) = rest.split_at_mut(if new.is_some() { 2 * NUMBER } else { 0 });
        write_moved(kept, self.0, old_start, start);
        write_numbers(own, [key_end, value_end].into_iter());
        write_moved(moved, &self.0[(2 * behind + 1) * NUMBER..], self.end(2 * behind), value_end);
        write_texts(texts, [before, key, value, after].into_iter());
        Data(Some(block))
    }

    /// Keys have even numbers, their values the odd ones behind.
    fn bytes(self, at: usize) -> &'a [u8] {
        &self.0[self.range(at)]
    }

    fn range(self, at: usize) -> Range<usize> {
        self.end(at)..self.end(at + 1)
    }

    /// Where the text before this one ends, and this one begins.
    fn end(self, at: usize) -> usize {
        number(self.0[at * NUMBER..].first_chunk().expect("there is one more number than texts"))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "that is how chunks of a block come")]
fn number(bytes: &[u8; NUMBER]) -> usize {
    u32::from_ne_bytes(*bytes) as usize
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("it was text when it was put in")
}

/// To be filled in its place: a list that becomes shared would be copied.
fn zeros(length: usize) -> Arc<[u8]> {
    iter::repeat_n(0, length).collect()
}

fn unshared(block: &mut Arc<[u8]>) -> &mut [u8] {
    Arc::get_mut(block).expect("nobody else has it yet")
}

fn write_numbers(places: &mut [u8], numbers: impl Iterator<Item = usize>) {
    for (place, number) in places.as_chunks_mut().0.iter_mut().zip(numbers) {
        *place = narrow(number).to_ne_bytes();
    }
}

/// Numbers as they were, but for where the texts lie that they count from.
fn write_moved(places: &mut [u8], old: &[u8], from: usize, to: usize) {
    let moved = narrow(to).wrapping_sub(narrow(from));
    for (place, old) in places.as_chunks_mut().0.iter_mut().zip(old.as_chunks().0) {
        *place = u32::from_ne_bytes(*old).wrapping_add(moved).to_ne_bytes();
    }
}

fn write_texts<'a>(mut places: &mut [u8], texts: impl Iterator<Item = &'a [u8]>) {
    for text in texts {
        let (place, behind) = places.split_at_mut(text.len());
        place.copy_from_slice(text);
        places = behind;
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("limits keep data under 4 GiB")
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
        let texts: Vec<_> = entries.iter().map(|(key, value)| (key.as_bytes(), value.as_str().as_bytes())).collect();
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
    // Most keys are ASCII that can be seen: their bytes need no decoding.
    !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.chars().any(char::is_control)
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
        changed.change(false, &remove, &set, usize::MAX).unwrap();
        assert_eq!(changed, data(&[("a", "1"), ("b", "4"), ("ключ", "\"ё\"")]));
        changed.change(true, &remove, &set, usize::MAX).unwrap();
        assert_eq!(changed, data(&[("b", "4"), ("ключ", "\"ё\"")]));
        changed.change(true, &remove, &BTreeMap::new(), usize::MAX).unwrap();
        assert_eq!(changed, Data::new());
        assert_eq!(start.len(), 3, "a clone shares what it held, not what it becomes");
    }

    #[test]
    fn single_steps_and_whole_changes_agree() {
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((random >> 33) % below).unwrap()
        };
        let (mut data, mut model) = (Data::new(), BTreeMap::<Arc<str>, Json>::new());
        for step in 0..5000 {
            let key: Arc<str> = "k".repeat(next(40)).into();
            let value = Json::from_stored("7".repeat(next(20)));
            let mut whole = data.clone();
            let (other, one): (Arc<str>, _) = ("z".into(), [(key.clone(), value.clone())]);
            if next(5) > 1 {
                whole.change(false, &[other].into(), &one.into(), usize::MAX).unwrap();
                assert_eq!(data.insert(&key, value.clone()), model.insert(key, value));
            } else {
                whole.change(false, &[key.clone(), other].into(), &BTreeMap::new(), usize::MAX).unwrap();
                assert_eq!(data.remove(&key), model.remove(&key));
            }
            assert_eq!(data, model.clone().into_iter().collect(), "step {step}");
            assert_eq!(data, whole, "step {step}");
            assert_eq!((data.len(), data.is_empty()), (model.len(), model.is_empty()));
        }
    }

    #[test]
    fn a_value_that_is_set_in_place_is_not_set_in_clones() {
        let key: Arc<str> = "b".into();
        let mut data: Data =
            [("a", "1"), ("b", "22"), ("c", "3")].map(|(k, v)| (k.into(), Json::from_stored(v))).into_iter().collect();
        let before = data.clone();
        let set = |data: &mut Data, value: &str, most| {
            data.change(false, &BTreeSet::new(), &[(key.clone(), Json::from_stored(value))].into(), most)
        };
        for (value, size) in [("33", 7), ("44", 7), ("5", 6), ("6", 6)] {
            assert_eq!(set(&mut data, value, 7), Ok(()));
            assert_eq!((data.get("b").unwrap().as_str(), data.size()), (value, size));
            assert_eq!((data.get("a").unwrap().as_str(), data.get("c").unwrap().as_str()), ("1", "3"));
        }
        assert_eq!(before.get("b").unwrap().as_str(), "22");
        assert_eq!(set(&mut data, "7777", 7), Err(9));
        assert_eq!(set(&mut data, "8", 3), Ok(()), "what is over the limit already may stay as it is");
        assert_eq!(data.get("b").unwrap().as_str(), "8");
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
