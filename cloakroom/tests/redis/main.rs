//! The Redis store in bad times: servers that end, stop or move, and what each call costs them.

#[cfg(feature = "tls")]
#[path = "../common/certificates.rs"]
mod certificates;
mod cost;
mod doctor;
#[cfg(feature = "tls")]
mod encrypted;
mod load;
mod one_server;
#[path = "../databases/proxy.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod proxy;
mod sentinels;
mod servers;
mod shared;
mod upkeep;
mod whole_cluster;
