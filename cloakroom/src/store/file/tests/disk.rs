//! A disk in memory that counts, fails and forgets on demand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::store::file::{
    disk::{Access, Disk, Lock},
    layout,
};

/// Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<String, History>,
    used: Used,
    /// Calls with these numbers fail.
    failing: std::ops::Range<usize>,
    /// So many bytes fit, if not any number.
    room: Option<usize>,
}

impl State {
    fn taken(&self) -> usize {
        self.files.values().filter_map(History::now).map(Vec::len).sum()
    }

    /// How much of what is to be written in the place of so many bytes fits.
    fn fits(&self, written: usize, replaced: usize) -> usize {
        let left = self.room.map_or(usize::MAX, |room| room.saturating_sub(self.taken() - replaced));
        written.min(left)
    }
}

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) calls: usize,
    /// Names that were listed.
    pub(super) names: usize,
    /// Bytes that were read.
    pub(super) bytes: usize,
}

/// What a power failure may leave of a file: any of its states since it was synchronised. The last one is what it holds.
#[derive(Clone)]
struct History(Vec<FileState>);

#[derive(Clone)]
struct FileState {
    bytes: Option<Vec<u8>>,
    /// What was written behind this may be cut off anywhere.
    certain: usize,
}

impl Default for History {
    fn default() -> Self {
        Self(vec![FileState { bytes: None, certain: 0 }])
    }
}

impl History {
    fn now(&self) -> Option<&Vec<u8>> {
        self.0.last().and_then(|state| state.bytes.as_ref())
    }

    /// Replaces all of it.
    fn replace(&mut self, bytes: Option<Vec<u8>>) {
        self.0.push(FileState { bytes, certain: 0 });
    }

    /// Changes a part of it: the rest stays, even without power.
    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.now().cloned().unwrap_or_default();
        let mut bytes = before.clone();
        change(&mut bytes);
        let certain = before.len().min(bytes.len());
        self.0.push(FileState { bytes: Some(bytes), certain });
    }

    fn sync(&mut self) {
        self.0.drain(..self.0.len() - 1);
    }
}

impl MemoryDisk {
    /// A copy that shares nothing.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Lets calls fail, counted from now on.
    pub(super) fn fail(&self, calls: std::ops::Range<usize>) {
        let mut state = self.state();
        state.failing = calls;
        state.used = Used::default();
    }

    /// From now on only so many bytes fit in all.
    pub(super) fn has_room(&self, bytes: usize) {
        self.state().room = Some(bytes);
    }

    /// How many bytes there are.
    pub(super) fn taken(&self) -> usize {
        self.state().taken()
    }

    /// What was asked since the last time this was.
    pub(super) fn used(&self) -> Used {
        std::mem::take(&mut self.state().used)
    }

    /// Everything that can be seen of the store.
    pub(super) fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let contents = state.files.iter().filter_map(|(file, history)| Some((file.clone(), history.now()?.clone())));
        contents.filter(|(file, _)| file != layout::JOURNAL && !file.starts_with(layout::TEMPORARY)).collect()
    }

    pub(super) fn contents(&self, file: &str) -> Vec<u8> {
        self.state().files[file].now().unwrap().clone()
    }

    pub(super) fn set_contents(&self, file: &str, bytes: Vec<u8>) {
        self.state().files.entry(file.into()).or_default().replace(Some(bytes));
    }

    /// What a power failure may have left, chosen by `seed`.
    pub(super) fn after_power_failure(&self, seed: u64) -> Self {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut below = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % (limit as u64 + 1)).unwrap()
        };
        let mut files = BTreeMap::new();
        for (file, history) in &self.state().files {
            let chosen = below(history.0.len() - 1);
            let FileState { mut bytes, certain } = history.0[chosen].clone();
            if chosen > 0
                && let Some(bytes) = &mut bytes
                && below(2) == 0
            {
                bytes.truncate(certain + below(bytes.len() - certain));
            }
            files.insert(file.clone(), History(vec![FileState { bytes, certain: 0 }]));
        }
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Counts a call; says whether it fails.
    fn begin(&self) -> (MutexGuard<'_, State>, bool) {
        let mut state = self.state();
        state.used.calls += 1;
        let fails = state.failing.contains(&state.used.calls);
        (state, fails)
    }

    fn begin_or_fail(&self) -> io::Result<MutexGuard<'_, State>> {
        let (state, fails) = self.begin();
        if fails { Err(full()) } else { Ok(state) }
    }
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl Disk for MemoryDisk {
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.begin_or_fail()?;
        let bytes = state.files.get(file).and_then(History::now).cloned();
        state.used.bytes += bytes.as_ref().map_or(0, Vec::len);
        Ok(bytes)
    }

    fn read_at(&self, file: &str, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut state = self.begin_or_fail()?;
        let bytes = state.files.get(file).and_then(History::now).into_iter().flatten();
        let bytes: Vec<_> = bytes.skip(usize::try_from(offset).unwrap()).take(most).copied().collect();
        state.used.bytes += bytes.len();
        Ok(bytes)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        let state = self.begin_or_fail()?;
        Ok(state.files.get(file).and_then(History::now).map_or(0, |bytes| bytes.len() as u64))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut state = self.begin_or_fail()?;
        let inside = format!("{directory}/");
        let below = state.files.range(inside.clone()..).take_while(|(file, _)| file.starts_with(&inside));
        let there = below.filter(|(_, history)| history.now().is_some());
        let names: BTreeSet<_> =
            there.map(|(file, _)| file[inside.len()..].split('/').next().unwrap().to_owned()).collect();
        state.used.names += names.len();
        Ok(names.into_iter().collect())
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let (mut state, fails) = self.begin();
        let replaced = state.files.get(file).and_then(History::now).map_or(0, Vec::len);
        let fits = if fails { bytes.len() / 2 } else { state.fits(bytes.len(), replaced) };
        state.files.entry(file.into()).or_default().replace(Some(bytes[..fits].to_vec()));
        if fits < bytes.len() || fails { Err(full()) } else { Ok(()) }
    }

    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut state, fails) = self.begin();
        let start = usize::try_from(offset).unwrap();
        let there = state.files.get(file).and_then(History::now).map_or(0, Vec::len);
        let replaced = there.saturating_sub(start).min(bytes.len());
        let fits = if fails { bytes.len() / 2 } else { state.fits(bytes.len(), replaced) };
        let written = &bytes[..fits];
        state.files.entry(file.into()).or_default().change(|contents| {
            contents.resize(contents.len().max(start + written.len()), 0);
            contents[start..start + written.len()].copy_from_slice(written);
        });
        if fails || fits < bytes.len() { Err(full()) } else { Ok(()) }
    }

    fn cut(&self, file: &str, length: u64) -> io::Result<()> {
        let mut state = self.begin_or_fail()?;
        state.files.get_mut(file).unwrap().change(|contents| contents.truncate(usize::try_from(length).unwrap()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin_or_fail()?;
        let from = state.files.get_mut(from).ok_or(io::ErrorKind::NotFound)?;
        let bytes = from.now().cloned().ok_or(io::ErrorKind::NotFound)?;
        from.replace(None);
        state.files.entry(to.into()).or_default().replace(Some(bytes));
        Ok(())
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        let mut state = self.begin_or_fail()?;
        if let Some(history) = state.files.get_mut(file) {
            history.replace(None);
        }
        Ok(())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let mut state = self.begin_or_fail()?;
        state.files.get_mut(file).unwrap().sync();
        Ok(())
    }

    fn sync_all(&self, files: &BTreeSet<String>) -> io::Result<()> {
        let mut state = self.begin_or_fail()?;
        for file in files {
            if let Some(history) = state.files.get_mut(file) {
                history.sync();
            }
        }
        Ok(())
    }

    fn lock(&self, _access: Access, _patience: Duration) -> io::Result<Option<Lock>> {
        drop(self.begin_or_fail()?);
        Ok(Some(Lock::unshared()))
    }
}
