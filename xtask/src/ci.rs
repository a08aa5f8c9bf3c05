//! `cargo xtask ci`: what must hold before a change is merged.

use std::{process::Command, time::Instant};

use anyhow::Result;

use crate::{
    command, test,
    workspace::{Workspace, cargo},
};

/// Runs every check, the quick ones first, and stops at the first that fails.
pub(crate) fn run(options: &test::Options) -> Result<()> {
    let features = Workspace::read()?.packages.remove("cloakroom").unwrap_or_default();
    for mut check in checks(&features) {
        run_timed(&mut check)?;
    }
    if command::output(&mut cargo(&["deny", "--version"])).is_some() {
        run_timed(&mut cargo(&["deny", "check"]))?;
    } else {
        eprintln!("not checked: licences and advisories (cargo install cargo-deny)");
    }
    test::run(options)
}

fn checks(features: &[String]) -> Vec<Command> {
    let mut checks = vec![
        cargo(&["fmt", "--all", "--check"]),
        cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
    ];
    // Each feature must build alone: a missing `cfg` shows only then.
    let alone = ["clippy", "--package", "cloakroom", "--no-default-features", "--features"];
    let alone = |feature: &str| cargo(&[&alone[..], &[feature, "--", "-D", "warnings"]].concat());
    checks.push(alone(""));
    checks.extend(features.iter().map(|feature| alone(feature)));
    // Libraries alone: the server's binary has the library's name, and their pages would collide.
    let mut documentation = cargo(&["doc", "--workspace", "--lib", "--no-deps", "--all-features"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    checks.push(documentation);
    checks
}

fn run_timed(command: &mut Command) -> Result<()> {
    eprintln!("> {}", command::show(command));
    let start = Instant::now();
    command::run(command)?;
    eprintln!("  {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_is_checked_alone() {
        let shown: Vec<_> = checks(&["axum".into(), "sqlite".into()]).iter().map(command::show).collect();
        let alone = |feature: &str| shown.iter().any(|line| line.contains(&format!("--features {feature} --")));
        assert!(alone("") && alone("axum") && alone("sqlite"), "{shown:?}");
    }
}
