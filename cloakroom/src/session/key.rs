//! Names of session values, with or without their type.

use std::{fmt, marker::PhantomData};

/// The name of a session value that is always a `T`.
///
/// ```
/// use cloakroom::Key;
/// const VISITS: Key<u32> = Key::new("visits");
/// assert_eq!(VISITS.name(), "visits");
/// ```
pub struct Key<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// A key. See [`Builder::max_key_bytes`](crate::Builder::max_key_bytes) for what a name may be.
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.name)
    }
}

/// What names a value of type `T`: a [`Key<T>`], or any text where the type is known otherwise.
pub trait ValueKey<T: ?Sized> {
    /// The name.
    fn name(&self) -> &str;
}

impl<T> ValueKey<T> for Key<T> {
    fn name(&self) -> &str {
        self.name
    }
}

impl<T: ?Sized> ValueKey<T> for &str {
    fn name(&self) -> &str {
        self
    }
}

impl<T: ?Sized> ValueKey<T> for &String {
    fn name(&self) -> &str {
        self
    }
}
