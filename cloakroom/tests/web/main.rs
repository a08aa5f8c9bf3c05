//! Sessions through the layer and the extractors, as a browser sees them.

mod audit;
mod boot;
mod commit;
mod cookies;
mod dict;
mod failing_store;
mod forged;
mod interleavings;
mod lapsed;
mod lifetimes;
mod locks;
mod logs;
mod read_only;
mod refusals;
mod sign_in;
mod tokens;
mod trips;
mod world;
