//! Installing what is missing, on Debian and Ubuntu.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
    sync::Once,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{Service, is_root};
use crate::command;

/// Makes sure the service's programs are here: looks for them, else installs them if that is allowed.
pub(crate) fn find_or_install(service: &dyn Service, install: bool) -> Result<()> {
    let Err(missing) = service.find() else { return Ok(()) };
    let packages = service.packages();
    let by_hand = format!("{missing:#}; install it: sudo apt-get install {}", packages.join(" "));
    if !install || packages.is_empty() || command::find_program("apt-get", []).is_none() {
        bail!("{by_hand}");
    }
    apt_get(service.name(), packages).context(by_hand)?;
    service.find().context("it was installed, and still does not do")
}

fn apt_get(name: &str, packages: &[&str]) -> Result<()> {
    static UPDATE: Once = Once::new();
    let mut apt = if is_root() { Command::new("apt-get") } else { sudo(name, packages)? };
    let run = |command: &mut Command| {
        eprintln!("> {}", command::show(command));
        command.stdout(Stdio::null());
        if is_root() { command::run(command) } else { command::run_in_foreground(command) }
    };
    let words = |apt: &Command| {
        let mut copy = Command::new(apt.get_program());
        copy.args(apt.get_args()).env("DEBIAN_FRONTEND", "noninteractive");
        copy
    };
    let mut updated = Ok(());
    UPDATE.call_once(|| updated = run(words(&apt).args(["update", "-qq"])));
    // Old lists may still do.
    if let Err(error) = updated {
        eprintln!("{error:#}");
    }
    let quiet = ["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
    run(apt.env("DEBIAN_FRONTEND", "noninteractive").args(quiet).args(packages))
}

fn sudo(name: &str, packages: &[&str]) -> Result<Command> {
    let mut sudo = Command::new("sudo");
    if command::output(Command::new("sudo").args(["-n", "true"])).is_some() && env::var_os("CI").is_some() {
        sudo.arg("-n");
    } else if io::stdin().is_terminal() {
        eprint!("{name} is missing. Install {} with sudo apt-get? [Y/n] ", packages.join(" "));
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes") || answer.is_empty() {
            return Err(anyhow!("you said no"));
        }
    } else {
        bail!("there is nobody to ask for sudo");
    }
    // Variables do not pass sudo; this one must.
    sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(sudo)
}
