//! Sessions for the web: the visitor holds a token, everything else stays behind the counter.
//!
//! - **No lost updates.** A request stores what it changed, not the whole session: parallel requests that write different
//!   keys both win, and [`Session::modify`] never loses an increment.
//! - **The ended stay ended.** No request in flight brings a session back, and the next one learns
//!   [why it ended](Session::lapsed).
//! - **Exact limits**, listing and revoking by user, an audit log written in the transaction of what it tells of.
//! - **No secrets in the store**, only their digests.
//!
#![cfg_attr(feature = "axum", doc = "```no_run")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! use axum::{
//!     Router,
//!     response::Redirect,
//!     routing::{get, post},
//! };
//! use cloakroom::{Key, Result, Session, Sessions, SignIn, SignedIn};
//!
//! const VISITS: Key<u32> = Key::new("visits");
//!
//! async fn home(session: Session) -> Result<String> {
//!     // Stored at once: parallel requests answer 1, 2, 3, each once.
//!     let visits = session.modify_now(VISITS, |n| n.unwrap_or(0) + 1).await?;
//!     Ok(format!("visit {visits}"))
//! }
//!
//! async fn sign_in(session: Session) -> Result<Redirect> {
//!     // Check a password first. Then: a new session, a new token, the visitor's data carried over.
//!     session.sign_in(SignIn::new("anna").full_name("Anna Berg")).await?;
//!     Ok(Redirect::to("/account"))
//! }
//!
//! async fn account(user: SignedIn) -> String {
//!     format!("Hello, {}", user.user()) // Nobody else gets here: they are answered 401.
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let sessions = Sessions::open("sqlite:sessions.db").await?;
//!     let app = Router::new()
//!         .route("/", get(home))
//!         .route("/sign-in", post(sign_in))
//!         .route("/account", get(account))
//!         .layer(sessions.layer());
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     let stop = async { drop(tokio::signal::ctrl_c().await) };
//!     axum::serve(listener, app).with_graceful_shutdown(stop).await?;
//!     sessions.shutdown().await; // Writes what is still in memory, stops the reaper.
//!     Ok(())
//! }
//! ```
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | [`Sessions`] | the service: opens a store, starts, resumes, lists and ends sessions, keeps the store tidy |
//! | [`Session`], [`SignedIn`] | what a handler holds: a dict of named values, and signing in and out |
//! | [`web`] | the tower layers, the actix-web middleware and the cookie |
//! | [`store`] | where sessions live, and the contract for a store of your own |
//! | [`testing`] | the suite every store passes, a clock moved by hand, a store that counts and fails on demand |
//! | [`Error`] | what can go wrong, by who can do what about it |
//!
//! # Stores
//!
//! | address | store | feature |
//! |---|---|---|
//! | `memory:` | this process's memory, gone when it ends | always there |
//! | `sqlite:sessions.db` | one file on this machine | `sqlite`, on by default |
//! | `file:sessions` | a directory of JSON files on this machine | `file` |
//! | `postgres://…` | PostgreSQL | `postgres` |
//! | `mysql://…` | MariaDB | `mysql` |
//! | `redis://…`, `redis-cluster://…`, `redis-sentinel://…` | Redis 7, Redis Cluster, Redis Sentinel | `redis` |
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `axum` | on | the extractors [`Session`], [`SignedIn`], [`Fresh`] and [`Next`] |
//! | `actix` | off | the [middleware for actix-web][actix], and the same extractors |
//! | `sqlite` | on | the SQLite store |
//! | `file`, `postgres`, `mysql`, `redis` | off | the store of that name |
//! | `tls` | off | encrypted connections to PostgreSQL and MariaDB |
//! | `geoip` | off | the country of a session's address, by a MaxMind-format file |
//! | `tower-sessions`, `axum-login` | off | a [store][tower-sessions] for applications built on them |
//! | `testing` | off | the module [`testing`] |
//!
//! # Where to go next
//!
//! [`Session`] for what handlers do, [`Builder`] for every setting with its default,
//! [`SessionLayer`](web::SessionLayer) for what the layer does with errors, panics and redirects. The project's
//! [guide](https://github.com/cloakroom-rs/cloakroom/blob/main/docs/guide.md) is a tour of all of it, and its page on
//! [security](https://github.com/cloakroom-rs/cloakroom/blob/main/docs/security.md) says what an application must do itself.
//!
#![cfg_attr(feature = "actix", doc = "[actix]: web::actix")]
#![cfg_attr(not(feature = "actix"), doc = "[actix]: https://docs.rs/cloakroom/latest/cloakroom/web/actix/index.html")]
#![cfg_attr(any(feature = "axum-login", feature = "tower-sessions"), doc = "[tower-sessions]: web::TowerSessionsStore")]
#![cfg_attr(
    not(any(feature = "axum-login", feature = "tower-sessions")),
    doc = "[tower-sessions]: https://docs.rs/cloakroom/latest/cloakroom/web/struct.TowerSessionsStore.html"
)]
#![cfg_attr(
    not(feature = "testing"),
    doc = "[`testing`]: https://docs.rs/cloakroom/latest/cloakroom/testing/index.html"
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod admission;
mod assurance;
pub mod audit;
pub mod boot;
mod change;
pub mod client;
pub mod clock;
pub mod cookie;
mod csrf;
mod data;
mod ended;
pub mod error;
mod future;
mod lease;
pub mod network;
pub mod period;
pub mod record;
pub mod rules;
mod seal;
mod secrets;
pub mod session;
pub mod sessions;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
pub mod transfer;
pub mod users;
pub mod web;

pub use admission::{Limit, Refusal, WhenFull};
pub use assurance::Assurance;
pub use change::Change;
pub use clock::{Clock, Timestamp};
pub use data::{Data, Json, JsonRef};
pub use ended::{Ended, Ending, Reason};
pub use error::{Error, Result};
pub use record::{Client, Record, SessionInfo};
pub use session::{Key, Session};
pub use sessions::{Builder, Found, Impersonate, Lifetimes, Rotate, Sessions, SignIn, Started, Visitor};
pub use token::{SessionId, Token};
pub use users::{User, Users};
pub use web::Next;
#[cfg(any(feature = "actix", feature = "axum"))]
pub use web::{Fresh, SignedIn};

/// The programs in the project's own pages compile.
#[cfg(all(doctest, feature = "axum", feature = "testing"))]
mod pages {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[cfg(feature = "actix")]
    #[doc = include_str!("../../docs/guide.md")]
    mod guide {}
    #[cfg(feature = "tower-sessions")]
    #[doc = include_str!("../../docs/coming-from-tower-sessions.md")]
    mod coming_from_tower_sessions {}
}
