//! The Redis store in bad times: servers that end, stop or move, and what each call costs them.

mod cost;
mod cpu;
mod doctor;
#[cfg(feature = "tls")]
mod encrypted;
pub(crate) mod load;
mod one_server;
mod refusals;
mod sentinels;
mod servers;
mod shared;
mod upkeep;
mod whole_cluster;
