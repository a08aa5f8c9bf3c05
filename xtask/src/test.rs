//! `cargo xtask test`: every test of the workspace, with the services that tests need.

use std::{env, process::Command};

use anyhow::{Result, bail};

use crate::{
    command,
    services::{self, Services},
    workspace::{Workspace, cargo},
};

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether missing services may be installed.
    pub(crate) install: bool,
    /// For the test runner.
    pub(crate) runner_arguments: Vec<String>,
}

impl Options {
    /// Reads `[--no-install] [-- ARGS]`.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { install: true, runner_arguments: Vec::new() };
        for (index, argument) in arguments.iter().enumerate() {
            match *argument {
                "--no-install" => options.install = false,
                "--" => {
                    options.runner_arguments = arguments[index + 1..].iter().map(ToString::to_string).collect();
                    break;
                }
                unknown => bail!("there is no option {unknown:?} (what is for the test runner goes behind --)"),
            }
        }
        Ok(options)
    }
}

/// Runs every test. With CI=true a skipped service is a failure.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted: Vec<_> = services::ALL.iter().copied().filter(|service| service.used_by_tests()).collect();
    let services = Services::start(&wanted, options.install, &Workspace::read()?.target)?;
    let failed: Vec<_> = runners(options)
        .into_iter()
        .filter_map(|mut runner| {
            runner.envs(services.variables().iter().cloned());
            eprintln!("> {}", command::show(&runner));
            command::run(&mut runner).err()
        })
        .map(|error| format!("{error:#}"))
        .collect();
    for skip in services.skipped() {
        eprintln!("skipped: {}: {}", skip.name, skip.why);
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    if is_ci() && !services.skipped().is_empty() {
        bail!("with CI=true nothing may be skipped: see above for what each service needs");
    }
    Ok(())
}

fn runners(options: &Options) -> [Command; 2] {
    let nextest = command::output(&mut cargo(&["nextest", "--version"])).is_some();
    let runner: &[&str] =
        if nextest { &["nextest", "run"] } else { &["test", "--lib", "--bins", "--tests", "--examples"] };
    let all = ["--workspace", "--all-features"];
    let mut tests = cargo(&[runner, &all].concat());
    tests.args(&options.runner_arguments);
    [tests, cargo(&[&["test", "--doc"], &all[..]].concat())]
}

fn is_ci() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_two_dashes_is_for_the_runner() {
        let options = Options::parse(&["--no-install", "--", "-E", "test(limit)", "--no-install"]).unwrap();
        assert_eq!(options.runner_arguments, ["-E", "test(limit)", "--no-install"]);
        assert!(!options.install);
        assert!(Options::parse(&[]).unwrap().install);
        let error = Options::parse(&["limit"]).unwrap_err().to_string();
        assert!(error.contains("limit") && error.contains("--"), "{error}");
    }
}
