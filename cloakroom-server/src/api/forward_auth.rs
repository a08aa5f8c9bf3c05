//! Forward authentication: a reverse proxy asks before each request who sends it.

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use cloakroom::{Assurance, Ended, Error, Found, SessionInfo, web::cookie::Presented};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::{
    App,
    json::Params,
    problem::{Code, Problem},
};
use crate::{percent, server::Peer};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthParams {
    user_type: Option<String>,
    /// Seconds since the person proved who they are.
    fresh: Option<u64>,
    /// The number of an assurance level.
    level: Option<u8>,
    #[serde(default, deserialize_with = "one")]
    anonymous: bool,
}

fn one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match &*String::deserialize(deserializer)? {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(serde::de::Error::custom("it is 1 or 0")),
    }
}

pub(super) async fn decide(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    params: Result<Params<AuthParams>, Problem>,
) -> Response {
    let visitor = visitor(&app, peer.map(|Extension(peer)| peer), &headers).await;
    let (info, ended) = match &visitor {
        Ok(Found::Live(record)) => (Some(&record.info), None),
        Ok(Found::Ended(ended)) => (None, Some(ended)),
        Ok(Found::Unknown) | Err(_) => (None, None),
    };
    // A proxy understands 200, 401, 403 and 503 alone, so a mistake in the parameters lets nobody in.
    let verdict = match (&visitor, params) {
        (Err(Error::Refused(refusal)), _) => Err(Error::Refused(*refusal).into()),
        (Err(_), _) => Err(Problem::new(Code::StoreUnavailable, "The session store is unavailable.")),
        (_, Err(_)) => {
            Err(Problem::new(Code::RequirementNotMet, "The parameters of /auth are wrong: see docs/api.md."))
        }
        (Ok(_), Ok(Params(params))) => params.judge(&app, info, ended),
    };
    // Sent for strangers too: a proxy that copies them then overwrites what a client made up.
    let identity = info.filter(|_| verdict.is_ok());
    let mut response = match verdict {
        Ok(()) => (StatusCode::OK, Body::empty()).into_response(),
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    describe(headers, identity, ended);
    response
}

/// Who the cookie says it is.
async fn visitor(app: &App, peer: Option<Peer>, headers: &HeaderMap) -> Result<Found, Error> {
    let found = match app.sessions.cookie().read(headers) {
        Presented::Token(token) => {
            let proxies = app.trusted_proxies.as_ref().zip(peer);
            let ip = proxies.and_then(|(proxies, Peer(peer))| proxies.client(peer, headers));
            app.sessions.resume_from(&token, ip).await
        }
        Presented::Nothing | Presented::Malformed | Presented::Ambiguous => Ok(Found::Unknown),
    };
    if let Err(error) = &found
        && !matches!(error, Error::Refused(_))
    {
        tracing::error!(%error, "a visitor could not be recognised");
    }
    found
}

impl AuthParams {
    fn judge(&self, app: &App, info: Option<&SessionInfo>, ended: Option<&Ended>) -> Result<(), Problem> {
        let Some((info, _)) = info.and_then(|info| Some((info, info.user.as_ref()?))) else {
            return match ended {
                _ if self.anonymous && self.asks_nothing() => Ok(()),
                Some(ended) => Err(Problem::new(Code::NotSignedIn, ended.reason.text())),
                None => Err(Problem::new(Code::NotSignedIn, "Nobody is signed in.")),
            };
        };
        if self.user_type.is_some() && self.user_type.as_deref() != info.user_type.as_deref() {
            return Err(Problem::new(Code::RequirementNotMet, "Another type of user is asked for."));
        }
        let age = info.authenticated_at.map_or(Duration::MAX, |at| app.sessions.now().since(at));
        if self.fresh.is_some_and(|seconds| age > Duration::from_secs(seconds)) {
            return Err(Problem::new(Code::RequirementNotMet, "A more recent sign-in is asked for."));
        }
        if let Some(number) = self.level {
            let Some(level) = Assurance::from_number(number) else {
                return Err(Problem::new(Code::RequirementNotMet, "There is no such level: it is 1, 2 or 3."));
            };
            if info.level < Some(level) {
                return Err(Problem::new(Code::RequirementNotMet, "A stronger sign-in is asked for."));
            }
        }
        Ok(())
    }

    fn asks_nothing(&self) -> bool {
        self.user_type.is_none() && self.fresh.is_none() && self.level.is_none()
    }
}

/// Always all headers, empty where there is nothing to say.
fn describe(headers: &mut HeaderMap, info: Option<&SessionInfo>, ended: Option<&Ended>) {
    let id = info.map(|info| info.id.to_string());
    let field = |field: fn(&SessionInfo) -> Option<&str>| info.and_then(field);
    for (name, value) in [
        ("x-session-id", id.as_deref()),
        ("x-user", field(|info| info.user.as_deref())),
        ("x-full-name", field(|info| info.full_name.as_deref())),
        ("x-user-type", field(|info| info.user_type.as_deref())),
        ("x-impersonated-by", field(|info| info.impersonated_by.as_deref())),
        ("x-audit-user", field(|info| info.audit_user.as_deref())),
        ("x-session-ended", ended.map(|ended| ended.reason.code())),
    ] {
        let value = HeaderValue::from_str(&percent::encoded(value.unwrap_or_default()));
        headers.insert(HeaderName::from_static(name), value.expect("percent-encoded text is visible ASCII"));
    }
}
