//! Data in one piece, as servers keep and merge them: JSON text byte for byte between characters that neither a key nor JSON
//! text has.

use std::sync::Arc;

use crate::{
    data::{Data, Json},
    error::{Error, Result},
    store::slots::{DataChange, Slot, Transaction, Write},
};

/// Ends a value, and stands before the first key.
pub(in crate::store) const END: u8 = 0x1e;
/// Stands between a key and its value.
pub(in crate::store) const IS: u8 = 0x1f;

/// All of it.
pub(in crate::store) fn stored(data: &Data) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + data.size() + 2 * data.len());
    stored.push(END);
    data.iter().for_each(|(key, value)| push(&mut stored, key, value.as_str()));
    stored
}

/// A change, where a key without a value goes.
pub(in crate::store) fn changes(change: &DataChange) -> Vec<u8> {
    let mut changes = Vec::with_capacity(64);
    change.remove.iter().for_each(|key| push(&mut changes, key, ""));
    change.set.iter().for_each(|(key, value)| push(&mut changes, key, value.as_str()));
    changes
}

/// What is stored if the key has this value, or not stored if it has none.
pub(in crate::store) fn relied_on(key: &str, value: Option<&Json>) -> Vec<u8> {
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

/// Data that were stored; none if they cannot have been.
pub(in crate::store) fn read(stored: &[u8]) -> Option<Data> {
    let mut rest = str::from_utf8(stored.strip_prefix(&[END])?).ok()?;
    let entries = std::iter::from_fn(|| {
        if rest.is_empty() {
            return None;
        }
        let mut entry = || {
            let end = memchr::memchr(END, rest.as_bytes())?;
            let (key, value) = rest[..end].split_at_checked(memchr::memchr(IS, &rest.as_bytes()[..end])?)?;
            let entry = (Arc::from(key), Json::from_stored(&value[1..]));
            rest = &rest[end + 1..];
            Some(entry)
        };
        Some(entry())
    });
    entries.collect()
}

/// Refuses what could not be told apart again. No application can use such a key.
pub(in crate::store) fn check(transaction: &Transaction) -> Result<()> {
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
}
