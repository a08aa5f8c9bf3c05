//! From an address to a directory that is ours and whole.

use std::{fs, io::ErrorKind, path::Path, sync::Arc, time::Duration};

use super::{
    disk::{Access, Directory, Disk, directory_builder},
    fault::Fault,
    format::{self, Format},
    journal::{Journal, Limits, empty_journal},
    layout,
    view::View,
};
use crate::{
    error::{Error, Result},
    store::{
        Schema,
        place::{Address, check_parent, unusable},
    },
    token::PartitionKey,
};

/// How the address of a directory is written.
pub(super) const ADDRESS: Address = Address { scheme: "file", names: "directory", example: "sessions" };

/// Opens `directory` and creates it if there is none. Blocks, for at most `patience` when others hold it locked.
pub(super) fn open(directory: &Path, patience: Duration) -> Result<(Arc<Journal>, PartitionKey)> {
    let fault = |fault: Fault| fault.into_error(directory);
    let is_new = look(directory)?;
    let disk = Directory::new(directory);
    if is_new {
        prepare(&disk, patience).map_err(fault)?;
    }
    read_format(&disk, directory)?;
    disk.identify().map_err(Fault::io(layout::LOCK)).map_err(fault)?;
    let journal: Arc<Journal> = Arc::new(Journal::new(disk, Limits::new(patience)));
    journal.recover().map_err(fault)?;
    // The journal may have held another key.
    let key = read_format(journal.disk(), directory)?;
    Ok((journal, key))
}

/// Which version is there. Blocks, makes nothing.
pub(super) fn schema(directory: &Path) -> Result<Schema> {
    let found = match fs::metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        _ if look(directory)? => None,
        _ => Some(read_version(&Directory::new(directory), directory)?.cloakroom_file_store),
    };
    Ok(Schema { found, latest: VERSION })
}

pub(super) const VERSION: u32 = 1;

/// Whether a directory has yet to be made ours. One that belongs to somebody else is left exactly as it is.
fn look(directory: &Path) -> Result<bool> {
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(unusable(directory, "is not a directory: name one, such as file:sessions")),
        Err(error) if error.kind() == ErrorKind::NotFound => create(directory)?,
        Err(error) => return Err(Error::store(format_args!("{} cannot be looked at", directory.display()), error)),
    }
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|error| {
        Error::store(format_args!("{} cannot be read: let this process read and write it", directory.display()), error)
    })?;
    let names: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
    if names.iter().any(|name| name == layout::FORMAT) {
        return Ok(false);
    }
    let unfinished = [layout::LOCK, layout::TURN, layout::JOURNAL, NEW_FORMAT];
    if names.iter().all(|name| unfinished.iter().any(|ours| name == ours)) {
        return Ok(true);
    }
    Err(unusable(directory, "holds something else and was left as it is: name another directory, or an empty one"))
}

fn create(directory: &Path) -> Result<()> {
    check_parent(directory)?;
    match directory_builder().create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::store(
            format_args!("{} cannot be created: let this process write to its parent", directory.display()),
            error,
        )),
        _ => Ok(()),
    }
}

const NEW_FORMAT: &str = "format.new";

/// Makes an empty directory ours. The file that says so comes last.
pub(super) fn prepare(disk: &dyn Disk, patience: Duration) -> Result<(), Fault> {
    let lock = disk.lock(Access::Exclusive, patience).map_err(Fault::io(layout::LOCK))?;
    let _lock = lock.ok_or(Fault::Locked { waited: patience })?;
    if disk.read(layout::FORMAT).map_err(Fault::io(layout::FORMAT))?.is_some() {
        // Another process was faster.
        return Ok(());
    }
    let key = PartitionKey::generate().map_err(|_| Fault::Panicked)?;
    disk.write(layout::JOURNAL, &empty_journal()).map_err(Fault::io(layout::JOURNAL))?;
    disk.write(NEW_FORMAT, &format::encode(&format(&key))).map_err(Fault::io(NEW_FORMAT))?;
    let files = [layout::JOURNAL, NEW_FORMAT, layout::FORMAT].map(String::from).into();
    disk.sync_all(&files).map_err(Fault::io("."))?;
    disk.rename(NEW_FORMAT, layout::FORMAT).map_err(Fault::io(layout::FORMAT))?;
    disk.sync_all(&files).map_err(Fault::io("."))
}

/// What says that a directory is ours.
pub(super) fn format(key: &PartitionKey) -> Format {
    Format { cloakroom_file_store: VERSION, partition_key: layout::hex(key.as_bytes()) }
}

/// Checks that a directory is one that this version can work with, and answers with its key.
pub(super) fn read_format(disk: &dyn Disk, directory: &Path) -> Result<PartitionKey> {
    let format = read_version(disk, directory)?;
    if format.cloakroom_file_store > VERSION {
        let problem = format!(
            "was written by a newer version of cloakroom (its layout has version {}, this one knows {VERSION}): \
             upgrade, or restore a backup",
            format.cloakroom_file_store
        );
        return Err(unusable(directory, &problem));
    }
    let key = layout::unhex(&format.partition_key);
    let key = key.ok_or_else(|| Fault::damaged(layout::FORMAT, "its key is none").into_error(directory))?;
    Ok(PartitionKey::from_bytes(key))
}

/// Keeps another key than the one the directory was made with, if it holds nothing. Says whether it does.
pub(super) fn adopt(view: &View<'_>, key: &PartitionKey) -> Result<bool, Fault> {
    for byte in 0..=u8::MAX {
        if view.list(&layout::sessions(byte))?.iter().any(|name| layout::session_named(name).is_some()) {
            return Ok(false);
        }
        let users = layout::users(byte);
        for user in view.list(&users)? {
            if !view.list(&format!("{users}/{user}"))?.is_empty() {
                return Ok(false);
            }
        }
    }
    view.write(layout::FORMAT.into(), format::encode(&format(key)));
    Ok(true)
}

fn read_version(disk: &dyn Disk, directory: &Path) -> Result<Format> {
    let fault = |fault: Fault| fault.into_error(directory);
    let bytes = disk.read(layout::FORMAT).map_err(Fault::io(layout::FORMAT)).map_err(fault)?;
    let bytes = bytes.ok_or_else(|| fault(Fault::damaged(layout::FORMAT, "it is gone")))?;
    // A newer version may say more than this one knows, but says its number the same way.
    format::decode(layout::FORMAT, &bytes).map_err(fault)
}
