//! `cloakroom change`.

use std::time::Duration;

use clap::Args;
use cloakroom_api::{AtMost, End, Entries, PatchSession};
use http::Method;
use serde::{
    Deserialize,
    de::{IntoDeserializer, value::Error},
};
use serde_json::value::RawValue;

use super::{Failure, Target};
use crate::{
    output::{self, Members, Style},
    percent,
};

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(super) struct Change {
    /// The session's id
    #[arg(value_parser = super::id)]
    id: String,
    /// A key that gets a value, which is JSON; may be given several times
    #[arg(long, value_name = "KEY=JSON", value_parser = entry, group = "what")]
    set: Vec<(String, Box<RawValue>)>,
    /// A key that goes; may be given several times
    #[arg(long, value_name = "KEY", group = "what")]
    remove: Vec<String>,
    /// A number that is added to what a key has; may be given several times
    #[arg(long, value_name = "KEY=NUMBER", value_parser = entry, group = "what")]
    add: Vec<(String, Box<RawValue>)>,
    /// It counts as used now
    #[arg(long, group = "what")]
    touch: bool,
    /// How long it may go unused from now on, such as 90m, 1h30m or 1:30
    #[arg(long, value_name = "TIME", value_parser = cloakroom::period::parse_period, group = "what")]
    idle: Option<Duration>,
    /// When it ends whatever happens, such as 2030-01-31T12:00:00Z, or "never"
    #[arg(long, value_name = "TIME", value_parser = end, group = "what")]
    ends_at: Option<End>,
    #[command(flatten)]
    target: Target,
}

fn entry(text: &str) -> Result<(String, Box<RawValue>), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=JSON, such as theme='\"dark\"' or visits=1")?;
    let value = serde_json::from_str(value).map_err(|error| format!("{value:?} is not JSON: {error}"))?;
    Ok((key.to_owned(), value))
}

fn end(text: &str) -> Result<End, Error> {
    End::deserialize(text.into_deserializer())
}

/// An object of these, in their order; a key that comes twice is the API's to refuse.
fn entries(given: &[(String, Box<RawValue>)]) -> Result<Entries, serde_json::Error> {
    let members = given.iter().map(|(key, value)| Ok(format!("{}:{}", serde_json::to_string(key)?, value.get())));
    let members: Vec<_> = members.collect::<Result<_, serde_json::Error>>()?;
    Entries::of(&RawValue::from_string(format!("{{{}}}", members.join(",")))?)
}

#[derive(Debug, Deserialize)]
struct Shown {
    session: Members,
}

impl Change {
    pub(super) fn run(self) -> Result<(), Failure> {
        let patch = PatchSession {
            set: entries(&self.set)?,
            remove: AtMost(self.remove.into_iter().map(Into::into).collect()),
            add: entries(&self.add)?,
            touch: self.touch,
            idle_seconds: self.idle.map(|idle| idle.as_secs()),
            ends_at: self.ends_at,
            ..PatchSession::default()
        };
        let path = format!("/v1/sessions/{}", percent::encoded(&self.id));
        let answer = self.target.client()?.call(Method::PATCH, &path, Some(serde_json::to_string(&patch)?))?;
        match self.target.style() {
            Style::Json => output::json(&answer)?,
            Style::Human => output::details(&serde_json::from_str::<Shown>(&answer)?.session)?,
        }
        Ok(())
    }
}
