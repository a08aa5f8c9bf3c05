//! Sessions over HTTP: the cookie, the layers, the middleware, the extractors.
//!
//! [`cookie`] knows no framework. [`SessionLayer`] and [`CsrfLayer`] work with any tower service, the extractors [`Session`](crate::Session)
//! and [`SignedIn`] with axum (feature `axum`). For actix-web (feature `actix`) there are [`SessionMiddleware`], the same
//! extractors below it, and [`CsrfMiddleware`].
//!
#![cfg_attr(
    not(feature = "actix"),
    doc = "[`CsrfMiddleware`]: https://docs.rs/cloakroom/latest/cloakroom/web/struct.CsrfMiddleware.html"
)]
#![cfg_attr(
    not(feature = "actix"),
    doc = "[`SessionMiddleware`]: https://docs.rs/cloakroom/latest/cloakroom/web/struct.SessionMiddleware.html"
)]

#[cfg(feature = "actix")]
pub mod actix;
#[cfg(feature = "axum")]
mod axum;
mod body;
pub mod csrf;
#[cfg(any(feature = "actix", feature = "axum"))]
mod fresh;
mod layer;
mod next;
mod problem;
mod refusal;
#[cfg(any(feature = "actix", feature = "axum"))]
mod signed_in;
#[cfg(any(feature = "axum-login", feature = "tower-sessions"))]
mod tower_sessions;
mod visit;
mod watch;

#[cfg(feature = "actix")]
pub use self::actix::{CsrfMiddleware, SessionMiddleware};
#[cfg(feature = "axum")]
pub use self::axum::Rejection;
pub use crate::cookie::{self, CookieAttributes, CookieConfig, SameSite};
pub use crate::{csrf::CsrfToken, sessions::Recognised};
pub use body::SessionBody;
pub use csrf::CsrfLayer;
#[cfg(any(feature = "actix", feature = "axum"))]
pub use fresh::Fresh;
pub use layer::{SessionLayer, SessionService};
pub use next::Next;
pub use refusal::Refused;
#[cfg(any(feature = "actix", feature = "axum"))]
pub use signed_in::SignedIn;
#[cfg(any(feature = "axum-login", feature = "tower-sessions"))]
pub use tower_sessions::TowerSessionsStore;
pub use visit::Locking;
