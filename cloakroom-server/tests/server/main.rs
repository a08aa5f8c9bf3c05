//! The session server and the command line, tested as their users meet them: real HTTP, the real binary.
//!
//! One program, because each test binary links the whole server.

mod api;
mod bad_input;
mod changes;
mod cli;
mod common;
mod console;
mod doctor;
mod endings;
mod events;
mod every_command;
mod every_store;
mod forward_auth;
mod impersonation;
mod kill9;
mod leases;
#[cfg(target_os = "linux")]
mod local_stores;
mod openapi;
mod operations;
mod secrets;
mod settings;
mod statuses;
mod tls;
mod transfer;
mod users;
