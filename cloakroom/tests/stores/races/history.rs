//! What nodes asked and what they were answered, in one file, in the order in which it happened.
//!
//! Each line is appended with one write: a call's before it is made, an answer's after it came. So where an answer stands
//! before a call, the one was over when the other began, whatever any clock says. A call without an answer (its process was
//! killed) may have been carried out or not.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Write as _,
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
};

use cloakroom::{Error, Record, SessionId};
use serde::{Deserialize, Serialize};

/// Names a call; what ends a session is told it as the one who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct CallId {
    node: u32,
    number: u32,
}

impl CallId {
    pub(super) fn node(self) -> u32 {
        self.node
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.number)
    }
}

impl FromStr for CallId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| text.parse().ok();
        text.split_once('.')
            .and_then(|(node, number)| Some(Self { node: parse(node)?, number: parse(number)? }))
            .ok_or_else(|| format!("{text:?} names no call"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Line {
    Call(CallId, Call),
    Answer(CallId, Answer),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Call {
    /// With an idempotency key, where there is one.
    Create {
        id: SessionId,
        user: Option<String>,
        key: Option<u8>,
    },
    Update {
        id: SessionId,
        write: Write,
    },
    Touch {
        id: SessionId,
        at: i64,
    },
    Rotate {
        id: SessionId,
    },
    Load {
        id: SessionId,
    },
    End {
        id: SessionId,
    },
    EndAll {
        user: String,
    },
    Disable {
        user: String,
    },
    Enable {
        user: String,
    },
    Find {
        user: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Write {
    /// Relies on the counter to be this, and makes it one more.
    Increment { from: i64 },
    /// Sets a key of which this is the only writer; each value is larger than the one before.
    Own { key: String, value: i64 },
    /// Relies on two values, and writes both: their sum stays 0.
    Move { from: i64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// And these ended for it.
    Created {
        ended: Vec<SessionId>,
    },
    Refused {
        because_disabled: bool,
    },
    Applied(Seen),
    Conflict(Seen),
    Live(Seen),
    Rotated(Seen),
    Superseded(Seen),
    Touched(bool),
    /// By whom; the number of rotations where the tombstone was shown.
    Ended {
        by: Option<String>,
        rotations: Option<u32>,
    },
    /// By this call.
    EndedNow(Vec<SessionId>),
    EndedBefore,
    Unknown,
    Enabled,
    Found(Vec<SessionId>),
    /// It may have been carried out or not.
    Failed {
        error: String,
        retryable: bool,
    },
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::Failed { retryable: error.is_retryable(), error: error.to_string() }
    }
}

/// A session as it was shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) version: u64,
    pub(super) used_at: i64,
    pub(super) rotations: u32,
    pub(super) data: BTreeMap<String, i64>,
}

impl Seen {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            version: record.info.version,
            used_at: record.info.last_seen_at.as_millis(),
            rotations: record.secrets.rotations,
            data: record.data.iter().map(|(key, value)| (key.to_owned(), value.as_str().parse().unwrap())).collect(),
        }
    }

    pub(super) fn value(&self, key: &str) -> i64 {
        self.data.get(key).copied().unwrap_or_default()
    }
}

/// One node's hand on the file.
pub(super) struct Recorder {
    file: File,
    node: u32,
    next: AtomicU32,
}

impl Recorder {
    pub(super) fn open(path: &Path, node: u32) -> Self {
        let file = File::options().append(true).create(true).open(path).unwrap();
        Self { file, node, next: AtomicU32::new(0) }
    }

    pub(super) fn begin(&self, call: Call) -> CallId {
        let id = CallId { node: self.node, number: self.next.fetch_add(1, Ordering::Relaxed) };
        self.append(&Line::Call(id, call));
        id
    }

    pub(super) fn end(&self, id: CallId, answer: Answer) {
        self.append(&Line::Answer(id, answer));
    }

    fn append(&self, line: &Line) {
        // The break comes first too: behind half a line of a process that was killed.
        let line = format!("\n{}\n", serde_json::to_string(line).unwrap());
        (&self.file).write_all(line.as_bytes()).unwrap();
    }
}

/// All lines. Half a line, of a call that was never made or an answer that nobody had, is none.
pub(super) fn read(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
