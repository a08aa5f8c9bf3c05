//! Files that hold secrets: read only if they are their owner's alone.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Why a file that holds a secret is not used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It may not be only its owner's: what is wrong, and the remedy.
    #[error("{} {problem}: {remedy}", path.display())]
    NotPrivate {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

impl PrivateFileError {
    /// Whether there is no such file.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// No secret and no certificate is as long.
const MAX_LEN: u64 = 1 << 20;

/// The text of a regular file that belongs to this process's user, and that no other account may read or write.
pub(crate) fn read(path: &Path) -> Result<String, PrivateFileError> {
    let failed = |source| PrivateFileError::Read { path: path.into(), source };
    let file = open(path)?;
    check(path, &file)?;
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a new file that no other account may read. Never overwrites one.
pub(crate) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a secret would keep the next start from making a whole one.
        std::fs::remove_file(path)?;
    }
    written
}

#[cfg(unix)]
fn open(path: &Path) -> Result<File, PrivateFileError> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::{fs::OFlags, io::Errno};

    // A FIFO would keep the open waiting for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("flags of the system's own type");
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| {
        if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            not_private(path, "is a symbolic link", "name the file that it leads to")
        } else {
            PrivateFileError::Read { path: path.into(), source }
        }
    })
}

/// What is open is looked at, not what the path may name a moment later.
#[cfg(unix)]
fn check(path: &Path, file: &File) -> Result<(), PrivateFileError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    use crate::account::{self, Account};

    let metadata = file.metadata().map_err(|source| PrivateFileError::Read { path: path.into(), source })?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let problem = match kind {
            kind if kind.is_fifo() => "is a FIFO, which any account with access may fill",
            kind if kind.is_dir() => "is a directory",
            _ => "is no regular file",
        };
        return Err(not_private(path, problem, "name a regular file"));
    }
    let (owner, user) = (Account(metadata.uid()), account::effective());
    if owner != user {
        let problem = format!("belongs to {owner}, and this program runs as {user}");
        let remedy = format!("run it as its owner (sudo -u {}), or chown the file", owner.for_sudo());
        return Err(not_private(path, &problem, &remedy));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let problem = format!("may be used by other accounts (its mode is {mode:03o})");
        let remedy =
            format!("chmod 600 {}, and replace what it holds if another account may have read it", path.display());
        return Err(not_private(path, &problem, &remedy));
    }
    Ok(())
}

#[cfg(unix)]
fn not_private(path: &Path, problem: &str, remedy: &str) -> PrivateFileError {
    PrivateFileError::NotPrivate { path: path.into(), problem: problem.to_owned(), remedy: remedy.to_owned() }
}

#[cfg(not(unix))]
fn open(path: &Path) -> Result<File, PrivateFileError> {
    File::open(path).map_err(|source| PrivateFileError::Read { path: path.into(), source })
}

#[cfg(not(unix))]
fn check(_path: &Path, _file: &File) -> Result<(), PrivateFileError> {
    Ok(())
}
