//! The session server: [`cloakroom`]'s sessions over HTTP, for programs in any language.
//!
//! ```
//! use cloakroom::Sessions;
//! use cloakroom_server::{ApiKey, ApiKeys, Scope, Server, keys};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = keys::generate()?;
//! let sessions = Sessions::open("memory:").await?;
//! let server = Server::new(sessions, ApiKeys::new(vec![ApiKey::new("shop", Scope::Write, &key)?]));
//! let listener = cloakroom_server::listen("127.0.0.1:0".parse()?)?;
//! let shutdown = async {}; // A signal, usually.
//! cloakroom_server::run(listener, server, shutdown).await;
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

#[cfg(unix)]
mod account;
mod api;
pub mod assertion;
pub mod cli;
mod client;
mod config;
mod console;
mod escape;
pub mod keys;
mod log;
mod output;
mod percent;
mod policy;
mod private;
mod record_keys;
mod redact;
mod server;
mod stores;

pub use assertion::{AssertionKeyError, AssertionKeys};
pub use keys::{ApiKey, ApiKeys, KeyRing, Scope};
pub use policy::{Policies, Policy, PolicyError};
pub use server::{Bounds, Server, Tls, TlsError, listen, run};
