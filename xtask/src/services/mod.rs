//! What tests need beside cargo: databases, proxies and tools.
//!
//! Databases are private instances on free ports, in a directory of this run alone, so that runs at the same time do not
//! meet. They stop and their files go when the run ends, however it ends; what a killed run left is cleared by
//! the next.
//!
//! A test that needs a service reads the service's variable, with the crate `needs`. Where it is unset the test is
//! skipped; with CI=true it fails instead.

use std::{env, fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, bail};
use needs::Port;
use nix::unistd::geteuid;

use crate::{
    command::{Process, interrupted, wait_until},
    workspace::Workspace,
};

mod install;
mod mariadb;
mod postgres;
mod proxies;
mod redis;
mod run_directory;
mod tools;
mod valkey;

pub(crate) use install::Consent;
use run_directory::RunDirectory;

/// Every service there is.
pub(crate) const ALL: &[&dyn Service] = &[
    &tools::Valgrind,
    &tools::Chromium,
    &tools::Schemathesis,
    &postgres::Postgres,
    &mariadb::MariaDb,
    &redis::Redis,
    &redis::RedisCluster,
    &valkey::Valkey,
    &proxies::Nginx,
    &proxies::Caddy,
    &proxies::HaProxy,
    &proxies::Envoy,
];

/// Something tests need.
pub(crate) trait Service: Sync {
    /// What it is called on the command line.
    fn name(&self) -> &'static str;

    /// Variables that tell tests where it is.
    fn variables(&self) -> &'static [&'static str];

    /// Whether a test needs it yet, so that `cargo xtask test` starts it.
    fn used_by_tests(&self) -> bool;

    /// Packages of Debian and Ubuntu to install where [`find`](Self::find) fails.
    fn packages(&self) -> &'static [&'static str];

    /// Whether its programs are here and new enough; the error says what is missing.
    fn find(&self) -> Result<()>;

    /// Starts an instance and waits until it is ready. Values are in the order of the variables.
    fn start(&self, place: &Place) -> Result<Instance>;
}

/// Where an instance may keep its files.
#[derive(Debug)]
pub(crate) struct Place {
    /// An empty directory, of this instance alone.
    pub(crate) directory: std::path::PathBuf,
    /// Where downloads stay from run to run.
    pub(crate) tools: std::path::PathBuf,
}

/// A running service. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Values of the service's variables.
    pub(crate) values: Vec<String>,
    /// Its processes.
    pub(crate) processes: Vec<Process>,
}

/// A service that is not there.
#[derive(Debug)]
pub(crate) struct Skip {
    /// Which.
    pub(crate) name: &'static str,
    /// What is missing.
    pub(crate) why: String,
}

/// What there is of what was wanted, before anything is started.
pub(crate) struct Found {
    ready: Vec<&'static dyn Service>,
    skipped: Vec<Skip>,
}

impl Found {
    /// Looks for all, and installs what is missing if `consent` allows. A service whose variables are set already is
    /// left as it is: it was started by hand.
    pub(crate) fn look(wanted: &[&'static dyn Service], consent: Consent) -> Result<Self> {
        let (given, wanted): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(|service| is_given(*service));
        for service in given {
            eprintln!("{} is given: {}", service.name(), service.variables().join(", "));
        }
        let (mut ready, mut skipped) = (Vec::new(), Vec::new());
        for (service, found) in wanted.iter().zip(install::find_or_install(&wanted, consent)) {
            match found {
                Ok(()) => ready.push(*service),
                Err(error) => skipped.push(Skip { name: service.name(), why: format!("{error:#}") }),
            }
        }
        for skip in &skipped {
            eprintln!("cannot have {}: {}", skip.name, skip.why);
        }
        if interrupted() {
            bail!("interrupted");
        }
        Ok(Self { ready, skipped })
    }

    /// Starts them all at once, and says where they are.
    pub(crate) fn start(self, target: &Path) -> Result<Services> {
        let Self { ready, mut skipped } = self;
        let directory = RunDirectory::create(target)?;
        if !ready.is_empty() {
            let names: Vec<_> = ready.iter().map(|service| service.name()).collect();
            eprintln!("starting {} in {}", names.join(", "), directory.path().display());
        }
        let started: Vec<_> = thread::scope(|scope| {
            let start = |service: &'static dyn Service| {
                let place = directory.place(service.name());
                scope.spawn(move || service.start(&place?))
            };
            let starting: Vec<_> = ready.iter().map(|service| start(*service)).collect();
            starting.into_iter().map(|thread| thread.join().expect("starting a service does not panic")).collect()
        });
        let mut variables = Vec::new();
        let mut processes = Vec::new();
        for (service, started) in ready.into_iter().zip(started) {
            match started {
                Ok(mut instance) => {
                    variables.extend(service.variables().iter().copied().zip(instance.values.drain(..)));
                    processes.extend(instance.processes);
                }
                Err(error) => {
                    eprintln!("cannot start {}: {error:#}", service.name());
                    skipped.push(Skip { name: service.name(), why: format!("{error:#}") });
                }
            }
        }
        if interrupted() {
            bail!("interrupted");
        }
        Ok(Services { variables, skipped, _processes: processes, _directory: directory })
    }
}

/// The services of one run. Dropping it stops them and removes their files.
#[derive(Debug)]
pub(crate) struct Services {
    variables: Vec<(&'static str, String)>,
    skipped: Vec<Skip>,
    // Fields drop in this order: first the processes, then their files.
    _processes: Vec<Process>,
    _directory: RunDirectory,
}

impl Services {
    /// What to tell tests.
    pub(crate) fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// What could not be had.
    pub(crate) fn skipped(&self) -> &[Skip] {
        &self.skipped
    }
}

/// `cargo xtask services up`
pub(crate) fn up(names: &[&str], consent: Consent) -> Result<()> {
    let services = Found::look(&by_name(names)?, consent)?.start(&Workspace::read()?.target)?;
    for (name, value) in services.variables() {
        println!("export {name}='{value}'");
    }
    if services.variables().is_empty() {
        bail!("nothing was started");
    }
    eprintln!("ready: stop with Ctrl-C");
    while !interrupted() {
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// `cargo xtask services down`
pub(crate) fn down() -> Result<()> {
    run_directory::clear_abandoned(&Workspace::read()?.target)
}

/// `cargo xtask services list`
pub(crate) fn list() {
    for service in ALL {
        let found = service.find().map_or_else(|error| format!("not here: {error:#}"), |()| "here".into());
        println!("{:<14} {:<64} {found}", service.name(), service.variables().join(" "));
    }
}

fn by_name(names: &[&str]) -> Result<Vec<&'static dyn Service>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |name: &&str| {
        let found = ALL.iter().copied().find(|service| service.name() == *name);
        found.with_context(|| {
            let known: Vec<_> = ALL.iter().map(|service| service.name()).collect();
            format!("there is no service {name:?}; services are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

fn is_given(service: &dyn Service) -> bool {
    service.variables().iter().all(|name| env::var_os(name).is_some())
}

fn is_root() -> bool {
    geteuid().is_root()
}

/// Ports that neither tests nor other runs are given until this program ends.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        let taken = Port::take()?;
        *port = taken.number();
        std::mem::forget(taken);
    }
    Ok(ports)
}

/// Starts something on free ports, again on others if another program takes one of them in between.
fn with_free_ports<T, const N: usize>(mut start: impl FnMut([u16; N]) -> Result<T>) -> Result<T> {
    let mut tries = 0;
    loop {
        tries += 1;
        match start(free_ports()?) {
            Err(_) if tries < 3 && !interrupted() => {}
            answer => return answer,
        }
    }
}

/// Waits until a server answers. If it ends before, the error shows the end of its log.
fn wait_for_server(process: &mut Process, log: &Path, mut answers: impl FnMut() -> bool) -> Result<()> {
    let ready = || match process.ended()? {
        Some(status) => bail!("it ended at once ({status})"),
        None => Ok(answers()),
    };
    wait_until("starting it", Duration::from_mins(1), ready).with_context(|| tail(log))
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name() {
        assert_eq!(by_name(&[]).unwrap().len(), ALL.len());
        assert_eq!(by_name(&["redis", "postgres"]).unwrap()[0].name(), "redis");
        let Err(error) = by_name(&["oracle"]) else { panic!("there is no such service") };
        assert!(error.to_string().contains("oracle") && error.to_string().contains("postgres"), "{error}");
    }

    #[test]
    fn names_and_variables_are_told_apart() {
        let mut seen = std::collections::HashSet::new();
        for service in ALL {
            assert!(seen.insert(service.name()));
            assert!(service.variables().iter().all(|name| name.starts_with("CLOAKROOM_TEST_") && seen.insert(*name)));
        }
    }

    #[test]
    fn a_taken_port_is_tried_again() {
        let mut ports = Vec::new();
        let port = with_free_ports(|[port]| {
            ports.push(port);
            if ports.len() == 1 {
                bail!("taken")
            }
            Ok(port)
        });
        assert_eq!(ports.last().copied(), Some(port.unwrap()));
        assert_eq!(ports.len(), 2);

        let mut attempts = 0;
        let failing = with_free_ports(|[_]| {
            attempts += 1;
            bail!("broken") as Result<()>
        });
        assert_eq!((failing.unwrap_err().to_string().as_str(), attempts), ("broken", 3));
    }
}
