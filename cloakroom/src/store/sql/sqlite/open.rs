//! From an address to connections on a database that is ours and up to date.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, MAIN_DB, OpenFlags, OptionalExtension};

use super::{beside::Beside, fault::Fault};
use crate::{
    error::{Error, Result},
    store::{
        Schema,
        place::{Address, Identity, check_parent, unusable},
    },
    token::PartitionKey,
};

/// Connections on one file, and the key it holds.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) readers: Vec<Connection>,
    pub(super) key: PartitionKey,
    pub(super) identity: Identity,
    /// What lies beside it, unless it can only be read.
    pub(super) beside: Option<Beside>,
    /// Whether it was opened as one that nobody writes.
    pub(super) immutable: bool,
}

const ADDRESS: Address = Address { scheme: "sqlite", names: "file", example: "sessions.db" };

/// The file that the part of an address behind `sqlite:` names.
pub(super) fn file_named(address: &Path) -> Result<PathBuf> {
    let text = address.to_string_lossy();
    if text.strip_prefix("//").unwrap_or(&text).starts_with(":memory:") {
        let problem =
            "is no file, and would be a database of its own for each connection; for sessions in memory write memory:";
        return Err(ADDRESS.wrong(address, problem));
    }
    ADDRESS.path(address)
}

/// Opens `file` and creates it if there is none. Blocks, for at most `patience` when others hold it locked. One that cannot
/// be written is opened to be read.
pub(super) fn open(file: &Path, readers: usize, patience: Duration) -> Result<Opened> {
    make_file(file)?;
    let beside = Beside::of(file);
    beside.check_log()?;
    let opened = match to_write(file, &beside, readers, patience) {
        // What makes the log readable takes room, too.
        Err(Refused::Fault(fault)) if fault.is_full() && beside.use_reserve() => {
            to_write(file, &beside, readers, patience)
        }
        opened => opened,
    };
    match opened {
        Err(Refused::Fault(fault)) if fault.is_read_only() => match to_read(file, &beside, readers, patience) {
            Err(Refused::Fault(_)) => Err(fault.into_error(file)),
            opened => opened.map_err(|refused| refused.into_error(file)),
        },
        opened => {
            let opened = opened.map_err(|refused| refused.into_error(file))?;
            beside.fill_reserve();
            Ok(opened)
        }
    }
}

/// Why a file is not opened.
enum Refused {
    Fault(Fault),
    Error(Error),
}

impl Refused {
    fn into_error(self, file: &Path) -> Error {
        match self {
            Self::Fault(fault) => fault.into_error(file),
            Self::Error(error) => error,
        }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn to_write(file: &Path, beside: &Beside, readers: usize, patience: Duration) -> Result<Opened, Refused> {
    let mut writer = connect(file, Access::Write, patience)?;
    if writer.is_readonly(MAIN_DB)? {
        return to_read(file, beside, readers, patience);
    }
    // A file that belongs to somebody else must be left exactly as it is, so look before changing anything.
    let version = version(&mut writer)?.check(file)?;
    use_wal(&writer, file, patience)?;
    if version < LATEST {
        migrate(&mut writer, file)?;
    }
    opened(file, writer, Access::Write, readers, patience, Some(beside.clone()))
}

/// Opens a file that this process may not write, or whose directory.
fn to_read(file: &Path, beside: &Beside, readers: usize, patience: Duration) -> Result<Opened, Refused> {
    let look = |access| {
        let mut db = connect(file, access, patience)?;
        Ok::<_, Fault>((version(&mut db)?, db))
    };
    let (header, db, access) = match look(Access::Read) {
        // SQLite cannot make what processes share. Where there is no log, nobody writes the file, and there is nothing to share.
        Err(fault) if fault.is_read_only() && !beside.has_log() => {
            let (header, db) = look(Access::Immutable)?;
            (header, db, Access::Immutable)
        }
        looked => {
            let (header, db) = looked?;
            (header, db, Access::Read)
        }
    };
    if header.check(file)? < LATEST {
        let problem =
            "is read-only: let this process write to it and to its directory, once at least, to make its tables";
        return Err(unusable(file, problem).into());
    }
    opened(file, db, access, readers, patience, None)
}

fn opened(
    file: &Path,
    writer: Connection,
    access: Access,
    readers: usize,
    patience: Duration,
    beside: Option<Beside>,
) -> Result<Opened, Refused> {
    let readers = (0..readers).map(|_| connect_reader(file, access, patience)).collect::<Result<_, _>>()?;
    let key = partition_key(&writer)?;
    let key = key.ok_or_else(|| unusable(file, "has lost its partition key: restore it from a backup"))?;
    let identity = Identity::of(file)
        .map_err(|error| Error::store(format_args!("{} cannot be looked at", file.display()), error))?;
    Ok(Opened { writer, readers, key, identity, beside, immutable: access == Access::Immutable })
}

/// Which version is there. Blocks, makes and changes nothing.
pub(super) fn schema(file: &Path, patience: Duration) -> Result<Schema> {
    let latest = LATEST.unsigned_abs();
    if matches!(fs::metadata(file), Err(error) if error.kind() == ErrorKind::NotFound) {
        return Ok(Schema { found: None, latest });
    }
    make_file(file)?;
    let beside = Beside::of(file);
    beside.check_log()?;
    let look = |access| version(&mut connect(file, access, patience)?);
    let header = match look(Access::Write) {
        Err(fault) if fault.is_read_only() && !beside.has_log() => look(Access::Immutable),
        header => header,
    };
    let header = header.map_err(|fault| fault.into_error(file))?;
    let found = match header {
        Header { application: APPLICATION, version, .. } => u32::try_from(version).ok(),
        _ => header.check(file).map(|_| None)?,
    };
    Ok(Schema { found, latest })
}

/// `Clok`, in the header of every file that is ours.
const APPLICATION: i32 = 0x436c_6f6b;

/// What makes version `n` of the schema out of the one before.
pub(super) const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

pub(super) const LATEST: i32 = 1;

const PARTITION_KEY: &str = "partition_key";

const HOW_TO_NAME: &str = "name a file, such as sqlite:sessions.db";

/// Makes an empty file that only its owner may read; SQLite's own helpers beside it take over its mode.
///
/// A file that is there is not opened: closing it again would drop the locks of this process's connections on it.
fn make_file(file: &Path) -> Result<()> {
    match fs::metadata(file) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(found) if found.is_dir() => return Err(unusable(file, &format!("is a directory: {HOW_TO_NAME}"))),
        Ok(_) => return Err(unusable(file, &format!("is not a regular file: {HOW_TO_NAME}"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::store(format_args!("{} cannot be looked at", file.display()), error)),
    }
    check_parent(file)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::store(
            format_args!("{} cannot be created: let this process write to its directory", file.display()),
            error,
        )),
        _ => Ok(()),
    }
}

/// How a connection may use the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Write,
    Read,
    /// It only reads, and nobody writes.
    Immutable,
}

fn connect(file: &Path, access: Access, patience: Duration) -> Result<Connection, Fault> {
    let mode = match access {
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Immutable => OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
    };
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = if access == Access::Immutable {
        Connection::open_with_flags(immutable_address(file), flags)?
    } else {
        Connection::open_with_flags(file, flags)?
    };
    db.busy_timeout(patience)?;
    db.set_prepared_statement_cache_capacity(64);
    // What was committed is on the disk before anyone hears of it.
    db.pragma_update(None, "synchronous", "FULL")?;
    // Ids are random, so is the page each of them needs.
    db.pragma_update(None, "cache_size", "-16384")?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // The thread that writes has the file take in the log, and notes it.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(db)
}

fn immutable_address(file: &Path) -> String {
    let path = file.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{path}?immutable=1")
}

fn connect_reader(file: &Path, access: Access, patience: Duration) -> Result<Connection, Fault> {
    let db = connect(file, access, patience)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

/// What the header says of a file.
#[derive(Clone, Copy)]
struct Header {
    application: i32,
    version: i32,
    is_empty: bool,
}

impl Header {
    /// The version of our schema in it, 0 for none yet.
    fn check(self, file: &Path) -> Result<i32> {
        match self {
            Self { application: APPLICATION, version: 1..=LATEST, .. } => Ok(self.version),
            Self { application: APPLICATION, version, .. } => Err(unusable(
                file,
                &format!(
                    "was written by a newer version of cloakroom (its schema has version {version}, \
                     this one knows {LATEST}): upgrade, or restore a backup"
                ),
            )),
            Self { application: 0, version: 0, is_empty: true } => Ok(0),
            _ => Err(unusable(file, "is a database of something else and was left as it is: name another file")),
        }
    }
}

fn version(db: &mut Connection) -> Result<Header, Fault> {
    let look = db.transaction()?;
    let header = header(&look)?;
    look.commit()?;
    Ok(header)
}

fn header(db: &Connection) -> Result<Header, Fault> {
    Ok(Header {
        application: db.pragma_query_value(None, "application_id", |row| row.get(0))?,
        version: db.pragma_query_value(None, "user_version", |row| row.get(0))?,
        is_empty: db.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?,
    })
}

/// Lets readers and a writer go on beside each other. SQLite does not wait by itself for the lock this takes.
fn use_wal(db: &Connection, file: &Path, patience: Duration) -> Result<(), Refused> {
    let deadline = Instant::now() + patience;
    loop {
        let mode = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match mode.map_err(Fault::from) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => {
                return Err(unusable(file, "lies where SQLite cannot share memory: move it to a local disk").into());
            }
            Err(fault) if fault.is_locked() && Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Err(fault) => return Err(fault.into()),
        }
    }
}

fn migrate(db: &mut Connection, file: &Path) -> Result<(), Refused> {
    let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let from = header(&change)?.check(file)?;
    for (version, migration) in (1..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= from) {
        change.execute_batch(migration)?;
        change.pragma_update(None, "user_version", version)?;
    }
    if from == 0 {
        let key = PartitionKey::generate()?;
        change.pragma_update(None, "application_id", APPLICATION)?;
        change.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", (PARTITION_KEY, key.as_bytes()))?;
    }
    Ok(change.commit()?)
}

fn partition_key(db: &Connection) -> Result<Option<PartitionKey>, Fault> {
    let select = "SELECT value FROM meta WHERE name = ?1 AND length(value) = 32";
    let key = db.query_row(select, [PARTITION_KEY], |row| row.get(0)).optional()?;
    Ok(key.map(PartitionKey::from_bytes))
}

/// Keeps another key than the one the file was made with.
pub(super) fn set_partition_key(db: &Connection, key: &PartitionKey) -> Result<(), Fault> {
    db.execute("UPDATE meta SET value = ?2 WHERE name = ?1", (PARTITION_KEY, key.as_bytes()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_file_is_understood() {
        for (address, file) in [
            ("sessions.db", "sessions.db"),
            ("/var/lib/app/sessions.db", "/var/lib/app/sessions.db"),
            ("//sessions.db", "sessions.db"),
            ("///var/lib/app/sessions.db", "/var/lib/app/sessions.db"),
            ("dir with space/ключ.db", "dir with space/ключ.db"),
        ] {
            assert_eq!(file_named(Path::new(address)).unwrap(), Path::new(file));
        }
    }

    #[test]
    fn what_names_no_file_is_answered_with_what_to_write() {
        for address in ["", "//", ":memory:", "//:memory:", "sessions.db?mode=rwc"] {
            let error = file_named(Path::new(address)).unwrap_err();
            assert!(matches!(error, Error::StoreUrl(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&format!("sqlite:{address} ")) && text.contains("sqlite:sessions.db"), "{text}");
        }
        for address in [":memory:", ":memory:?cache=shared"] {
            let error = file_named(Path::new(address)).unwrap_err().to_string();
            assert!(error.contains("for sessions in memory write memory:"), "{error}");
        }
    }

    #[test]
    fn the_latest_version_is_the_last_migrations() {
        assert_eq!(usize::try_from(LATEST).unwrap(), MIGRATIONS.len());
    }
}
