//! The command line's way to the API: over the network, or straight into it on a store of this machine.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use cloakroom::Sessions;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tower_service::Service;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::{
    Server, TlsError,
    keys::{self, ApiKey, ApiKeys, KeyError, Scope},
    output, percent, server, stores,
};

/// Where calls go.
pub(crate) struct Client {
    way: Way,
    key: String,
}

enum Way {
    Server { agent: ureq::Agent, url: String },
    Store(Straight),
}

/// A store of this process's own. Drivers close their connections on the runtime, so it goes last.
struct Straight {
    open: Option<(Sessions, Router)>,
    runtime: Runtime,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The API said no.
    #[error("{}", .0.detail)]
    Refused(Refusal),
    #[error("{message}")]
    Unreachable { message: String },
    #[error(transparent)]
    Store(#[from] cloakroom::Error),
    #[error("the server's answer cannot be understood: {0}")]
    Answer(String),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the API said.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) detail: String,
    #[serde(skip)]
    pub(crate) document: String,
}

/// A call that is still carried out, as the API tells of it.
#[derive(Deserialize)]
struct Working {
    job: Job,
}

#[derive(Deserialize)]
struct Job {
    id: String,
    ended: u64,
    status: Option<u16>,
    answer: Option<Box<RawValue>>,
}

impl Client {
    /// To the server at `url`.
    pub(crate) fn of_server(url: &str, key: String, ca: Option<&Path>) -> Result<Self, CallError> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(Duration::from_mins(5)));
        if is_this_machine(url) {
            // A proxy of the environment would look on its own machine.
            config = config.proxy(None);
        }
        if url.starts_with("https:") {
            config = config.tls_config(tls(ca)?);
        }
        let agent = config.build().into();
        Ok(Self { way: Way::Server { agent, url: url.trim_end_matches('/').to_owned() }, key })
    }

    /// Straight on a store.
    pub(crate) fn of_store(url: &str) -> Result<Self, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CallError::Unreachable { message: error.to_string() })?;
        let sessions = runtime
            .block_on(async { Sessions::builder(stores::open(url).await?).stored_users().without_upkeep().build() })?;
        // The same checks and answers as over the network, under a key that exists for this call alone.
        let key = keys::generate()?;
        let keys = ApiKeys::new(vec![ApiKey::new("command line", Scope::Admin, &key)?]);
        let router = Server::new(sessions.clone(), keys).router();
        Ok(Self { way: Way::Store(Straight { open: Some((sessions, router)), runtime }), key })
    }

    /// The text of a successful answer. What takes long is waited for, however long.
    pub(crate) fn call(&self, method: Method, path: &str, body: Option<String>) -> Result<String, CallError> {
        let (mut status, mut text) = self.ask(method, path, body)?;
        while status == StatusCode::ACCEPTED {
            let Working { job } = serde_json::from_str(&text).map_err(|error| CallError::Answer(error.to_string()))?;
            if let (Some(code), Some(answer)) =
                (job.status.and_then(|code| StatusCode::from_u16(code).ok()), job.answer)
            {
                (status, text) = (code, answer.get().to_owned());
                break;
            }
            output::tell(&format!("cloakroom: {} so far", job.ended));
            let (asked, answer) = self.ask(Method::GET, &format!("/v1/jobs/{}", percent::encoded(&job.id)), None)?;
            // Answered while it goes on, too.
            (status, text) = (if asked == StatusCode::OK { StatusCode::ACCEPTED } else { asked }, answer);
        }
        if status.is_success() {
            return Ok(text);
        }
        match serde_json::from_str::<Refusal>(&text) {
            Ok(refusal) => Err(CallError::Refused(Refusal { document: text, ..refusal })),
            Err(_) => Err(CallError::Answer(format!("HTTP {status}, and not by a session server"))),
        }
    }

    fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<(StatusCode, String), CallError> {
        match &self.way {
            Way::Server { agent, url } => self.over_network(agent, url, method, path, body),
            Way::Store(Straight { open: Some((_, router)), runtime }) => {
                runtime.block_on(self.within(router.clone(), method, path, body))
            }
            Way::Store(_) => Err(CallError::Unreachable { message: "the store is closed".into() }),
        }
    }

    fn over_network(
        &self,
        agent: &ureq::Agent,
        url: &str,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(StatusCode, String), CallError> {
        let request = self.request(method, &format!("{url}{path}"))?;
        let answered = match body {
            Some(body) => agent.run(request.body(body).map_err(|error| CallError::Answer(error.to_string()))?),
            None => agent.run(request.body(()).map_err(|error| CallError::Answer(error.to_string()))?),
        };
        let mut response = answered.map_err(|error| CallError::Unreachable {
            message: format!(
                "the session server at {url} cannot be reached: {error}; start one with `cloakroom serve`, or name \
                 another with --server"
            ),
        })?;
        let text = response.body_mut().with_config().limit(MOST_ANSWERED).read_to_string();
        let text = text.map_err(|error| match error {
            ureq::Error::Io(error) => CallError::Unreachable {
                message: format!("the answer of the session server at {url} broke off: {error}"),
            },
            error => CallError::Answer(error.to_string()),
        })?;
        Ok((response.status(), text))
    }

    async fn within(
        &self,
        mut router: Router,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(StatusCode, String), CallError> {
        let body = body.map_or_else(Body::empty, Body::from);
        let request = self.request(method, path)?.body(body).map_err(|error| CallError::Answer(error.to_string()))?;
        let Ok(response) = router.call(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| CallError::Answer(error.to_string()))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }

    fn request(&self, method: Method, uri: &str) -> Result<http::request::Builder, CallError> {
        let uri: http::Uri =
            uri.parse().map_err(|error| CallError::Unreachable { message: format!("{uri:?} is no URL: {error}") })?;
        Ok(Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key)))
    }
}

impl Drop for Straight {
    fn drop(&mut self) {
        if let Some((sessions, router)) = self.open.take() {
            self.runtime.block_on(async move {
                drop(router);
                sessions.shutdown().await;
                drop(sessions);
            });
        }
    }
}

/// With these authorities, or those that the system trusts.
fn tls(ca: Option<&Path>) -> Result<TlsConfig, CallError> {
    let trusted = match ca {
        Some(file) => server::tls::certificates(file)?,
        // One that cannot be read is not trusted.
        None => rustls_native_certs::load_native_certs().certs,
    };
    let trusted = trusted.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(trusted.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

fn is_this_machine(url: &str) -> bool {
    let Some(host) = url.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_ascii_lowercase)) else {
        return false;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Answers are pages; only the ids of a very large revocation come near this.
const MOST_ANSWERED: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_takes_long_is_waited_for_and_answered_as_ever() {
        let key = keys::generate().unwrap();
        let api_keys = ApiKeys::new(vec![ApiKey::new("test", Scope::Admin, &key).unwrap()]);
        let runtime = Runtime::new().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (listener, server) = runtime.block_on(async {
            let sessions = Sessions::open("memory:").await.unwrap();
            for n in 0..2000 {
                sessions.start(cloakroom::SignIn::new(format!("user {n}"))).await.unwrap();
            }
            // Nothing is done as fast.
            let bounds = crate::Bounds { answer_within: Duration::ZERO, ..crate::Bounds::default() };
            (crate::listen("127.0.0.1:0".parse().unwrap()).unwrap(), Server::new(sessions, api_keys).bounds(bounds))
        });
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = runtime.spawn(crate::run(listener, server, async { stopped.await.unwrap_or_default() }));
        let client = Client::of_server(&url, key, None).unwrap();
        let answer = client.call(Method::POST, "/v1/sessions/revoke", Some(r#"{"all":true}"#.into())).unwrap();
        assert!(answer.contains(r#""matched":2000"#), "{}", &answer[..200]);
        let refused = client.call(Method::POST, "/v1/sessions/revoke", Some("{}".into())).unwrap_err();
        assert!(matches!(refused, CallError::Refused(Refusal { code, .. }) if code == "query_empty"));
        drop(stop);
        runtime.block_on(serving).unwrap();
    }

    #[test]
    fn loopback_is_this_machine() {
        for url in [
            "http://localhost:7600",
            "http://127.0.0.9",
            "http://[::1]:7600/",
            "http://LOCALHOST",
            "http://a.localhost",
        ] {
            assert!(is_this_machine(url), "{url}");
        }
        for url in ["http://example.com", "http://localhost.example.com", "http://10.0.0.1", "not a url"] {
            assert!(!is_this_machine(url), "{url}");
        }
    }
}
