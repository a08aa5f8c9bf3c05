//! Which file holds what. Names are made of ids, digests, numbers and words of ours alone, so no name can lead out of the
//! directory.
//!
//! | path | holds |
//! |---|---|
//! | `format.json` | the version of this layout and the partition key |
//! | `lock`, `turn` | nothing: they are locked |
//! | `journal` | what was done since the last checkpoint |
//! | `reserve` | nothing of use: room to end sessions when the disk is full |
//! | `tmp/N` | a file that is about to get its name |
//! | `sessions/HH/ID.json` | a session's slot: a line about it, then, unless it ended, its data |
//! | `users/HH/DIGEST/user.json` | a user's slot |
//! | `users/HH/DIGEST/START.ID` | nothing: the user has this session |
//! | `tries/HH/KEY/START.ID` | nothing: this session was started with this idempotency key |
//! | `tries/HH/KEY/latest.json` | the id of the session that came last of those |
//! | `due/KIND/T/T/TIME.NAME` | nothing: when to look at a session, what is left of one, or a user again |
//! | `audit/POSITION.log` | audit entries, one a line; the file's name is where in the log it begins |
//! | `audit/first.json` | where the entries that are not forgotten begin |
//! | `damaged/PATH` | what was under that path, damaged, until it was set aside |
//!
//! `HH` is the first byte of id or digest in hexadecimal.

use std::{
    fmt::{Display, Write},
    str::FromStr,
};

use crate::{
    clock::Timestamp,
    token::{Digest, Partition, SessionId},
};

pub(super) const FORMAT: &str = "format.json";
pub(super) const LOCK: &str = "lock";
pub(super) const TURN: &str = "turn";
pub(super) const JOURNAL: &str = "journal";
pub(super) const RESERVE: &str = "reserve";
pub(super) const AUDIT: &str = "audit";
pub(super) const AUDIT_FIRST: &str = "audit/first.json";
pub(super) const TEMPORARY: &str = "tmp";
pub(super) const DAMAGED: &str = "damaged";
/// The file of a user's slot, in the directory of the user's sessions.
pub(super) const USER: &str = "user.json";

pub(super) fn temporary(number: usize) -> String {
    format!("{TEMPORARY}/{number}")
}

pub(super) fn session(id: SessionId) -> String {
    format!("sessions/{:02x}/{id}.json", id.as_bytes()[0])
}

/// The directory of the sessions whose ids begin with `byte`.
pub(super) fn sessions(byte: u8) -> String {
    format!("sessions/{byte:02x}")
}

/// The id in the name of a session's file.
pub(super) fn session_named(name: &str) -> Option<SessionId> {
    name.strip_suffix(".json")?.parse().ok()
}

pub(super) fn is_try(marker: &str) -> bool {
    marker.starts_with("tries/")
}

/// The file that tells the latest of them.
pub(super) fn latest_try(tries: &str) -> String {
    format!("{tries}/latest.json")
}

/// Where a damaged file goes.
pub(super) fn set_aside(file: &str) -> String {
    format!("{DAMAGED}/{}", file.replace('/', "-"))
}

/// The directory of the users whose digests begin with `byte`.
pub(super) fn users(byte: u8) -> String {
    format!("users/{byte:02x}")
}

/// The directory of a user's slot and sessions.
pub(super) fn user(digest: &UserDigest) -> String {
    format!("users/{}/{digest}", &digest.0[..2])
}

pub(super) fn user_slot(digest: &UserDigest) -> String {
    format!("{}/{USER}", user(digest))
}

pub(super) fn session_of_user(digest: &UserDigest, created_at: Timestamp, id: SessionId) -> String {
    format!("{}/{}", user(digest), Dated { at: created_at, name: id })
}

/// The directory of the keys of sign-ins in partitions that begin with `byte`.
pub(super) fn tries(byte: u8) -> String {
    format!("tries/{byte:02x}")
}

/// The directory of the sessions that were started with an idempotency key.
pub(super) fn tries_with(partition: Partition, key: &Digest) -> String {
    let [first, second] = partition.to_bytes();
    format!("{}/{second:02x}-{}", tries(first), hex(key.as_bytes()))
}

pub(super) fn a_try(key: &Digest, created_at: Timestamp, id: SessionId) -> String {
    format!("{}/{}", tries_with(id.partition(), key), Dated { at: created_at, name: id })
}

pub(super) fn audit(position: u64) -> String {
    format!("{AUDIT}/{position:016x}.log")
}

/// The position in the name of an audit file.
pub(super) fn audit_named(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()
}

/// The keyed digest of a user's name, which may be anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UserDigest(String);

impl UserDigest {
    pub(super) fn new(digest: &Digest) -> Self {
        Self(hex(digest.as_bytes()))
    }
}

impl UserDigest {
    pub(super) fn first_byte(&self) -> u8 {
        u8::from_str_radix(&self.0[..2], 16).expect("it is hexadecimal")
    }
}

impl Display for UserDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserDigest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hexadecimal = text.len() == 2 * Digest::LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hexadecimal { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// What is looked at again when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A session that may have expired.
    Session,
    /// What is left of a session that ended, to forget.
    Ended,
    /// A user about whom something is to be forgotten or finished.
    User,
}

impl Due {
    /// Times are kept in directories of about a minute, and those in directories of about a day, so that finding the
    /// earliest ones reads few names however many there are.
    const SHIFTS: [u32; 2] = [26, 16];

    pub(super) fn root(self) -> &'static str {
        match self {
            Self::Session => "due/sessions",
            Self::Ended => "due/ended",
            Self::User => "due/users",
        }
    }

    pub(super) fn marker(self, at: Timestamp, name: impl Display) -> String {
        let [day, minute] = Self::SHIFTS.map(|shift| Self::span_of(at, shift));
        format!("{}/{day:x}/{minute:x}/{}", self.root(), Dated { at, name })
    }

    /// Those of a directory's subdirectories, earliest first, that hold times from `from` to `now`. `depth` is 0 for days,
    /// 1 for minutes.
    pub(super) fn passed(depth: usize, names: Vec<String>, from: Timestamp, now: Timestamp) -> Vec<String> {
        let span = |at| Self::span_of(at, Self::SHIFTS[depth]);
        let passed = span(from)..=span(now);
        let spans = names.into_iter().filter_map(|name| Some((u64::from_str_radix(&name, 16).ok()?, name)));
        let mut passed: Vec<_> = spans.filter(|(span, _)| passed.contains(span)).collect();
        passed.sort_unstable();
        passed.into_iter().map(|(_, name)| name).collect()
    }

    fn span_of(at: Timestamp, shift: u32) -> u64 {
        u64::try_from(at.as_millis()).unwrap_or(0) >> shift
    }
}

/// A name with a time, as file names have it: `TIME.NAME`, the time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Dated<N> {
    pub(super) at: Timestamp,
    pub(super) name: N,
}

impl<N: Display> Display for Dated<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at.as_millis(), self.name)
    }
}

impl<N: FromStr> FromStr for Dated<N> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (millis, name) = text.split_once('.').ok_or(())?;
        let millis = millis.parse().map_err(|_| ())?;
        Ok(Self { at: Timestamp::from_millis(millis), name: name.parse().map_err(|_| ())? })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
        text
    })
}

/// What [`hex`] wrote.
pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = Some(text.as_bytes()).filter(|digits| digits.len() == 2 * N)?;
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
