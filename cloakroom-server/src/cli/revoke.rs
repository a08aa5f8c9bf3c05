//! `cloakroom revoke`.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};

use super::{Failure, Target, as_seconds, query};
use crate::{
    client::{CallError, Client},
    output::{self, Style},
    percent,
};

#[derive(Debug, Args, Serialize)]
pub(super) struct Revoke {
    /// Sessions to end, by id
    #[arg(value_parser = super::id)]
    #[arg(required_unless_present_any = ["user", "ip", "device", "idle_longer_than", "all"])]
    #[arg(conflicts_with_all = ["user", "ip", "device", "idle_longer_than", "all", "except", "dry_run"])]
    #[serde(skip)]
    ids: Vec<String>,
    /// All of this user
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// All started from this address
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    /// All on this device
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// All that were not used for so long, such as 90m or 7d
    #[arg(long, value_name = "TIME", value_parser = cloakroom::period::parse_period)]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_seconds")]
    idle_longer_than: Option<Duration>,
    /// Every session there is
    #[arg(long, conflicts_with_all = ["user", "ip", "device", "idle_longer_than"])]
    all: bool,
    /// But not this one; may be given several times
    #[arg(long, value_name = "ID", value_parser = super::id)]
    except: Vec<String>,
    /// Why, such as user_disabled [default: revoked_by_admin, or all_revoked]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// A remark for the audit log
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Say what would end, and end nothing
    #[arg(long)]
    dry_run: bool,
    /// With --all on a terminal: do not ask first
    #[arg(long)]
    #[serde(skip)]
    yes: bool,
    #[command(flatten)]
    #[serde(skip)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Revoked {
    matched: usize,
    ended: Vec<String>,
    #[serde(default)]
    would_end: Vec<String>,
}

impl Revoke {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        if self.all && !self.dry_run && !self.yes && !is_confirmed()? {
            return Err(Failure::new(Failure::FAILED, "nothing was ended"));
        }
        if !self.ids.is_empty() {
            return self.end_each(&client);
        }
        let answer = client.call(Method::POST, "/v1/sessions/revoke", Some(serde_json::to_string(&self)?))?;
        match self.target.style() {
            Style::Json => output::json(&answer)?,
            Style::Human => {
                let revoked: Revoked = serde_json::from_str(&answer)?;
                for id in revoked.ended.iter().chain(&revoked.would_end) {
                    output::line(id)?;
                }
                if self.dry_run {
                    output::line(&format!("{} would end", revoked.matched))?;
                } else {
                    output::line(&format!("{} ended", revoked.ended.len()))?;
                }
            }
        }
        Ok(())
    }

    /// Ends each that it can, and then tells of the first that it could not.
    fn end_each(&self, client: &Client) -> Result<(), Failure> {
        let reason = self.reason.as_deref().unwrap_or("revoked_by_admin");
        let query = query(&[("reason", Some(reason)), ("note", self.note.as_deref())]);
        let mut failure = None;
        for id in &self.ids {
            let path = format!("/v1/sessions/{}{query}", percent::encoded(id));
            match client.call(Method::DELETE, &path, None) {
                Ok(answer) => self.tell(id, &answer)?,
                Err(error @ CallError::Refused(_)) => {
                    output::complain(&format!("{id}: {error}"));
                    failure.get_or_insert(Failure::from(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn tell(&self, id: &str, answer: &str) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Ended {
            ended_now: bool,
            reason: String,
        }

        match self.target.style() {
            Style::Json => output::json(answer)?,
            Style::Human => {
                let Ended { ended_now, reason } = serde_json::from_str(answer)?;
                let when = if ended_now { "ended" } else { "had ended before" };
                output::line(&format!("{id}  {when}: {reason}"))?;
            }
        }
        Ok(())
    }
}

/// Asks, where a person is there to answer.
fn is_confirmed() -> Result<bool, Failure> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Ok(true);
    }
    write!(io::stderr(), "This signs everyone out, on every device. Go on? [y/N] ").unwrap_or_default();
    let mut answer = String::new();
    let read = input.read_line(&mut answer);
    read.map_err(|error| Failure::new(Failure::FAILED, format!("the answer cannot be read: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
