//! Sessions through the layer and the extractors, as a browser sees them.

mod audit;
mod boot;
mod clearing;
mod clients;
mod clocks;
mod commit;
mod cookies;
mod csrf;
mod dict;
mod directory;
mod failing_store;
mod forged;
mod impersonation;
mod interleavings;
mod lapsed;
mod lifetimes;
mod locks;
mod logs;
mod read_only;
mod refusals;
mod sign_in;
mod step_up;
mod tokens;
mod trips;
mod users;
mod world;
