//! Sixteen processes on one real store, and a checker of everything they were answered: no increment is lost, no limit
//! passed, nothing that ended comes back, what was relied on was so, a disabled user starts nothing, versions grow, and
//! the audit log tells of what was done. Connections of some processes are cut all the time, and two are killed.

mod check;
mod faults;
mod history;
mod node;
mod shown;

use std::{
    collections::BTreeMap,
    env, fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use cloakroom::{
    Error, SessionId,
    audit::AuditEntry,
    rules::Rules,
    store::{self, AuditQuery, RecordKeys, SealedStore, SqliteStore, Store},
};
use serde::{Deserialize, Serialize};

use self::{
    check::After,
    faults::{Fault, Faulty},
    history::{Answer, Line, Recorder},
    node::{Node, USERS},
};
use crate::common::{again, is_there, namespace, proxy::Proxy, random::Random, service, with_parameter};

/// Where the processes meet.
#[derive(Clone, Copy)]
enum Place {
    Sqlite,
    /// Encrypted, by nodes that are in the middle of changing keys.
    Encrypted,
    File,
    /// A server at the address in this variable; the parameter that gives a test tables or keys of its own, and whether
    /// a proxy may stand in between.
    Server {
        variable: &'static str,
        space: &'static str,
        proxied: bool,
    },
}

const POSTGRES: Place = Place::Server { variable: "CLOAKROOM_TEST_POSTGRES_URL", space: "schema", proxied: true };
const MARIADB: Place = Place::Server { variable: "CLOAKROOM_TEST_MARIADB_URL", space: "prefix", proxied: true };
const REDIS: Place = Place::Server { variable: "CLOAKROOM_TEST_REDIS_URL", space: "prefix", proxied: true };
const VALKEY: Place = Place::Server { variable: "CLOAKROOM_TEST_VALKEY_URL", space: "prefix", proxied: true };
/// Its servers tell clients of each other, past any proxy.
const CLUSTER: Place = Place::Server { variable: "CLOAKROOM_TEST_REDIS_CLUSTER_URL", space: "prefix", proxied: false };

macro_rules! races {
    ($($name:ident: $place:expr;)+) => {
        $(#[test]
        fn $name() {
            if let Some(task) = Task::of_this_process() {
                return task.perform();
            }
            if $place.is_here() {
                let violations = race($place, None, stringify!($name));
                assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), first(&violations));
            }
        })+
    };
}

races! {
    i3_sixteen_processes_break_no_promise_on_postgres: POSTGRES;
    i3_sixteen_processes_break_no_promise_on_mariadb: MARIADB;
    i3_sixteen_processes_break_no_promise_on_redis: REDIS;
    i3_sixteen_processes_break_no_promise_on_a_cluster: CLUSTER;
    i3_sixteen_processes_break_no_promise_on_valkey: VALKEY;
    i3_sixteen_processes_break_no_promise_on_sqlite: Place::Sqlite;
    i3_sixteen_processes_break_no_promise_on_files: Place::File;
    i3_sixteen_processes_break_no_promise_on_an_encrypted_store: Place::Encrypted;
}

#[test]
fn every_planted_fault_is_noticed() {
    if let Some(task) = Task::of_this_process() {
        return task.perform();
    }
    // One that needs two processes to meet may take more than one race.
    let noticed =
        |fault: Fault| (0..10).any(|_| !race(Place::Sqlite, Some(fault), "every_planted_fault_is_noticed").is_empty());
    let missed: Vec<_> = Fault::ALL.iter().filter(|fault| !noticed(**fault)).collect();
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

fn first(violations: &[String]) -> String {
    violations[..violations.len().min(20)].join("\n")
}

/// What one process is to do.
#[derive(Serialize, Deserialize)]
struct Task {
    address: String,
    history: PathBuf,
    node: u32,
    steps: u32,
    steady: Vec<SessionId>,
    encrypted: bool,
    fault: Option<Fault>,
}

const TASK: &str = "CLOAKROOM_TEST_RACE";

impl Task {
    fn of_this_process() -> Option<Self> {
        env::var(TASK).ok().map(|text| serde_json::from_str(&text).unwrap())
    }

    fn start(&self, test: &str) -> Child {
        let mut command = again(module_path!(), test);
        command.env(TASK, serde_json::to_string(self).unwrap()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn perform(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let recorder = Recorder::open(&self.history, self.node);
            let store = open(&self.address, self.encrypted, self.fault, self.node).await;
            let random = Random::new(self.node.into());
            let node = Node { store, recorder, random, number: self.node, steady: self.steady };
            Arc::new(node).work(self.steps).await;
        });
    }
}

async fn open(address: &str, encrypted: bool, fault: Option<Fault>, node: u32) -> Rules {
    if let Some(fault) = fault {
        let store = SqliteStore::open(address.strip_prefix("sqlite:").unwrap()).await.unwrap();
        return Rules::on(Faulty::new(store, fault, node.into()));
    }
    let store = opened(address).await;
    if !encrypted {
        return Rules::new(store);
    }
    let mut ring = [[1; 32], [2; 32]];
    ring.rotate_left(node as usize % 2);
    Rules::on(SealedStore::new(store, RecordKeys::default().encryption(ring).unwrap()))
}

/// Opens a store whose connections may be cut while it is opened.
async fn opened(address: &str) -> Arc<dyn Store> {
    for _ in 0..20 {
        match store::open(address).await {
            Err(Error::Unavailable { .. }) => (),
            result => return result.unwrap(),
        }
    }
    panic!("{address} cannot be opened");
}

/// How much is done. With a fault less is enough.
struct Size {
    processes: u32,
    /// Of each process.
    steps: u32,
    /// Behind a proxy that cuts its connections.
    cut_off: u32,
    killed: usize,
}

impl Size {
    /// The nodes whose connections are cut: not those that disable users, which must be sure of what they did.
    fn cut_off(&self) -> Range<u32> {
        3..3 + self.cut_off
    }
}

/// Lets processes work on one store, and answers with what went wrong.
fn race(place: Place, fault: Option<Fault>, test: &str) -> Vec<String> {
    let size = match fault {
        None => Size { processes: 16, steps: 160, cut_off: 4, killed: 2 },
        Some(_) => Size { processes: 8, steps: 60, cut_off: 0, killed: 0 },
    };
    let encrypted = matches!(place, Place::Encrypted);
    let directory = tempfile::tempdir().unwrap();
    let address = place.address(directory.path());
    let history = directory.path().join("history");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let proxy = place.proxied().then(|| runtime.block_on(Proxy::start(host_of(&address).to_owned())));
    let first = runtime.block_on(async {
        let store = open(&address, encrypted, None, 0).await;
        let recorder = Recorder::open(&history, 0);
        let mut node = Node { store, recorder, random: Random::new(0), number: 0, steady: Vec::new() };
        for _ in 0..4 {
            node.steady.push(node.start_steady().await);
        }
        node
    });
    let mut children: Vec<_> = (1..=size.processes)
        .map(|node| {
            let behind = proxy.as_ref().filter(|_| size.cut_off().contains(&node));
            let address = match behind {
                Some(proxy) => address.replacen(host_of(&address), &proxy.address.to_string(), 1),
                None => address.clone(),
            };
            let (history, steady) = (history.clone(), first.steady.clone());
            Task { address, history, node, steps: size.steps, steady, encrypted, fault }.start(test)
        })
        .collect();
    disturb(&mut children, &size, &history, proxy.as_ref());
    for (number, mut child) in children.into_iter().enumerate() {
        let status = child.wait().unwrap();
        let was_killed = number >= size.processes as usize - size.killed;
        assert!(status.success() || was_killed, "node {} failed", number + 1);
    }
    let after = runtime.block_on(look(&first, &history, size.cut_off()));
    let lines = history::read(&history);
    let answers = lines.iter().filter(|line| matches!(line, Line::Answer(..))).count();
    let failures = lines.iter().filter(|line| matches!(line, Line::Answer(_, Answer::Failed { .. }))).count();
    eprintln!("{answers} answers, {failures} failures, {} entries in the log, fault: {fault:?}", after.log.len());
    assert!(answers > size.processes as usize * size.steps as usize && failures < answers / 4, "too little was done");
    check::check(&lines, &after)
}

/// Cuts connections, and kills processes in the middle of their work, until all are done.
fn disturb(children: &mut [Child], size: &Size, history: &Path, proxy: Option<&Proxy>) {
    // Lines are about so long, and there are so many.
    let portion = u64::from(size.processes * size.steps) * 2 * 180 / 20;
    let mut portions = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        let reached = fs::metadata(history).unwrap().len() / portion;
        if reached > portions {
            portions = reached;
            if let Some(proxy) = proxy {
                proxy.cut_all();
            }
            if portions >= 6 {
                let alive = children.len() - size.killed;
                children[alive..].iter_mut().for_each(|child| child.kill().unwrap());
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Loads every session that was ever asked for, and reads the log.
async fn look(node: &Node, history: &Path, cut_off: Range<u32>) -> After {
    let mut after = After { log: read_log(node).await, lists: BTreeMap::new(), cut_off };
    loop {
        for line in history::read(history) {
            if let Line::Call(_, history::Call::Create { id, .. }) = line {
                node.load(id).await;
            }
        }
        for user in USERS {
            after.lists.insert(user.name, node.find(user.name).await);
        }
        let before = std::mem::replace(&mut after.log, read_log(node).await);
        // A server may still have been at work on what a killed process asked for: then it is looked at once more.
        if before.len() == after.log.len() {
            return after;
        }
    }
}

async fn read_log(node: &Node) -> Vec<AuditEntry> {
    let (mut log, mut cursor) = (Vec::new(), None);
    loop {
        let page = node.store.audit(&AuditQuery::default(), cursor.as_ref(), 1000).await.unwrap();
        log.extend(page.items.into_iter().map(|logged| logged.entry));
        cursor = page.next;
        if cursor.is_none() {
            return log;
        }
    }
}

impl Place {
    fn is_here(self) -> bool {
        match self {
            Self::Sqlite | Self::Encrypted | Self::File => true,
            Self::Server { variable, .. } => is_there(variable),
        }
    }

    fn proxied(self) -> bool {
        matches!(self, Self::Server { proxied: true, .. })
    }

    fn address(self, directory: &Path) -> String {
        match self {
            Self::Sqlite | Self::Encrypted => format!("sqlite:{}", directory.join("sessions.db").display()),
            Self::File => format!("file:{}", directory.join("sessions").display()),
            Self::Server { variable, space, .. } => {
                let address = with_parameter(&service(variable), space, &namespace(directory));
                // Many processes share what connections a server takes.
                if address.starts_with("redis") { address } else { with_parameter(&address, "max_connections", "2") }
            }
        }
    }
}

/// The host and port in an address.
fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let place = rest.split(['/', '?']).next().unwrap();
    place.rsplit_once('@').map_or(place, |(_, host)| host)
}
