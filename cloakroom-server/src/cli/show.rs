//! `cloakroom show`.

use clap::Args;
use http::Method;
use serde::Deserialize;

use super::{Failure, Target};
use crate::{
    client::CallError,
    output::{self, Members, Style},
    percent,
};

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The session's id
    #[arg(value_parser = super::id)]
    id: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Shown {
    session: Members,
}

impl Show {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = format!("/v1/sessions/{}", percent::encoded(&self.id));
        let answered = self.target.client()?.call(Method::GET, &path, None);
        match (answered, self.target.style()) {
            (Ok(answer), Style::Json) => output::json(&answer)?,
            (Ok(answer), Style::Human) => output::details(&serde_json::from_str::<Shown>(&answer)?.session)?,
            (Err(CallError::Refused(refusal)), Style::Json) => {
                output::json(&refusal.document)?;
                return Err(CallError::Refused(refusal).into());
            }
            (Err(error), _) => return Err(error.into()),
        }
        Ok(())
    }
}
