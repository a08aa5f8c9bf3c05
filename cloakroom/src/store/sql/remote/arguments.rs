//! What stored routines are called with.

use std::{collections::BTreeSet, sync::Arc};

use crate::{Digest, JsonRef, SessionId, Timestamp, store::Touch};

/// One argument of a stored routine.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A number, time or duration.
    Int(Option<i64>),
    Bool(bool),
    Text(Option<Arc<str>>),
    Bytes(Option<Vec<u8>>),
    Texts(Vec<Arc<str>>),
    ByteLists(Vec<Vec<u8>>),
    /// Keys and their values.
    Entries(Vec<(Arc<str>, Option<Arc<str>>)>),
    /// In the order of their ids.
    Touches(Vec<Touch>),
    /// Arguments of several calls of another routine, each as many and of the same kinds. There is one at least.
    Calls(Vec<Arc<[Arg]>>),
}

impl Arg {
    pub(super) fn at(time: Timestamp) -> Self {
        Self::Int(Some(time.as_millis()))
    }

    pub(super) fn maybe_at(time: Option<Timestamp>) -> Self {
        Self::Int(time.map(Timestamp::as_millis))
    }

    /// A number of rows.
    pub(super) fn count(count: usize) -> Self {
        Self::Int(Some(i64::try_from(count).unwrap_or(i64::MAX)))
    }

    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Int(_) | Self::Bool(_) => 8,
            Self::Text(text) => text.as_ref().map_or(0, |text| text.len()),
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, Vec::len),
            Self::Texts(texts) => texts.iter().map(|text| text.len()).sum(),
            Self::ByteLists(lists) => lists.iter().map(Vec::len).sum(),
            Self::Entries(entries) => {
                entries.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |value| value.len())).sum()
            }
            Self::Touches(touches) => size_of_val(touches.as_slice()),
            Self::Calls(calls) => calls.iter().flat_map(|args| args.iter()).map(Self::weight).sum(),
        }
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Text(Some(text.into()))
    }

    pub(super) fn maybe_text(text: Option<&Arc<str>>) -> Self {
        Self::Text(text.cloned())
    }

    pub(super) fn id(id: SessionId) -> Self {
        Self::Bytes(Some(id.as_bytes().to_vec()))
    }

    pub(super) fn digest(digest: &Digest) -> Self {
        Self::Bytes(Some(digest.as_bytes().to_vec()))
    }

    /// About how many bytes it sends.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.as_ref().map_or(1, |text| text.len()),
            Self::Bytes(bytes) => bytes.as_ref().map_or(1, Vec::len),
            _ => 8,
        }
    }

    /// Each id once, in order: the one in which rows are locked.
    pub(super) fn ids(ids: impl IntoIterator<Item = SessionId>) -> Self {
        let ids: BTreeSet<_> = ids.into_iter().collect();
        Self::ByteLists(ids.into_iter().map(|id| id.as_bytes().to_vec()).collect())
    }

    pub(super) fn texts<'a>(texts: impl IntoIterator<Item = &'a Arc<str>>) -> Self {
        Self::Texts(texts.into_iter().cloned().collect())
    }

    pub(super) fn entries<'a>(entries: impl IntoIterator<Item = (&'a str, JsonRef<'a>)>) -> Self {
        Self::Entries(entries.into_iter().map(|(key, value)| (key.into(), Some(value.as_str().into()))).collect())
    }
}
