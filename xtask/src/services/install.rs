//! Installing what is missing: services on Debian and Ubuntu, tools that cargo builds.

use std::{
    collections::BTreeSet,
    env,
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
    sync::{Once, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Service, is_root};
use crate::command::{self, interrupted};

/// Whether what is missing may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// No: `--no-install`.
    Refused,
    /// If the developer says so at the terminal.
    Asked,
    /// Yes: `--yes`, or CI=true.
    Given,
}

impl Consent {
    /// Whether `question` is answered with yes; the error says why not.
    pub(crate) fn to(self, question: &str) -> Result<()> {
        match self {
            Self::Refused => bail!("--no-install was given"),
            Self::Given => Ok(()),
            Self::Asked if !io::stdin().is_terminal() => bail!("this is no terminal to ask at; --yes installs it"),
            Self::Asked => {
                eprint!("{question} [Y/n] ");
                io::stderr().flush()?;
                let answer = answer()?;
                if !matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes") || answer.is_empty() {
                    bail!("the answer was no");
                }
                Ok(())
            }
        }
    }
}

/// A line from the terminal. Reading goes on after a signal, so it is done where nothing waits for it.
fn answer() -> Result<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = sender.send(io::stdin().read_line(&mut line).map(|_| line));
    });
    loop {
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => return Ok(line?),
            Err(_) if interrupted() => bail!("interrupted"),
            Err(_) => {}
        }
    }
}

/// Whether each service's programs are here, after asking once for all that are missing, and installing them.
pub(crate) fn find_or_install(services: &[&'static dyn Service], consent: Consent) -> Vec<Result<()>> {
    let found: Vec<_> = services.iter().map(|service| service.find()).collect();
    let missing: Vec<_> = services.iter().zip(&found).filter(|(_, found)| found.is_err()).map(|pair| *pair.0).collect();
    let allowed = if missing.is_empty() { Ok(()) } else { may_install(&missing, consent) };
    let each = services.iter().zip(found).map(|(service, found)| {
        let Err(missing) = found else { return Ok(()) };
        let by_hand = format!("{missing:#}; by hand: sudo apt-get install {}", service.packages().join(" "));
        if service.packages().is_empty() {
            return Err(missing);
        }
        if let Err(why) = &allowed {
            bail!("{by_hand} ({why:#})");
        }
        apt_get(service.packages()).context(by_hand)?;
        service.find().context("it was installed, and still does not do")
    });
    each.collect()
}

fn may_install(missing: &[&'static dyn Service], consent: Consent) -> Result<()> {
    if command::find_program("apt-get", []).is_none() {
        bail!("packages are installed on Debian and Ubuntu alone");
    }
    let names: Vec<_> = missing.iter().map(|service| service.name()).collect();
    let packages: BTreeSet<_> = missing.iter().flat_map(|service| service.packages()).copied().collect();
    let packages: Vec<_> = packages.into_iter().collect();
    let command = if is_root() { "apt-get install" } else { "sudo apt-get install" };
    let (names, packages) = (names.join(", "), packages.join(" "));
    consent.to(&format!("Missing: {names}. Install on this system with `{command} {packages}`?"))
}

fn apt_get(packages: &[&str]) -> Result<()> {
    static UPDATE: Once = Once::new();
    let run = |arguments: &[&str]| {
        let mut apt = if is_root() { Command::new("apt-get") } else { sudo() };
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments).stdout(Stdio::null());
        eprintln!("> {}", command::show(&apt));
        if is_root() { command::run(&mut apt) } else { command::run_in_foreground(&mut apt) }
    };
    let mut updated = Ok(());
    UPDATE.call_once(|| updated = run(&["update", "-qq"]));
    // Old lists may still do.
    if let Err(error) = updated {
        eprintln!("{error:#}");
    }
    let install = ["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
    run(&[&install, packages].concat())
}

fn sudo() -> Command {
    let mut sudo = Command::new("sudo");
    if !io::stdin().is_terminal() || env::var_os("CI").is_some() {
        // A password could not be typed.
        sudo.arg("-n");
    }
    // Variables do not pass sudo; this one must.
    sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    sudo
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{Instance, Place};

    struct Missing;

    impl Service for Missing {
        fn name(&self) -> &'static str {
            "missing"
        }

        fn variables(&self) -> &'static [&'static str] {
            &[]
        }

        fn used_by_tests(&self) -> bool {
            false
        }

        fn packages(&self) -> &'static [&'static str] {
            &["no-such-package"]
        }

        fn find(&self) -> Result<()> {
            bail!("its program is not here")
        }

        fn start(&self, _place: &Place) -> Result<Instance> {
            unreachable!("it is not here")
        }
    }

    #[test]
    fn what_may_not_be_installed_says_what_is_missing_and_how_to_get_it() {
        let error = find_or_install(&[&Missing], Consent::Refused).remove(0).unwrap_err().to_string();
        for part in ["its program is not here", "apt-get install no-such-package"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn nothing_is_installed_unless_it_was_agreed_to() {
        assert!(Consent::Given.to("?").is_ok());
        assert!(Consent::Refused.to("?").unwrap_err().to_string().contains("--no-install"));
        // Tests are run without a terminal, which cannot be asked.
        if !io::stdin().is_terminal() {
            assert!(Consent::Asked.to("?").unwrap_err().to_string().contains("--yes"));
        }
    }
}
