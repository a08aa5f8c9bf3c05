//! Servers of a test's own, which it may kill.

use std::{
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use needs::Port;
use tempfile::TempDir;

use crate::common::until;

/// A Redis. Dropping it ends it.
pub(crate) struct Server {
    pub(crate) port: u16,
    _port: Port,
    arguments: Vec<String>,
    directory: TempDir,
    process: Child,
}

impl Server {
    /// Starts one; what it is asked to keep survives a restart.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let taken = Port::take().unwrap();
        let port = taken.number();
        let mut process = spawn(port, &arguments, directory.path());
        assert!(answers(port, &mut process), "redis-server does not start");
        Self { port, _port: taken, arguments, directory, process }
    }

    pub(crate) fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it keeps its files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends it without giving it time to do anything.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, with what it kept.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.port, &self.arguments, self.directory.path());
        assert!(answers(self.port, &mut self.process));
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub(crate) fn wait_until_ended(&mut self) {
        self.process.wait().unwrap();
    }

    /// The answer to a command.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        ask(self.port, command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three primaries, each with a replica.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    _buses: Vec<Port>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let enabled = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--appendonly", "yes"];
        let buses: Vec<_> = (0..6).map(|_| Port::take().unwrap()).collect();
        let start =
            |bus: &Port| Server::start(&[&enabled[..], &["--cluster-port", &bus.number().to_string()]].concat());
        let servers: Vec<_> = buses.iter().map(start).collect();
        let hosts = servers.iter().map(|server| format!("127.0.0.1:{}", server.port));
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(hosts).args(["--cluster-replicas", "1", "--cluster-yes"]);
        run(&mut create);
        let cluster = Self { servers, _buses: buses };
        cluster.wait(|info| info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6"));
        for server in &cluster.servers {
            until(|| !server.ask(&["INFO", "replication"]).contains("master_link_status:down"));
        }
        cluster
    }

    pub(crate) fn address(&self) -> String {
        let others: Vec<_> = self.servers[1..].iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("redis-cluster://127.0.0.1:{}?node={}", self.servers[0].port, others.join(","))
    }

    /// Those that own slots.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        let is_primary = |server: &Server| server.ask(&["ROLE"]).starts_with("master");
        (0..self.servers.len()).filter(|number| is_primary(&self.servers[*number])).collect()
    }

    /// Moves slots from one primary to another.
    pub(crate) fn move_slots(&self, count: u16, from: usize, to: usize) {
        let id = |number: usize| self.servers[number].ask(&["CLUSTER", "MYID"]);
        let mut reshard = Command::new("redis-cli");
        reshard
            .args(["--cluster", "reshard", &format!("127.0.0.1:{}", self.servers[from].port)])
            .args(["--cluster-from", &id(from), "--cluster-to", &id(to)])
            .args(["--cluster-slots", &count.to_string(), "--cluster-yes"]);
        run(&mut reshard);
    }

    /// Waits until every server that is up says so of the cluster.
    fn wait(&self, says: impl Fn(&str) -> bool) {
        for server in &self.servers {
            until(|| says(&server.ask(&["CLUSTER", "INFO"])));
        }
    }
}

fn spawn(port: u16, arguments: &[String], directory: &Path) -> Child {
    let mut server = Command::new("redis-server");
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]).args(arguments);
    server.current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn answers(port: u16, process: &mut Child) -> bool {
    let mut ended = false;
    until(|| {
        ended = process.try_wait().unwrap().is_some();
        ended || (TcpStream::connect(("127.0.0.1", port)).is_ok() && ask(port, &["PING"]) == "PONG")
    });
    !ended
}

/// The answer of the server on this port to a command.
pub(crate) fn ask(port: u16, command: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Whether Redis is here. Where it is not the test is skipped.
pub(crate) fn is_here() -> bool {
    let here = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    needs::is_met(here, "redis-server is not here")
}
