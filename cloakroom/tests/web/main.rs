//! Sessions through the layer and the extractors, as a browser sees them.

mod commit;
mod cookies;
mod dict;
mod lapsed;
mod lifetimes;
mod refusals;
mod sign_in;
mod tokens;
mod world;
