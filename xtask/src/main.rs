//! The project's own chores: `cargo xtask help`.

use std::{env, process::ExitCode};

use anyhow::{Result, bail};

mod bench;
mod ci;
mod command;
#[cfg(test)]
mod direction;
#[cfg(test)]
mod documents;
mod public_api;
mod services;
mod test;
mod totals;
mod workspace;

const USAGE: &str = "\
cargo xtask test [--yes|--no-install] [-- ARGS]   run every test; ARGS go to the test runner, without the examples in
                                                  documentation
cargo xtask services up [--yes] [NAME ...]        start services, print their variables, wait for Ctrl-C
cargo xtask services down                         stop what a killed run left behind
cargo xtask services list                         name the services
cargo xtask bench [http] [ARGS]                   run the benchmarks: in one process, or over HTTP on every store
cargo xtask public-api [--bless]                  compare the library's public items with the list that is checked in, or
                                                  write the list anew
cargo xtask ci [--yes|--no-install]               formatting, lints, documentation, licences, then every test

What is missing is installed on Debian and Ubuntu if you agree when you are asked. --yes and CI=true agree, --no-install
never does. A test whose service cannot be had is skipped and counted as that. With CI=true a skip is a failure.";

fn main() -> ExitCode {
    if let Err(error) = command::watch_for_signals() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if command::interrupted() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["test", rest @ ..] => test::run(&test::Options::parse(rest)?),
        ["services", "up", "--yes", names @ ..] => services::up(names, services::Consent::Given),
        ["services", "up", names @ ..] => services::up(names, services::Consent::Asked),
        ["services", "down"] => services::down(),
        ["services", "list"] => {
            services::list();
            Ok(())
        }
        ["bench", arguments @ ..] => bench::run(arguments),
        ["public-api"] => public_api::run(false),
        ["public-api", "--bless"] => public_api::run(true),
        ["ci", rest @ ..] => ci::run(&test::Options::parse(rest)?),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        [] => bail!("say what to do:\n\n{USAGE}"),
        unknown => bail!("there is no {:?}:\n\n{USAGE}", unknown.join(" ")),
    }
}
