//! A private PostgreSQL, in a time zone that is not UTC.

use std::{
    fs::{self, File},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{sys::signal::Signal, unistd::User};

use super::{Instance, Place, Service, is_root, wait_for_server, with_free_ports};
use crate::command::{self, Process, find_program};

/// PostgreSQL 13 or newer, and PgBouncer, which tests start for themselves.
pub(crate) struct Postgres;

impl Service for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_POSTGRES_URL"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        &["postgresql", "pgbouncer"]
    }

    fn find(&self) -> Result<()> {
        program("postgres")
            .and_then(|_| program("initdb"))
            .and_then(|_| program("pg_isready"))
            .and_then(|_| program("pgbouncer"))
            .map(drop)
    }

    fn start(&self, place: &Place) -> Result<Instance> {
        let data = place.directory.join("data");
        let log = place.directory.join("log");
        let owner = unprivileged_user()?;
        fs::create_dir(&data)?;
        if let Some(owner) = &owner {
            chown(&data, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
        }
        let initdb = ["--username=cloakroom", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"];
        let mut make = as_user(&program("initdb")?, owner.as_ref());
        make.args(initdb).arg("--pgdata").arg(&data).current_dir(&data).stdout(File::create(&log)?);
        command::run(&mut make)?;

        with_free_ports(|[port]| {
            let mut server = as_user(&program("postgres")?, owner.as_ref());
            server.arg("-D").arg(&data).args(["-p", &port.to_string()]).current_dir(&data);
            // A time zone that is never UTC, and a change of it noticed: 5:45 ahead.
            for setting in
                ["listen_addresses=127.0.0.1", "unix_socket_directories=", "timezone=Asia/Kathmandu", "fsync=off"]
            {
                server.args(["-c", setting]);
            }
            server.stdout(Stdio::null()).stderr(File::create(&log)?);
            // SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients.
            let mut process = Process::spawn(&mut server, Signal::SIGINT)?;
            let ready = program("pg_isready")?;
            let port = port.to_string();
            let answers =
                || command::output(Command::new(&ready).args(["-q", "-h", "127.0.0.1", "-p", &port])).is_some();
            wait_for_server(&mut process, &log, answers)?;
            let url = format!("postgres://cloakroom@127.0.0.1:{port}/postgres");
            Ok(Instance { values: vec![url], processes: vec![process] })
        })
    }
}

/// PostgreSQL refuses to run as root.
fn unprivileged_user() -> Result<Option<User>> {
    if !is_root() {
        return Ok(None);
    }
    let user = |name| User::from_name(name).ok().flatten();
    let user = user("postgres").or_else(|| user("nobody"));
    user.map(Some).context("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

fn as_user(program: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Debian keeps the server's programs out of the path, one directory a version.
fn program(name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut directories: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    directories.sort_by_key(|directory| std::cmp::Reverse(version_of(directory)));
    find_program(name, directories).with_context(|| format!("{name} is not here"))
}

fn version_of(directory: &Path) -> Option<u32> {
    directory.parent()?.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text| version_of(Path::new(text));
        assert!(version("/usr/lib/postgresql/15/bin") > version("/usr/lib/postgresql/9/bin"));
        assert!(version("/usr/lib/postgresql/9/bin") > version("/usr/lib/postgresql/common/bin"));
    }
}
