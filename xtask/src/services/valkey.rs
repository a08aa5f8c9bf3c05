//! A private Valkey: the one that is installed, or Debian's, unpacked beside the other tools. Nothing is installed for it,
//! since its package and that of Redis get into each other's way.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{Instance, Place, Service, redis, with_free_ports};
use crate::command::{self, find_program};

/// One Valkey, version 8 or newer.
pub(crate) struct Valkey;

impl Service for Valkey {
    fn name(&self) -> &'static str {
        "valkey"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_VALKEY_URL"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn find(&self) -> Result<()> {
        if installed().is_some() {
            return Ok(());
        }
        for name in ["apt-get", "dpkg-deb"] {
            find_program(name, []).with_context(|| format!("there is no Valkey, and no {name} to unpack one with"))?;
        }
        Ok(())
    }

    fn start(&self, place: &Place) -> Result<Instance> {
        let program = installed().map_or_else(|| unpacked(&place.tools), Ok)?;
        with_free_ports(|[port]| {
            let process = redis::start_node(&program, &place.directory, port, &[])?;
            Ok(Instance { values: vec![format!("redis://127.0.0.1:{port}")], processes: vec![process] })
        })
    }
}

fn installed() -> Option<PathBuf> {
    find_program("valkey-server", []).filter(|program| is_new_enough(program))
}

fn is_new_enough(program: &Path) -> bool {
    let version = command::output(Command::new(program).arg("--version")).unwrap_or_default();
    redis::major_version(&version).is_some_and(|major| major >= 8)
}

/// The server of Debian's package, downloaded once.
fn unpacked(tools: &Path) -> Result<PathBuf> {
    let home = tools.join("valkey");
    let program = home.join("root/usr/bin/valkey-server");
    fs::create_dir_all(home.join("lists/partial"))?;
    fs::create_dir_all(home.join("cache/archives/partial"))?;
    let lock = File::create(home.join("lock"))?;
    lock.lock().context("cannot lock the directory of tools")?;
    if is_new_enough(&program) {
        return Ok(program);
    }
    // Lists of its own: the system's stay as they are.
    fs::write(home.join("sources.list"), sources()?)?;
    let option = |name: &str, file: &str| format!("{name}={}", home.join(file).display());
    let options = [
        option("Dir::Etc::SourceList", "sources.list"),
        "Dir::Etc::SourceParts=-".into(),
        option("Dir::State::Lists", "lists"),
        option("Dir::Cache", "cache"),
    ];
    for arguments in [&["update", "-qq"][..], &["download", "-qq", "valkey-server", "valkey-tools"]] {
        let mut apt = Command::new("apt-get");
        apt.args(options.iter().flat_map(|option| ["-o", option.as_str()])).args(arguments);
        apt.current_dir(&home).stdout(Stdio::null()).stderr(Stdio::null());
        command::run(&mut apt).context("Debian's package of Valkey cannot be downloaded")?;
    }
    for file in fs::read_dir(&home)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            command::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(home.join("root")))?;
            fs::remove_file(file)?;
        }
    }
    if !is_new_enough(&program) {
        bail!("the Valkey that was unpacked does not run, or is older than 8: see ldd {}", program.display());
    }
    Ok(program)
}

/// The release that this system has, and its backports, where Valkey is for Debian 12.
fn sources() -> Result<String> {
    let format = ["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"];
    let known = command::output(Command::new("apt-get").args(format)).unwrap_or_default();
    let found = known.lines().filter_map(|line| line.split_once(' ')).find(|(_, release)| !release.contains('-'));
    let (server, release) = found.context("apt-get knows no release: run apt-get update")?;
    Ok(format!("deb {server} {release} main\ndeb {server} {release}-backports main\n"))
}
