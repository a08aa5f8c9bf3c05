//! The partition key of an open store.

use std::{ops::Deref, sync::OnceLock};

use crate::{
    error::{Error, Result},
    token::PartitionKey,
};

/// The key that a store was opened with, until it takes over another one.
#[derive(Debug)]
pub(in crate::store) struct AdoptableKey {
    opened_with: PartitionKey,
    adopted: OnceLock<PartitionKey>,
}

impl AdoptableKey {
    pub(in crate::store) fn new(opened_with: PartitionKey) -> Self {
        Self { opened_with, adopted: OnceLock::new() }
    }

    /// Whether there is something to take over.
    pub(in crate::store) fn differs_from(&self, key: &PartitionKey) -> Result<bool> {
        if self.as_bytes() == key.as_bytes() {
            return Ok(false);
        }
        if self.adopted.get().is_some() {
            let problem = "it took over another partition key already: open it again".into();
            return Err(Error::InvalidArgument { what: "target", problem });
        }
        Ok(true)
    }

    /// Uses `key` from now on, which is stored already.
    pub(in crate::store) fn adopt(&self, key: &PartitionKey) {
        // Of two that adopt at the same time one has stored its key; the store's next opening tells which.
        let _ = self.adopted.set(key.clone());
    }
}

impl Deref for AdoptableKey {
    type Target = PartitionKey;

    fn deref(&self) -> &PartitionKey {
        self.adopted.get().unwrap_or(&self.opened_with)
    }
}

/// What a store answers that cannot take over another key.
pub(super) fn holds_others() -> Error {
    let problem = "it holds sessions of its own, whose ids were made under another partition key: copy into an empty \
                   one (another file, directory, schema or prefix)";
    Error::InvalidArgument { what: "target", problem: problem.into() }
}
