//! `cloakroom start`.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde::Serialize;

use super::{Failure, Target, as_seconds, started};

#[derive(Debug, Args, Serialize)]
pub(super) struct Start {
    /// Who is signed in; left out, an anonymous session starts
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// The person's name
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    full_name: Option<String>,
    /// What kind of user
    #[arg(long, value_name = "TYPE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    user_type: Option<String>,
    /// How long it may go unused, such as 90m, 1h30m or 1:30
    #[arg(long, value_name = "TIME", value_parser = cloakroom::period::parse_period)]
    #[serde(rename = "idle_seconds", skip_serializing_if = "Option::is_none", serialize_with = "as_seconds")]
    idle: Option<Duration>,
    /// When it ends whatever happens, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<String>,
    /// Keep it for long, and the cookie beyond the browser's end
    #[arg(long)]
    remember: bool,
    /// The address it is started from
    #[arg(long, value_name = "ADDRESS")]
    #[serde(rename = "client", skip_serializing_if = "Option::is_none", serialize_with = "as_client")]
    ip: Option<String>,
    /// What it starts with: a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<serde_json::value::RawValue>>,
    #[command(flatten)]
    #[serde(skip)]
    target: Target,
}

#[expect(clippy::ref_option, reason = "serde hands out references to fields")]
fn as_client<S: serde::Serializer>(ip: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::json!({ "ip": ip }).serialize(serializer)
}

fn json_object(text: &str) -> Result<Box<serde_json::value::RawValue>, serde_json::Error> {
    serde_json::from_str(text)
}

impl Start {
    pub(super) fn run(self) -> Result<(), Failure> {
        let body = serde_json::to_string(&self)?;
        let client = self.target.client_or_new_store()?;
        let answer = client.call(Method::POST, "/v1/sessions", Some(body))?;
        started::hand_over(&client, &answer, self.target.style())
    }
}
