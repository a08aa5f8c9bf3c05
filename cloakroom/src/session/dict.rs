//! The session as a dict.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Session, ValueKey,
    pending::{Modifier, Operation},
};
use crate::{
    data::{Json, JsonRef, check_key},
    error::{Error, Result},
};

/// Values by name. Nothing here touches the store except the methods named `…_now`.
#[expect(clippy::needless_pass_by_value, reason = "keys are constants or short text: a reference would only be noise")]
impl Session {
    /// The value of `key`; `None` if there is none. A value that is not a `T` is [`Error::InvalidValue`].
    pub fn get<T: DeserializeOwned>(&self, key: impl ValueKey<T>) -> Result<Option<T>> {
        let state = self.state();
        decode(key.name(), state.pending.look_up(key.name(), state.stage.data()))
    }

    /// Sets `key`. The last of several requests that set one key wins; to compute a value from the one that is there,
    /// use [`modify`](Self::modify).
    pub fn set<T: Serialize + ?Sized>(&self, key: impl ValueKey<T>, value: &T) -> Result<()> {
        let name = self.checked(key.name())?;
        let json = encode(&name, value)?;
        self.push(Operation::Set(name, json))
    }

    /// Removes `key`; says whether it was there.
    pub fn remove(&self, key: &str) -> bool {
        if !self.contains_key(key) {
            return false;
        }
        self.push(Operation::Remove(key.into())).is_ok()
    }

    /// Removes `key` and returns its value: a message to show once. Two requests at the same time cannot both have it
    /// stored as taken, but both may see it; where that matters, use [`take_now`](Self::take_now).
    pub fn take<T: DeserializeOwned>(&self, key: impl ValueKey<T>) -> Result<Option<T>> {
        let name = key.name();
        let value = self.get::<T>(name)?;
        if value.is_some() {
            self.push(Operation::Modify(name.into(), Arc::new(|_| Ok(None))))?;
        }
        Ok(value)
    }

    /// Whether `key` has a value.
    pub fn contains_key(&self, key: &str) -> bool {
        let state = self.state();
        state.pending.look_up(key, state.stage.data()).is_some()
    }

    /// Computes the value of `key` from the one that is there, and returns it: provisionally, because when another
    /// request stores the key first, `f` is called again on that one's value before this is stored. No increment is lost.
    ///
    /// A value that is not a `T` is [`Error::InvalidValue`] and stays.
    pub fn modify<T, F>(&self, key: impl ValueKey<T>, f: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + Sync + 'static,
    {
        let name = self.checked(key.name())?;
        self.push(Operation::Modify(Arc::clone(&name), modifier(&name, f)))?;
        let value = self.get(&*name)?;
        value.ok_or_else(|| unreachable_value(&name))
    }

    /// Like [`modify`](Self::modify), but stored at once, and returns what was stored: requests at the same time answer
    /// 1, 2, 3 …, each once. For attempt counters and tickets. Other pending changes stay pending.
    pub async fn modify_now<T, F>(&self, key: impl ValueKey<T>, f: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + Sync + 'static,
    {
        let name = self.checked(key.name())?;
        let operation = Operation::Modify(Arc::clone(&name), modifier(&name, f));
        let stored = self.store_key_now(Arc::clone(&name), operation).await?;
        decode(&name, stored.as_ref().map(Json::as_ref))?.ok_or_else(|| unreachable_value(&name))
    }

    /// Like [`take`](Self::take), but removed from the store at once: of all requests that take a key, one gets its value.
    /// For one-time secrets.
    pub async fn take_now<T: DeserializeOwned + 'static>(&self, key: impl ValueKey<T>) -> Result<Option<T>> {
        let name: Arc<str> = key.name().into();
        let taken = Arc::new(std::sync::Mutex::new(None));
        let (slot, own_name) = (Arc::clone(&taken), Arc::clone(&name));
        let operation = Operation::Modify(
            Arc::clone(&name),
            Arc::new(move |current| {
                decode::<T>(&own_name, current)?;
                *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = current.map(JsonRef::to_json);
                Ok(None)
            }),
        );
        self.store_key_now(Arc::clone(&name), operation).await?;
        let taken = taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        decode(&name, taken.as_ref().map(Json::as_ref))
    }

    /// The place of one value, to fill if it is empty.
    pub fn entry<T>(&self, key: impl ValueKey<T>) -> Result<Entry<'_, T>> {
        let name = self.checked(key.name())?;
        Ok(Entry { session: self, name, value: std::marker::PhantomData })
    }

    /// Sets several values: any that serialise to JSON, such as `serde_json::Value`. All of them or, at the first key
    /// or value that cannot be stored, none.
    pub fn extend<K: AsRef<str>, V: Serialize>(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let operations: Vec<_> = entries
            .into_iter()
            .map(|(key, value)| {
                let name = self.checked(key.as_ref())?;
                let json = encode(&name, &value)?;
                Ok(Operation::Set(name, json))
            })
            .collect::<Result<_>>()?;
        operations.into_iter().try_for_each(|operation| self.push(operation))
    }

    /// Removes every value.
    pub fn remove_all(&self) {
        // Removing plays no closure, so it cannot fail.
        drop(self.push(Operation::RemoveAll));
    }

    /// The keys, sorted.
    pub fn keys(&self) -> Vec<Arc<str>> {
        self.items().into_iter().map(|(key, _)| key).collect()
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> Vec<Json> {
        self.items().into_iter().map(|(_, value)| value).collect()
    }

    /// Keys and values, in the order of the keys.
    pub fn items(&self) -> Vec<(Arc<str>, Json)> {
        self.state().view().iter().map(|(key, value)| (key.into(), value.to_json())).collect()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.state().view().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something changed that is not stored yet.
    pub fn is_dirty(&self) -> bool {
        !self.state().pending.is_empty()
    }

    fn push(&self, operation: Operation) -> Result<()> {
        let state = &mut *self.state();
        state.pending.push(operation, state.stage.data())
    }

    fn checked(&self, key: &str) -> Result<Arc<str>> {
        check_key(key, self.sessions().config().max_key_bytes)?;
        Ok(key.into())
    }
}

/// The place of one value in a session.
#[derive(Debug)]
pub struct Entry<'a, T> {
    session: &'a Session,
    name: Arc<str>,
    value: std::marker::PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Entry<'_, T> {
    /// The value that is there, or else `default`, which is set. If another request fills the place first, its value stays.
    pub fn or_insert(self, default: T) -> Result<T> {
        self.or_insert_with(|| default)
    }

    /// Like [`or_insert`](Self::or_insert), with the default computed when it is needed.
    pub fn or_insert_with(self, default: impl FnOnce() -> T) -> Result<T> {
        if let Some(value) = self.session.get(&*self.name)? {
            return Ok(value);
        }
        let value = default();
        let json = encode(&self.name, &value)?;
        let fill: Modifier = Arc::new(move |current| Ok(Some(current.map_or_else(|| json.clone(), JsonRef::to_json))));
        self.session.push(Operation::Modify(self.name, fill))?;
        Ok(value)
    }
}

fn modifier<T, F>(name: &Arc<str>, f: F) -> Modifier
where
    T: Serialize + DeserializeOwned,
    F: Fn(Option<T>) -> T + Send + Sync + 'static,
{
    let name = Arc::clone(name);
    Arc::new(move |current| Ok(Some(encode(&name, &f(decode(&name, current)?))?)))
}

fn encode<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Json> {
    Json::encode(value).map_err(|source| Error::InvalidValue { key: key.into(), action: "encoded", source })
}

fn decode<T: DeserializeOwned>(key: &str, value: Option<JsonRef<'_>>) -> Result<Option<T>> {
    let decoded = value.map(JsonRef::decode).transpose();
    decoded.map_err(|source| Error::InvalidValue { key: key.into(), action: "decoded", source })
}

/// A modification always leaves a value; it can be gone only if a `T` serialises to what reads as no `T`.
fn unreachable_value(key: &str) -> Error {
    let source = serde::de::Error::custom("the value that was just set is not there");
    Error::InvalidValue { key: key.into(), action: "decoded", source }
}
