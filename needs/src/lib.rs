//! What tests need beside cargo: a server, a browser, a command.
//!
//! A test asks for it first and returns where it cannot be had. It is skipped then: it says why, and is noted for the
//! totals of `cargo xtask test`, because test runners take it for passed. With CI=true it fails instead.

#![forbid(unsafe_code)]

mod port;

use std::{env, fs::File, io::Write, thread};

pub use port::Port;

/// Where skipped tests are noted, a line each: the test, a tab, and why. `cargo xtask test` sets it.
pub const NOTED_IN: &str = "CLOAKROOM_TEST_SKIPPED";

/// The value of a variable, which `cargo xtask test` sets where it has the service. `None`: skip the test.
pub fn variable(name: &str) -> Option<String> {
    let value = env::var(name).ok();
    is_met(value.is_some(), &format!("{name} is not set (`cargo xtask services up` prints what tests need)"));
    value
}

/// Passes on whether something is here. If not, skip the test; `why` says what is missing.
pub fn is_met(here: bool, why: &str) -> bool {
    if !here {
        assert!(env::var("CI").as_deref() != Ok("true"), "with CI=true nothing may be skipped: {why}");
        eprintln!("skipped: {why}");
        note(why);
    }
    here
}

fn note(why: &str) {
    let Some(file) = env::var_os(NOTED_IN) else { return };
    let line = format!("{}\t{}\n", test(), why.replace('\n', " "));
    let file = File::options().append(true).create(true).open(&file);
    // One write, which those of other tests cannot tear apart.
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("skipped tests can be noted");
}

/// The name of the running test.
fn test() -> String {
    // A test runs in a thread of its name, unless the runner gives it a process of its own.
    let runner = ["NEXTEST_BINARY_ID", "NEXTEST_TEST_NAME"].map(|name| env::var(name).ok());
    match runner {
        [Some(program), Some(name)] => format!("{program} {name}"),
        _ => thread::current().name().unwrap_or("a test").to_owned(),
    }
}
