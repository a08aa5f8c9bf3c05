//! `cloakroom key`.

use clap::Args;

use super::Failure;
use crate::{
    client::CallError,
    escape,
    keys::{self, ApiKey, Scope},
    output,
};

#[derive(Debug, Args)]
pub(super) struct Key {
    /// Whose key it is, for the log and the audit log
    #[arg(long)]
    name: String,
    /// What it may do
    #[arg(long)]
    scope: Scope,
}

impl Key {
    pub(super) fn run(self) -> Result<(), Failure> {
        let text = keys::generate().map_err(CallError::Key)?;
        let key = ApiKey::new(self.name.as_str(), self.scope, &text).map_err(CallError::Key)?;
        // Strings of JSON are strings of TOML.
        let name = escape::shown_json(&serde_json::to_string(&self.name)?).into_owned();
        for line in [
            &format!("API key, shown this once: {text}"),
            "",
            "For cloakroom.toml, which holds its digest alone:",
            "",
            "[[keys]]",
            &format!("name = {name}"),
            &format!("scope = \"{}\"", self.scope.name()),
            &format!("sha256 = \"{}\"", key.sha256()),
        ] {
            output::line(line)?;
        }
        Ok(())
    }
}
