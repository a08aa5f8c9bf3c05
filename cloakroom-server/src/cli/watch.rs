//! `cloakroom watch`.

use std::{thread::sleep, time::Duration};

use clap::Args;

use super::{
    Failure, Target,
    audit::{About, Page, Reader},
};
use crate::{client::Client, output};

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
/// How long it waits at most before it tries again to reach a server that went away.
const MOST_WAIT: Duration = Duration::from_secs(30);

impl Watch {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let from_now_on = self.after.is_none();
        let mut reader = Reader::new(self.about, self.after);
        // A server that was never there is a mistake, not an interruption.
        let mut page = reader.read(&client)?;
        while from_now_on && page.more {
            page = reader.read(&client)?;
        }
        if from_now_on {
            page.entries.clear();
        }
        loop {
            page.entries.iter().try_for_each(|entry| entry.print(self.target.style()))?;
            output::flush()?;
            if !page.more {
                sleep(INTERVAL);
            }
            page = read_on(&mut reader, &client)?;
        }
    }
}

/// The next entries, however long the server or the store is away meanwhile. None is missed: it goes on behind the last.
fn read_on(reader: &mut Reader, client: &Client) -> Result<Page, Failure> {
    let mut wait = INTERVAL;
    let mut is_told = false;
    loop {
        match reader.read(client) {
            Err(failure) if failure.code == Failure::UNAVAILABLE => {
                if !is_told {
                    output::complain(&format!("{}; trying again until it is back", failure.message));
                    is_told = true;
                }
                sleep(wait);
                wait = (wait * 2).min(MOST_WAIT);
            }
            read => {
                if is_told && read.is_ok() {
                    output::tell("cloakroom: it is back");
                }
                return read;
            }
        }
    }
}
