//! What lies beside the file: its write-ahead log, and room for a full disk.

use std::{
    ffi::OsString,
    fs::{self, File, FileTimes, Metadata, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::Connection;

use super::fault::Fault;
use crate::error::{Error, Result};

/// The files beside a database.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    /// As it was named.
    file: PathBuf,
    /// Where it lies: links are followed, as SQLite does.
    place: PathBuf,
}

impl Beside {
    pub(super) fn of(file: &Path) -> Self {
        Self { file: file.into(), place: fs::canonicalize(file).unwrap_or_else(|_| file.into()) }
    }

    fn side_file(&self, end: &str) -> PathBuf {
        let mut name = OsString::from(&self.place);
        name.push(end);
        name.into()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.side_file("-wal")
    }

    /// Whether there is a log that holds something.
    pub(super) fn has_log(&self) -> bool {
        fs::metadata(self.log()).is_ok_and(|log| log.len() > 0)
    }

    /// Refuses a log that another file left, of which this one is a backup that was put in its place, for instance: played
    /// back over it, it would destroy it.
    ///
    /// The file changes only while it [takes in](Self::take_in) the log, which then has a time of its own, and is newer
    /// afterwards. So a file that changed after its log is not the one that the log belongs to.
    pub(super) fn check_log(&self) -> Result<()> {
        let log = self.log();
        let (Ok(file), Ok(found)) = (fs::metadata(&self.place), fs::metadata(&log)) else { return Ok(()) };
        if found.len() == 0 || found.modified().is_ok_and(|at| at == TAKEN_IN) || !changed_after(&file, &found) {
            return Ok(());
        }
        let (file, log) = (self.file.display(), log.display());
        let message = format!(
            "{log} was written before {file} came to be as it is, and would destroy it: it belongs to another file, such as \
             the one before a backup was restored. To go on with {file} as it is, remove {log}; if both were copied \
             together, run: touch {log}"
        );
        Err(Error::Store { message, source: None })
    }

    /// Lets the file take in what the log holds.
    pub(super) fn take_in(&self, db: &Connection, mode: &str) -> Result<(), rusqlite::Error> {
        let log = self.log();
        // Where that cannot be noted, the log is only refused once too often.
        let _ = note(&log, TAKEN_IN);
        let done = db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        let _ = note(&log, SystemTime::now());
        done
    }

    /// Lets the file take in a log that has grown long. It is not left to SQLite, which does not note it.
    pub(super) fn take_in_if_long(&self, db: &Connection) {
        /// So many pages: a few milliseconds' work.
        const LONG: i64 = 1000;
        let look = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let taken = match db.query_row("PRAGMA wal_checkpoint(NOOP)", [], look) {
            Ok((pages, taken_in)) if pages - taken_in < LONG => Ok(()),
            Ok(_) => self.take_in(db, "PASSIVE"),
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "the write-ahead log could not be taken in, and grows");
        }
    }

    /// Puts back the room for endings, as far as there is any.
    pub(super) fn fill_reserve(&self) {
        if let Err(error) = self.have_reserve() {
            tracing::warn!(%error, "no room could be kept for ending sessions when the disk is full");
        }
    }

    fn have_reserve(&self) -> io::Result<()> {
        let reserve = self.side_file("-reserve");
        if fs::metadata(&reserve).is_ok_and(|found| found.len() >= RESERVE as u64) {
            return Ok(());
        }
        let written = write(&reserve, RESERVE);
        if written.is_err() {
            // A part of it would only take room from others.
            let _ = fs::remove_file(&reserve);
        }
        written
    }

    /// Gives the reserve to what must be written. Says whether there was any.
    pub(super) fn use_reserve(&self) -> bool {
        fs::remove_file(self.side_file("-reserve")).is_ok()
    }

    /// Whether something could be written now, and the reserve is whole.
    pub(super) fn try_writing(&self) -> Result<(), Fault> {
        /// More than is left over on a disk that is full.
        const TRIED: usize = 16 << 10;
        let file = self.side_file("-room");
        let written = write(&file, TRIED);
        let removed = fs::remove_file(&file);
        written.and(removed).and_then(|()| self.have_reserve()).map_err(|error| Fault::Unwritable(error.into()))
    }
}

/// Of so many bytes a sign-out takes a small part.
const RESERVE: usize = 512 << 10;

/// When a log was last written that is being taken in. No log is so old.
const TAKEN_IN: SystemTime = SystemTime::UNIX_EPOCH;

fn note(log: &Path, at: SystemTime) -> io::Result<()> {
    File::open(log)?.set_times(FileTimes::new().set_modified(at))
}

fn write(file: &Path, bytes: usize) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)?.write_all(&vec![b'.'; bytes])
}

#[cfg(unix)]
fn changed_after(file: &Metadata, log: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;

    let changed = |found: &Metadata| (found.ctime(), found.ctime_nsec());
    changed(file) > changed(log)
}

#[cfg(not(unix))]
fn changed_after(file: &Metadata, log: &Metadata) -> bool {
    matches!((file.modified(), log.modified()), (Ok(file), Ok(log)) if file > log)
}
