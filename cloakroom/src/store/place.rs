//! Where on this machine a store lies: what an address names, who may read it, and on what kind of file system.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    store::Finding,
};

/// How addresses of a store on this machine are written.
pub(super) struct Address {
    pub(super) scheme: &'static str,
    /// What they name.
    pub(super) names: &'static str,
    /// A name of one.
    pub(super) example: &'static str,
}

impl Address {
    /// The path that the part of an address behind its scheme names.
    pub(super) fn path(&self, address: &Path) -> Result<PathBuf> {
        // What is not Unicode did not come from an address.
        let Some(text) = address.to_str() else { return Ok(address.into()) };
        let path = text.strip_prefix("//").unwrap_or(text);
        if path.is_empty() {
            return Err(self.wrong(address, &format!("names no {}", self.names)));
        }
        if path.contains('?') {
            return Err(self.wrong(address, &format!("takes no parameters behind the {}", self.names)));
        }
        Ok(path.into())
    }

    /// What is wrong with an address, and what to write.
    pub(super) fn wrong(&self, address: &Path, problem: &str) -> Error {
        let Self { scheme, names, example } = self;
        let (address, placeholder) = (address.display(), names.to_uppercase());
        Error::StoreUrl(format!(
            "{scheme}:{address} {problem}: write {scheme}:{placeholder}, such as {scheme}:{example} or \
             {scheme}:/var/lib/app/{example}"
        ))
    }
}

/// Which file of the file system was opened, whatever its name leads to later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    number: u64,
}

impl Identity {
    /// Looks without opening: closing a file drops the locks of the whole process on it.
    pub(super) fn of(file: &Path) -> std::io::Result<Self> {
        Ok(Self::found(&fs::metadata(file)?))
    }

    pub(super) fn found(found: &fs::Metadata) -> Self {
        #[cfg(unix)]
        return Self {
            device: std::os::unix::fs::MetadataExt::dev(found),
            number: std::os::unix::fs::MetadataExt::ino(found),
        };
        #[cfg(not(unix))]
        return Self {};
    }

    /// Whether it still lies there.
    pub(super) fn is_at(self, file: &Path) -> bool {
        Self::of(file).is_ok_and(|there| there == self)
    }
}

/// What lies at a path cannot be a store.
pub(super) fn unusable(path: &Path, problem: &str) -> Error {
    Error::Store { message: format!("{} {problem}", path.display()), source: None }
}

/// Refuses to make what would lie in a directory that is not there.
pub(super) fn check_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| *parent != OsStr::new(""));
    match parent.filter(|parent| !parent.is_dir()) {
        None => Ok(()),
        Some(parent) => {
            let problem = format!("cannot be created, for there is no directory {}: create it", parent.display());
            Err(unusable(path, &problem))
        }
    }
}

/// Kinds that several machines share, whose locks or renames are not what they are on a disk of one's own.
const SHARED: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "ncpfs",
    "vboxsf",
    "fuse.sshfs",
    "fuse.s3fs",
];

/// Looks at a file or directory that holds a store. `needs` says what a network's file system lacks.
pub(super) fn examine(path: &Path, needs: &str) -> Vec<Finding> {
    [permissions(path), file_system(path, needs)].into_iter().flatten().collect()
}

#[cfg(unix)]
fn permissions(path: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;

    let metadata = fs::metadata(path).ok()?;
    let mode = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    let others = mode & 0o077;
    if others == 0 {
        return Some(Finding::fine("permissions", format!("Nobody but its owner may read {shown}.")));
    }
    let wanted = if metadata.is_dir() { "700" } else { "600" };
    let text = format!(
        "Others than its owner may reach {shown} (its mode is {mode:03o}), and it holds all that sessions keep: chmod \
         {wanted} it, unless they shall."
    );
    Some(Finding::warning("permissions", text))
}

#[cfg(not(unix))]
fn permissions(_path: &Path) -> Option<Finding> {
    None
}

fn file_system(path: &Path, needs: &str) -> Option<Finding> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let kind = kind_at(&path, &mounts)?;
    let shown = path.display();
    Some(match kind {
        kind if SHARED.contains(&kind) => Finding::error(
            "file system",
            format!("{shown} is on a network's file system ({kind}), which {needs}: move it to a local disk."),
        ),
        "tmpfs" | "ramfs" => Finding::warning(
            "file system",
            format!("{shown} is in the machine's memory ({kind}): all of it goes when the machine stops."),
        ),
        kind => Finding::fine("file system", format!("{shown} is on {kind}.")),
    })
}

/// The kind of the file system that is mounted where `path` is, by the system's table of mounts.
fn kind_at<'a>(path: &Path, mounts: &'a str) -> Option<&'a str> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let mount = |fields: &mut std::str::Split<'a, char>| {
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        // Blanks in names are written so.
        let point = point.replace("\\040", " ");
        path.starts_with(&point).then_some((point.len(), kind))
    };
    // Of two at the same place the later one lies on top, as `max_by_key` has it.
    let found = fields.by_ref().filter_map(|mut fields| mount(&mut fields));
    found.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/my\\040files tmpfs rw 0 0\n\
                          overlay / overlay rw 0 0\n";

    #[test]
    fn the_nearest_mount_decides() {
        for (path, kind) in [
            ("/var/sessions", "overlay"),
            ("/home/anna/sessions", "nfs4"),
            ("/home/my files/sessions", "tmpfs"),
            ("/homeless", "overlay"),
        ] {
            assert_eq!(kind_at(Path::new(path), MOUNTS), Some(kind), "{path}");
        }
        assert_eq!(kind_at(Path::new("/a"), ""), None);
    }
}
