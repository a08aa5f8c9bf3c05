//! Every store passes the conformance suite, and has tests of its own for what can happen to its kind.

mod common;
mod conformance;
#[cfg(all(feature = "file", feature = "mysql", feature = "postgres", feature = "redis", feature = "sqlite"))]
mod damaged;
#[cfg(all(feature = "mysql", feature = "postgres"))]
mod databases;
#[cfg(feature = "file")]
mod file;
mod near;
#[cfg(all(feature = "file", feature = "mysql", feature = "postgres", feature = "redis", feature = "sqlite"))]
mod races;
#[cfg(feature = "redis")]
mod redis;
mod rules;
#[cfg(feature = "sqlite")]
mod sealed;
mod simulation;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(all(feature = "file", feature = "mysql", feature = "postgres", feature = "redis", feature = "sqlite"))]
mod transfer;
