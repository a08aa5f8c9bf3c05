//! What is in this workspace, and where.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// A cargo command that works from the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(root());
    // What cargo tells a program that it runs is about that program. Build scripts would take it for a change, and
    // everything behind them would be built anew, each time `cargo xtask` and `cargo` take turns.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_about_a_package)) {
        cargo.env_remove(name);
    }
    cargo
}

fn is_about_a_package(variable: &str) -> bool {
    variable.starts_with("CARGO_MANIFEST_") || variable.starts_with("CARGO_PKG_")
}

/// Where the workspace lies.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The workspace as cargo describes it.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Packages, each with its features except `default`.
    pub(crate) packages: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self> {
        let metadata = command::output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]));
        let metadata = metadata.context("`cargo metadata` failed: run it by hand to see why")?;
        Self::parse(&metadata)
    }

    fn parse(metadata: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(metadata).context("`cargo metadata` did not print JSON")?;
        let unexpected = "`cargo metadata` printed something unexpected";
        let target = metadata["target_directory"].as_str().context(unexpected)?.into();
        let packages = metadata["packages"].as_array().context(unexpected)?.iter().map(|package| {
            let name = package["name"].as_str()?.to_owned();
            let features = package["features"].as_object()?.keys();
            Some((name, features.filter(|feature| *feature != "default").cloned().collect()))
        });
        Ok(Self { target, packages: packages.collect::<Option<_>>().context(unexpected)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_with_their_features() {
        let metadata = r#"{"target_directory": "/t", "packages": [
            {"name": "a", "features": {"default": ["x"], "x": [], "y": []}}, {"name": "b", "features": {}}]}"#;
        let workspace = Workspace::parse(metadata).unwrap();
        assert_eq!(workspace.target, Path::new("/t"));
        assert_eq!(workspace.packages["a"], ["x", "y"]);
        assert!(workspace.packages["b"].is_empty());
        assert!(Workspace::parse("{}").is_err());
    }

    #[test]
    fn cargo_is_not_told_of_the_package_that_runs_it() {
        // Cargo has told this test.
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some() && env::var_os("CARGO_PKG_NAME").is_some());
        let removed: Vec<_> =
            cargo(&[]).get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name.to_owned()).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
            assert!(removed.iter().any(|removed| removed == name), "{name}");
        }
        assert!(!removed.iter().any(|removed| removed == "CARGO_HOME" || removed == "CARGO_TARGET_DIR"), "{removed:?}");
    }

    #[test]
    fn this_workspace_is_understood() {
        let workspace = Workspace::read().unwrap();
        assert!(workspace.packages.contains_key("xtask") && workspace.packages.contains_key("cloakroom"));
    }
}
