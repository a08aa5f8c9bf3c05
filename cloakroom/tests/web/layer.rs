//! What holds in every framework. Each one mounts these beside a `framework` of its own.

mod after_acting;
mod auditors;
mod clients;
mod commit;
mod cookies;
mod csrf;
mod dict;
mod directory;
mod failing_store;
mod forged;
mod impersonation;
mod judged;
mod lapsed;
mod lifetimes;
mod locks;
mod logs;
mod read_only;
mod refusals;
mod sign_in;
mod staff;
mod step_up;
mod tokens;
mod trips;
mod users;
pub(crate) mod world;

use super::framework;
