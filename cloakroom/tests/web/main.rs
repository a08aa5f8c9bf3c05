//! Sessions through the layer and the extractors, as a browser sees them.

mod commit;
mod cookies;
mod dict;
mod forged;
mod lapsed;
mod lifetimes;
mod logs;
mod refusals;
mod sign_in;
mod tokens;
mod world;
