//! Opening stores, from the command line and for the server alike.

use std::{io, path::Path, sync::Arc};

use cloakroom::{
    Error, Result,
    store::{self, Schema, Store},
};

use crate::{
    private::{self, PrivateFileError},
    redact,
};

/// Opens the store at an address, which makes it where there is none.
pub(crate) async fn open(url: &str) -> Result<Arc<dyn Store>> {
    prepare(url)?;
    path(url).map_or(Ok(()), check_new)?;
    store::open(url).await
}

/// The same for a server, which is what the store belongs to.
pub(crate) async fn open_to_serve(url: &str) -> Result<Arc<dyn Store>> {
    prepare(url)?;
    store::open(url).await
}

/// Which version the store at an address has, if there is one. Changes nothing.
pub(crate) async fn schema(url: &str) -> Result<Schema> {
    prepare(url)?;
    store::schema(url).await
}

/// The address that an argument or a setting names: itself, or the one in a file (`@FILE`), which may hold a password.
pub(crate) fn address(argument: &str) -> Result<String, PrivateFileError> {
    match argument.strip_prefix('@') {
        Some(file) => Ok(private::read(Path::new(file))?.trim().to_owned()),
        None => Ok(argument.to_owned()),
    }
}

/// Runs work on stores to its end. Drivers close their connections on the runtime, so it outlives the stores, which are the
/// work's own.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Runtime::new()?.block_on(work))
}

/// Where a store on this machine lies.
pub(crate) fn path(url: &str) -> Option<&Path> {
    let ("sqlite" | "file", path) = url.split_once(':')? else { return None };
    let path = path.strip_prefix("//").unwrap_or(path);
    (!path.is_empty()).then(|| Path::new(path))
}

fn prepare(url: &str) -> Result<()> {
    redact::remember(url);
    path(url).map_or(Ok(()), check_owner)
}

/// Refuses a store of another account: files that this process makes there would lock its owner out.
#[cfg(unix)]
fn check_owner(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    use crate::account::{self, Account};

    // Where nothing is, or what is there cannot be looked at, opening it says what there is to say.
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    let (owner, user) = (Account(metadata.uid()), account::effective());
    if owner == user || (user != Account(0) && !may_write(path)) {
        return Ok(());
    }
    let message = format!(
        "{} belongs to {owner}, and this program runs as {user}: files that it makes there would lock the owner out. Run it \
         as the owner: sudo -u {} cloakroom …",
        path.display(),
        owner.for_sudo(),
    );
    Err(Error::Store { message, source: None })
}

/// Whether this process could make files at a store, or beside it.
#[cfg(unix)]
fn may_write(path: &Path) -> bool {
    let may = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    may(path) || (!path.is_dir() && path.parent().is_some_and(may))
}

/// Refuses to have the superuser make a store in the directory of another account, which could not use it.
#[cfg(unix)]
fn check_new(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    use crate::account::{self, Account};

    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Err(_), Ok(directory)) = (std::fs::metadata(path), std::fs::metadata(parent)) else { return Ok(()) };
    let (owner, user) = (Account(directory.uid()), account::effective());
    if owner == user || user != Account(0) {
        return Ok(());
    }
    let message = format!(
        "{} would be made in a directory of {owner}, who could not use it: run this as that account: sudo -u {} cloakroom …",
        path.display(),
        owner.for_sudo(),
    );
    Err(Error::Store { message, source: None })
}

#[cfg(not(unix))]
fn check_owner(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn check_new(_path: &Path) -> Result<()> {
    Ok(())
}
