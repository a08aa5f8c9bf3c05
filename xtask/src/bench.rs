//! `cargo xtask bench`

use anyhow::{Result, bail};

use crate::{
    command,
    workspace::{Workspace, cargo},
};

const PACKAGE: &str = "cloakroom-bench";

/// Runs the benchmarks, optimised. Arguments are for the one that takes times.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if !Workspace::read()?.packages.contains_key(PACKAGE) {
        bail!("there are no benchmarks: this workspace has no package {PACKAGE} (it belongs in bench/)");
    }
    let run = |binary| cargo(&["run", "--release", "--package", PACKAGE, "--bin", binary, "--"]);
    command::run(&mut run("memory"))?;
    command::run(run("speed").args(arguments))
}
