//! `cargo xtask bench`

use anyhow::{Result, bail};

use crate::{
    command,
    workspace::{Workspace, cargo, root},
};

const PACKAGE: &str = "cloakroom-bench";

/// Runs the benchmarks, optimised. Arguments are for the one that takes times.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if !Workspace::read()?.packages.contains_key(PACKAGE) {
        bail!("there are no benchmarks: this workspace has no package {PACKAGE} (it belongs in bench/)");
    }
    if let ["http", arguments @ ..] = arguments {
        return run_over_http(arguments);
    }
    let run = |binary| cargo(&["run", "--release", "--package", PACKAGE, "--bin", binary, "--"]);
    command::run(&mut run("memory"))?;
    command::run(run("speed").args(arguments))
}

/// The peers are a workspace of their own; what is run finds them beside itself.
fn run_over_http(arguments: &[&str]) -> Result<()> {
    let workspace = Workspace::read()?;
    let (manifest, target) = (root().join("bench/peers/Cargo.toml"), workspace.target.as_path());
    let mut peers = cargo(&["build", "--release", "--manifest-path"]);
    command::run(peers.arg(manifest).arg("--target-dir").arg(target))?;
    let http = ["run", "--release", "--package", PACKAGE, "--features", "http", "--bin", "http", "--"];
    command::run(cargo(&http).args(arguments))
}
