//! `cloakroom completions` and `cloakroom man`: what is made from the command line's own description.

use std::{fs, io, path::PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::{Cli, Failure};
use crate::output;

/// Print what completes commands in a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Print the manual page
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write the pages of all commands into this directory instead
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut <Cli as clap::CommandFactory>::command(), "cloakroom", &mut script);
        Ok(output::bytes(&script)?)
    }
}

impl Man {
    pub(super) fn run(self) -> Result<(), Failure> {
        let command = <Cli as clap::CommandFactory>::command();
        let failed = |error: io::Error| Failure::new(Failure::FAILED, format!("the manual cannot be written: {error}"));
        if let Some(directory) = self.directory {
            fs::create_dir_all(&directory).map_err(failed)?;
            return clap_mangen::generate_to(command, directory).map_err(failed);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(failed)?;
        Ok(output::bytes(&page)?)
    }
}
