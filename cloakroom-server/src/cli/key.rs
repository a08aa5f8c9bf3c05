//! `cloakroom key`.

use clap::Args;

use super::Failure;
use crate::{
    client::CallError,
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
        let name = serde_json::to_string(&self.name)?;
        output::line(&format!("API key, shown this once: {text}\n"));
        output::line("For cloakroom.toml, which holds its digest alone:\n");
        output::line(&format!(
            "[[keys]]\nname = {name}\nscope = \"{}\"\nsha256 = \"{}\"",
            self.scope.name(),
            key.sha256()
        ));
        Ok(())
    }
}
