//! `cloakroom watch`.

use std::time::Duration;

use clap::Args;

use super::{
    Failure, Target,
    audit::{About, Reader},
};
use crate::output;

/// Print audit entries as they are written, until it is stopped
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    about: About,
    /// Begin after this cursor [default: with what comes from now on]
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// How often it asks for what is new.
const INTERVAL: Duration = Duration::from_secs(1);

impl Watch {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let from_now_on = self.after.is_none();
        let mut reader = Reader::new(self.about, self.after);
        if from_now_on {
            while reader.read(&client, Reader::MOST)?.more {}
        }
        while output::is_read() {
            let page = reader.read(&client, Reader::MOST)?;
            page.print(self.target.style())?;
            if !page.more {
                std::thread::sleep(INTERVAL);
            }
        }
        Ok(())
    }
}
