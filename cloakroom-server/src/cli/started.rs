//! A session that a command started, and its token, which is shown this once.

use std::io::{self, IsTerminal};

use http::Method;
use serde::Deserialize;

use super::Failure;
use crate::{
    client::Client,
    output::{self, Members, Style, Unwritten},
    percent,
};

#[derive(Debug, Deserialize)]
struct Started {
    token: String,
    session: Members,
    #[serde(default)]
    ended: Vec<String>,
}

/// Prints what the API answered: to a person all of it, to a pipe the token alone. A session whose token is lost with the
/// output is of no use to anyone, and ends.
pub(super) fn hand_over(client: &Client, answer: &str, style: Style) -> Result<(), Failure> {
    let started: Started = serde_json::from_str(answer)?;
    let printed = match style {
        Style::Json => output::json(answer),
        Style::Human if !io::stdout().is_terminal() => output::line(&started.token),
        Style::Human => started.print(),
    };
    printed.and_then(|()| output::flush()).map_err(|error| started.is_lost(client, &error))
}

impl Started {
    fn print(&self) -> Result<(), Unwritten> {
        output::details(&self.session)?;
        output::detail("token", &self.token)?;
        self.ended.iter().try_for_each(|id| output::detail("ended", id))
    }

    fn is_lost(&self, client: &Client, error: &Unwritten) -> Failure {
        let id = self.session.text("id").unwrap_or_default();
        let path = format!("/v1/sessions/{}?note=its%20token%20could%20not%20be%20printed", percent::encoded(&id));
        let outcome = match client.call(Method::DELETE, &path, None) {
            Ok(_) => format!("the session {id} was started, and ended again, for its token is lost"),
            Err(failed) => {
                format!("the session {id} was started, its token is lost, and it could not be ended: {failed}")
            }
        };
        Failure::new(Failure::FAILED, format!("{error}: {outcome}"))
    }
}
