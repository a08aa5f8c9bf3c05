//! `cloakroom users`.

use clap::{Args, Subcommand, ValueEnum};
use cloakroom::{Clock, clock::SystemClock, network::Network};
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{Failure, Target, query};
use crate::{
    client::{CallError, Client},
    output::{self, Column, Members, Paint, Style, Table, age},
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
    /// In full, however wide the terminal is
    #[arg(long)]
    wide: bool,
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
    /// They may also come from here: an address, or a network such as 192.0.2.0/24; may be given several times
    #[arg(long, value_name = "CIDR", conflicts_with = "anywhere")]
    network: Vec<String>,
    /// They may no longer come from here; may be given several times
    #[arg(long, value_name = "CIDR", conflicts_with = "anywhere")]
    remove_network: Vec<String>,
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
    user: Members,
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
            Style::Json => output::json(&json!({ "users": users }).to_string())?,
            Style::Human => {
                let users: Vec<Members> =
                    users.iter().map(|user| serde_json::from_str(user.get())).collect::<Result<_, _>>()?;
                print(&users, self.wide)?;
                if cursor.is_some() {
                    output::tell("There may be more: ask with a larger --limit.");
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
            Style::Json => output::json(&answer)?,
            Style::Human => output::details(&serde_json::from_str::<Answered>(&answer)?.user)?,
        }
        Ok(())
    }
}

impl Set {
    fn run(self) -> Result<(), Failure> {
        let client = self.target.client_or_new_store()?;
        let patch = self.patch(&client)?.to_string();
        let answer = client.call(Method::PATCH, &path_of(&self.user), Some(patch))?;
        let printed = match self.target.style() {
            Style::Json => output::json(&answer),
            Style::Human => {
                let Answered { user, ended } = serde_json::from_str(&answer)?;
                output::details(&user).and_then(|()| {
                    if self.disabled { output::line(&format!("{} sessions ended", ended.len())) } else { Ok(()) }
                })
            }
        };
        printed.map_err(|error| Failure::from(error).after("the change itself was made"))
    }

    fn patch(&self, client: &Client) -> Result<Value, Failure> {
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
        if self.anywhere {
            patch.insert("allowed_networks".into(), Value::Array(Vec::new()));
        } else if !self.network.is_empty() || !self.remove_network.is_empty() {
            patch.insert("allowed_networks".into(), self.networks(client)?.into());
        }
        Ok(patch.into())
    }

    /// Those that the user has, without those to be removed, with those to be added.
    fn networks(&self, client: &Client) -> Result<Vec<String>, Failure> {
        #[derive(Default, Deserialize)]
        struct Networks {
            allowed_networks: Vec<String>,
        }

        #[derive(Deserialize)]
        struct Answered {
            user: Networks,
        }

        let user = match client.call(Method::GET, &path_of(&self.user), None) {
            Ok(answer) => serde_json::from_str::<Answered>(&answer)?.user,
            Err(CallError::Refused(refusal)) if refusal.code == "user_unknown" => Networks::default(),
            Err(error) => return Err(error.into()),
        };
        let mut networks = user.allowed_networks;
        for network in &self.remove_network {
            let count = networks.len();
            networks.retain(|allowed| !is_same(allowed, network));
            if networks.len() == count {
                let message = format!("{} may not come from {network} as it is: nothing was changed", self.user);
                return Err(Failure::new(Failure::FAILED, message));
            }
        }
        // With none left they might come from anywhere, which is the opposite of what was asked for.
        if networks.is_empty() && self.network.is_empty() {
            let message = "without that network none is left, and the user might come from anywhere: say --anywhere, or \
                           --disabled";
            return Err(Failure::new(Failure::FAILED, message));
        }
        for network in &self.network {
            if !networks.iter().any(|allowed| is_same(allowed, network)) {
                networks.push(network.clone());
            }
        }
        Ok(networks)
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
            Style::Json => output::json(&answer)?,
            Style::Human => {
                let Deleted { deleted, ended } = serde_json::from_str(&answer)?;
                let what = if deleted { "deleted" } else { "was not in the directory" };
                output::line(&format!("{} {what}, {} sessions ended", self.user, ended.len()))?;
            }
        }
        Ok(())
    }
}

/// Whether two ways to write a network mean the same one.
fn is_same(allowed: &str, network: &str) -> bool {
    match (allowed.parse::<Network>(), network.parse::<Network>()) {
        (Ok(allowed), Ok(network)) => allowed == network,
        _ => allowed == network,
    }
}

/// A line each.
fn print(users: &[Members], wide: bool) -> Result<(), Failure> {
    let now = SystemClock.now();
    let mut table = Table::new([
        Column::cut("USER", 12),
        Column::whole("ENABLED"),
        Column::cut("NAME", 8),
        Column::cut("TYPE", 6),
        Column::whole("SESSIONS"),
        Column::cut("FROM", 10),
        Column::whole("SIGNED IN"),
    ]);
    for user in users {
        let text = |name: &str| user.text(name).unwrap_or_default();
        let (enabled, paint) = match user.value("enabled") {
            Some("true") => ("yes", Paint::Plain),
            _ => ("no", Paint::Bad),
        };
        let max = user.value("session_limit").filter(|max| *max != "null");
        let sessions =
            [max.map(str::to_owned), user.text("when_full")].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let networks = user.value("allowed_networks").and_then(|list| serde_json::from_str::<Vec<String>>(list).ok());
        let signed_in = user.time("last_sign_in.at").map(|at| age(now.since(at)) + " ago").unwrap_or_default();
        table.row([
            (text("id").as_str(), Paint::Plain),
            (enabled, paint),
            (&text("full_name"), Paint::Plain),
            (&text("user_type"), Paint::Plain),
            (&sessions, Paint::Plain),
            (&networks.unwrap_or_default().join(", "), Paint::Plain),
            (&signed_in, Paint::Plain),
        ]);
    }
    Ok(table.print(wide)?)
}
