//! Calls: commands whose keys lie in one slot of a cluster, and the two scripts.

use std::{fmt, sync::LazyLock};

use redis::Cmd;

/// A script and the digest by which a server that knows it is asked for it.
#[derive(Debug)]
pub(super) struct Script {
    code: String,
    digest: String,
}

/// A server that is full refuses it before it begins.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new("", include_str!("lua/commit.lua")));

/// The same for what frees memory or takes very little.
pub(super) static COMMIT_WHEN_FULL: LazyLock<Script> =
    LazyLock::new(|| Script::new(" flags=allow-oom", include_str!("lua/commit.lua")));

/// What most transactions are, in less time. Where it may have been sent before, [`COMMIT`] takes its place.
pub(super) static UPDATE: LazyLock<Script> = LazyLock::new(|| Script::new("", include_str!("lua/update.lua")));

/// Also runs on a replica, and where nothing may be written.
pub(super) static READ: LazyLock<Script> =
    LazyLock::new(|| Script::new(" flags=no-writes", include_str!("lua/read.lua")));

impl Script {
    fn new(flags: &str, code: &str) -> Self {
        let code = format!("#!lua{flags}\n{}{code}", include_str!("lua/data.lua"));
        let digest = redis::Script::new(&code).get_hash().to_owned();
        Self { code, digest }
    }
}

/// What it means that a call was sent and its answer never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it only reads.
    Reads,
    /// It may have happened. Sent again it recognises its own work, or once more is as good as once.
    Repeatable,
}

/// What is sent together, to the server that owns its slot.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) slot: u16,
    pub(super) what: What<'a>,
    pub(super) effect: Effect,
    /// Whether an earlier call may have done the same.
    pub(super) again: bool,
    /// A key in the same slot to write to, if replicas shall have the change before it is answered.
    pub(super) wait_key: Option<Vec<u8>>,
    /// What of it is to be tracked, where the server tells what changes.
    pub(super) track: Option<Track>,
    /// Whether a server that says "not now" is asked again until the time is up.
    pub(super) patient: bool,
}

/// Keys that the server remembers to have shown, and tells of when they change.
#[derive(Clone, Debug)]
pub(super) enum Track {
    /// That of the first command.
    First,
    /// That of a command that is sent behind the call.
    Behind(Cmd),
}

#[derive(Clone)]
pub(super) enum What<'a> {
    /// A script.
    Script(Run),
    /// A script, and what is run in its place where it may have been sent before: that is rare, so it is made when it is.
    Either { first: Run, again: &'a (dyn Fn() -> Run + Sync) },
    /// One command; its answer is the call's.
    Command(Cmd),
    /// Commands, one behind the other; the call's answer is the list of theirs.
    Commands(Vec<Cmd>),
}

/// A script with its keys, and its arguments but for the first: whether it may have been sent before.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) script: &'static LazyLock<Script>,
    pub(super) keys: Texts,
    pub(super) arguments: Texts,
}

impl fmt::Debug for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(run) | Self::Either { first: run, .. } => run.fmt(f),
            Self::Command(command) => command.fmt(f),
            Self::Commands(commands) => commands.fmt(f),
        }
    }
}

impl<'a> Call<'a> {
    pub(super) fn script(slot: u16, run: Run) -> Self {
        Self::new(slot, What::Script(run)).with(Effect::Repeatable)
    }

    pub(super) fn either(slot: u16, first: Run, again: &'a (dyn Fn() -> Run + Sync)) -> Self {
        Self::new(slot, What::Either { first, again }).with(Effect::Repeatable)
    }

    pub(super) fn read(slot: u16, command: Cmd) -> Self {
        Self::new(slot, What::Command(command))
    }

    pub(super) fn read_all(slot: u16, commands: Vec<Cmd>) -> Self {
        Self::new(slot, What::Commands(commands))
    }

    fn new(slot: u16, what: What<'a>) -> Self {
        Self { slot, what, effect: Effect::Reads, again: false, wait_key: None, track: None, patient: true }
    }

    pub(super) fn with(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    pub(super) fn again(self, again: bool) -> Self {
        Self { again, ..self }
    }

    pub(super) fn waiting(self, key: Option<Vec<u8>>) -> Self {
        Self { wait_key: key, ..self }
    }

    /// What the server says now is the answer.
    pub(super) fn at_once(self) -> Self {
        Self { patient: false, ..self }
    }

    pub(super) fn tracking(self, track: Track) -> Self {
        Self { track: Some(track), ..self }
    }

    /// The commands to send; `again` if an earlier try may have happened, `in_full` if the server does not know the
    /// script.
    pub(super) fn commands(&self, again: bool, in_full: bool) -> Vec<Cmd> {
        let made;
        let Run { script, keys, arguments } = match &self.what {
            What::Command(command) => return vec![command.clone()],
            What::Commands(commands) => return commands.clone(),
            What::Script(run) | What::Either { first: run, .. } if !again => run,
            What::Script(run) => run,
            What::Either { again, .. } => {
                made = again();
                &made
            }
        };
        let code = if in_full { &script.code } else { &script.digest };
        let count = keys.ends.len() + arguments.ends.len() + 4;
        let bytes = keys.bytes.len() + arguments.bytes.len() + code.len() + 16;
        let mut command = Cmd::with_capacity(count, bytes);
        command.arg(if in_full { "EVAL" } else { "EVALSHA" }).arg(code).arg(keys.ends.len());
        for key in keys.iter() {
            command.arg(key);
        }
        command.arg(if again { "1" } else { "0" });
        for argument in arguments.iter() {
            command.arg(argument);
        }
        vec![command]
    }
}

/// Texts, one behind the other in one piece of memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    pub(super) fn push(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.push_parts(&[text.as_ref()])
    }

    /// One text, of parts.
    pub(super) fn push_parts(&mut self, parts: &[&[u8]]) -> &mut Self {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len());
        self
    }

    pub(super) fn number(&mut self, number: impl fmt::Display) -> &mut Self {
        use std::io::Write;
        write!(self.bytes, "{number}").expect("memory takes everything");
        self.ends.push(self.bytes.len());
        self
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.push(if flag { "1" } else { "0" })
    }

    pub(super) fn append(&mut self, other: &Self) -> &mut Self {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| before + end));
        self
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        self.ends.iter().map(move |end| &self.bytes[std::mem::replace(&mut begin, *end)..*end])
    }
}
