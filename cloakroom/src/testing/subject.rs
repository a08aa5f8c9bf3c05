//! What a check works on: a fresh store, a directory of its own, and how to look at all that the store keeps.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use crate::{
    rules::Rules,
    store::{BoxFuture, Store},
    token::{Partition, SessionId},
};

/// How the [`conformance!`](crate::testing::conformance) macro opens a fresh store.
pub type Open = fn(ScratchDir) -> BoxFuture<'static, Subject>;

/// A fresh store, and what a check needs to know about it.
pub struct Subject {
    // In this order: the store is gone before its directory.
    pub(super) store: Rules,
    scratch: ScratchDir,
    raw: Option<Raw>,
}

type Raw = fn(PathBuf) -> BoxFuture<'static, Vec<u8>>;

impl Subject {
    /// A store that keeps its files, if it has any, in `scratch`.
    pub fn new(store: impl Store, scratch: ScratchDir) -> Self {
        Self { store: Rules::on(store), scratch, raw: None }
    }

    /// For a store that keeps its sessions elsewhere than in its directory: reads every byte of them. It is handed the
    /// path of the directory, whose name is unique.
    pub fn raw(self, raw: Raw) -> Self {
        Self { raw: Some(raw), ..self }
    }

    /// Every byte the store keeps outside this process.
    pub(super) async fn raw_bytes(&self) -> Vec<u8> {
        match self.raw {
            Some(raw) => raw(self.scratch.path().to_owned()).await,
            None => all_files(self.scratch.path()).expect("the directory can be read"),
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({:?} in {:?})", self.store, self.scratch.path())
    }
}

/// An empty directory with a name of its own, removed when this is dropped.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes one where the system keeps temporary files.
    pub fn new() -> io::Result<Self> {
        let random = Partition::random().and_then(SessionId::generate).map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("cloakroom-{random}"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, as all temporary files are.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn all_files(dir: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes.extend(all_files(&entry.path())?);
        } else {
            bytes.extend(fs::read(entry.path())?);
        }
    }
    Ok(bytes)
}
