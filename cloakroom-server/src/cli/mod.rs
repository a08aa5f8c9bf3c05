//! The command line.

use std::{convert::Infallible, ffi::OsString, future::Future, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use cloakroom::{SessionId, store};

use crate::{
    client::{CallError, Client},
    config::without_password,
    keys,
    output::{self, Style},
    percent,
};

mod audit;
mod clear_sessions;
mod copy;
mod doctor;
mod impersonate;
mod key;
mod list;
mod migrate;
mod reap;
mod revoke;
mod serve;
mod show;
mod start;
mod users;
mod watch;

/// Sessions for the web: start, list and end them; serve them to applications in any language.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

const EXIT_CODES: &str = "Without a command it serves.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 the store or the server cannot be used,
4 no such user or session, or it has ended, 5 the address to listen on is taken or not allowed, 6 doctor found something
wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the session server
    Serve(serve::Serve),
    /// Start a session and print its token
    Start(start::Start),
    /// Show one session, or how it ended
    Show(show::Show),
    /// List living sessions
    List(list::List),
    /// End sessions: by id, or all that match
    Revoke(revoke::Revoke),
    /// End a user's other sessions, or see which would end
    ClearSessions(clear_sessions::ClearSessions),
    /// The directory of users: who may sign in, from where, how often
    Users(users::Users),
    /// End what has expired, now
    Reap(reap::Reap),
    /// Read the audit log
    Audit(audit::Audit),
    /// Print audit entries as they are written, until it is stopped
    Watch(watch::Watch),
    /// Look whether a store is sound and well set up, say what is wrong, and repair it
    Doctor(doctor::Doctor),
    /// Say which version a store has, and bring it up to date
    Migrate(migrate::Migrate),
    /// Copy all sessions from one store into another
    Copy(copy::Copy),
    /// Act as another user for a while: a new session, and its token
    Impersonate(impersonate::Impersonate),
    /// Go back from acting as another to one's own session, with a new token
    StopImpersonating(impersonate::StopImpersonating),
    /// Make an API key, and print the lines for cloakroom.toml
    Key(key::Key),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(std::env::args_os().map(with_marked_id));
    let done = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(serve) => serve.run(),
        Command::Start(start) => start.run(),
        Command::Show(show) => show.run(),
        Command::List(list) => list.run(),
        Command::Revoke(revoke) => revoke.run(),
        Command::ClearSessions(clear) => clear.run(),
        Command::Users(users) => users.run(),
        Command::Reap(reap) => reap.run(),
        Command::Audit(audit) => audit.run(),
        Command::Watch(watch) => watch.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Copy(copy) => copy.run(),
        Command::Impersonate(impersonate) => impersonate.run(),
        Command::StopImpersonating(stop) => stop.run(),
        Command::Key(key) => key.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cloakroom: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// One session in 64 has an id that begins with a hyphen, which must not be taken for a flag.
fn with_marked_id(argument: OsString) -> OsString {
    match argument.to_str() {
        Some(text) if text.starts_with('-') && text.parse::<SessionId>().is_ok() => format!("{ID_MARK}{text}").into(),
        _ => argument,
    }
}

/// Takes the mark off again.
#[expect(clippy::unnecessary_wraps, reason = "a parser of arguments answers so")]
fn id(argument: &str) -> Result<String, Infallible> {
    Ok(argument.strip_prefix(ID_MARK).unwrap_or(argument).to_owned())
}

/// No id has it.
const ID_MARK: char = '=';

/// Why a command did not do what it was asked: what to say, and the exit code for scripts.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    const FAILED: u8 = 1;
    const USAGE: u8 = 2;
    const UNAVAILABLE: u8 = 3;
    const NOT_FOUND: u8 = 4;
    const CANNOT_LISTEN: u8 = 5;
    const NOT_SOUND: u8 = 6;

    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Refused(refusal) => match refusal.code.as_str() {
                "session_unknown" | "session_ended" | "user_unknown" => Self::NOT_FOUND,
                "store_unavailable" | "store_failed" | "outcome_unknown" => Self::UNAVAILABLE,
                _ => Self::FAILED,
            },
            CallError::Unreachable { .. } | CallError::Store(_) => Self::UNAVAILABLE,
            CallError::Answer(_) | CallError::Key(_) => Self::FAILED,
        };
        let message = match &error {
            CallError::Refused(refusal) if refusal.code == "unauthorized" => {
                "the server does not know this API key: give --api-key or CLOAKROOM_API_KEY, or run where cloakroom.key lies"
                    .into()
            }
            error => error.to_string(),
        };
        Self { code, message: output::printable(&message) }
    }
}

impl From<cloakroom::Error> for Failure {
    fn from(error: cloakroom::Error) -> Self {
        let code = match &error {
            cloakroom::Error::StoreUrl(_) => Self::USAGE,
            cloakroom::Error::InvalidArgument { .. } => Self::FAILED,
            _ => Self::UNAVAILABLE,
        };
        Self { code, message: output::printable(&error.to_string()) }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        CallError::Answer(error.to_string()).into()
    }
}

/// Where a command works, and how it prints.
#[derive(Debug, Args)]
struct Target {
    /// The session server
    #[arg(long, env = "CLOAKROOM_SERVER", value_name = "URL", default_value = "http://127.0.0.1:7600")]
    server: String,
    /// Its API key [default: the one in ./cloakroom.key]
    #[arg(long, env = "CLOAKROOM_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Work straight on a store instead, such as sqlite:cloakroom.db
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Print the API's answer as it is
    #[arg(long)]
    json: bool,
}

impl Target {
    /// For work on sessions that are there.
    fn client(&self) -> Result<Client, Failure> {
        if let Some(store) = &self.store {
            on_stores(expect_store(store))?;
        }
        self.client_or_new_store()
    }

    /// For the first of them.
    fn client_or_new_store(&self) -> Result<Client, Failure> {
        if let Some(store) = &self.store {
            return Ok(Client::of_store(store)?);
        }
        let key = match &self.api_key {
            Some(key) => key.clone(),
            None => keys::read(keys::FILE_NAME.as_ref()).map_err(|error| {
                let message =
                    format!("{error}; give --api-key or CLOAKROOM_API_KEY, or work on the store with --store");
                Failure::new(Failure::USAGE, message)
            })?,
        };
        Ok(Client::of_server(&self.server, key))
    }

    fn style(&self) -> Style {
        if self.json { Style::Json } else { Style::Human }
    }
}

/// Does what needs no server and no API.
fn on_stores<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
    runtime.block_on(work)
}

/// Opening a store makes it if it is not there. Whoever looks for sessions in it named the wrong one then.
async fn expect_store(url: &str) -> Result<(), Failure> {
    if store::schema(url).await.map_err(CallError::Store)?.found.is_some() {
        return Ok(());
    }
    let message = format!("there is no store at {}: is it the right address?", without_password(url));
    Err(Failure::new(Failure::UNAVAILABLE, message))
}

/// Query parameters, percent-encoded; those without a value are left out.
fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let pairs: Vec<_> = given.map(|(name, value)| format!("{name}={}", percent::encoded(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}
