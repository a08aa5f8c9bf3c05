//! What the tests of several stores share.

#[cfg(feature = "tls")]
pub(crate) mod certificates;
#[cfg(target_os = "linux")]
pub(crate) mod disks;
pub(crate) mod proxy;
pub(crate) mod random;
#[cfg(any(all(feature = "mysql", feature = "postgres"), feature = "redis"))]
pub(crate) mod transactions;
mod waiting;

use std::{
    env,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    process::Command,
};

pub(crate) use waiting::{eventually, until};

/// Where a service is, from its variable; a test that was mounted [only where it is there](is_there) may ask.
pub(crate) fn service(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"))
}

/// Whether a service is there. Where it is not, its tests are skipped.
pub(crate) fn is_there(variable: &str) -> bool {
    needs::variable(variable).is_some()
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

/// The command that runs one test of this program in a process of its own. `module` is its `module_path!()`.
pub(crate) fn again(module: &str, test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(run_one(module, test));
    command
}

/// The arguments for that.
pub(crate) fn run_one(module: &str, test: &str) -> [String; 4] {
    let module = module.split_once("::").unwrap().1;
    [format!("{module}::{test}"), "--exact".into(), "--nocapture".into(), "--test-threads=1".into()]
}
