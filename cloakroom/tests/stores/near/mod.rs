//! The near cache: it passes every suite over each store whose backend tells what changes, and keeps its promises where the
//! link fails.

mod promises;
#[cfg(feature = "redis")]
mod redis;
