//! The audit log: lines in files that begin where the one before ends, so a place in the log is one number.

use super::{
    fault::Fault,
    format::{self, AuditFirst},
    layout,
    view::View,
};
use crate::{
    audit::AuditEntry,
    clock::Timestamp,
    error::Result,
    store::{AuditQuery, Cursor, Logged, Page},
    token::SessionId,
};

/// Where the next entry goes.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// Where in the log its file begins.
    pub(super) file: u64,
    /// How far behind that the entry begins.
    pub(super) offset: u64,
}

/// Where the log ends, given a file that may be its last one, so that the files need not be listed. A file of `full`
/// bytes is not appended to.
pub(super) fn end(directory: &View<'_>, last_file: u64, full: u64) -> Result<End, Fault> {
    let length = directory.length(&layout::audit(last_file))?;
    if (1..full).contains(&length) {
        return Ok(End { file: last_file, offset: length });
    }
    let Some(last) = files(directory)?.pop() else { return Ok(End { file: 0, offset: 0 }) };
    let length = directory.length(&layout::audit(last))?;
    if length < full { Ok(End { file: last, offset: length }) } else { Ok(End { file: last + length, offset: 0 }) }
}

/// What becomes of a line that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// Those behind it are seen.
    LeftOut,
    Told,
}

/// A page of the log, or [`Cursor::invalid`].
pub(super) fn read(
    directory: &View<'_>,
    query: &AuditQuery,
    after: Option<u64>,
    limit: usize,
    damage: Damage,
) -> Result<Result<Page<Logged>>, Fault> {
    let mut log = Log::open(directory)?;
    log.damage = damage;
    if let Some(after) = after.filter(|after| *after > log.position)
        && !log.go_to(after)?
    {
        return Ok(Err(Cursor::invalid()));
    }
    let stop_at = log.position + LOOK;
    let mut items: Vec<Logged> = Vec::new();
    while items.len() < limit && log.position < stop_at {
        let Some((id, entry)) = log.next()? else { return Ok(Ok(Page { items, next: None })) };
        if query.matches(&entry) {
            items.push(Logged { id, cursor: Cursor::new(log.position.to_string()), entry });
        }
    }
    let next = if log.is_at_end() { None } else { Some(Cursor::new(log.position.to_string())) };
    Ok(Ok(Page { items, next }))
}

/// So many bytes of the log are looked at for a page, so that a query that matches little does not read all of it.
const LOOK: u64 = 4 << 20;

/// Forgets the oldest entries if they were written at or before `before`, at most `most`. Answers with how many it
/// forgot, and whether more of them are left.
pub(super) fn forget(directory: &View<'_>, before: Timestamp, most: usize) -> Result<(usize, bool), Fault> {
    let mut log = Log::open(directory)?;
    let (start, mut first, mut forgotten) = (log.position, log.position, 0);
    let more = loop {
        match log.next()? {
            Some((_, entry)) if entry.at <= before && forgotten == most => break true,
            Some((_, entry)) if entry.at <= before => {
                first = log.position;
                forgotten += 1;
            }
            _ => break false,
        }
    };
    if first > start {
        let files = log.files;
        // The last file stays: its end is the end of the log.
        for pair in files.windows(2).filter(|pair| pair[1] <= first) {
            directory.remove(layout::audit(pair[0]));
        }
        directory.write(layout::AUDIT_FIRST.into(), format::encode(&AuditFirst { position: first }));
    }
    Ok((forgotten, more))
}

/// Whether the log tells of it already. Looks through all of it: it is asked where an answer was lost.
pub(super) fn is_logged(directory: &View<'_>, session: SessionId, id: u64) -> Result<bool, Fault> {
    let beginning = format::beginning_of_entry(session, id);
    if directory.will_log(&beginning) {
        return Ok(true);
    }
    let mut log = Log::open(directory)?;
    while let Some((_, line)) = log.next_line()? {
        if line.starts_with(&beginning) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where the files of the log begin, in order.
fn files(directory: &View<'_>) -> Result<Vec<u64>, Fault> {
    let names = directory.list(layout::AUDIT)?;
    let mut files: Vec<_> = names.iter().filter_map(|name| layout::audit_named(name)).collect();
    files.sort_unstable();
    Ok(files)
}

/// A place in the log, and what was read from there on.
struct Log<'a, 'b> {
    directory: &'a View<'b>,
    files: Vec<u64>,
    position: u64,
    end: u64,
    damage: Damage,
    /// Lines from `position` on, the first one whole.
    buffer: Vec<u8>,
    /// How much of the buffer lies before `position`.
    passed: usize,
}

impl<'a, 'b> Log<'a, 'b> {
    fn open(directory: &'a View<'b>) -> Result<Self, Fault> {
        let first = match directory.read(layout::AUDIT_FIRST)? {
            Some(bytes) => format::decode::<AuditFirst>(layout::AUDIT_FIRST, &bytes)?.position,
            None => 0,
        };
        let files = files(directory)?;
        let end = match files.last() {
            Some(last) => last + directory.length(&layout::audit(*last))?,
            None => 0,
        };
        Ok(Self { directory, files, position: first, end, damage: Damage::LeftOut, buffer: Vec::new(), passed: 0 })
    }

    fn is_at_end(&self) -> bool {
        self.position >= self.end
    }

    /// Goes to where an entry ends; `false` if none ends there.
    fn go_to(&mut self, position: u64) -> Result<bool, Fault> {
        let start = self.files.iter().rev().find(|start| **start < position);
        let Some(start) = start.filter(|_| position <= self.end) else { return Ok(false) };
        let before = self.directory.read_at(&layout::audit(*start), position - start - 1, 1)?;
        self.position = position;
        Ok(before == *b"\n")
    }

    fn next(&mut self) -> Result<Option<(u64, AuditEntry)>, Fault> {
        let leave_out = self.damage == Damage::LeftOut;
        loop {
            let Some((file, line)) = self.next_line()? else { return Ok(None) };
            match format::decode_entry(&file, line) {
                Err(Fault::Damaged { file, problem }) if leave_out => {
                    tracing::error!("an entry of the audit log in {file} is left out: {problem}");
                }
                entry => return entry.map(Some),
            }
        }
    }

    /// The file of the next line, and the line.
    fn next_line(&mut self) -> Result<Option<(String, &[u8])>, Fault> {
        if self.is_at_end() {
            return Ok(None);
        }
        let start = *self.files.iter().rev().find(|start| **start <= self.position).unwrap_or(&0);
        let file = layout::audit(start);
        let mut most = CHUNK;
        let length = loop {
            let read = &self.buffer[self.passed..];
            if let Some(end) = memchr::memchr(b'\n', read) {
                break end + 1;
            }
            let read = self.directory.read_at(&file, self.position - start, most)?;
            if read.len() < most && !read.contains(&b'\n') {
                return Err(Fault::damaged(&file, "its last line is cut off"));
            }
            (self.buffer, self.passed) = (read, 0);
            most *= 2;
        };
        let start = self.passed;
        self.passed += length;
        self.position += length as u64;
        Ok(Some((file, &self.buffer[start..self.passed])))
    }
}

/// So many bytes are read at once, or more if a line is longer.
const CHUNK: usize = 64 << 10;
