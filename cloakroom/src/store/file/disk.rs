//! The few operations on files that the store is made of, so that tests can make any of them fail.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use super::fault::Gone;
use crate::store::place::Identity;

/// Files below one directory. Paths are relative, of components that this store makes itself: see
/// [`layout`](super::layout).
pub(super) trait Disk: Send + Sync + 'static {
    /// All of a file; `None` if there is none.
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>>;
    /// At most so many bytes of a file from `offset` on; nothing if there is no such file.
    fn read_at(&self, file: &str, offset: u64, most: usize) -> io::Result<Vec<u8>>;
    /// How long a file is; 0 if there is none.
    fn length(&self, file: &str) -> io::Result<u64>;
    /// The names in a directory, in no order; nothing if there is none.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;
    /// Writes a whole file, in place of what was there. Not atomic.
    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()>;
    /// Writes a part of a file, which is made if there is none.
    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file off.
    fn cut(&self, file: &str, length: u64) -> io::Result<()>;
    /// Gives a file another name, in place of what had that name. Atomic.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file, and its directory if nothing else is in it. Harmless if it is not there.
    fn remove(&self, file: &str) -> io::Result<()>;
    /// Waits until a file's bytes and length are on the disk.
    fn sync(&self, file: &str) -> io::Result<()>;
    /// Waits until these files and their names are on the disk, or their absence is.
    fn sync_all(&self, files: &BTreeSet<String>) -> io::Result<()>;
    /// Takes the directory's lock, which is released when the answer is dropped. `None` if others held it for as long as
    /// `patience`.
    fn lock(&self, access: Access, patience: Duration) -> io::Result<Option<Lock>>;
}

/// What others may do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Read.
    Shared,
    /// Nothing.
    Exclusive,
}

/// The directory is locked for as long as this lives.
pub(super) struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] Option<File>);

impl Lock {
    /// For a disk that nobody shares.
    #[cfg(test)]
    pub(super) fn unshared() -> Self {
        Self(None)
    }
}

/// A directory of the operating system's.
pub(super) struct Directory {
    path: PathBuf,
    /// Its lock file, which is made once and stays, as it was when the directory was opened.
    identity: OnceLock<Identity>,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: OnceLock::new() }
    }

    /// From now on, a directory that was put in its place is another one.
    pub(super) fn identify(&self) -> io::Result<()> {
        let identity = Identity::of(&self.at(super::layout::LOCK))?;
        self.identity.get_or_init(|| identity);
        Ok(())
    }

    /// Whether it is the one that was opened.
    fn check(&self) -> io::Result<()> {
        match self.identity.get() {
            Some(opened) if !opened.is_at(&self.at(super::layout::LOCK)) => Err(io::Error::other(Gone)),
            _ => Ok(()),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Does something that needs the directory of `file`, which is made if there is none.
    fn with_parent<T>(&self, file: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match work() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = file.parent().filter(|parent| *parent != self.path).ok_or(error)?;
                // The store's own directory is not made anew: somebody took it away.
                fs::metadata(&self.path)?;
                directory_builder().recursive(true).create(parent)?;
                work()
            }
            done => done,
        }
    }
}

impl Disk for Directory {
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        // What is read without the lock must not come from another one.
        self.check()?;
        missing_is_none(fs::read(self.at(file)))
    }

    fn read_at(&self, file: &str, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        self.check()?;
        let Some(mut file) = missing_is_none(File::open(self.at(file)))? else { return Ok(Vec::new()) };
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        let mut bytes = Vec::new();
        file.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        Ok(missing_is_none(fs::metadata(self.at(file)))?.map_or(0, |metadata| metadata.len()))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let Some(entries) = missing_is_none(fs::read_dir(self.at(directory)))? else { return Ok(Vec::new()) };
        // A name that is no Unicode is not one of ours.
        entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.at(file);
        let mut file = self.with_parent(&path, || file_options().truncate(true).open(&path))?;
        file.write_all(bytes)
    }

    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.at(file);
        let mut file = self.with_parent(&path, || file_options().truncate(false).open(&path))?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn cut(&self, file: &str, length: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.at(file))?.set_len(length)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        self.with_parent(&to, || fs::rename(&from, &to))
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        let path = self.at(file);
        missing_is_none(fs::remove_file(&path))?;
        for above in path.ancestors().skip(1).take_while(|above| *above != self.path) {
            // It fails where something else is in it, and an empty directory is no harm either.
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        File::open(self.at(file))?.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn sync_all(&self, _files: &BTreeSet<String>) -> io::Result<()> {
        // One wait for the disk instead of one for each file.
        Ok(rustix::fs::syncfs(File::open(&self.path)?)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_all(&self, files: &BTreeSet<String>) -> io::Result<()> {
        let mut directories = BTreeSet::new();
        for file in files {
            let path = self.at(file);
            if let Some(file) = missing_is_none(file_options().create(false).open(&path))? {
                file.sync_all()?;
            }
            directories
                .extend(path.ancestors().skip(1).take_while(|above| above.starts_with(&self.path)).map(PathBuf::from));
        }
        #[cfg(unix)]
        for directory in directories {
            if let Some(directory) = missing_is_none(File::open(directory))? {
                directory.sync_all()?;
            }
        }
        Ok(())
    }

    fn lock(&self, access: Access, patience: Duration) -> io::Result<Option<Lock>> {
        let deadline = Instant::now() + patience;
        self.check()?;
        // Who waits for the lock holds the turn meanwhile, so that whoever just had it cannot take it again and again.
        let Some(_turn) = lock_file(&self.at(super::layout::TURN), Access::Exclusive, deadline)? else {
            return Ok(None);
        };
        let Some(lock) = lock_file(&self.at(super::layout::LOCK), access, deadline)? else { return Ok(None) };
        match self.identity.get() {
            Some(opened) if *opened != Identity::found(&lock.metadata()?) => Err(io::Error::other(Gone)),
            _ => Ok(Some(Lock(Some(lock)))),
        }
    }
}

/// Each lock has a file handle of its own, so it excludes other threads of this process as it does other processes.
fn lock_file(path: &Path, access: Access, deadline: Instant) -> io::Result<Option<File>> {
    let file = match file_options().truncate(false).open(path) {
        // Where nothing may be written, it can be locked all the same.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            File::open(path)?
        }
        file => file?,
    };
    let mut pause = Duration::from_micros(50);
    loop {
        let locked = match access {
            Access::Shared => file.try_lock_shared(),
            Access::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(None),
            // There is no way to wait for a lock for a limited time.
            Err(TryLockError::WouldBlock) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

pub(super) fn missing_is_none<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// For files that only their owner may read.
fn file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// For directories that only their owner may enter.
pub(super) fn directory_builder() -> DirBuilder {
    #[allow(unused_mut, reason = "only on Unix")]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}
