//! Programs that tests run: valgrind counts instructions, Chromium is a real browser.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{Instance, Place, Service, proxies::pip};
use crate::command::{self, find_program};

/// Counts instructions, which do not vary as times do.
pub(crate) struct Valgrind;

/// A browser, with playwright-core, which steers it, and axe-core.
pub(crate) struct Chromium;

/// What steers the browser, and what looks for pages that not everyone can use.
const MODULES: [(&str, &str); 2] = [("playwright-core", "1.65.1"), ("axe-core", "4.14.1")];

/// Makes requests of an OpenAPI document, and looks whether the answers are those that it says.
pub(crate) struct Schemathesis;

const SCHEMATHESIS: &str = "4.32.5";

impl Service for Valgrind {
    fn name(&self) -> &'static str {
        "valgrind"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_VALGRIND"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        // Without the C library's symbols valgrind refuses to start.
        &["valgrind", "libc6-dbg"]
    }

    fn find(&self) -> Result<()> {
        match command::output(Command::new("valgrind").args([
            "-q",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "true",
        ])) {
            Some(_) => Ok(()),
            None => bail!("valgrind is not here, or does not run"),
        }
    }

    fn start(&self, _place: &Place) -> Result<Instance> {
        Ok(Instance { values: vec!["1".into()], processes: Vec::new() })
    }
}

impl Service for Chromium {
    fn name(&self) -> &'static str {
        "chromium"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_BROWSER", "CLOAKROOM_TEST_PLAYWRIGHT"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if os.lines().any(|line| line == "ID=ubuntu") { &["chromium-browser"] } else { &["chromium"] }
    }

    fn find(&self) -> Result<()> {
        browser().map(drop)
    }

    fn start(&self, place: &Place) -> Result<Instance> {
        let values = vec![browser()?, playwright(&place.tools)?];
        let values = values.into_iter().map(|path| path.to_string_lossy().into_owned()).collect();
        Ok(Instance { values, processes: Vec::new() })
    }
}

impl Service for Schemathesis {
    fn name(&self) -> &'static str {
        "schemathesis"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_SCHEMATHESIS"]
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
        let modules = schemathesis(&place.tools)?;
        Ok(Instance { values: vec![modules.to_string_lossy().into_owned()], processes: Vec::new() })
    }
}

/// The directory for Python to find it in. It is downloaded once.
fn schemathesis(tools: &Path) -> Result<PathBuf> {
    let home = tools.join(format!("schemathesis-{SCHEMATHESIS}"));
    fs::create_dir_all(&home)?;
    let lock = File::create(home.join("lock"))?;
    lock.lock().context("cannot lock the directory of tools")?;
    let python = pip()?;
    let runs = || {
        let mut version = Command::new(&python);
        command::output(version.env("PYTHONPATH", &home).args(["-m", "schemathesis.cli", "--version"])).is_some()
    };
    if !runs() {
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--upgrade"]);
        install.args(["--disable-pip-version-check", "--root-user-action=ignore", "--target"]).arg(&home);
        install.arg(format!("schemathesis=={SCHEMATHESIS}")).stdout(Stdio::null());
        command::run(&mut install).context("cannot download schemathesis")?;
    }
    if !runs() {
        bail!("schemathesis does not run on this machine");
    }
    Ok(home)
}

fn browser() -> Result<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
    // One that is there may still be a stub which asks for something else to be installed.
    let runs = |program: &PathBuf| command::output(Command::new(program).arg("--version")).is_some();
    let found = names.iter().filter_map(|name| find_program(name, [])).find(runs);
    found.context("no Chromium or Chrome is here, or it does not run")
}

/// The directory to import playwright-core and axe-core from. They are downloaded once.
fn playwright(tools: &Path) -> Result<PathBuf> {
    let home = tools.join("playwright");
    let modules = home.join("node_modules");
    fs::create_dir_all(&home)?;
    let lock = File::create(home.join("lock"))?;
    lock.lock().context("cannot lock the directory of tools")?;
    if !is_installed(&modules) {
        let Some(npm) = find_program("npm", []) else { bail!("npm is not here: install Node.js 20 or newer") };
        let mut install = Command::new(npm);
        install.args(["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(&home);
        install.args(MODULES.map(|(name, version)| format!("{name}@{version}"))).stdout(Stdio::null());
        command::run(&mut install).context("cannot download playwright-core and axe-core")?;
    }
    Ok(modules)
}

fn is_installed(modules: &Path) -> bool {
    MODULES.iter().all(|(name, version)| {
        let description = fs::read_to_string(modules.join(name).join("package.json")).unwrap_or_default();
        let description: serde_json::Value = serde_json::from_str(&description).unwrap_or_default();
        description["version"] == *version
    })
}
