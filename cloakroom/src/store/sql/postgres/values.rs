//! Data as the server keeps them: JSON text byte for byte between characters that neither a key nor JSON text has.

use std::{fmt::Write as _, sync::Arc};

use crate::{
    Data, Error, Json, Result,
    store::slots::{DataChange, Slot, Transaction, Write},
};

/// Ends a value, and stands before the first key.
const END: u8 = 0x1e;
/// Stands between a key and its value.
const IS: u8 = 0x1f;

/// All of it.
pub(super) fn stored(data: &Data) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + data.size() + 2 * data.len());
    stored.push(END);
    data.iter().for_each(|(key, value)| push(&mut stored, key, value.as_str()));
    stored
}

/// What `merged_1` takes: a key without a value goes.
pub(super) fn changes(change: &DataChange) -> Vec<u8> {
    let mut changes = Vec::with_capacity(64);
    change.remove.iter().for_each(|key| push(&mut changes, key, ""));
    change.set.iter().for_each(|(key, value)| push(&mut changes, key, value.as_str()));
    changes
}

/// What is stored if the key has this value, or not stored if it has none.
pub(super) fn relied_on(key: &str, value: Option<&Json>) -> Vec<u8> {
    let mut entry = vec![END];
    if let Some(value) = value {
        push(&mut entry, key, value.as_str());
    } else {
        entry.extend_from_slice(key.as_bytes());
        entry.push(IS);
    }
    entry
}

fn push(stored: &mut Vec<u8>, key: &str, value: &str) {
    stored.extend_from_slice(key.as_bytes());
    stored.push(IS);
    stored.extend_from_slice(value.as_bytes());
    stored.push(END);
}

/// Several of them, as the text of an array; none if there are none.
pub(super) fn array(entries: &[Vec<u8>]) -> Option<Arc<str>> {
    if entries.is_empty() {
        return None;
    }
    let mut text = String::from("{");
    for entry in entries {
        text.push_str(if text.len() > 1 { ",\"\\\\x" } else { "\"\\\\x" });
        entry.iter().try_for_each(|byte| write!(text, "{byte:02x}")).expect("a string takes everything");
        text.push('"');
    }
    text.push('}');
    Some(text.into())
}

/// Data that were stored; none if they cannot have been.
pub(super) fn read(stored: &[u8]) -> Option<Data> {
    let entries = stored.strip_prefix(&[END])?;
    let entries = entries.split_inclusive(|byte| *byte == END).map(|entry| {
        let entry = entry.strip_suffix(&[END])?;
        let at = memchr::memchr(IS, entry)?;
        let (key, value) = (str::from_utf8(&entry[..at]).ok()?, str::from_utf8(&entry[at + 1..]).ok()?);
        Some((Arc::from(key), Json::from_stored(value)))
    });
    entries.collect()
}

/// Refuses what could not be told apart again. No application can use such a key.
pub(super) fn check(transaction: &Transaction) -> Result<()> {
    for write in &transaction.writes {
        match write {
            Write::Create(record) | Write::Import(Slot::Open(record)) => {
                record.data.iter().try_for_each(|(key, value)| check_entry(key, value.as_str()))?;
            }
            Write::Data { change, .. } => {
                change.remove.iter().try_for_each(|key| check_entry(key, "0"))?;
                change.set.iter().try_for_each(|(key, value)| check_entry(key, value.as_str()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_entry(key: &str, value: &str) -> Result<()> {
    let holds_none = |text: &str| memchr::memchr3(END, IS, 0, text.as_bytes()).is_none();
    if holds_none(key) && holds_none(value) && !value.is_empty() {
        return Ok(());
    }
    let problem = "it or its value contains a control character".into();
    Err(Error::InvalidKey { key: key.escape_debug().to_string(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_back() {
        let entries = [("a", "1"), ("ключ", "{\"b\": [1,\n2]}"), ("z", "\"\\u0000\"")];
        let data: Data = entries.iter().map(|(key, value)| (Arc::from(*key), Json::from_stored(*value))).collect();
        for data in [Data::new(), data] {
            assert_eq!(read(&stored(&data)), Some(data));
        }
        for damaged in [&b""[..], b"a", b"\x1ea", b"\x1ea\x1e", b"\x1ea\x1f1", b"\x1e\xff\x1f1\x1e"] {
            assert_eq!(read(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn lists_are_arrays_of_bytes() {
        assert_eq!(array(&[]), None);
        assert_eq!(array(&[vec![1, 255], vec![]]).as_deref(), Some(r#"{"\\x01ff","\\x"}"#));
    }
}
