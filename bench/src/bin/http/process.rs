//! A subject: a process that serves the application.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

pub(crate) struct Subject {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Subject {
    /// None where it has no such store.
    pub(crate) async fn start(system: &str, store: &str) -> Option<Self> {
        let here = env::current_exe().expect("this program has a place");
        let mut command = if matches!(system, "floor" | "cloakroom") {
            let mut command = Command::new(here);
            command.args(["serve", system]);
            command
        } else {
            let mut command = Command::new(here.with_file_name("cloakroom-bench-peers"));
            command.arg(system);
            command
        };
        command.arg(store).stdout(Stdio::piped());
        let mut process = match command.spawn() {
            Ok(process) => process,
            Err(error) => {
                eprintln!("{system}: skipped, {error}: cargo xtask bench http builds it");
                return None;
            }
        };
        let output = process.stdout.take().expect("it is piped");
        let address = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).ok()?;
            line.trim().parse().ok()
        });
        let Some(address) = address.await.expect("reading does not panic") else {
            let _ = process.wait();
            return None;
        };
        Some(Self { process, address })
    }

    /// What it has used until now.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.process.id(), false).unwrap_or_default()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a process has used, and its ended children if they count.
pub(crate) fn cpu_of(id: u32, with_children: bool) -> Option<Duration> {
    let fields = stat(id)?;
    let last = if with_children { 15 } else { 13 };
    // The field behind the name is the third.
    let ticks: u64 = fields.get(11..last)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 10))
}

/// Processes that one has started.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

pub(crate) fn parent_of(id: u32) -> Option<u32> {
    stat(id)?.get(1)?.parse().ok()
}

/// The fields behind the name, which may have spaces in it.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_ascii_whitespace().map(ToOwned::to_owned).collect())
}
