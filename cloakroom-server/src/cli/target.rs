//! Where a command works, with which key, and how it prints.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use clap::Args;

use super::Failure;
use crate::{
    client::{CallError, Client},
    keys,
    output::Style,
    private::PrivateFileError,
    redact, stores,
};

#[derive(Debug, Args)]
pub(super) struct Target {
    /// The session server [env: CLOAKROOM_SERVER] [default: http://127.0.0.1:7600]
    #[arg(long, value_name = "URL", conflicts_with = "store")]
    server: Option<String>,
    /// The file that holds its API key, or - for standard input [env: CLOAKROOM_API_KEY_FILE, or CLOAKROOM_API_KEY for the
    /// key itself] [default: ./cloakroom.key]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The certificates of the authorities to trust for https, as PEM [env: CLOAKROOM_CA] [default: those of the system]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Work straight on a store instead, such as sqlite:cloakroom.db, or @FILE for an address in a file [env:
    /// CLOAKROOM_STORE]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Print the API's answer as it is
    #[arg(long)]
    json: bool,
}

enum Place {
    Server(String),
    Store(String),
}

impl Target {
    /// For work on sessions that are there.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.connect(true)
    }

    /// For the first of them.
    pub(super) fn client_or_new_store(&self) -> Result<Client, Failure> {
        self.connect(false)
    }

    pub(super) fn style(&self) -> Style {
        if self.json { Style::Json } else { Style::Human }
    }

    fn connect(&self, must_be_there: bool) -> Result<Client, Failure> {
        match self.place()? {
            Place::Store(store) => {
                if must_be_there {
                    on_stores(expect_store(&store))?;
                }
                Ok(Client::of_store(&store)?)
            }
            Place::Server(url) => {
                let ca = self.ca.clone().or_else(|| setting("CLOAKROOM_CA").map(PathBuf::from));
                Ok(Client::of_server(&url, self.key()?, ca.as_deref())?)
            }
        }
    }

    /// Arguments go over the environment, and in it the server, which only these commands ask for, over the store.
    fn place(&self) -> Result<Place, Failure> {
        if let Some(store) = &self.store {
            return Ok(Place::Store(stores::address(store)?));
        }
        if let Some(server) = self.server.clone().or_else(|| setting("CLOAKROOM_SERVER")) {
            return Ok(Place::Server(server));
        }
        match setting("CLOAKROOM_STORE").map(|store| stores::address(&store)).transpose()? {
            // What another process keeps in its memory, only that process can tell.
            Some(store) if store != "memory:" => Ok(Place::Store(store)),
            _ => Ok(Place::Server("http://127.0.0.1:7600".to_owned())),
        }
    }

    fn key(&self) -> Result<String, Failure> {
        let failure = |error: String| Failure::new(Failure::USAGE, error);
        if let Some(file) = self.api_key_file.clone() {
            return key_in(&file).map_err(|error| failure(error.to_string()));
        }
        if let Some(key) = setting("CLOAKROOM_API_KEY") {
            return Ok(key);
        }
        if let Some(file) = setting("CLOAKROOM_API_KEY_FILE") {
            return key_in(Path::new(&file)).map_err(|error| failure(error.to_string()));
        }
        key_in(Path::new(keys::FILE_NAME)).map_err(|error| {
            let advice = if error.is_not_found() {
                "; give a key in CLOAKROOM_API_KEY or with --api-key-file, or work on the store with --store"
            } else {
                ""
            };
            failure(format!("{error}{advice}"))
        })
    }
}

fn key_in(file: &Path) -> Result<String, PrivateFileError> {
    if file != Path::new("-") {
        return keys::read(file);
    }
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(_) => Ok(line.trim().to_owned()),
        Err(source) => Err(PrivateFileError::Read { path: "standard input".into(), source }),
    }
}

/// A variable of the environment that is not empty.
pub(super) fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Does what needs no server and no API.
pub(super) fn on_stores<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    stores::run(work).unwrap_or_else(|error| Err(Failure::new(Failure::FAILED, error.to_string())))
}

/// Opening a store makes it if it is not there. A command that looks for sessions in it was given the wrong address then.
pub(super) async fn expect_store(url: &str) -> Result<(), Failure> {
    if stores::schema(url).await.map_err(CallError::Store)?.found.is_some() {
        return Ok(());
    }
    let message = format!("there is no store at {}: is it the right address?", redact::address(url));
    Err(Failure::new(Failure::UNAVAILABLE, message))
}
