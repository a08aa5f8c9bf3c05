//! What applications keep in a session: named values, each an opaque piece of JSON text.
//!
//! The text is kept byte for byte: `-0.0`, `u64::MAX`, `1e400`, the order of nested keys and an escaped U+0000 come
//! back exactly as they were set, on every store.

#[cfg(any(feature = "file", feature = "sqlite"))]
use std::borrow::Cow;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::Serialize;
#[cfg(any(feature = "file", feature = "sqlite"))]
use serde_json::value::RawValue;

use crate::error::Error;

mod block;
mod json;
mod strict;

pub use json::{Json, JsonRef};

use block::{Block, text};

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

    /// Has the memory fetched that whoever loaded the session is likely to look at next.
    pub(crate) fn prefetch(&self) {
        self.block().prefetch();
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

    /// Some of it as one JSON object, each value as it is.
    #[cfg(any(feature = "file", feature = "sqlite"))]
    pub(crate) fn to_text(&self, which: impl Fn(&str) -> bool) -> String {
        let mut object = String::from("{");
        for (key, value) in self.iter().filter(|(_, value)| which(value.as_str())) {
            if object.len() > 1 {
                object.push(',');
            }
            object.push_str(&serde_json::to_string(key).expect("a text can be written"));
            object.push(':');
            object.push_str(value.as_str());
        }
        object.push('}');
        object
    }

    /// From the object that [`to_text`](Self::to_text) made.
    #[cfg(any(feature = "file", feature = "sqlite"))]
    pub(crate) fn from_text(object: &str) -> Result<Self, serde_json::Error> {
        let entries: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(object)?;
        let texts: Vec<_> = entries.iter().map(|(key, value)| (key.as_bytes(), value.get().as_bytes())).collect();
        Ok(Self(block::filled(&texts)))
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
        *self = Self(block::filled(&entries));
        Ok(())
    }

    fn set(&mut self, key: &str, value: &Json, most: usize) -> Result<(), usize> {
        let (block, value) = (self.block(), value.as_str().as_bytes());
        let Some(at) = block.position(key) else {
            self.check_size(block.size() + key.len() + value.len(), most)?;
            self.0 = block.with(block.place_of(key.as_bytes()), false, Some((key.as_bytes(), value)));
            return Ok(());
        };
        let old = block.range(2 * at + 1);
        self.check_size(block.size() - old.len() + value.len(), most)?;
        if old.len() == value.len()
            && let Some(own) = self.0.as_mut().and_then(Arc::get_mut)
        {
            own[old].copy_from_slice(value);
        } else {
            self.0 = self.block().with(at, true, Some((key.as_bytes(), value)));
        }
        Ok(())
    }

    fn unset(&mut self, key: &str) {
        if let Some(at) = self.block().position(key) {
            self.0 = self.block().with(at, true, None);
        }
    }

    fn check_size(&self, size: usize, most: usize) -> Result<(), usize> {
        if size > most && size > self.size() { Err(size) } else { Ok(()) }
    }

    /// Keys and values as bytes: texts in the order of their bytes.
    fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        let block = self.block();
        (0..block.len()).map(move |at| (block.bytes(2 * at), block.bytes(2 * at + 1)))
    }

    fn block(&self) -> Block<'_> {
        Block::of(&self.0)
    }
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
        Self(block::filled(&texts))
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
