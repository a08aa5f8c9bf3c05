//! `cloakroom list`.

use clap::Args;
use http::Method;
use serde::Deserialize;

use super::{Failure, Target, query};
use crate::output::{self, Style};

#[derive(Debug, Args)]
pub(super) struct List {
    /// Of this user
    #[arg(long)]
    user: Option<String>,
    /// Started from this address
    #[arg(long)]
    ip: Option<String>,
    /// On this device
    #[arg(long)]
    device: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Deserialize)]
struct Listed {
    sessions: Vec<Box<serde_json::value::RawValue>>,
    next: Option<String>,
}

impl List {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut sessions = Vec::new();
        let mut cursor: Option<String> = None;
        let mut more = false;
        while sessions.len() < self.limit {
            let page = (self.limit - sessions.len()).min(500).to_string();
            let query = query(&[
                ("user", self.user.as_deref()),
                ("ip", self.ip.as_deref()),
                ("device", self.device.as_deref()),
                ("limit", Some(&page)),
                ("cursor", cursor.as_deref()),
            ]);
            let answer = client.call(Method::GET, &format!("/v1/sessions{query}"), None)?;
            let listed: Listed = serde_json::from_str(&answer)?;
            sessions.extend(listed.sessions);
            more = listed.next.is_some();
            cursor = listed.next;
            if cursor.is_none() {
                break;
            }
        }
        match self.target.style() {
            Style::Json => output::line(&serde_json::json!({ "sessions": sessions }).to_string()),
            Style::Human => {
                let sessions: Vec<output::Session> =
                    sessions.iter().map(|session| serde_json::from_str(session.get())).collect::<Result<_, _>>()?;
                output::sessions(&sessions);
                if more {
                    eprintln!("There may be more: ask with a larger --limit.");
                }
            }
        }
        Ok(())
    }
}
