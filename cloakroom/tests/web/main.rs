//! Sessions in web frameworks, as a browser sees them.

#![allow(clippy::duplicate_mod, reason = "what holds in every framework is compiled for each of them")]

#[cfg(feature = "actix")]
mod actix;
#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "axum")]
mod browser;
#[cfg(all(feature = "axum-login", feature = "tower-sessions"))]
mod tower_sessions;
