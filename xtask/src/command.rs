//! Running other programs, and stopping them when we are told to stop.
//!
//! A signal only sets a flag. What waits looks at it and returns an error, so that everything started is stopped on
//! the ordinary way out.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
const POLL: Duration = Duration::from_millis(20);
/// How long a program may take to stop before it is killed.
const STOPPING: Duration = Duration::from_secs(10);

/// From now on Ctrl-C, SIGTERM and SIGHUP set the flag that [`interrupted`] reads.
pub(crate) fn watch_for_signals() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot watch for Ctrl-C")
}

/// Whether we were told to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Waits until `ready`, at most so long, or until we are told to stop.
pub(crate) fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !ready()? {
        if interrupted() {
            bail!("interrupted");
        }
        if Instant::now() >= deadline {
            bail!("{what} took longer than {} s", limit.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Runs a program to its end and shows what it says; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = Process::spawn(command, Signal::SIGTERM)?.wait()?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// As [`run`]; each line that the program prints is shown, and read by `read`.
pub(crate) fn run_reading(command: &mut Command, mut read: impl FnMut(&str) + Send) -> Result<()> {
    let shown = show(command);
    let mut process = Process::spawn(command.stdout(Stdio::piped()), Signal::SIGTERM)?;
    let stdout = process.child.stdout.take().expect("it is piped");
    let status = thread::scope(|scope| {
        scope.spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("{line}");
                read(&line);
            }
        });
        process.wait()
    })?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs a program that may ask at the terminal, such as sudo for a password.
pub(crate) fn run_in_foreground(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// What a short program prints; `None` if it is not there or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where `name` lies in the path, or among `more` directories.
pub(crate) fn find_program(name: &str, more: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into()]).chain(more);
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// A command as it would be typed.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = [program].into_iter().chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A program that is stopped, with all it started, when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stop: Signal,
    running: bool,
}

impl Process {
    /// Starts it in a process group of its own. `stop` is the signal that asks it to end.
    pub(crate) fn spawn(command: &mut Command, stop: Signal) -> Result<Self> {
        let shown = show(command);
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { child, stop, running: true })
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.running = status.is_none();
        Ok(status)
    }

    fn wait(mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if interrupted() {
                bail!("interrupted");
            }
            thread::sleep(POLL);
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.running {
            // The first process alone knows the order in which its own children may stop.
            let _ = kill(self.pid(), self.stop);
            let deadline = Instant::now() + STOPPING;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(POLL);
            }
        }
        // The group outlives its leader if something in it does.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c exit 3") && error.contains('3'), "{error}");
        let error = run(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }

    #[test]
    fn what_a_program_prints_is_read() {
        let mut lines = Vec::new();
        let failed = run_reading(Command::new("sh").args(["-c", "echo one; echo two; exit 3"]), |line| {
            lines.push(line.to_owned());
        });
        assert_eq!(lines, ["one", "two"]);
        assert!(failed.unwrap_err().to_string().contains('3'));
    }

    #[test]
    fn dropping_a_process_stops_its_children_too() {
        let mut process = Process::spawn(
            Command::new("sh").args(["-c", "sleep 60 & echo $!; wait"]).stdout(Stdio::piped()),
            Signal::SIGTERM,
        )
        .unwrap();
        let mut line = String::new();
        let stdout = process.child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let grandchild = Pid::from_raw(line.trim().parse().unwrap());
        assert!(kill(grandchild, None).is_ok());
        drop(process);
        let gone = || {
            Ok(std::fs::read_to_string(format!("/proc/{grandchild}/stat")).map_or(true, |stat| stat.contains(") Z ")))
        };
        wait_until("the grandchild's end", STOPPING, gone).unwrap();
    }
}
