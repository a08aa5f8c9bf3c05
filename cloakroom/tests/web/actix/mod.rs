//! Sessions through actix-web's middleware and extractors: the tests of every framework, and some of its own.
//!
//! Those that use no HTTP run once, in `axum`.

mod framework;
#[path = "../layer.rs"]
mod layer;
mod own;

use layer::world;
