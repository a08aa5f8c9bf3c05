//! `cloakroom serve`.

use std::{
    io::{self, ErrorKind, Write},
    path::PathBuf,
};

use clap::Args;
use tokio::net::TcpListener;

use super::{Failure, target::setting};
use crate::{
    Bounds, KeyRing, Server, Tls,
    config::{ConfigError, Listen, Settings},
    log, redact, stores,
};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The settings file [default: cloakroom.toml, if there is one]
    #[arg(long, env = "CLOAKROOM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = self.read()?;
        settings.check(setting(KEY).as_deref())?;
        let filter = settings.log().filter().map_err(|error| Failure::new(Failure::USAGE, error.to_string()))?;
        redact::remember(settings.store());
        let _log = log::start(filter, settings.log_format());
        stores::run(self.serve(&settings)).unwrap_or_else(|error| Err(Failure::new(Failure::FAILED, error.to_string())))
    }

    fn read(&self) -> Result<Settings, Failure> {
        Ok(self.settings.clone().over_file(self.config.as_deref())?)
    }

    async fn serve(&self, settings: &Settings) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Failure::FAILED, error.to_string());
        // From here on a signal ends the server in order, not in the middle of its start.
        let stop = stop_signal().map_err(failed)?;
        let mut reload = reload_signal().map_err(failed)?;
        if !redact::is_known(settings.store()) {
            // What is no address is told before anything is bound.
            stores::open_to_serve(settings.store()).await?;
        }
        let listener = listen(&settings.listen(), "--listen")?;
        let grpc = settings.grpc_listen().map(|wanted| listen(wanted, "--grpc-listen")).transpose()?;
        let sessions = settings.sessions().await?;
        let (keys, key_file) = settings.keys(setting(KEY).as_deref())?;
        if let Some(path) = key_file {
            tracing::info!(path = %path.display(), "the API key is in this file");
        }
        let assertion_keys = settings.assertion_keys().map_err(ConfigError::from)?;
        let address = listener.local_addr().map_err(failed)?;
        let tls = settings.tls()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let and_grpc = match &grpc {
            Some(listener) => format!(", gRPC on {}", listener.local_addr().map_err(failed)?),
            None => String::new(),
        };
        let store = redact::address(settings.store());
        let ready = writeln!(io::stdout(), "cloakroom ready on {scheme}://{address}{and_grpc}, store {store}");
        if let Err(error) = ready {
            // The parent process closed the pipe; that is no reason not to serve.
            tracing::warn!(%error, "the ready line could not be written");
        }
        let keys = KeyRing::new(keys);
        let mut server = Server::new(sessions, keys.clone())
            .bounds(within_open_files(settings.bounds()))
            .policies(settings.policies().clone());
        if let Some(tls) = &tls {
            server = server.tls(tls.clone());
        }
        if let Some(keys) = assertion_keys {
            server = server.assertion_keys(keys);
        }
        if let Some(listener) = grpc {
            server = server.grpc(listener);
        }
        if let Some(proxies) = settings.trusted_proxies() {
            server = server.trusted_proxies(proxies);
        }
        let reloading = async {
            loop {
                reload.next().await;
                self.reload(&keys, tls.as_ref());
            }
        };
        tokio::select! {
            () = crate::run(listener, server, stop) => {}
            () = reloading => {}
        }
        Ok(())
    }

    /// Reads API keys and certificate again. What cannot be used changes nothing.
    fn reload(&self, keys: &KeyRing, tls: Option<&Tls>) {
        let read = self.read().and_then(|settings| {
            let (read, _) = settings.keys(setting(KEY).as_deref())?;
            if let (Some(tls), Some((certificate, key))) = (tls, settings.tls_files()?) {
                tls.read_again(certificate, key).map_err(ConfigError::from)?;
            }
            Ok(read)
        });
        match read {
            Ok(read) => {
                let certificate = tls.is_some();
                tracing::info!(keys = read.len(), certificate, "keys were read again; other settings take a restart");
                keys.replace(read);
            }
            Err(failure) => {
                tracing::error!(error = failure.message, "keys could not be read again; those before still count");
            }
        }
    }
}

/// The variable that may hold a key.
const KEY: &str = "CLOAKROOM_API_KEY";

/// With no more connections than the limit on open files allows, which is raised as far as the system lets it be.
#[cfg(unix)]
fn within_open_files(bounds: Bounds) -> Bounds {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// For the store, the log, and what libraries open.
    const OTHERS: u64 = 128;

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let files = if raised { maximum } else { current };
    // No limit is none to keep below.
    let Some(files) = files else { return bounds };
    let most = usize::try_from(files.saturating_sub(OTHERS).max(files / 2)).unwrap_or(usize::MAX);
    if bounds.max_connections > most {
        tracing::info!(files, max_connections = most, "the limit on open files bounds the number of connections");
    }
    Bounds { max_connections: bounds.max_connections.min(most), ..bounds }
}

#[cfg(not(unix))]
fn within_open_files(bounds: Bounds) -> Bounds {
    bounds
}

fn listen(wanted: &Listen, flag: &str) -> Result<TcpListener, Failure> {
    let refused = |error: io::Error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => "another program listens there; stop it, or choose another port with",
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose another with",
            _ => "choose an address of this machine with",
        };
        Failure::new(Failure::CANNOT_LISTEN, format!("cannot listen on {wanted}: {error}; {advice} {flag}"))
    };
    let mut outcome = Err(ErrorKind::AddrNotAvailable.into());
    for address in wanted.addresses().map_err(refused)? {
        outcome = crate::listen(address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map_err(refused)
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

/// SIGHUP, by which operators have keys read again.
struct Reload(#[cfg(unix)] tokio::signal::unix::Signal);

#[cfg(unix)]
fn reload_signal() -> io::Result<Reload> {
    use tokio::signal::unix::{SignalKind, signal};

    signal(SignalKind::hangup()).map(Reload)
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn reload_signal() -> io::Result<Reload> {
    Ok(Reload())
}

impl Reload {
    #[cfg(unix)]
    async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}
