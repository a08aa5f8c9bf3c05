//! What it takes to test a store, and an application that uses one: a clock moved by hand, a store that counts, holds
//! and fails on demand, and the conformance suite that every store passes.
//!
//! One line in a test file mounts the whole suite on a store, each check as a test of its own:
//!
//! ```
//! use cloakroom::store::MemoryStore;
//!
//! cloakroom::testing::conformance!(MemoryStore::new().unwrap());
//! # fn main() {} // The line above is all there is; it makes tests.
//! ```
//!
//! The expression makes a fresh store for each check and may `.await`. A store that keeps files gets an empty directory,
//! which is removed afterwards; in it the suite looks for secrets that should not be there. One that keeps its sessions
//! on a server says how to read every byte of them:
//!
//! ```
//! # use std::path::{Path, PathBuf};
//! # use cloakroom::store::MemoryStore as OurStore;
//! # struct Files;
//! # impl Files { async fn open(_: PathBuf) -> cloakroom::Result<OurStore> { OurStore::new() } }
//! # async fn open(_: &Path) -> OurStore { OurStore::new().unwrap() }
//! # async fn dump(_: &Path) -> Vec<u8> { Vec::new() }
//! use cloakroom::testing::conformance;
//!
//! conformance!(mod files: |dir| Files::open(dir.join("sessions")).await.unwrap());
//! conformance!(mod server: |dir| open(&dir).await, raw: dump(&dir).await, if: std::env::var("OUR_SERVER").is_ok());
//! # fn main() {}
//! ```
//!
//! Several in one file are mounted as modules, as here. Where the condition behind `if:` does not hold, as where there is
//! no server, the checks pass without having looked at anything: say so on standard error.
//!
//! # The checks
//!
//! What each one proves is listed in [`checks`]. Their names begin with what they are about: `i1_` to `i17_` are the
//! invariants of the library (parallel changes, endings, limits, the user index, expiry, touches, secrecy, reaping,
//! sizes, locks, the audit log, fidelity), `l3_` and `l4_` the requirements on rotation.
//!
//! `state_machine` drives the store with random operations and compares every answer, and all that is stored in the end,
//! with a plain model. `PROPTEST_CASES` says how many runs there are (64), `PROPTEST_RNG_SEED` which ones (the same each
//! time unless it is set). A failure shows the shortest run found that fails.
//!
//! ```sh
//! PROPTEST_CASES=5000 PROPTEST_RNG_SEED=7 cargo nextest run -p cloakroom --all-features state_machine
//! ```

mod clock;
mod list;
mod model;
mod operations;
mod random;
mod spy;
mod subject;

pub mod checks;
pub mod slots;

use std::future::Future;

pub use clock::ManualClock;
pub use random::run_state_machine;
pub use spy::{Call, Counts, Gate, SpyStore};
pub use subject::{Open, ScratchDir, Subject};

pub use crate::{conformance, slots};
use crate::{
    error::Result,
    sessions::{Sessions, SignIn, Started},
    testing::checks::Check,
    token::{Partition, SessionId, Token},
};

/// Has the random numbers of this thread follow from `seed`: ids of changes and revisions, and how long a retry waits. Not
/// tokens and session ids, which stay random.
pub fn seed_random_ids(seed: u64) {
    crate::change::seed_random_ids(seed);
}

/// Starts a session under an id and a secret that follow from `random`, for simulations that must happen again as they did.
pub async fn start_from(sessions: &Sessions, sign_in: SignIn, random: impl Fn() -> u64) -> Result<Started> {
    let bytes = || random().to_be_bytes();
    let token = |partition: Partition| {
        let mut id = *SessionId::generate(partition)?.as_bytes();
        let place = SessionId::LEN - 16;
        id[place..place + 8].copy_from_slice(&bytes());
        id[place + 8..].copy_from_slice(&bytes());
        let secret: Vec<u8> = (0..Token::SECRET_LEN / 8).flat_map(|_| bytes()).collect();
        Ok(Token::from_parts(SessionId::from_bytes(id), secret.try_into().expect("as long as a secret")))
    };
    sessions.start_with(sign_in, token).await
}

/// Runs one check on a fresh store, on several threads. The [`conformance!`] macro's tests call it.
pub fn run(check: Check, open: Open) {
    block_on(async { check(fresh(open).await).await });
}

async fn fresh(open: Open) -> Subject {
    open(ScratchDir::new().expect("the system has a place for temporary files")).await
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.expect("the system has threads").block_on(future)
}
