//! `cloakroom impersonate` and `cloakroom stop-impersonating`.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{Failure, Target, started};

/// Act as another user for a while: a new session, and its token
///
/// The token of who acts is read from standard input; it is dead afterwards.
#[derive(Debug, Args)]
pub(super) struct Impersonate {
    /// As whom
    user: String,
    /// Why; the audit log keeps it
    #[arg(long)]
    reason: String,
    /// For how long, such as 15m or 1h30m [default: 1h]
    #[arg(long = "for", value_name = "TIME", value_parser = cloakroom::period::parse_period)]
    lasting: Option<Duration>,
    /// To look into the account as an auditor
    #[arg(long)]
    as_auditor: bool,
    #[command(flatten)]
    target: Target,
}

/// Go back to one's own session, with a new token
///
/// The token that acting as another began with is read from standard input.
#[derive(Debug, Args)]
pub(super) struct StopImpersonating {
    #[command(flatten)]
    target: Target,
}

impl Impersonate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut body = json!({ "token": token()?, "user": self.user, "reason": self.reason });
        if self.as_auditor {
            body["as_auditor"] = true.into();
        }
        if let Some(lasting) = self.lasting {
            body["minutes"] = lasting.as_secs().div_ceil(60).into();
        }
        hand_over(&self.target, "/v1/sessions/impersonate", &body)
    }
}

impl StopImpersonating {
    pub(super) fn run(self) -> Result<(), Failure> {
        hand_over(&self.target, "/v1/sessions/impersonate/stop", &json!({ "token": token()? }))
    }
}

/// Not an argument: everybody on the machine sees those.
fn token() -> Result<String, Failure> {
    let input = io::stdin();
    if input.is_terminal() {
        write!(io::stderr(), "Token: ").unwrap_or_default();
    }
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    read.map_err(|error| Failure::new(Failure::USAGE, format!("the token cannot be read: {error}")))?;
    match line.trim() {
        "" => Err(Failure::new(Failure::USAGE, "give the token of the session on standard input")),
        token => Ok(token.to_owned()),
    }
}

fn hand_over(target: &Target, path: &str, body: &Value) -> Result<(), Failure> {
    let client = target.client()?;
    let answer = client.call(Method::POST, path, Some(body.to_string()))?;
    started::hand_over(&client, &answer, target.style())
}
