//! A private Redis, and a private Redis Cluster of six nodes.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Instance, Place, Service, wait_for_server, with_free_ports};
use crate::command::{self, Process, find_program, wait_until};

/// One Redis, version 7 or newer.
pub(crate) struct Redis;

/// Three primaries, each with a replica.
pub(crate) struct RedisCluster;

const SERVER: &str = "redis-server";

impl Service for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_REDIS_URL"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        &["redis-server"]
    }

    fn find(&self) -> Result<()> {
        find_redis()
    }

    fn start(&self, place: &Place) -> Result<Instance> {
        with_free_ports(|[port]| {
            let process = start_node(Path::new(SERVER), &place.directory, port, &[])?;
            Ok(Instance { values: vec![format!("redis://127.0.0.1:{port}")], processes: vec![process] })
        })
    }
}

impl Service for RedisCluster {
    fn name(&self) -> &'static str {
        "redis-cluster"
    }

    fn variables(&self) -> &'static [&'static str] {
        &["CLOAKROOM_TEST_REDIS_CLUSTER_URL"]
    }

    fn used_by_tests(&self) -> bool {
        true
    }

    fn packages(&self) -> &'static [&'static str] {
        &["redis-server"]
    }

    fn find(&self) -> Result<()> {
        find_redis()
    }

    fn start(&self, place: &Place) -> Result<Instance> {
        with_free_ports::<_, 12>(|ports| {
            let (ports, bus) = ports.split_at(6);
            let nodes = ports.iter().zip(bus).map(|(port, bus)| {
                let directory = place.directory.join(port.to_string());
                fs::create_dir(&directory)?;
                let bus = bus.to_string();
                start_node(Path::new(SERVER), &directory, *port, &["--cluster-enabled", "yes", "--cluster-port", &bus])
            });
            let nodes: Vec<_> = nodes.collect::<Result<_>>()?;
            let addresses = ports.iter().map(|port| format!("127.0.0.1:{port}"));
            let mut create = Command::new("redis-cli");
            create.args(["--cluster", "create"]).args(addresses).args(["--cluster-replicas", "1", "--cluster-yes"]);
            let log = place.directory.join("create.log");
            command::run(create.stdout(File::create(&log)?)).with_context(|| super::tail(&log))?;
            for port in ports {
                wait_until("forming the cluster", Duration::from_mins(1), || Ok(is_complete(*port)))?;
            }
            let others = ports[1..].iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
            let url = format!("redis-cluster://127.0.0.1:{}?node={others}", ports[0]);
            Ok(Instance { values: vec![url], processes: nodes })
        })
    }
}

fn find_redis() -> Result<()> {
    for name in [SERVER, "redis-cli"] {
        find_program(name, []).with_context(|| format!("{name} is not here"))?;
    }
    let version = command::output(Command::new(SERVER).arg("--version")).unwrap_or_default();
    match major_version(&version) {
        Some(7..) => Ok(()),
        _ => bail!("Redis 7 is needed, this is {version:?}"),
    }
}

/// From "Redis server v=7.0.15 sha=…".
pub(super) fn major_version(text: &str) -> Option<u32> {
    text.split_once("v=")?.1.split('.').next()?.parse().ok()
}

pub(super) fn start_node(program: &Path, directory: &Path, port: u16, more: &[&str]) -> Result<Process> {
    let log = directory.join("log");
    let mut server = Command::new(program);
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]).args(more).current_dir(directory);
    server.stdout(File::create(&log)?).stderr(Stdio::null());
    let mut process = Process::spawn(&mut server, Signal::SIGTERM)?;
    wait_for_server(&mut process, &log, || ask(port, "PING").is_some_and(|answer| answer == "+PONG"))?;
    Ok(process)
}

fn is_complete(port: u16) -> bool {
    let nodes = command::output(Command::new("redis-cli").args(["-p", &port.to_string(), "CLUSTER", "INFO"]));
    let info = nodes.unwrap_or_default();
    let has = |line: &str| info.lines().any(|found| found.trim() == line);
    has("cluster_state:ok") && has("cluster_known_nodes:6") && has("cluster_slots_ok:16384")
}

/// The first line of the answer to a command without arguments.
fn ask(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64"), Some(7));
        assert_eq!(major_version("Redis server v=10.1"), Some(10));
        assert_eq!(major_version("Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"), Some(8));
        assert_eq!(major_version("redis-server: not found"), None);
    }
}
