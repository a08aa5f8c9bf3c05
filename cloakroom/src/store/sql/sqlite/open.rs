//! From an address to connections on a database that is ours and up to date.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, MAIN_DB, OpenFlags, OptionalExtension};

use super::fault::Fault;
use crate::{
    Error, PartitionKey, Result,
    store::{
        Schema,
        place::{Address, Identity, check_parent, unusable},
    },
};

/// Connections on one file, and the key it holds.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) readers: Vec<Connection>,
    pub(super) key: PartitionKey,
    pub(super) identity: Identity,
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

/// Opens `file` and creates it if there is none. Blocks, for at most `patience` when others hold it locked.
pub(super) fn open(file: &Path, readers: usize, patience: Duration) -> Result<Opened> {
    make_file(file)?;
    let fault = |fault: Fault| fault.into_error(file);
    let mut writer = connect(file, patience).map_err(fault)?;
    if writer.is_readonly(MAIN_DB).map_err(|error| fault(error.into()))? {
        return Err(unusable(file, "is read-only: let this process write to it and to its directory"));
    }
    // A file that belongs to somebody else must be left exactly as it is, so look before changing anything.
    let version = version(&mut writer).map_err(fault)?.check(file)?;
    use_wal(&writer, file, patience)?;
    if version < LATEST {
        migrate(&mut writer, file)?;
    }
    let readers = (0..readers).map(|_| connect_reader(file, patience)).collect::<Result<_, _>>().map_err(fault)?;
    let key = partition_key(&writer).map_err(fault)?;
    let key = key.ok_or_else(|| unusable(file, "has lost its partition key: restore it from a backup"))?;
    let identity = Identity::of(file)
        .map_err(|error| Error::store(format_args!("{} cannot be looked at", file.display()), error))?;
    Ok(Opened { writer, readers, key, identity })
}

/// Which version is there. Blocks, makes and changes nothing.
pub(super) fn schema(file: &Path, patience: Duration) -> Result<Schema> {
    let latest = LATEST.unsigned_abs();
    if matches!(fs::metadata(file), Err(error) if error.kind() == ErrorKind::NotFound) {
        return Ok(Schema { found: None, latest });
    }
    make_file(file)?;
    let mut db = connect(file, patience).map_err(|fault| fault.into_error(file))?;
    let header = version(&mut db).map_err(|fault| fault.into_error(file))?;
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

fn connect(file: &Path, patience: Duration) -> Result<Connection, Fault> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(patience)?;
    db.set_prepared_statement_cache_capacity(64);
    // What was committed is on the disk before anyone hears of it.
    db.pragma_update(None, "synchronous", "FULL")?;
    // Ids are random, so is the page each of them needs.
    db.pragma_update(None, "cache_size", "-16384")?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(db)
}

fn connect_reader(file: &Path, patience: Duration) -> Result<Connection, Fault> {
    let db = connect(file, patience)?;
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
fn use_wal(db: &Connection, file: &Path, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let mode = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match mode.map_err(Fault::from) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(unusable(file, "lies where SQLite cannot share memory: move it to a local disk")),
            Err(fault) if fault.is_locked() && Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Err(fault) => return Err(fault.into_error(file)),
        }
    }
}

fn migrate(db: &mut Connection, file: &Path) -> Result<()> {
    let fault = |error: rusqlite::Error| Fault::from(error).into_error(file);
    let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(fault)?;
    // Another process may have been faster.
    let from = header(&change).map_err(|fault| fault.into_error(file))?.check(file)?;
    for (version, migration) in (1..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= from) {
        change.execute_batch(migration).map_err(fault)?;
        change.pragma_update(None, "user_version", version).map_err(fault)?;
    }
    if from == 0 {
        let key = PartitionKey::generate()?;
        change.pragma_update(None, "application_id", APPLICATION).map_err(fault)?;
        let insert = "INSERT INTO meta (name, value) VALUES (?1, ?2)";
        change.execute(insert, (PARTITION_KEY, key.as_bytes())).map_err(fault)?;
    }
    change.commit().map_err(fault)
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
