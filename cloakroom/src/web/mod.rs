//! Sessions over HTTP: the cookie, the layers, the extractors.
//!
//! [`cookie`] knows no framework. [`SessionLayer`] and [`CsrfLayer`] work with any tower service, the extractors [`Session`](crate::Session)
//! and [`SignedIn`] with axum (feature `axum`).

#[cfg(feature = "axum")]
mod axum;
mod body;
pub mod cookie;
pub mod csrf;
#[cfg(feature = "axum")]
mod fresh;
mod layer;
mod problem;

#[cfg(feature = "axum")]
pub use self::axum::{Rejection, SignedIn};
pub use body::SessionBody;
pub use cookie::{CookieConfig, SameSite};
pub use csrf::CsrfLayer;
#[cfg(feature = "axum")]
pub use fresh::Fresh;
pub use layer::{Locking, SessionLayer, SessionService};
