//! Sessions through the tower layer and the extractors of axum.

#[path = "../audit.rs"]
mod audit;
#[path = "../boot.rs"]
mod boot;
#[path = "../clearing.rs"]
mod clearing;
#[path = "../clocks.rs"]
mod clocks;
mod framework;
#[path = "../interleavings.rs"]
mod interleavings;
#[path = "../layer.rs"]
mod layer;
mod timeouts;

use layer::world;
