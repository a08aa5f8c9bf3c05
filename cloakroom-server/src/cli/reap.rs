//! `cloakroom reap`.

use clap::Args;
use http::Method;
use serde::Deserialize;

use super::{Failure, Target};
use crate::output::{self, Style};

#[derive(Debug, Args)]
pub(super) struct Reap {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Reaped {
    ended: u64,
}

impl Reap {
    pub(super) fn run(self) -> Result<(), Failure> {
        let answer = self.target.client()?.call(Method::POST, "/v1/reap", None)?;
        match self.target.style() {
            Style::Json => output::json(&answer)?,
            Style::Human => {
                let Reaped { ended } = serde_json::from_str(&answer)?;
                output::line(&format!("{ended} expired and ended"))?;
            }
        }
        Ok(())
    }
}
