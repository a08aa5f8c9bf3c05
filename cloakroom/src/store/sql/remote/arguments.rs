//! What stored routines are called with.

use std::sync::Arc;

use crate::{Digest, SessionId, Timestamp};

/// One argument of a stored routine.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A number, time or duration.
    Int(Option<i64>),
    Bool(bool),
    Text(Option<Arc<str>>),
    Bytes(Option<Vec<u8>>),
    Ints(Vec<Option<i64>>),
    Texts(Vec<Option<Arc<str>>>),
    ByteLists(Vec<Vec<u8>>),
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

    pub(super) fn ids(ids: impl IntoIterator<Item = SessionId>) -> Self {
        Self::ByteLists(ids.into_iter().map(|id| id.as_bytes().to_vec()).collect())
    }

    pub(super) fn texts<'a>(texts: impl IntoIterator<Item = &'a Arc<str>>) -> Self {
        Self::Texts(texts.into_iter().map(|text| Some(Arc::clone(text))).collect())
    }
}
