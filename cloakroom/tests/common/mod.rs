//! What tests that need a service share.

use std::{
    env,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

/// Where a service is, from its variable; a test that was mounted [only where it is there](is_there) may ask.
pub(crate) fn service(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"))
}

/// Whether a service is there. Where it is not, its tests are skipped; with CI=true they fail.
pub(crate) fn is_there(variable: &str) -> bool {
    let there = env::var(variable).is_ok();
    assert!(
        there || env::var("CI").as_deref() != Ok("true"),
        "{variable} is not set, and with CI=true nothing may be skipped"
    );
    if !there {
        eprintln!("skipped: {variable} is not set; cargo xtask services up starts what tests need and prints it");
    }
    there
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
