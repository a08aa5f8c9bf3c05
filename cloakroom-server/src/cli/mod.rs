//! The command line.

use std::{convert::Infallible, ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use cloakroom::SessionId;

use self::{failure::Failure, target::Target};
use crate::{output, percent, redact};

mod audit;
mod change;
mod clear_sessions;
mod copy;
mod doctor;
mod failure;
mod generate;
mod impersonate;
mod key;
mod list;
mod migrate;
mod reap;
mod revoke;
mod serve;
mod show;
mod start;
mod started;
mod target;
mod users;
mod watch;

/// Sessions for the web: start, list and end them; serve them to applications in any language.
#[derive(Debug, Parser)]
#[command(name = "cloakroom", version = VERSION, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

/// Which program this is: its version, and the commit it was built from where that is known.
pub(crate) const VERSION: &str = env!("CLOAKROOM_VERSION");

const EXIT_CODES: &str = "Without a command it serves.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 the store or the server cannot be used,
4 no such user or session, or it has ended, 5 the address to listen on is taken or not allowed, 6 doctor found something
wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the session server
    Serve(Box<serve::Serve>),
    /// Start a session and print its token
    Start(start::Start),
    /// Show one session, or how it ended
    Show(show::Show),
    /// Change a session's data, touch it, or move its deadlines
    Change(change::Change),
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
    /// Print what completes commands in a shell
    Completions(generate::Completions),
    /// Print the manual page
    Man(generate::Man),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().map(with_marked_id).collect();
    let cli = match command().try_get_matches_from(&arguments).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return told(&error),
    };
    warn_of_passwords(&arguments);
    match cli.run().and_then(|()| Ok(output::flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::complain(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        match self.command.unwrap_or_else(|| Command::Serve(Box::new(self.serve))) {
            Command::Serve(serve) => serve.run(),
            Command::Start(start) => start.run(),
            Command::Show(show) => show.run(),
            Command::Change(change) => change.run(),
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
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
        }
    }
}

/// The command line, as it is parsed: a variable of the environment that is empty counts as one that is not there, and help
/// shows none, for some hold secrets.
fn command() -> clap::Command {
    fn with_environment(command: clap::Command) -> clap::Command {
        let is_empty =
            |name: Option<&std::ffi::OsStr>| name.and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        command
            .mut_args(|argument| {
                let argument = argument.hide_env_values(true);
                if is_empty(argument.get_env()) { argument.env(None) } else { argument }
            })
            .mut_subcommands(with_environment)
    }

    with_environment(Cli::command())
}

/// Help, the version, or what is wrong with the arguments. Help that was asked for goes to standard output.
fn told(error: &clap::Error) -> ExitCode {
    let was_asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let printed = error.print().and_then(|()| output::flush().map_err(output::Unwritten::into_io));
    match printed {
        Err(failed) if was_asked_for => {
            output::complain(&format!("standard output cannot be written: {failed}"));
            ExitCode::from(Failure::FAILED)
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Failure::USAGE)),
    }
}

/// Every account of the machine may see the arguments of a process.
fn warn_of_passwords(arguments: &[OsString]) {
    let mut stores =
        arguments.iter().filter_map(|argument| argument.to_str()).map(|argument| match argument.strip_prefix("--") {
            Some(flag) => flag.split_once('=').map_or("", |(_, value)| value),
            None => argument,
        });
    if let Some(store) = stores.find(|store| redact::has_secret(store)) {
        output::tell(&format!(
            "cloakroom: every account of this machine can see the arguments of a command: give {} in CLOAKROOM_STORE, or as @FILE",
            redact::address(store)
        ));
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

/// Whole seconds, as the API has them.
#[expect(clippy::ref_option, reason = "serde hands out references to fields")]
fn as_seconds<S: serde::Serializer>(span: &Option<std::time::Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&span.map(|span| span.as_secs()), serializer)
}

/// Query parameters, percent-encoded; those without a value are left out.
fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let pairs: Vec<_> = given.map(|(name, value)| format!("{name}={}", percent::encoded(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}
