//! `cloakroom clear-sessions`.

use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};

use super::{Failure, Target};
use crate::{
    output::{self, Style},
    percent,
};

#[derive(Debug, Args, Serialize)]
pub(super) struct ClearSessions {
    /// Whose
    #[serde(skip)]
    user: String,
    /// This one stays, and is one of those that may
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    keep: Option<String>,
    /// All go, however many the user may have
    #[arg(long)]
    force: bool,
    /// Who clears them, if not the user: then all go
    #[arg(long, value_name = "USER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Say what would end, and end nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    #[serde(skip)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Cleared {
    ended: Vec<String>,
    #[serde(default)]
    would_end: Vec<String>,
}

impl ClearSessions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = format!("/v1/users/{}/clear-sessions", percent::encoded(&self.user));
        let answer = self.target.client()?.call(Method::POST, &path, Some(serde_json::to_string(&self)?))?;
        match self.target.style() {
            Style::Json => output::json(&answer)?,
            Style::Human => {
                let Cleared { ended, would_end } = serde_json::from_str(&answer)?;
                for id in ended.iter().chain(&would_end) {
                    output::line(id)?;
                }
                if self.dry_run {
                    output::line(&format!("{} would end", would_end.len()))?;
                } else {
                    output::line(&format!("{} ended", ended.len()))?;
                }
            }
        }
        Ok(())
    }
}
