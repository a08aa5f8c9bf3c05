//! What `doctor` looks at of the servers themselves: versions, memory, persistence, replicas, and the cluster's slots.

use redis::cmd;

use super::{
    calls::Call,
    health::{self, Server},
    keys::SLOTS,
    reply::{Hash, Reply},
    servers::Servers,
};
use crate::{
    error::{Error, Result},
    store::Finding,
};

pub(super) async fn examine(servers: &Servers, cluster: bool) -> Result<Vec<Finding>> {
    let slots = servers.slot_of_each().await;
    let all = health::look_at_all(servers).await?;
    let mut findings = Vec::new();
    for (server, slot) in all.iter().zip(slots) {
        let mut of_server = vec![Finding::fine("version", format!("{}.", server.engine()))];
        of_server.push(memory(server));
        let config = Config::read(servers, slot).await?;
        of_server.push(persistence(server, config.as_ref()));
        of_server.extend(trouble(server));
        of_server.extend(replicas(server, config.as_ref(), servers.wait_replicas(), cluster));
        if config.is_none() {
            let text = "This user may not ask for CONFIG GET, so appendfsync and min-replicas-to-write are unknown.";
            of_server.push(Finding::note("settings", text));
        }
        if cluster {
            of_server.push(slots_of(servers, slot).await?);
            let port = server.line("tcp_port");
            for finding in &mut of_server {
                finding.text.insert_str(0, &format!("Port {port}: "));
            }
        }
        findings.extend(of_server);
    }
    Ok(findings)
}

/// Settings that are told to those alone who may ask for them.
struct Config {
    append_fsync: String,
    save: String,
    min_replicas: u32,
}

impl Config {
    /// None if this user may not ask.
    async fn read(servers: &Servers, slot: u16) -> Result<Option<Self>> {
        let mut get = cmd("CONFIG");
        get.arg("GET").arg("appendfsync").arg("save").arg("min-replicas-to-write");
        let mut settings = match servers.run(&Call::read(slot, get)).await {
            Ok(answer) => Hash::read(answer)?,
            Err(Error::Store { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self {
            append_fsync: settings.take("appendfsync").text()?,
            save: settings.take("save").text()?,
            min_replicas: settings.take("min-replicas-to-write").number()?,
        }))
    }
}

fn memory(server: &Server) -> Finding {
    let number = |name: &str| server.line(name).parse::<u64>().unwrap_or(0);
    let (used, limit, policy) = (number("used_memory"), number("maxmemory"), server.line("maxmemory_policy"));
    match (limit, policy) {
        (0, "noeviction" | "") => Finding::fine("memory", format!("{} used, without a limit.", megabytes(used))),
        (0, policy) => Finding::warning(
            "memory",
            format!(
                "maxmemory-policy is {policy}: as soon as a maxmemory is set, sessions and indexes may be dropped. Set it to \
                 noeviction."
            ),
        ),
        (_, "noeviction") if used >= limit / 10 * 9 => Finding::warning(
            "memory",
            format!("{} of {} are used: when it is full, nobody can sign in.", megabytes(used), megabytes(limit)),
        ),
        (_, "noeviction") => Finding::fine(
            "memory",
            format!("{} of {} used, and nothing is evicted.", megabytes(used), megabytes(limit)),
        ),
        (_, policy) => Finding::error(
            "memory",
            format!(
                "maxmemory-policy is {policy}: a full server drops keys that others need, and opening warns and ping fails \
                 for it. Set it to noeviction."
            ),
        ),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn persistence(server: &Server, config: Option<&Config>) -> Finding {
    if server.line("aof_enabled") == "1" {
        return match config.map(|config| config.append_fsync.as_str()) {
            Some("always") => {
                Finding::fine("persistence", "What was answered is on the disk (appendonly yes, appendfsync always).")
            }
            Some("no") => Finding::warning(
                "persistence",
                "appendfsync is no: a power failure takes half a minute with it, endings too. Set it to always, or to \
                 everysec.",
            ),
            Some(_) => Finding::note(
                "persistence",
                "appendfsync is everysec: a power failure takes the last second or two with it, endings too. Set it to always \
                 if a session that was signed out must not come back.",
            ),
            None => Finding::fine("persistence", "There is an append-only file."),
        };
    }
    let text = match config {
        Some(config) if config.save.is_empty() => "Nothing is kept: all sessions go when the server stops.",
        Some(_) => "There is no append-only file: all since the last snapshot goes when the server stops, endings too.",
        None => {
            "There is no append-only file: all since the last snapshot, if there are any, goes when the server stops."
        }
    };
    Finding::warning("persistence", format!("{text} Set appendonly to yes."))
}

/// What the server itself reports.
fn trouble(server: &Server) -> Vec<Finding> {
    let failed = |name: &str| server.line(name) == "err";
    let mut findings = Vec::new();
    if failed("aof_last_write_status") || failed("aof_last_bgrewrite_status") {
        findings.push(Finding::error("persistence", "The append-only file cannot be written: see the server's log."));
    }
    if failed("rdb_last_bgsave_status") {
        let text =
            "The last snapshot failed, and Redis refuses changes for it unless told otherwise: see the server's log.";
        findings.push(Finding::error("persistence", text));
    }
    findings
}

fn replicas(server: &Server, config: Option<&Config>, wanted: u32, cluster: bool) -> Vec<Finding> {
    if server.line("role") == "slave" {
        return vec![Finding::error(
            "replicas",
            "It is a replica and takes no writes: give the address of the primary.",
        )];
    }
    let connected: u32 = server.line("connected_slaves").parse().unwrap_or(0);
    let mut findings = Vec::new();
    if connected < wanted {
        findings.push(Finding::error(
            "replicas",
            format!(
                "wait_replicas is {wanted} and {connected} are connected: sign-ins, rotations and endings fail as \"outcome \
                 unknown\". Bring replicas up, or lower wait_replicas."
            ),
        ));
    }
    if let Some(config) = config.filter(|config| config.min_replicas > connected) {
        findings.push(Finding::error(
            "replicas",
            format!(
                "min-replicas-to-write is {} and {connected} are connected: it refuses all changes. Bring replicas up.",
                config.min_replicas
            ),
        ));
    }
    for number in 0..connected {
        let replica = server.line(&format!("slave{number}"));
        let field = |name: &str| {
            let fields = replica.split(',').filter_map(|field| field.split_once('='));
            fields.filter(|(found, _)| *found == name).map(|(_, value)| value).next().unwrap_or_default()
        };
        let lag: u64 = field("lag").parse().unwrap_or(0);
        if field("state") != "online" || lag > LONG_LAG {
            let name = format!("{}:{}", field("ip"), field("port"));
            let text =
                format!("The replica {name} is {}, {lag} s behind: it would take over without that.", field("state"));
            findings.push(Finding::warning("replicas", text));
        }
    }
    if !findings.is_empty() {
        return findings;
    }
    vec![match (connected, wanted) {
        (0, _) if cluster => {
            Finding::warning("replicas", "There is none: if this server fails, its part of all sessions is not there.")
        }
        (0, _) => Finding::fine("replicas", "There are none, and none is waited for."),
        (_, 0) => Finding::note(
            "replicas",
            format!(
                "{connected} connected, and none is waited for: a failover may bring sessions back that were signed out. \
                 wait_replicas=1 in the address prevents it."
            ),
        ),
        _ => Finding::fine("replicas", format!("{connected} connected, {wanted} waited for.")),
    }]
}

/// Seconds.
const LONG_LAG: u64 = 10;

async fn slots_of(servers: &Servers, slot: u16) -> Result<Finding> {
    let mut info = cmd("CLUSTER");
    info.arg("INFO");
    let info = match servers.run(&Call::read(slot, info)).await {
        Ok(answer) => answer.text()?,
        Err(Error::Store { .. }) => {
            return Ok(Finding::note("cluster", "This user may not ask for CLUSTER INFO, so its state is unknown."));
        }
        Err(error) => return Err(error),
    };
    let line = |name: &str| {
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| *found == name).map(|(_, value)| value.trim()).next().unwrap_or_default().to_owned()
    };
    let (state, covered) = (line("cluster_state"), line("cluster_slots_ok"));
    Ok(if state == "ok" && covered == SLOTS.to_string() {
        Finding::fine("cluster", format!("Its state is ok, and all {SLOTS} slots are served."))
    } else {
        let text = format!(
            "Its state is {state}, and {covered} of {SLOTS} slots are served: sessions in the others cannot be used. \
             redis-cli --cluster check names what is missing."
        );
        Finding::error("cluster", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Severity;

    fn server(lines: &[&str]) -> Server {
        Server::of_info(lines.join("\r\n"))
    }

    fn config(append_fsync: &str, save: &str, min_replicas: u32) -> Config {
        Config { append_fsync: append_fsync.into(), save: save.into(), min_replicas }
    }

    #[test]
    fn eviction_is_an_error_and_a_full_memory_a_warning() {
        let of = |limit, policy| {
            memory(&server(&["used_memory:950", &format!("maxmemory:{limit}"), &format!("maxmemory_policy:{policy}")]))
        };
        assert_eq!(of(0, "noeviction").severity, Severity::Fine);
        assert_eq!(of(0, "allkeys-lru").severity, Severity::Warning);
        assert_eq!(of(100_000, "noeviction").severity, Severity::Fine);
        assert_eq!(of(1000, "noeviction").severity, Severity::Warning);
        assert!(of(1000, "volatile-lru").is_wrong());
    }

    #[test]
    fn what_a_crash_takes_is_said() {
        let appending = server(&["aof_enabled:1"]);
        let severity = |server: &Server, config: Option<&Config>| persistence(server, config).severity;
        assert_eq!(severity(&appending, Some(&config("always", "", 0))), Severity::Fine);
        assert_eq!(severity(&appending, Some(&config("everysec", "", 0))), Severity::Note);
        assert_eq!(severity(&appending, Some(&config("no", "", 0))), Severity::Warning);
        let forgetful = server(&["aof_enabled:0"]);
        assert!(persistence(&forgetful, Some(&config("always", "", 0))).text.contains("Nothing is kept"));
        assert!(persistence(&forgetful, Some(&config("always", "60 1", 0))).text.contains("last snapshot"));
        assert_eq!(trouble(&server(&["rdb_last_bgsave_status:err", "aof_last_write_status:ok"])).len(), 1);
    }

    #[test]
    fn replicas_that_are_waited_for_must_be_there() {
        let two = server(&[
            "role:master",
            "connected_slaves:2",
            "slave0:ip=10.0.0.1,port=7001,state=online,offset=5,lag=0",
            "slave1:ip=10.0.0.2,port=7001,state=online,offset=5,lag=0",
        ]);
        let found = |config, wanted| replicas(&two, config, wanted, false);
        assert_eq!(found(None, 2)[0].severity, Severity::Fine);
        assert_eq!(found(None, 0)[0].severity, Severity::Note);
        assert!(found(None, 3)[0].text.contains("outcome unknown"));
        assert!(found(Some(&config("always", "", 3)), 1)[0].text.contains("refuses all changes"));
        let late = server(&["connected_slaves:1", "slave0:ip=a,port=1,state=online,offset=5,lag=60"]);
        assert!(replicas(&late, None, 1, false)[0].text.contains("a:1 is online, 60 s behind"));
        assert!(replicas(&server(&["role:slave"]), None, 0, false)[0].is_wrong());
    }
}
