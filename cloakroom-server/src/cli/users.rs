//! `cloakroom users`.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{Failure, Target, query};
use crate::{
    output::{self, Style},
    percent,
};

#[derive(Debug, Args)]
pub(super) struct Users {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the users that the directory knows
    List(List),
    /// Show what the directory says of a user
    Show(Show),
    /// Change what the directory says of a user, or make an entry
    Set(Set),
    /// Take a user out of the directory, and end their sessions
    Delete(Delete),
}

#[derive(Debug, Args)]
struct List {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Show {
    /// The user
    user: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Set {
    /// The user
    user: String,
    /// May have sessions
    #[arg(long, conflicts_with = "disabled")]
    enabled: bool,
    /// May have none: all end now
    #[arg(long)]
    disabled: bool,
    /// The person's name; '' for none
    #[arg(long, value_name = "NAME")]
    full_name: Option<String>,
    /// What kind of user; '' for none
    #[arg(long, value_name = "TYPE")]
    user_type: Option<String>,
    /// How many sessions they may have; `none` for what is configured
    #[arg(long, value_name = "N", value_parser = limit)]
    session_limit: Option<Limit>,
    /// What a sign-in beyond that does; `none` for what is configured
    #[arg(long)]
    when_full: Option<WhenFull>,
    /// Where they may come from: an address, or a network such as 192.0.2.0/24; may be given several times
    #[arg(long, value_name = "CIDR", conflicts_with = "anywhere")]
    network: Vec<String>,
    /// They may come from anywhere
    #[arg(long)]
    anywhere: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Delete {
    /// The user
    user: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhenFull {
    Evict,
    Refuse,
    None,
}

/// A number of sessions, or none for what is configured.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<u32>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        number => number.parse().map(|max| Limit(Some(max))).map_err(|_| "it is a number, or none".into()),
    }
}

#[derive(Debug, Deserialize)]
struct Listed {
    users: Vec<Box<RawValue>>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Answered {
    user: output::User,
    #[serde(default)]
    ended: Vec<String>,
}

impl Users {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::List(list) => list.run(),
            Command::Show(show) => show.run(),
            Command::Set(set) => set.run(),
            Command::Delete(delete) => delete.run(),
        }
    }
}

fn path_of(user: &str) -> String {
    format!("/v1/users/{}", percent::encoded(user))
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut users = Vec::new();
        let mut cursor: Option<String> = None;
        while users.len() < self.limit {
            let page = (self.limit - users.len()).min(500).to_string();
            let query = query(&[("limit", Some(&page)), ("cursor", cursor.as_deref())]);
            let answer = client.call(Method::GET, &format!("/v1/users{query}"), None)?;
            let listed: Listed = serde_json::from_str(&answer)?;
            users.extend(listed.users);
            cursor = listed.next;
            if cursor.is_none() {
                break;
            }
        }
        match self.target.style() {
            Style::Json => output::line(&json!({ "users": users }).to_string()),
            Style::Human => {
                let users: Vec<output::User> =
                    users.iter().map(|user| serde_json::from_str(user.get())).collect::<Result<_, _>>()?;
                output::users(&users);
                if cursor.is_some() {
                    eprintln!("There may be more: ask with a larger --limit.");
                }
            }
        }
        Ok(())
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let answer = self.target.client()?.call(Method::GET, &path_of(&self.user), None)?;
        match self.target.style() {
            Style::Json => output::line(&answer),
            Style::Human => serde_json::from_str::<Answered>(&answer)?.user.print(),
        }
        Ok(())
    }
}

impl Set {
    fn run(self) -> Result<(), Failure> {
        let patch = self.patch().to_string();
        let answer = self.target.client_or_new_store()?.call(Method::PATCH, &path_of(&self.user), Some(patch))?;
        match self.target.style() {
            Style::Json => output::line(&answer),
            Style::Human => {
                let Answered { user, ended } = serde_json::from_str(&answer)?;
                user.print();
                if self.disabled {
                    output::line(&format!("{} sessions ended", ended.len()));
                }
            }
        }
        Ok(())
    }

    fn patch(&self) -> Value {
        let mut patch = Map::new();
        if self.enabled || self.disabled {
            patch.insert("enabled".into(), self.enabled.into());
        }
        for (field, text) in [("full_name", &self.full_name), ("user_type", &self.user_type)] {
            if let Some(text) = text {
                patch.insert(field.into(), if text.is_empty() { Value::Null } else { text.as_str().into() });
            }
        }
        if let Some(Limit(limit)) = self.session_limit {
            patch.insert("session_limit".into(), limit.into());
        }
        if let Some(when_full) = self.when_full {
            let value = match when_full {
                WhenFull::Evict => "evict".into(),
                WhenFull::Refuse => "refuse".into(),
                WhenFull::None => Value::Null,
            };
            patch.insert("when_full".into(), value);
        }
        if self.anywhere || !self.network.is_empty() {
            patch.insert("allowed_networks".into(), self.network.clone().into());
        }
        patch.into()
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Deleted {
            deleted: bool,
            ended: Vec<String>,
        }

        let answer = self.target.client()?.call(Method::DELETE, &path_of(&self.user), None)?;
        match self.target.style() {
            Style::Json => output::line(&answer),
            Style::Human => {
                let Deleted { deleted, ended } = serde_json::from_str(&answer)?;
                let what = if deleted { "deleted" } else { "was not in the directory" };
                output::line(&format!("{} {what}, {} sessions ended", self.user, ended.len()));
            }
        }
        Ok(())
    }
}
