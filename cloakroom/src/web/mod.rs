//! Sessions over HTTP: the cookie, the layer, the middleware, the extractors.
//!
//! [`cookie`] knows no framework. [`SessionLayer`] works with any tower service, the extractors [`Session`](crate::Session)
//! and [`SignedIn`] with axum (feature `axum`) and, below [`SessionMiddleware`], with actix-web (feature `actix`).

#[cfg(feature = "axum")]
mod axum;
mod body;
pub mod cookie;
mod layer;
mod problem;
#[cfg(feature = "axum")]
mod signed_in;
mod visit;
mod watch;

#[cfg(feature = "axum")]
pub use self::axum::Rejection;
pub use body::SessionBody;
pub use cookie::{CookieConfig, SameSite};
pub use layer::{SessionLayer, SessionService};
#[cfg(feature = "axum")]
pub use signed_in::SignedIn;
pub use visit::Locking;
