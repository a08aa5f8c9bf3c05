//! `cloakroom serve`.

use std::{
    io::{self, ErrorKind, Write},
    path::PathBuf,
};

use clap::Args;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::{
    Server,
    config::{ConfigError, LogFormat, Settings, without_password},
};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The settings file [default: cloakroom.toml, if there is one]
    #[arg(long, env = "CLOAKROOM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = match &error {
            ConfigError::Sessions(cloakroom::Error::StoreUrl(_) | cloakroom::Error::InvalidArgument { .. }) => {
                Self::USAGE
            }
            ConfigError::Sessions(_) => Self::UNAVAILABLE,
            _ => Self::USAGE,
        };
        Self::new(code, error.to_string())
    }
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = self.settings.over_file(self.config.as_deref())?;
        start_log(&settings)?;
        let runtime =
            tokio::runtime::Runtime::new().map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
        runtime.block_on(serve(&settings))
    }
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    // From here on a signal ends the server in order, not in the middle of its start.
    let stop = stop_signal().map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
    let listener = listen(settings)?;
    let trusted_proxies = settings.trusted_proxies()?;
    let sessions = settings.sessions().await?;
    let (keys, key_file) = settings.keys(std::env::var("CLOAKROOM_API_KEY").ok().as_deref())?;
    if let Some(path) = key_file {
        tracing::info!(path = %path.display(), "the API key is in this file");
    }
    let assertion_keys = settings.assertion_keys().map_err(ConfigError::from)?;
    let address = listener.local_addr().map_err(|error| Failure::new(Failure::CANNOT_LISTEN, error.to_string()))?;
    let ready =
        writeln!(io::stdout(), "cloakroom ready on http://{address}, store {}", without_password(settings.store()));
    if let Err(error) = ready {
        // Whoever started us closed the pipe; that is no reason not to serve.
        tracing::warn!(%error, "the ready line could not be written");
    }
    let mut server = Server::new(sessions, keys).policies(settings.policies().clone());
    if let Some(keys) = assertion_keys {
        server = server.assertion_keys(keys);
    }
    if let Some(proxies) = trusted_proxies {
        server = server.trusted_proxies(proxies);
    }
    crate::run(listener, server, stop).await;
    Ok(())
}

fn listen(settings: &Settings) -> Result<TcpListener, Failure> {
    let address = settings.listen();
    crate::listen(address).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => "another program listens there; stop it, or choose another port with --listen",
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose another with --listen",
            _ => "choose an address of this machine with --listen",
        };
        Failure::new(Failure::CANNOT_LISTEN, format!("cannot listen on {address}: {error}; {advice}"))
    })
}

fn start_log(settings: &Settings) -> Result<(), Failure> {
    let filter = EnvFilter::builder().parse(settings.log()).map_err(|error| {
        Failure::new(
            Failure::USAGE,
            format!("the setting log: {error}; write a level, such as info, or cloakroom=debug"),
        )
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    match settings.log_format() {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
}
