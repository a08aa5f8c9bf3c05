//! Why a command did not do what it was asked.

use crate::{client::CallError, config::ConfigError, output::Unwritten, private::PrivateFileError};

/// What to say, and the exit code for scripts.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    pub(super) const FAILED: u8 = 1;
    pub(super) const USAGE: u8 = 2;
    pub(super) const UNAVAILABLE: u8 = 3;
    pub(super) const NOT_FOUND: u8 = 4;
    pub(super) const CANNOT_LISTEN: u8 = 5;
    pub(super) const NOT_SOUND: u8 = 6;

    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same, of a command whose change is made already.
    pub(super) fn after(mut self, change: &str) -> Self {
        if !self.message.is_empty() {
            self.message = format!("{}; {change}", self.message);
        }
        self
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Refused(refusal) => match refusal.code.as_str() {
                "session_unknown" | "session_ended" | "user_unknown" => Self::NOT_FOUND,
                "store_unavailable" | "store_failed" | "outcome_unknown" => Self::UNAVAILABLE,
                _ => Self::FAILED,
            },
            CallError::Unreachable { .. } | CallError::Store(_) => Self::UNAVAILABLE,
            CallError::Answer(_) | CallError::Key(_) => Self::FAILED,
            CallError::Tls(_) => Self::USAGE,
        };
        let message = match &error {
            CallError::Refused(refusal) if refusal.code == "unauthorized" => {
                "the server does not know this API key: give another in CLOAKROOM_API_KEY or with --api-key-file, or run where \
                 cloakroom.key lies"
                    .into()
            }
            error => error.to_string(),
        };
        Self { code, message }
    }
}

impl From<cloakroom::Error> for Failure {
    fn from(error: cloakroom::Error) -> Self {
        let code = match &error {
            cloakroom::Error::StoreUrl(_) => Self::USAGE,
            cloakroom::Error::InvalidArgument { .. } | cloakroom::Error::InvalidCursor { .. } => Self::FAILED,
            _ => Self::UNAVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = match &error {
            ConfigError::Sessions(cloakroom::Error::StoreUrl(_) | cloakroom::Error::InvalidArgument { .. }) => {
                Self::USAGE
            }
            ConfigError::Sessions(_) => Self::UNAVAILABLE,
            _ => Self::USAGE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<PrivateFileError> for Failure {
    fn from(error: PrivateFileError) -> Self {
        Self::new(Self::USAGE, error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        CallError::Answer(error.to_string()).into()
    }
}

/// A reader that has seen enough and closed the pipe is no failure.
impl From<Unwritten> for Failure {
    fn from(error: Unwritten) -> Self {
        if error.is_reader_gone() { Self::new(0, "") } else { Self::new(Self::FAILED, error.to_string()) }
    }
}
