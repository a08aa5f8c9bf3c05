//! Starting sessions.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use cloakroom::{
    Assurance, Client, ClientIp, Data, Found, Record, SessionId, Start, Timestamp,
    store::{Limit, WhenFull},
};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    App,
    guard::{May, Write},
    json::{Entries, Strict, TokenText, answer},
    problem::{Code, Problem},
    view::SessionView,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StartRequest {
    user: Option<Arc<str>>,
    data: Option<Entries>,
    full_name: Option<Arc<str>>,
    user_type: Option<Arc<str>>,
    idle_seconds: Option<u64>,
    ends_at: Option<Timestamp>,
    #[serde(default)]
    remember: bool,
    audit_user: Option<Arc<str>>,
    methods: Option<Arc<str>>,
    level: Option<Level>,
    replaces: Option<TokenText>,
    #[serde(default)]
    fresh_data: bool,
    limit: Option<LimitRequest>,
    client: Option<ClientRequest>,
}

/// An assurance level by its number.
#[derive(Debug, Deserialize)]
#[serde(try_from = "u8")]
struct Level(Assurance);

impl TryFrom<u8> for Level {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Assurance::from_number(number).map(Self).ok_or_else(|| format!("{number} is no level: 1, 2 or 3"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitRequest {
    max: u32,
    #[serde(default = "evict")]
    when_full: WhenFull,
}

fn evict() -> WhenFull {
    WhenFull::Evict
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientRequest {
    pub(super) ip: Option<ClientIp>,
    user_agent: Option<Arc<str>>,
    device: Option<Arc<str>>,
    country: Option<Arc<str>>,
}

impl ClientRequest {
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.ip.map(ClientIp::get)
    }
}

#[derive(Debug, Serialize)]
struct StartedView<'a> {
    token: String,
    set_cookie: String,
    session: SessionView<'a>,
    ended: Vec<SessionId>,
}

pub(super) async fn start(
    _: May<Write>,
    State(app): State<App>,
    headers: HeaderMap,
    Strict(request): Strict<StartRequest>,
) -> Result<Response, Problem> {
    let replaced = match &request.replaces {
        Some(text) => replaced(&app, text, request.client.as_ref().and_then(ClientRequest::ip)).await?,
        None => None,
    };
    let idempotency_key = idempotency_key(&headers)?;
    let start = request.into_start(replaced.as_deref(), idempotency_key);
    let started = app.sessions.start(start).await?;
    let view = StartedView {
        set_cookie: app.sessions.cookie().set(&started.token, &started.record.info, app.sessions.now(), None),
        token: started.token.reveal(),
        session: SessionView::from(&*started.record),
        ended: started.ended.iter().map(|ended| ended.id).collect(),
    };
    Ok(answer(StatusCode::CREATED, &view))
}

/// The living session that the new one takes the place of. One that ended has no place to take; a token that opens
/// nothing is a mistake that would otherwise leave a session behind.
async fn replaced(app: &App, text: &TokenText, ip: Option<IpAddr>) -> Result<Option<Arc<Record>>, Problem> {
    let unknown = || Problem::unknown_session().with("field", &"replaces");
    let token = text.token().map_err(|_| unknown())?;
    match app.sessions.resume_without_touch_from(token, ip).await? {
        Found::Live(record) => Ok(Some(record)),
        Found::Ended(_) => Ok(None),
        Found::Unknown => Err(unknown()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        Problem::field(Code::InvalidField, "Idempotency-Key", "Idempotency-Key: only visible ASCII is allowed")
    })?;
    Ok(Some(text.to_owned()))
}

impl StartRequest {
    fn into_start(self, replaced: Option<&Record>, idempotency_key: Option<String>) -> Start {
        let client = self.client.map(|ClientRequest { ip, user_agent, device, country }| Client {
            ip: ip.map(ClientIp::get),
            user_agent,
            device,
            country,
        });

        let mut start = match self.user {
            Some(user) => Start::user(user),
            None => Start::anonymous(),
        };
        start = start.remember(self.remember).client(client.unwrap_or_default());
        if let Some(name) = self.full_name {
            start = start.full_name(name);
        }
        if let Some(user_type) = self.user_type {
            start = start.user_type(user_type);
        }
        if let Some(user) = self.audit_user {
            start = start.audit_user(user);
        }
        if let Some(methods) = self.methods {
            start = start.methods(methods);
        }
        if let Some(Level(level)) = self.level {
            start = start.authenticated_level(level);
        }
        if let Some(seconds) = self.idle_seconds {
            start = start.idle_timeout(Duration::from_secs(seconds));
        }
        if let Some(end) = self.ends_at {
            start = start.ends_at(end);
        }
        if let Some(LimitRequest { max, when_full }) = self.limit {
            start = start.limit(Limit { max, when_full });
        }
        let carried = replaced.filter(|record| !self.fresh_data && start.may_carry_over(&record.info));
        let mut data = carried.map_or_else(Data::new, |record| record.data.clone());
        for (key, value) in self.data.unwrap_or_default().0 {
            data.insert(key, value);
        }
        start = start.data(data);
        if let Some(record) = replaced {
            start = start.in_place_of(&record.info);
        }
        if let Some(key) = idempotency_key {
            start = start.idempotency_key(key);
        }
        start
    }
}
