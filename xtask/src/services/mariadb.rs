//! A private MariaDB, in a time zone that is not UTC.

use std::{
    fs::{self, File},
    io::Read,
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{Instance, Place, Service, is_root, wait_for_server, with_free_ports};
use crate::command::{self, Process, find_program};

/// MariaDB 10.6 or newer.
pub(crate) struct MariaDb;

const DATABASE: &str = "\
CREATE DATABASE IF NOT EXISTS cloakroom CHARACTER SET utf8mb4;\n\
CREATE USER IF NOT EXISTS 'cloakroom'@'127.0.0.1' IDENTIFIED BY 'cloakroom';\n\
GRANT ALL ON *.* TO 'cloakroom'@'127.0.0.1' WITH GRANT OPTION;\n";

impl Service for MariaDb {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_MARIADB_URL"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        &["mariadb-server"]
    }

    fn find(&self) -> Result<()> {
        let both = find_program("mariadbd", []).and(find_program("mariadb-install-db", []));
        both.map(drop).context("mariadbd or mariadb-install-db is not here")
    }

    fn start(&self, place: &Place) -> Result<Instance> {
        let data = place.directory.join("data");
        let log = place.directory.join("log");
        let setup = place.directory.join("setup.sql");
        fs::create_dir(&data)?;
        fs::write(&setup, DATABASE)?;
        let install = ["--auth-root-authentication-method=normal", "--skip-test-db"];
        let mut make = program("mariadb-install-db", &data)?;
        make.args(install).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
        command::run(&mut make).with_context(|| super::tail(&log))?;

        with_free_ports(|[port]| {
            let mut server = program("mariadbd", &data)?;
            // 5:45 ahead of UTC, and without the tables a named zone needs.
            server.args(["--bind-address=127.0.0.1", "--default-time-zone=+05:45", "--socket=socket"]);
            server.args(["--pid-file=pid", "--innodb-flush-log-at-trx-commit=2", &format!("--port={port}")]);
            server.arg(format!("--init-file={}", setup.display()));
            server.stdout(Stdio::null()).stderr(File::create(&log)?);
            let mut process = Process::spawn(&mut server, Signal::SIGTERM)?;
            wait_for_server(&mut process, &log, || greets(port))?;
            let url = format!("mysql://cloakroom:cloakroom@127.0.0.1:{port}/cloakroom");
            Ok(Instance { values: vec![url], processes: vec![process] })
        })
    }
}

fn program(name: &str, data: &Path) -> Result<Command> {
    let mut command = Command::new(find_program(name, []).with_context(|| format!("{name} is not here"))?);
    // The machine's own configuration is for its own server.
    command.arg("--no-defaults").arg(format!("--datadir={}", data.display())).current_dir(data);
    // A server that starts clears its directory for temporary files, whosever they are: each has its own.
    command.env("TMPDIR", data);
    if is_root() {
        command.arg("--user=root");
    }
    Ok(command)
}

/// The server speaks first, and only when it is ready.
fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let timeout = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut greeting = [0; 5];
    timeout.and_then(|()| stream.read_exact(&mut greeting)).is_ok() && greeting[4] == 10
}
