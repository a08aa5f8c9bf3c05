//! What tests that need a service share.

use std::{
    env,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    process,
};

/// Where a service is, from its variable. Without one the test is skipped; with CI=true it fails.
pub(crate) fn service(variable: &str) -> String {
    if let Ok(address) = env::var(variable) {
        return address;
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{variable} is not set, and with CI=true nothing may be skipped");
    eprintln!("skipped: {variable} is not set; cargo xtask services up starts what tests need and prints it");
    process::exit(0);
}

/// A name that a database takes, from that of a directory of this test alone.
pub(crate) fn namespace(directory: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    format!("test_{:016x}", hasher.finish())
}

/// An address with one parameter more.
pub(crate) fn with_parameter(address: &str, name: &str, value: &str) -> String {
    let separator = if address.contains('?') { '&' } else { '?' };
    format!("{address}{separator}{name}={value}")
}
