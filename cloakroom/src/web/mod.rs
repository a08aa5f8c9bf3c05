//! Sessions over HTTP: the cookie, the layer, the extractors.
//!
//! [`cookie`] knows no framework. The layer works with any tower service, the extractors with axum (feature `axum`).

pub mod cookie;

pub use cookie::{CookieConfig, SameSite};
