//! How changes reach the disk: all of them or none, whatever stops the process or the machine, and when.
//!
//! Everything that changes is written into the journal first, as one frame with a checksum, and the journal is
//! synchronised: that is the commit. Only then are the files changed themselves, without waiting for the disk. A frame
//! holds whole contents of files, so doing it again does no harm, and doing all frames of the journal again makes up for
//! whatever a crash kept from the files. A checkpoint waits until the files are on the disk and empties the journal.
//!
//! Why nothing is lost or half done, given that whoever changes files holds the directory's lock alone:
//!
//! - *The process is killed.* What it wrote is in the system's memory, in the order it wrote. Killed before the frame was
//!   whole, nothing was changed, and the beginning of a frame is cut off by whoever comes next. Killed afterwards, the
//!   journal is longer than the part its header says is done, so whoever comes next does the rest before anything else.
//! - *The power fails.* Files that were changed since the last checkpoint may hold anything. The frames since then were
//!   synchronised before anyone heard of them, and opening does all of them again, whatever the header says.
//! - *The disk is full or fails.* New contents are written under temporary names before the commit, so nearly all there
//!   is to fail fails before it; the journal is cut back, and nothing was changed. What fails afterwards is unfinished as
//!   if the process had been killed. What ends sessions then takes the room of a file that is kept for it, the reserve.
//! - *The directory cannot be written.* What the journal holds is compared with the files, and only what differs is done
//!   again. Where nothing differs, it can be read.
//!
//! Sessions are read without a lock, so what they see must be right at every moment: endings come first, then removals,
//! then everything else. Who reads while a sign-in evicts sees one session too few, never one too many.

use std::{
    collections::BTreeSet,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use super::{
    audit,
    disk::{Access, Disk, Lock},
    fault::Fault,
    format, layout,
    view::{Changes, View},
};

/// How long to wait, and how long files grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A call waits so long for the directory's lock.
    pub(super) patience: Duration,
    /// A journal of so many bytes is emptied.
    pub(super) journal: u64,
    /// A file of the audit log of so many bytes is not appended to.
    pub(super) audit_file: u64,
    /// So many bytes are kept for a full disk.
    pub(super) reserve: usize,
}

impl Limits {
    /// Doing such a journal again takes well under a second; of such audit files even a large log has few.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, journal: 4 << 20, audit_file: 8 << 20, reserve: 1 << 20 }
    }
}

/// All work on a directory goes through this.
pub(super) struct Journal<D: ?Sized = dyn Disk> {
    limits: Limits,
    /// The file of the audit log that was appended to last; another process may have gone on with a later one.
    audit_file: AtomicU64,
    disk: D,
}

impl<D: Disk> Journal<D> {
    pub(super) fn new(disk: D, limits: Limits) -> Self {
        Self { limits, audit_file: AtomicU64::new(0), disk }
    }
}

impl Journal {
    pub(super) fn disk(&self) -> &dyn Disk {
        &self.disk
    }

    /// Makes the directory whole, when it is opened: a power failure may have undone what is said to be done.
    pub(super) fn recover(&self) -> Result<(), Fault> {
        let _lock = self.lock(Access::Exclusive)?;
        let length = self.length()?;
        self.finish(HEADER, length)?;
        for number in self.disk.list(layout::TEMPORARY).map_err(Fault::io(layout::TEMPORARY))? {
            // The next commit writes over what is left.
            let _ = self.disk.remove(&format!("{}/{number}", layout::TEMPORARY));
        }
        self.fill_reserve();
        Ok(())
    }

    /// Puts back the room for endings, as far as there is any.
    fn fill_reserve(&self) {
        if let Err(error) = self.have_reserve() {
            tracing::warn!(%error, "no room could be kept for ending sessions when the disk is full");
        }
    }

    fn have_reserve(&self) -> io::Result<()> {
        let reserve = self.limits.reserve;
        if reserve == 0 || self.disk.length(layout::RESERVE)? >= reserve as u64 {
            return Ok(());
        }
        let written = self.disk.write(layout::RESERVE, &vec![b'.'; reserve]);
        if written.is_err() {
            // A part of it would only take room from others.
            let _ = self.disk.remove(layout::RESERVE);
        }
        written
    }

    /// Gives the reserve to what must be written. Says whether there was any.
    fn use_reserve(&self) -> bool {
        let there = self.disk.length(layout::RESERVE).is_ok_and(|length| length > 0);
        there && self.disk.remove(layout::RESERVE).is_ok()
    }

    /// Gives back the room that the journal takes.
    pub(super) fn make_room(&self) {
        // What was written is on the disk; that it takes more room than it needs does no harm.
        let _ = self.checkpoint();
    }

    /// Does what ends sessions on a disk that is full, with the room that was kept for it.
    pub(super) fn with_reserve<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        self.use_reserve();
        let done = work();
        self.make_room();
        if let Ok(_lock) = self.lock(Access::Exclusive) {
            self.fill_reserve();
        }
        done
    }

    /// Whether something could be written now, and the reserve is whole.
    pub(super) fn try_writing(&self) -> Result<(), Fault> {
        /// More than is left over on a disk that is full.
        const TRIED: usize = 16 << 10;
        let _lock = self.lock(Access::Exclusive)?;
        self.length()?;
        let file = layout::temporary(0);
        let written = self.disk.write(&file, &[b'.'; TRIED]).map_err(Fault::io(layout::TEMPORARY));
        let removed = self.disk.remove(&file).map_err(Fault::io(layout::TEMPORARY));
        written.and(removed)?;
        self.have_reserve().map_err(Fault::io(layout::RESERVE))
    }

    /// Reads what must fit together. Waits for changes that are being made.
    pub(super) fn read<T>(&self, work: impl FnOnce(&View<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        loop {
            let lock = self.lock(Access::Shared)?;
            if self.done()? == self.length()? {
                return work(&View::new(&self.disk, &Changes::default()));
            }
            drop(lock);
            self.write(|_| Ok(()))?;
        }
    }

    /// Lets `work` collect changes while nobody else changes anything, and commits them. On an error nothing was
    /// changed, but for [`Fault::Unfinished`].
    pub(super) fn write<T>(&self, work: impl FnOnce(&mut Changes) -> Result<T, Fault>) -> Result<T, Fault> {
        let _lock = self.lock(Access::Exclusive)?;
        let (done, length) = (self.done()?, self.length()?);
        let length = if done == length { length } else { self.finish(done, length)? };
        let mut changes = Changes::default();
        let answer = work(&mut changes)?;
        if !changes.is_empty() {
            self.commit(changes, length)?;
        }
        Ok(answer)
    }

    /// Empties a journal that has grown long.
    pub(super) fn checkpoint_if_long(&self) -> Result<(), Fault> {
        if self.length()? < self.limits.journal {
            return Ok(());
        }
        self.checkpoint()
    }

    fn checkpoint(&self) -> Result<(), Fault> {
        let _lock = self.lock(Access::Exclusive)?;
        let (done, length) = (self.done()?, self.length()?);
        let length = if done == length { length } else { self.finish(done, length)? };
        let (frames, _) = self.frames(HEADER, length)?;
        let files: BTreeSet<_> = frames.into_iter().flat_map(Frame::into_files).collect();
        self.disk.sync_all(&files).map_err(Fault::io("."))?;
        self.note_done(HEADER)?;
        self.disk.cut(layout::JOURNAL, HEADER).map_err(Fault::io(layout::JOURNAL))?;
        self.disk.sync(layout::JOURNAL).map_err(Fault::io(layout::JOURNAL))
    }

    fn lock(&self, access: Access) -> Result<Lock, Fault> {
        let lock = self.disk.lock(access, self.limits.patience).map_err(Fault::io(layout::LOCK))?;
        lock.ok_or(Fault::Locked { waited: self.limits.patience })
    }

    /// The length of the journal, with its header.
    fn length(&self) -> Result<u64, Fault> {
        let length = self.disk.length(layout::JOURNAL).map_err(Fault::io(layout::JOURNAL))?;
        if length < HEADER { Err(Fault::damaged(layout::JOURNAL, "it is cut off or gone")) } else { Ok(length) }
    }

    /// Up to where the journal is done.
    fn done(&self) -> Result<u64, Fault> {
        let header = self.disk.read_at(layout::JOURNAL, 0, HEADER_LEN).map_err(Fault::io(layout::JOURNAL))?;
        let done = header.strip_prefix(JOURNAL_MAGIC).and_then(|done| Some(u64::from_le_bytes(done.try_into().ok()?)));
        done.ok_or_else(|| Fault::damaged(layout::JOURNAL, "it does not begin as a journal does"))
    }

    fn note_done(&self, done: u64) -> Result<(), Fault> {
        self.disk.write_at(layout::JOURNAL, DONE_AT, &done.to_le_bytes()).map_err(Fault::io(layout::JOURNAL))
    }

    /// Does what the journal holds from `done` on, and answers with its length without the beginning of a frame that was
    /// never finished.
    fn finish(&self, done: u64, length: u64) -> Result<u64, Fault> {
        // A checkpoint that was interrupted may have noted less than there is, never more.
        let (frames, whole) = self.frames(done.clamp(HEADER, length), length)?;
        if whole < length {
            self.disk.cut(layout::JOURNAL, whole).map_err(Fault::io(layout::JOURNAL))?;
        }
        let mut all = Frame::default();
        for frame in frames {
            all.changes.files.extend(frame.changes.files);
            all.appends.extend(frame.appends);
        }
        self.leave_out_what_is_done(&mut all)?;
        let apply = || self.stage(&all).and_then(|staged| self.apply(&all, &staged));
        match apply() {
            Err(fault) if fault.is_full() && self.use_reserve() => apply()?,
            applied => applied?,
        }
        if self.done()? != whole {
            self.note_done(whole)?;
        }
        Ok(whole)
    }

    fn leave_out_what_is_done(&self, frame: &mut Frame) -> Result<(), Fault> {
        let mut fault = None;
        frame.changes.files.retain(|file, bytes| match self.disk.read(file) {
            Ok(there) => there != *bytes,
            Err(error) => {
                fault.get_or_insert(Fault::io(file)(error));
                true
            }
        });
        frame.appends.retain(|Append { file, offset, bytes }| match self.disk.read_at(file, *offset, bytes.len()) {
            Ok(there) => there != *bytes,
            Err(error) => {
                fault.get_or_insert(Fault::io(file)(error));
                true
            }
        });
        fault.map_or(Ok(()), Err)
    }

    fn commit(&self, changes: Changes, length: u64) -> Result<(), Fault> {
        let started = Instant::now();
        let unfinished = |_| Fault::Unfinished { after: started.elapsed() };
        let frame = self.frame(changes)?;
        let staged = self.stage(&frame)?;
        let bytes = frame.encode();
        let written =
            self.disk.write_at(layout::JOURNAL, length, &bytes).and_then(|()| self.disk.sync(layout::JOURNAL));
        if let Err(error) = written {
            self.disk.cut(layout::JOURNAL, length).map_err(unfinished)?;
            self.unstage(&staged);
            return Err(Fault::io(layout::JOURNAL)(error));
        }
        self.apply(&frame, &staged).map_err(|_| Fault::Unfinished { after: started.elapsed() })?;
        // Failing, it makes somebody do the frame again, which does no harm.
        let _ = self.note_done(length + bytes.len() as u64);
        Ok(())
    }

    fn frame(&self, mut changes: Changes) -> Result<Frame, Fault> {
        let lines = std::mem::take(&mut changes.audit);
        let mut appends = Vec::new();
        if !lines.is_empty() {
            let nothing = Changes::default();
            let directory = View::new(&self.disk, &nothing);
            let last = self.audit_file.load(Ordering::Relaxed);
            let audit::End { file, offset } = audit::end(&directory, last, self.limits.audit_file)?;
            self.audit_file.store(file, Ordering::Relaxed);
            appends.push(Append { file: layout::audit(file), offset, bytes: lines });
        }
        Ok(Frame { changes, appends })
    }

    /// Writes new contents under temporary names. Their order is that of the files in the frame that are not empty.
    fn stage(&self, frame: &Frame) -> Result<Vec<String>, Fault> {
        let mut staged = Vec::new();
        for bytes in frame.changes.files.values().flatten().filter(|bytes| !bytes.is_empty()) {
            let file = layout::temporary(staged.len());
            let written = self.disk.write(&file, bytes);
            staged.push(file);
            if let Err(error) = written {
                self.unstage(&staged);
                return Err(Fault::io(layout::TEMPORARY)(error));
            }
        }
        Ok(staged)
    }

    fn unstage(&self, staged: &[String]) {
        for file in staged {
            // The next commit writes over what is left.
            let _ = self.disk.remove(file);
        }
    }

    fn apply(&self, frame: &Frame, staged: &[String]) -> Result<(), Fault> {
        let mut staged = staged.iter();
        let (mut endings, mut removals, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (file, bytes) in &frame.changes.files {
            match bytes {
                None => removals.push(file),
                Some(bytes) => {
                    let source = if bytes.is_empty() { None } else { staged.next() };
                    let writes = if format::tells_of_an_ending(bytes) { &mut endings } else { &mut others };
                    writes.push((file, source));
                }
            }
        }
        let put = |(file, source): (&String, Option<&String>)| match source {
            Some(source) => self.disk.rename(source, file),
            None => self.disk.write(file, &[]),
        };
        let put = |write: (&String, Option<&String>)| put(write).map_err(Fault::io(write.0));
        endings.into_iter().try_for_each(put)?;
        removals.into_iter().try_for_each(|file| self.disk.remove(file).map_err(Fault::io(file)))?;
        others.into_iter().try_for_each(put)?;
        for Append { file, offset, bytes } in &frame.appends {
            self.disk.write_at(file, *offset, bytes).map_err(Fault::io(file))?;
        }
        Ok(())
    }

    /// The frames between two places, and where the last whole one ends.
    fn frames(&self, start: u64, end: u64) -> Result<(Vec<Frame>, u64), Fault> {
        let most = usize::try_from(end - start).unwrap_or(usize::MAX);
        let bytes = self.disk.read_at(layout::JOURNAL, start, most).map_err(Fault::io(layout::JOURNAL))?;
        let mut rest = bytes.as_slice();
        let mut frames = Vec::new();
        while !rest.is_empty() {
            match Frame::decode(rest) {
                Some((frame, after)) => {
                    frames.push(frame);
                    rest = after;
                }
                None if Frame::is_behind(rest) => {
                    let problem = format!("the entry at byte {} is broken, and others follow", end - rest.len() as u64);
                    return Err(Fault::damaged(layout::JOURNAL, problem));
                }
                // The process or the machine stopped while this was written, and nobody was told that it was done.
                None => break,
            }
        }
        Ok((frames, end - rest.len() as u64))
    }
}

/// An empty journal.
pub(super) fn empty_journal() -> Vec<u8> {
    [JOURNAL_MAGIC.as_slice(), &HEADER.to_le_bytes()].concat()
}

const JOURNAL_MAGIC: &[u8; 8] = b"cloakrm1";
const DONE_AT: u64 = 8;
const HEADER: u64 = 16;
const HEADER_LEN: usize = 16;

/// What is committed at once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    /// Their audit entries are in `appends`.
    changes: Changes,
    appends: Vec<Append>,
}

/// Bytes at a place in a file, so that writing them again does not append them twice.
#[derive(Debug, PartialEq, Eq)]
struct Append {
    file: String,
    offset: u64,
    bytes: Vec<u8>,
}

impl Frame {
    /// What a frame begins with. Contents are UTF-8, in which the first of these bytes never occurs.
    const MAGIC: [u8; 4] = [0xff, b'c', b'r', 0xfe];
    const CHECKSUM: usize = 32;
    const HEAD: usize = Self::MAGIC.len() + 8 + Self::CHECKSUM;

    fn into_files(self) -> impl Iterator<Item = String> {
        self.changes.files.into_keys().chain(self.appends.into_iter().map(|append| append.file))
    }

    /// Magic, length of the payload, its checksum, and the payload: for each file or part of one a letter, the name and
    /// its length, and the contents and theirs.
    fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        for (file, bytes) in &self.changes.files {
            let (kind, bytes) = bytes.as_ref().map_or((REMOVE, [].as_slice()), |bytes| (WRITE, bytes));
            encode_part(&mut payload, kind, file, 0, bytes);
        }
        for Append { file, offset, bytes } in &self.appends {
            encode_part(&mut payload, APPEND, file, *offset, bytes);
        }
        let length = (payload.len() as u64).to_le_bytes();
        [&Self::MAGIC, length.as_slice(), &Sha256::digest(&payload), &payload].concat()
    }

    /// The frame that `bytes` begin with, and what follows; `None` if there is no whole one.
    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(Self::HEAD)?;
        let (length, checksum) = head.strip_prefix(&Self::MAGIC)?.split_at_checked(8)?;
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (mut payload, after) = rest.split_at_checked(length)?;
        if Sha256::digest(payload).as_slice() != checksum {
            return None;
        }
        let mut frame = Self::default();
        while !payload.is_empty() {
            let (kind, file, offset, bytes);
            (kind, file, offset, bytes, payload) = decode_part(payload)?;
            match kind {
                WRITE => drop(frame.changes.files.insert(file, Some(bytes))),
                REMOVE => drop(frame.changes.files.insert(file, None)),
                APPEND => frame.appends.push(Append { file, offset, bytes }),
                _ => return None,
            }
        }
        Some((frame, after))
    }

    /// Whether a whole frame begins somewhere behind the first byte.
    fn is_behind(bytes: &[u8]) -> bool {
        let mut starts =
            bytes.windows(Self::MAGIC.len()).enumerate().skip(1).filter(|(_, magic)| **magic == Self::MAGIC);
        starts.any(|(start, _)| Self::decode(&bytes[start..]).is_some())
    }
}

const WRITE: u8 = b'w';
const REMOVE: u8 = b'r';
const APPEND: u8 = b'a';

fn encode_part(payload: &mut Vec<u8>, kind: u8, file: &str, offset: u64, bytes: &[u8]) {
    payload.push(kind);
    for number in [file.len() as u64, offset, bytes.len() as u64] {
        payload.extend(number.to_le_bytes());
    }
    payload.extend_from_slice(file.as_bytes());
    payload.extend_from_slice(bytes);
}

type Part<'a> = (u8, String, u64, Vec<u8>, &'a [u8]);

fn decode_part(payload: &[u8]) -> Option<Part<'_>> {
    let (kind, rest) = payload.split_first()?;
    let (numbers, rest) = rest.split_at_checked(24)?;
    let mut numbers = numbers.chunks_exact(8).map(|number| u64::from_le_bytes(number.try_into().expect("8 bytes")));
    let (file, offset, bytes) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let (file, rest) = rest.split_at_checked(usize::try_from(file).ok()?)?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(bytes).ok()?)?;
    Some((*kind, str::from_utf8(file).ok()?.to_owned(), offset, bytes.to_vec(), rest))
}
