//! What a call reads and what it wants to change, before anything is written.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{disk::Disk, fault::Fault};

/// Files to write and to remove, and audit entries to append. Applying it twice is the same as applying it once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// What a file holds afterwards; `None` for a file that goes.
    pub(super) files: BTreeMap<String, Option<Vec<u8>>>,
    /// Lines of the audit log.
    pub(super) audit: Vec<u8>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.audit.is_empty()
    }

    /// Adds what comes after these.
    pub(super) fn extend(&mut self, later: Self) {
        self.files.extend(later.files);
        self.audit.extend(later.audit);
    }
}

/// One call's view of the directory: what is on the disk, changed by the calls before it that share its commit, changed
/// by itself.
pub(super) struct View<'a> {
    disk: &'a dyn Disk,
    before: &'a Changes,
    own: RefCell<Changes>,
}

impl<'a> View<'a> {
    pub(super) fn new(disk: &'a dyn Disk, before: &'a Changes) -> Self {
        Self { disk, before, own: RefCell::default() }
    }

    pub(super) fn into_changes(self) -> Changes {
        self.own.into_inner()
    }

    pub(super) fn read(&self, file: &str) -> Result<Option<Vec<u8>>, Fault> {
        match self.changed(file) {
            Changed::Written(bytes) => Ok(Some(bytes)),
            Changed::Removed => Ok(None),
            Changed::No => self.disk.read(file).map_err(Fault::io(file)),
        }
    }

    /// At most so many bytes from `offset` on; nothing if there is no such file.
    pub(super) fn read_at(&self, file: &str, offset: u64, most: usize) -> Result<Vec<u8>, Fault> {
        match self.changed(file) {
            Changed::Written(bytes) => {
                let rest = bytes.into_iter().skip(usize::try_from(offset).unwrap_or(usize::MAX));
                Ok(rest.take(most).collect())
            }
            Changed::Removed => Ok(Vec::new()),
            Changed::No => self.disk.read_at(file, offset, most).map_err(Fault::io(file)),
        }
    }

    /// The length on the disk. For files that grow by appending, which changes do not name.
    pub(super) fn length(&self, file: &str) -> Result<u64, Fault> {
        self.disk.length(file).map_err(Fault::io(file))
    }

    /// The names in a directory. Those of directories in it may be empty.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<String>, Fault> {
        let mut names = self.disk.list(directory).map_err(Fault::io(directory))?;
        let mut gone = BTreeSet::new();
        let own = self.own.borrow();
        for changes in [self.before, &*own] {
            let inside = format!("{directory}/");
            let below = changes.files.range(inside.clone()..).take_while(|(file, _)| file.starts_with(&inside));
            for (file, content) in below {
                let name = &file[inside.len()..];
                match (name.split_once('/'), content) {
                    (Some((directory, _)), Some(_)) => names.push(directory.to_owned()),
                    (None, Some(_)) => {
                        gone.remove(name);
                        names.push(name.to_owned());
                    }
                    (None, None) => {
                        gone.insert(name);
                    }
                    (Some(_), None) => {}
                }
            }
        }
        names.retain(|name| !gone.contains(name.as_str()));
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    pub(super) fn write(&self, file: String, bytes: Vec<u8>) {
        self.own.borrow_mut().files.insert(file, Some(bytes));
    }

    /// Makes an empty file, whose name is all there is to know.
    pub(super) fn mark(&self, file: String) {
        self.write(file, Vec::new());
    }

    pub(super) fn remove(&self, file: String) {
        self.own.borrow_mut().files.insert(file, None);
    }

    /// Appends a line to the audit log.
    pub(super) fn log(&self, line: &[u8]) {
        self.own.borrow_mut().audit.extend_from_slice(line);
    }

    /// Whether a line that begins so is among those to append.
    pub(super) fn will_log(&self, beginning: &[u8]) -> bool {
        let has = |lines: &[u8]| lines.split(|byte| *byte == b'\n').any(|line| line.starts_with(beginning));
        has(&self.before.audit) || has(&self.own.borrow().audit)
    }

    fn changed(&self, file: &str) -> Changed {
        let own = self.own.borrow();
        match own.files.get(file).or_else(|| self.before.files.get(file)) {
            Some(Some(bytes)) => Changed::Written(bytes.clone()),
            Some(None) => Changed::Removed,
            None => Changed::No,
        }
    }
}

/// What becomes of a file.
enum Changed {
    Written(Vec<u8>),
    Removed,
    No,
}
