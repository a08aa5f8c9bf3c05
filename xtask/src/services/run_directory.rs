//! A directory for the files of one run, and the clearing of what killed runs left.
//!
//! A run holds a lock on the file `owner` in its directory for as long as it lives, and the system releases it however
//! the run dies. A directory whose lock can be taken is abandoned.

use std::{
    env,
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Place, is_root};

/// Programs that may be killed when their directory was abandoned. A shell that happens to be there may not.
const SERVERS: &[&str] = &["postgres", "mariadbd", "redis-server"];

/// The directory of this run. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    tools: PathBuf,
    _owner: File,
}

impl RunDirectory {
    /// Clears what killed runs left, and makes a directory for this one.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = base(target)?;
        let _lock = clear(&base)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("run-{}-{number}", process::id()));
        make_directory(&path)?;
        let owner = File::create(path.join("owner"))?;
        owner.try_lock().context("the new directory is locked already")?;
        Ok(Self { path, tools: target.join("tools"), _owner: owner })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory for one service.
    pub(crate) fn place(&self, name: &str) -> Result<Place> {
        let directory = self.path.join(name);
        make_directory(&directory)?;
        Ok(Place { directory, tools: self.tools.clone() })
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        kill_servers_in(&self.path);
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Stops and removes what killed runs left.
pub(crate) fn clear_abandoned(target: &Path) -> Result<()> {
    clear(&base(target)?).map(drop)
}

/// The answer is a lock: until it is dropped no other run makes or clears directories.
fn clear(base: &Path) -> Result<File> {
    let lock = File::create(base.join("lock"))?;
    lock.lock().context("cannot lock the directory of services")?;
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        if path.is_dir() && is_abandoned(&path) {
            eprintln!("clearing {}, left by a run that was killed", path.display());
            kill_servers_in(&path);
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(lock)
}

fn is_abandoned(run: &Path) -> bool {
    File::open(run.join("owner")).map_or(true, |owner| owner.try_lock().is_ok())
}

/// Servers work in their data directory, which tells ours from all others, whatever their process ids are by now.
fn kill_servers_in(run: &Path) {
    let Ok(run) = run.canonicalize() else { return };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let works_here = fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&run));
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if works_here && SERVERS.contains(&name.trim()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// `target/services`; but for root, whose databases run as another user, a place every user can reach.
fn base(target: &Path) -> Result<PathBuf> {
    fs::create_dir_all(target)?;
    let inside = target.join("services");
    let target = target.canonicalize()?;
    if !is_root() || target.ancestors().all(all_may_enter) {
        make_directory(&inside)?;
        return Ok(inside);
    }
    let outside = env::temp_dir().join("cloakroom-test-services");
    make_directory(&outside)?;
    let owner = fs::symlink_metadata(&outside)?;
    if owner.uid() != 0 || !owner.is_dir() {
        bail!("{} belongs to another user: remove it", outside.display());
    }
    Ok(outside)
}

fn all_may_enter(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o001 != 0)
}

fn make_directory(path: &Path) -> Result<()> {
    let made = fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)));
    made.with_context(|| format!("cannot make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("cloakroom-xtask-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn runs_do_not_disturb_each_other() {
        let target = target("two");
        let first = RunDirectory::create(&target).unwrap();
        let place = first.place("redis").unwrap();
        let second = RunDirectory::create(&target).unwrap();
        assert!(place.directory.is_dir());
        assert_ne!(first.path, second.path);
        let path = first.path.clone();
        drop(first);
        assert!(!path.exists());
        drop(second);
        fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn what_a_killed_run_left_is_cleared() {
        let target = target("killed");
        let left = base(&target).unwrap().join("run-1-0/postgres");
        fs::create_dir_all(&left).unwrap();
        File::create(left.parent().unwrap().join("owner")).unwrap();
        clear_abandoned(&target).unwrap();
        assert!(!left.exists());
        fs::remove_dir_all(target).unwrap();
    }
}
