//! Sessions through actix-web's middleware and extractors, as a browser sees them: the tests of the layer, and some of its
//! own.
//!
//! Those that use no HTTP run once, in `web`: audit, boot, clearing, clocks and interleavings.

#[path = "../web/after_acting.rs"]
mod after_acting;
#[path = "../web/auditors.rs"]
mod auditors;
#[path = "../web/clients.rs"]
mod clients;
#[path = "../web/commit.rs"]
mod commit;
#[path = "../web/cookies.rs"]
mod cookies;
#[path = "../web/csrf.rs"]
mod csrf;
#[path = "../web/dict.rs"]
mod dict;
#[path = "../web/directory.rs"]
mod directory;
#[path = "../web/failing_store.rs"]
mod failing_store;
#[path = "../web/forged.rs"]
mod forged;
mod framework;
#[path = "../web/impersonation.rs"]
mod impersonation;
#[path = "../web/judged.rs"]
mod judged;
#[path = "../web/lapsed.rs"]
mod lapsed;
#[path = "../web/lifetimes.rs"]
mod lifetimes;
#[path = "../web/locks.rs"]
mod locks;
#[path = "../web/logs.rs"]
mod logs;
mod own;
#[path = "../web/read_only.rs"]
mod read_only;
#[path = "../web/refusals.rs"]
mod refusals;
#[path = "../web/sign_in.rs"]
mod sign_in;
#[path = "../web/staff.rs"]
mod staff;
#[path = "../web/step_up.rs"]
mod step_up;
#[path = "../web/tokens.rs"]
mod tokens;
#[path = "../web/trips.rs"]
mod trips;
#[path = "../web/users.rs"]
mod users;
#[path = "../web/world.rs"]
mod world;
