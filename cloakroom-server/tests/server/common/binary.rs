//! The program itself, in a directory of its own.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use http::Method;
use tempfile::TempDir;

use super::{Answer, agent, send, try_send};

pub(crate) struct Directory(TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that no other account may read.
    pub(crate) fn write_private(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// The program, with no settings but those given here.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLOAKROOM_") {
                command.env_remove(name);
            }
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// With something to read on standard input.
    pub(crate) fn run_reading(&self, input: &str, arguments: &[&str]) -> Done {
        let pipes = || Stdio::piped();
        let mut command = self.command(arguments);
        let mut child = command.stdin(pipes()).stdout(pipes()).stderr(pipes()).spawn().unwrap();
        // It need not read to the end.
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        Done::of(child.wait_with_output().unwrap())
    }

    /// With what it prints going to a file.
    pub(crate) fn run_into(&self, file: &str, input: &str, arguments: &[&str]) -> Done {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(File::options().write(true).open(file).unwrap()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        Done::of(child.wait_with_output().unwrap())
    }

    /// A server on a free port; it is ready when this returns. Its log is `server.log`.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Running {
        self.serve_with(arguments, &[])
    }

    pub(crate) fn serve_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        let log = File::options().create(true).append(true).open(self.path("server.log")).unwrap();
        self.serve_logging_to(log, arguments, environment)
    }

    pub(crate) fn serve_logging_to(&self, log: File, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        self.serve_on("127.0.0.1:0", log, arguments, environment)
    }

    /// A server at an address that the test chose.
    pub(crate) fn serve_at(&self, address: &str) -> Running {
        let log = File::options().create(true).append(true).open(self.path("server.log")).unwrap();
        self.serve_on(address, log, &[], &[])
    }

    fn serve_on(&self, address: &str, log: File, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        let mut child = self
            .command(&["serve", "--listen", address])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let url = ready.strip_prefix("cloakroom ready on ").and_then(|rest| rest.split(',').next());
        let url = url.unwrap_or_else(|| panic!("{ready:?}: {}", self.log())).to_owned();
        Running { url, ready, key: fs::read_to_string(self.path("cloakroom.key")).unwrap_or_default(), child }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) ready: String,
    key: String,
    child: Child,
}

impl Running {
    pub(crate) fn key(&self) -> &str {
        self.key.trim()
    }

    pub(crate) fn call(&self, method: Method, path: &str, body: &str) -> Answer {
        send(&agent(), &format!("{}{path}", self.url), Some(self.key()), method, body)
    }

    pub(crate) fn try_call(&self, agent: &ureq::Agent, method: Method, path: &str, body: &str) -> Option<Answer> {
        try_send(agent, &format!("{}{path}", self.url), Some(self.key()), method, body).ok()
    }

    /// As a crash would, while others still talk to it.
    pub(crate) fn kill(&self) {
        self.signal("-KILL");
    }

    /// As an operator does. Its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().unwrap().code()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Whether the database is whole, asked of SQLite itself. No server may be running on it.
pub(crate) fn is_whole(file: &Path) -> bool {
    let db = rusqlite::Connection::open(file).unwrap();
    db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap() == "ok"
}
