//! Futures behind a pointer, for traits that are objects.

use std::{future::Future, pin::Pin};

/// What a store's calls return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
