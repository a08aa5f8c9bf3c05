//! The command line's way to the API: over the network, or straight into it on a store of this machine.

use std::time::Duration;

use axum::{Router, body::Body};
use cloakroom::Sessions;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::runtime::Runtime;
use tower_service::Service;

use crate::{
    Server,
    keys::{self, ApiKey, ApiKeys, KeyError, Scope},
};

/// Where calls go.
pub(crate) struct Client {
    way: Way,
    key: String,
}

enum Way {
    Server { agent: ureq::Agent, url: String },
    Store { runtime: Runtime, sessions: Sessions, router: Router },
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
}

/// What the API said.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) detail: String,
    #[serde(skip)]
    pub(crate) document: String,
}

impl Client {
    /// To the server at `url`.
    pub(crate) fn of_server(url: &str, key: String) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(Duration::from_mins(5)))
            .build()
            .into();
        Self { way: Way::Server { agent, url: url.trim_end_matches('/').to_owned() }, key }
    }

    /// Straight on a store.
    pub(crate) fn of_store(url: &str) -> Result<Self, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CallError::Unreachable { message: error.to_string() })?;
        let sessions = runtime.block_on(async {
            Sessions::builder(cloakroom::store::open(url).await?).stored_users().without_upkeep().build()
        })?;
        // The same checks and answers as over the network, under a key that exists for this call alone.
        let key = keys::generate()?;
        let keys = ApiKeys::new(vec![ApiKey::new("command line", Scope::Admin, &key)?]);
        let router = Server::new(sessions.clone(), keys).router();
        Ok(Self { way: Way::Store { runtime, sessions, router }, key })
    }

    /// The text of a successful answer.
    pub(crate) fn call(&self, method: Method, path: &str, body: Option<String>) -> Result<String, CallError> {
        let (status, text) = match &self.way {
            Way::Server { agent, url } => self.over_network(agent, url, method, path, body)?,
            Way::Store { runtime, router, .. } => runtime.block_on(self.within(router.clone(), method, path, body))?,
        };
        if status.is_success() {
            return Ok(text);
        }
        match serde_json::from_str::<Refusal>(&text) {
            Ok(refusal) => Err(CallError::Refused(Refusal { document: text, ..refusal })),
            Err(_) => Err(CallError::Answer(format!("HTTP {status}, and not by a session server"))),
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
        Ok((response.status(), text.map_err(|error| CallError::Answer(error.to_string()))?))
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

impl Drop for Client {
    fn drop(&mut self) {
        if let Way::Store { runtime, sessions, .. } = &self.way {
            runtime.block_on(sessions.shutdown());
        }
    }
}

/// Answers are pages; only the ids of a very large revocation come near this.
const MOST_ANSWERED: u64 = 256 << 20;
