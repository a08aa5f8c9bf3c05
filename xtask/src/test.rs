//! `cargo xtask test`: every test of the workspace, with the services that tests need.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{self, interrupted},
    services::{self, Consent, Found, Services},
    totals::Totals,
    workspace::{Workspace, cargo, root},
};

/// What the command line asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether what is missing may be installed.
    pub(crate) consent: Consent,
    /// For the test runner.
    pub(crate) runner_arguments: Vec<String>,
}

impl Options {
    /// Reads `[--yes|--no-install] [-- ARGS]`.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        let consent = if is_ci() { Consent::Given } else { Consent::Asked };
        let mut options = Self { consent, runner_arguments: Vec::new() };
        for (index, argument) in arguments.iter().enumerate() {
            match *argument {
                "--no-install" => options.consent = Consent::Refused,
                "--yes" => options.consent = Consent::Given,
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

/// Runs every test and closes with the totals. With CI=true a skipped test is a failure.
pub(crate) fn run(options: &Options) -> Result<()> {
    let outcome = outcome(options)?;
    outcome.totals.show_skipped();
    eprintln!("{}", outcome.totals);
    outcome.verdict()
}

/// What came of all tests.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) totals: Totals,
    /// Runners that failed, whether or not a test did.
    failed: Vec<String>,
    lacks_services: bool,
}

impl Outcome {
    pub(crate) fn verdict(&self) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("{}", self.failed.join("; "));
        }
        if is_ci() && (self.lacks_services || !self.totals.skipped.is_empty()) {
            bail!("with CI=true nothing may be skipped: see above for what is missing");
        }
        Ok(())
    }
}

/// Runs every test. An error is one of our own: tests that fail are in the outcome.
pub(crate) fn outcome(options: &Options) -> Result<Outcome> {
    // Questions come first, then what takes long, and services run no longer than tests do.
    let runner = Runner::find(options.consent)?;
    let wanted: Vec<_> = services::ALL.iter().copied().filter(|service| service.used_by_tests()).collect();
    let found = Found::look(&wanted, options.consent)?;
    shown_run(&mut runner.command(&["--no-run"]))?;
    let target = Workspace::read()?.target;
    let services = found.start(&target)?;
    let mut outcome = Outcome { lacks_services: !services.skipped().is_empty(), ..Outcome::default() };
    let notes = Notes::new(&target);

    let arguments: Vec<_> = options.runner_arguments.iter().map(String::as_str).collect();
    let tests = runner.run(&mut with(runner.command(&arguments), &services, &notes), &mut outcome.totals);
    outcome.failed.extend(tests.err().map(|error| format!("{error:#}")));
    // Arguments choose among tests, and these would run all the same.
    if runner == Runner::Nextest && arguments.is_empty() && !interrupted() {
        let examples = cargo(&["test", "--doc", "--no-fail-fast", "--workspace", "--all-features"]);
        let examples = Runner::Cargo.run(&mut with(examples, &services, &notes), &mut outcome.totals);
        outcome.failed.extend(examples.err().map(|error| format!("{error:#}")));
    }
    outcome.totals.add_skipped(&notes.0);
    if interrupted() {
        bail!("interrupted");
    }
    Ok(outcome)
}

/// Where skipped tests are noted. Dropping it removes the file.
struct Notes(PathBuf);

impl Notes {
    fn new(target: &Path) -> Self {
        Self(target.join(format!("skipped-{}", std::process::id())))
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn with(mut command: Command, services: &Services, notes: &Notes) -> Command {
    command.envs(services.variables().iter().cloned()).env(needs::NOTED_IN, &notes.0);
    command
}

/// What runs tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    /// Each test in a process of its own.
    Nextest,
    /// What comes with cargo, examples in documentation included.
    Cargo,
}

impl Runner {
    /// nextest if it is here or may be installed.
    fn find(consent: Consent) -> Result<Self> {
        let is_here = || command::output(&mut cargo(&["nextest", "--version"])).is_some();
        if is_here() {
            return Ok(Self::Nextest);
        }
        eprintln!("cargo-nextest is not here: it runs tests faster, and each in a process of its own");
        let mut install = cargo(&["install", "--locked", "cargo-nextest"]);
        let installed = consent
            .to(&format!("Build it with `{}`? It takes some minutes.", command::show(&install)))
            .and_then(|()| shown_run(&mut install));
        if interrupted() {
            bail!("interrupted");
        }
        match installed {
            Ok(()) if is_here() => return Ok(Self::Nextest),
            Ok(()) => eprintln!("it was built, and cargo does not find it: is the directory bin of Cargo in the path?"),
            Err(error) => eprintln!("cannot install it: {error:#}"),
        }
        eprintln!("running tests with `cargo test`");
        Ok(Self::Cargo)
    }

    /// The command for all tests; nextest leaves out the examples in documentation.
    fn command(self, arguments: &[&str]) -> Command {
        let runner: &[&str] = match self {
            Self::Nextest => &["nextest", "run", "--profile", PROFILE],
            Self::Cargo => &["test", "--no-fail-fast"],
        };
        cargo(&[runner, &["--workspace", "--all-features"], arguments].concat())
    }

    /// Runs tests and adds what came of them.
    fn run(self, tests: &mut Command, totals: &mut Totals) -> Result<()> {
        eprintln!("> {}", command::show(tests));
        if self == Self::Cargo {
            return command::run_reading(tests, |line| totals.add_line(line));
        }
        let report = root().join(REPORT);
        // That of an earlier run.
        let _ = fs::remove_file(&report);
        let run = command::run(tests);
        match fs::read_to_string(&report).context("the test runner wrote no report") {
            Ok(report) => totals.add_report(&report)?,
            // Why is what the runner said.
            Err(_) if run.is_err() => {}
            Err(error) => return Err(error),
        }
        run
    }
}

/// In `.config/nextest.toml`.
const PROFILE: &str = "xtask";
const REPORT: &str = "target/nextest/xtask/junit.xml";

fn shown_run(command: &mut Command) -> Result<()> {
    eprintln!("> {}", command::show(command));
    command::run(command)
}

fn is_ci() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;

    #[test]
    fn what_follows_two_dashes_is_for_the_runner() {
        let options = Options::parse(&["--no-install", "--", "-E", "test(limit)", "--no-install"]).unwrap();
        assert_eq!(options.runner_arguments, ["-E", "test(limit)", "--no-install"]);
        assert_eq!(options.consent, Consent::Refused);
        assert_eq!(Options::parse(&["--yes"]).unwrap().consent, Consent::Given);
        let asked = if is_ci() { Consent::Given } else { Consent::Asked };
        assert_eq!(Options::parse(&[]).unwrap().consent, asked);
        let error = Options::parse(&["limit"]).unwrap_err().to_string();
        assert!(error.contains("limit") && error.contains("--"), "{error}");
    }

    #[test]
    fn every_failure_is_shown() {
        let cargo = command::show(&Runner::Cargo.command(&[]));
        assert!(cargo.contains("--no-fail-fast"), "{cargo}");
        let configuration = fs::read_to_string(root().join(".config/nextest.toml")).unwrap();
        let (_, profile) = configuration.split_once(&format!("[profile.{PROFILE}]\n")).unwrap();
        assert!(profile.starts_with("fail-fast = false\n"), "{profile}");
        assert!(profile.contains(&format!("[profile.{PROFILE}.junit]\npath = \"junit.xml\"")), "{profile}");
    }

    #[test]
    fn every_test_that_is_skipped_is_counted() {
        // Only the crate `needs` notes what it skips.
        let files = ["cloakroom", "cloakroom-server", "bench"].map(|package| documents::files(package, "rs"));
        for file in files.iter().flatten() {
            let text = fs::read_to_string(file).unwrap();
            for own_way in ["skipped: ", "\"CI\""] {
                assert!(!text.contains(own_way), "{}: {own_way} (needs::is_met tells and counts)", file.display());
            }
        }
    }

    #[test]
    fn no_test_relies_on_an_idle_machine_or_on_a_port_that_another_may_take() {
        let directories = ["cloakroom/tests", "cloakroom-server/tests", "bench/src"];
        for file in directories.iter().flat_map(|directory| documents::files(directory, "rs")) {
            let text = fs::read_to_string(&file).unwrap();
            let lets_go = text.contains("bind(\"127.0.0.1:0\").unwrap().local_addr()");
            assert!(!lets_go, "{}: a port is let go of before it is used (needs::Port is not)", file.display());
            // Where time is paused, none of it passes while the machine is busy.
            for line in text.lines().filter(|_| !text.contains("start_paused")) {
                let is_tight =
                    line.contains("elapsed() <") && !line.contains("from_mins(") && !line.contains("PATIENCE");
                assert!(!is_tight, "{}: not on a busy machine: {line}", file.display());
            }
        }
    }

    #[test]
    fn what_fails_without_a_test_is_a_failure_too() {
        let outcome = Outcome { failed: vec!["it does not build".into()], ..Outcome::default() };
        assert!(outcome.verdict().unwrap_err().to_string().contains("it does not build"));
        assert!(Outcome::default().verdict().is_ok());
    }
}
