//! The scripts, and calls of them.

use std::sync::LazyLock;

use crate::Timestamp;

/// A script and the digest by which a server that knows it is asked for it.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) code: String,
    pub(super) digest: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let code = parts.concat();
        let digest = redis::Script::new(&code).get_hash().to_owned();
        Self { code, digest }
    }
}

macro_rules! scripts {
    ($($name:ident = $($part:literal)+;)+) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(&[$(include_str!(concat!("lua/", $part, ".lua"))),+]));)+
    };
}

scripts! {
    LOAD = "session" "common" "load";
    UPDATE = "session" "common" "update";
    ROTATE = "session" "common" "rotate";
    LOCK = "session" "common" "lock";
    RENEW = "session" "common" "renew";
    UNLOCK = "session" "common" "unlock";
    CREATE = "group" "common" "ending" "create";
    TOUCH = "group" "common" "touch";
    END_IDS = "group" "common" "ending" "end_ids";
    END_USER = "group" "common" "ending" "end_user";
    ENABLE_USER = "group" "enable_user";
    LOG = "session" "common" "log";
    LIST = "group" "common" "list";
    REAP = "group" "common" "ending" "reap";
    DONE = "group" "done";
    EXAMINE_SESSIONS = "group" "common" "examine_sessions";
    EXAMINE_ENTRIES = "group" "common" "examine_entries";
    PUT = "group" "put";
    PUT_FENCE = "group" "put_fence";
    USER = "users_of_group" "user";
    USERS = "users_of_group" "users";
    PUT_USER = "users_of_group" "put_user";
}

/// What it means that a call was sent and its answer never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it only reads.
    Reads,
    /// It may have happened; once more is as good as once.
    Repeatable,
    /// It may have happened, and once more would be something else.
    Once,
}

/// One command whose keys lie in one slot.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) slot: u16,
    pub(super) what: What,
    pub(super) effect: Effect,
    /// A key in the same slot to write to, if replicas shall have the change before it is answered.
    pub(super) wait_key: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Script { script: &'static Script, keys: Vec<Vec<u8>>, arguments: Arguments },
    Command(redis::Cmd),
}

impl Call {
    pub(super) fn script(slot: u16, script: &'static Script, keys: Vec<Vec<u8>>, arguments: Arguments) -> Self {
        Self { slot, what: What::Script { script, keys, arguments }, effect: Effect::Repeatable, wait_key: None }
    }

    pub(super) fn read(slot: u16, command: redis::Cmd) -> Self {
        Self { slot, what: What::Command(command), effect: Effect::Reads, wait_key: None }
    }

    pub(super) fn with(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    pub(super) fn waiting(self, key: Vec<u8>) -> Self {
        Self { wait_key: Some(key), ..self }
    }

    /// The command to send; `again` if an earlier try may have happened, `in_full` if the server does not know the
    /// script.
    pub(super) fn command(&self, again: bool, in_full: bool) -> redis::Cmd {
        let (script, keys, arguments) = match &self.what {
            What::Command(command) => return command.clone(),
            What::Script { script, keys, arguments } => (script, keys, arguments),
        };
        let mut command = redis::cmd(if in_full { "EVAL" } else { "EVALSHA" });
        command.arg(if in_full { &script.code } else { &script.digest });
        command.arg(keys.len()).arg(keys).arg(if again { "1" } else { "0" }).arg(&arguments.0);
        command
    }
}

/// A script's arguments. The first, whether it was tried before, is added when it is sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    pub(super) fn new(now: Timestamp) -> Self {
        Self::default().number(now.as_millis())
    }

    pub(super) fn text(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push(bytes.as_ref().to_vec());
        self
    }

    pub(super) fn number(self, number: impl ToString + Copy) -> Self {
        self.text(number.to_string())
    }

    pub(super) fn flag(self, flag: bool) -> Self {
        self.text(if flag { "1" } else { "0" })
    }

    /// A text that may be missing.
    pub(super) fn optional(self, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.text([b"=", value.as_ref()].concat()),
            None => self.text(""),
        }
    }

    pub(super) fn extend(mut self, more: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.0.extend(more);
        self
    }
}
