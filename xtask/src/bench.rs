//! `cargo xtask bench`

use anyhow::{Result, bail};

use crate::{
    command,
    workspace::{Workspace, cargo},
};

const PACKAGE: &str = "cloakroom-bench";

/// Runs the benchmarks, optimised.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if !Workspace::read()?.packages.contains_key(PACKAGE) {
        bail!("there are no benchmarks yet: this workspace has no package {PACKAGE} (it belongs in bench/)");
    }
    command::run(cargo(&["run", "--release", "--package", PACKAGE, "--"]).args(arguments))
}
