//! Sessions over HTTP: the cookie, the layer, the extractors.
//!
//! [`cookie`] knows no framework. [`SessionLayer`] works with any tower service, the extractors [`Session`](crate::Session)
//! and [`SignedIn`] with axum (feature `axum`).

#[cfg(feature = "axum")]
mod axum;
mod body;
pub mod cookie;
mod layer;
mod problem;

#[cfg(feature = "axum")]
pub use self::axum::{Rejection, SignedIn};
pub use body::SessionBody;
pub use cookie::{CookieConfig, SameSite};
pub use layer::{Locking, SessionLayer, SessionService};
