//! A database server of a test's own, to be stopped, killed and started again.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use needs::Port;
use tempfile::TempDir;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
}

/// A server that dies with this.
pub(crate) struct PrivateServer {
    kind: Kind,
    port: Port,
    settings: Vec<String>,
    directory: TempDir,
    process: Option<Child>,
}

impl PrivateServer {
    /// Makes and starts one with these settings; `None` where its programs are not installed.
    pub(crate) fn start(kind: Kind, settings: &[&str]) -> Option<Self> {
        let is_here = Kind::program(kind.server()).is_some();
        if !needs::is_met(is_here, &format!("the programs of {kind:?} are not here")) {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("cloakroom-").tempdir_in("/tmp").unwrap();
        let port = Port::take().unwrap();
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut server = Self { kind, port, settings, directory, process: None };
        server.initialise();
        server.restart();
        Some(server)
    }

    /// A standby of a PostgreSQL server, which follows it.
    pub(crate) fn standby_of(primary: &Self) -> Self {
        let directory = tempfile::Builder::new().prefix("cloakroom-").tempdir_in("/tmp").unwrap();
        let port = Port::take().unwrap();
        let mut standby = Self { kind: Kind::Postgres, port, settings: Vec::new(), directory, process: None };
        standby.make_data();
        let mut copy = Kind::Postgres.command("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-U", "cloakroom", "-p", &primary.port.number().to_string()]);
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"]).arg(standby.data());
        let copied = copy.current_dir(standby.data()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(copied.success(), "the primary's files could not be copied");
        standby.restart();
        standby
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Starts it again after [`kill`](Self::kill).
    pub(crate) fn restart(&mut self) {
        let data = self.data();
        let mut command = self.kind.command(self.kind.server());
        match self.kind {
            Kind::Postgres => {
                command.arg("-D").arg(&data).args(["-p", &self.port.number().to_string()]);
                for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "timezone=Asia/Kathmandu"] {
                    command.args(["-c", setting]);
                }
                command.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
            }
            Kind::MariaDb => {
                command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                command.args(["--bind-address=127.0.0.1", "--default-time-zone=+05:45", "--socket=socket"]);
                command.args(["--user=root", &format!("--port={}", self.port.number()), "--init-file=../setup.sql"]);
                command.args(self.settings.iter().map(|setting| format!("--{setting}")));
            }
        }
        // A MariaDB that starts clears its directory for temporary files, whosever they are.
        command.env("TMPDIR", &data);
        command.current_dir(&data).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    /// `kill -9`, and nothing of it is left.
    pub(crate) fn kill(&mut self) {
        // A PostgreSQL whose children live on does not start again, and says so nowhere.
        let children = self.children();
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        // They may have noticed already.
        let _ = Command::new("kill").arg("-KILL").args(&children).stderr(Stdio::null()).status().unwrap();
        while children.iter().any(|child| is_running(child)) {
            std::thread::yield_now();
        }
        if self.kind == Kind::Postgres {
            let lock = self.data().join("postmaster.pid");
            let _ = fs::remove_file(lock);
        }
    }

    /// Sends a signal to the server and to its children.
    pub(crate) fn signal(&self, signal: &str) {
        let mut pids = vec![self.process.as_ref().unwrap().id().to_string()];
        pids.extend(self.children());
        // A child may have ended meanwhile.
        let _ = Command::new("kill").arg(format!("-{signal}")).args(&pids).stderr(Stdio::null()).status().unwrap();
        // Threads that are at work stop a little later.
        while signal == "STOP" && pids.iter().any(|pid| is_at_work(pid)) {
            std::thread::yield_now();
        }
    }

    /// What the server and its children have used of the processors until now; `None` where the system does not tell.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let mut processes = self.children();
        processes.push(self.process.as_ref()?.id().to_string());
        // One that has ended meanwhile had little to do.
        let told: Vec<_> = processes.iter().filter_map(|process| used(process)).collect();
        (!told.is_empty()).then(|| told.into_iter().sum())
    }

    fn children(&self) -> Vec<String> {
        let Some(process) = &self.process else { return Vec::new() };
        let children = Command::new("pgrep").args(["-P", &process.id().to_string()]).output().unwrap();
        String::from_utf8(children.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// Where its files are.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn make_data(&self) {
        fs::create_dir(self.data()).unwrap();
        make_enterable(self.directory.path());
        self.kind.hand_over(&self.data());
        if self.kind == Kind::Postgres {
            fs::set_permissions(self.data(), fs::Permissions::from_mode(0o700)).unwrap();
        }
    }

    fn initialise(&self) {
        self.make_data();
        let data = self.data();
        let mut command = match self.kind {
            Kind::Postgres => {
                let mut command = self.kind.command("initdb");
                command.args([
                    "--username=cloakroom",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                ]);
                command.arg("--pgdata").arg(&data);
                command
            }
            Kind::MariaDb => {
                fs::write(self.directory.path().join("setup.sql"), MARIADB_SETUP).unwrap();
                let mut command = self.kind.command("mariadb-install-db");
                command.args([
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--user=root",
                ]);
                command.arg(format!("--datadir={}", data.display()));
                command
            }
        };
        let made = command
            .env("TMPDIR", &data)
            .current_dir(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "the server's files could not be made");
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.signal("CONT");
        }
        self.kill();
    }
}

const MARIADB_SETUP: &str = "\
CREATE DATABASE IF NOT EXISTS cloakroom;\n\
CREATE USER IF NOT EXISTS 'cloakroom'@'127.0.0.1' IDENTIFIED BY 'cloakroom';\n\
GRANT ALL ON *.* TO 'cloakroom'@'127.0.0.1' WITH GRANT OPTION;\n";

impl Kind {
    fn server(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadbd",
        }
    }

    pub(crate) fn program(name: &str) -> Option<PathBuf> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut directories: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
        directories.extend(["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from));
        directories.into_iter().map(|directory| directory.join(name)).find(|program| program.is_file())
    }

    /// A program of the server's, run as the server is.
    pub(crate) fn command(self, name: &str) -> Command {
        let mut command = Command::new(Self::program(name).unwrap());
        if let (Self::Postgres, Some((uid, gid))) = (self, Self::account()) {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Lets the server read a file that nobody else may.
    pub(crate) fn hand_over(self, file: &Path) {
        if let (Self::Postgres, Some((uid, gid))) = (self, Self::account()) {
            chown(file, Some(uid), Some(gid)).unwrap();
        }
    }

    /// PostgreSQL refuses to run as root.
    fn account() -> Option<(u32, u32)> {
        let is_root = fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t");
        let accounts = fs::read_to_string("/etc/passwd").unwrap();
        let account = accounts.lines().find(|line| line.starts_with("postgres:")).filter(|_| is_root)?;
        let fields: Vec<_> = account.split(':').collect();
        Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    }
}

fn make_enterable(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

/// By the scheduler's clock, which counts nanoseconds, of all threads.
fn used(process: &str) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?.flatten();
    let told = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    told.map(|told| told.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)).sum()
}

/// Whether a process is there, and not only its memory.
fn is_running(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `pid (name) state …`
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Whether a thread of a process has not stopped yet.
fn is_at_work(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().any(|thread| {
        let state = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['T', 't', 'Z', 'X']))
    })
}
