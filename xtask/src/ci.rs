//! `cargo xtask ci`: what must hold before a change is merged.

use std::{process::Command, time::Instant};

use anyhow::{Result, bail};

use crate::{
    command::{self, interrupted},
    test,
    totals::count,
    workspace::{Workspace, cargo},
};

/// Runs every check, the quick ones first, and then every test. Closes with the totals.
pub(crate) fn run(options: &test::Options) -> Result<()> {
    let start = Instant::now();
    let features = Workspace::read()?.packages.remove("cloakroom").unwrap_or_default();
    let mut checks = checks(&features);
    let deny = command::output(&mut cargo(&["deny", "--version"])).is_some();
    if deny {
        checks.push(cargo(&["deny", "check"]));
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for mut check in checks {
        match run_timed(&mut check) {
            Ok(()) => passed += 1,
            Err(error) => failed.push(format!("{error:#}")),
        }
        if interrupted() {
            bail!("interrupted");
        }
    }
    let tests = test::outcome(options);
    if interrupted() {
        bail!("interrupted");
    }

    let mut totals = format!("checks: {passed} passed, {} failed, {} skipped; tests: ", failed.len(), u8::from(!deny));
    if !deny {
        eprintln!("skipped 1 check: licences and advisories (cargo install cargo-deny)");
    }
    match tests {
        Ok(outcome) => {
            outcome.totals.show_skipped();
            totals += &outcome.totals.to_string();
            failed.extend(outcome.verdict().err().map(|error| format!("{error:#}")));
        }
        Err(error) => {
            totals += "not run";
            failed.push(format!("{error:#}"));
        }
    }
    for failure in &failed {
        eprintln!("failed: {failure}");
    }
    let took = start.elapsed().as_secs();
    eprintln!("{totals} ({} min {} s)", took / 60, took % 60);
    if !failed.is_empty() {
        bail!("{}", count(failed.len(), "failure"));
    }
    Ok(())
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
    // With the features that come by themselves: links to what they lack must not be there.
    let mut defaults = cargo(&["doc", "--package", "cloakroom", "--no-deps"]);
    defaults.env("RUSTDOCFLAGS", "-D warnings");
    checks.push(defaults);
    checks.push(cargo(&["run", "--quiet", "--package", "xtask", "--", "public-api"]));
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
