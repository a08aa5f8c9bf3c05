//! What a request did to its session, before it is stored.
//!
//! The operations are kept as they were made, and the change they amount to beside them. When what the change relied
//! on was changed by others, the operations are played again on the fresh record.

use std::{fmt, sync::Arc};

use crate::{
    change::Change,
    data::{Data, Json, JsonRef},
    error::Result,
};

/// Computes a value from the one that is there.
pub(super) type Modifier = Arc<dyn Fn(Option<JsonRef<'_>>) -> Result<Option<Json>> + Send + Sync>;

#[derive(Clone)]
pub(super) enum Operation {
    Set(Arc<str>, Json),
    Remove(Arc<str>),
    RemoveAll,
    Modify(Arc<str>, Modifier),
}

impl Operation {
    fn key(&self) -> Option<&Arc<str>> {
        match self {
            Self::Set(key, _) | Self::Remove(key) | Self::Modify(key, _) => Some(key),
            Self::RemoveAll => None,
        }
    }

    fn play(&self, base: &Data, change: &mut Change) -> Result<()> {
        match self {
            Self::Set(key, value) => change.set(Arc::clone(key), value.clone()),
            Self::Remove(key) => change.remove(Arc::clone(key)),
            Self::RemoveAll => change.remove_all(),
            Self::Modify(key, modifier) => {
                let value = modifier(look_up(key, base, change))?;
                if is_untouched(key, change) {
                    change.relied_on.insert(Arc::clone(key), base.get(key).map(JsonRef::to_json));
                }
                match value {
                    Some(value) => change.set(Arc::clone(key), value),
                    None if look_up(key, base, change).is_some() => change.remove(Arc::clone(key)),
                    None => {}
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self {
            Self::Set(..) => "Set",
            Self::Remove(_) => "Remove",
            Self::RemoveAll => return f.write_str("RemoveAll"),
            Self::Modify(..) => "Modify",
        };
        write!(f, "{verb}({:?})", self.key().map_or("", |key| key))
    }
}

#[derive(Debug)]
pub(super) struct Pending {
    operations: Vec<Operation>,
    /// What they amount to. Most requests only read: they have none.
    change: Option<Arc<Change>>,
    max_data_bytes: usize,
}

impl Pending {
    pub(super) fn new(max_data_bytes: usize) -> Self {
        Self { operations: Vec::new(), change: None, max_data_bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    /// The change the operations amount to.
    pub(super) fn change(&self) -> Arc<Change> {
        self.change.clone().unwrap_or_else(|| Arc::new(Change::new(self.max_data_bytes)))
    }

    /// The value of `key` as this request sees it.
    pub(super) fn look_up<'a>(&'a self, key: &str, base: &'a Data) -> Option<JsonRef<'a>> {
        match &self.change {
            Some(change) => look_up(key, base, change),
            None => base.get(key),
        }
    }

    /// All values as this request sees them.
    pub(super) fn view(&self, base: &Data) -> Data {
        let mut data = base.clone();
        if let Some(change) = &self.change {
            let changed = data.change(change.remove_all, &change.remove, &change.set, usize::MAX);
            changed.expect("nothing is larger");
        }
        data
    }

    /// Makes one more operation. If it fails, nothing has happened.
    pub(super) fn push(&mut self, operation: Operation, base: &Data) -> Result<()> {
        let change = self.change.get_or_insert_with(|| Arc::new(Change::new(self.max_data_bytes)));
        operation.play(base, Arc::make_mut(change))?;
        self.operations.push(operation);
        Ok(())
    }

    /// Plays all operations anew on a fresh record.
    pub(super) fn rebase(&mut self, base: &Data) -> Result<()> {
        if self.operations.is_empty() {
            self.change = None;
            return Ok(());
        }
        let mut change = Change::new(self.max_data_bytes);
        self.operations.iter().try_for_each(|operation| operation.play(base, &mut change))?;
        self.change = Some(Arc::new(change));
        Ok(())
    }

    /// Forgets the first `count` operations: they are in the record now, whose data is `base`.
    pub(super) fn stored(&mut self, count: usize, base: &Data) -> Result<()> {
        self.operations.drain(..count.min(self.operations.len()));
        self.rebase(base)
    }

    /// Operations of `key`, in their order.
    pub(super) fn of(&self, key: &str) -> Vec<Operation> {
        self.operations.iter().filter(|operation| operation.key().is_some_and(|own| **own == *key)).cloned().collect()
    }

    /// Forgets the operations of `key`: they are in the record now, whose data is `base`.
    pub(super) fn stored_key(&mut self, key: &str, base: &Data) -> Result<()> {
        self.operations.retain(|operation| operation.key().is_none_or(|own| **own != *key));
        self.rebase(base)
    }

    /// Whether everything was removed at some point: then single keys cannot be stored ahead of the rest.
    pub(super) fn removes_all(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.remove_all)
    }

    /// Forgets everything.
    pub(super) fn discard(&mut self) {
        *self = Self::new(self.max_data_bytes);
    }
}

/// Plays operations of one key and then `last` on `base`; answers the change and the value it sets.
pub(super) fn play(operations: &[Operation], last: &Operation, base: &Data, change: &mut Change) -> Result<()> {
    operations.iter().chain([last]).try_for_each(|operation| operation.play(base, change))
}

fn look_up<'a>(key: &str, base: &'a Data, change: &'a Change) -> Option<JsonRef<'a>> {
    match change.set.get(key) {
        Some(value) => Some(value.as_ref()),
        None if change.remove_all || change.remove.contains(key) => None,
        None => base.get(key),
    }
}

fn is_untouched(key: &str, change: &Change) -> bool {
    !change.remove_all
        && !change.set.contains_key(key)
        && !change.remove.contains(key)
        && !change.relied_on.contains_key(key)
}
