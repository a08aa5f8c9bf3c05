//! Starting sessions.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::response::Response;
use cloakroom::{
    Assurance, Client, ClientIp, Data, Ended, Found, Json, JsonRef, Reason, Record, SessionId, Start, Timestamp,
    store::{Limit, WhenFull},
};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    App,
    call::Call,
    json::{Entries, TokenText, answer},
    operation::{Attempt, IDEMPOTENCY_KEY},
    problem::{Code, Problem},
    strict::Nothing,
    view::SessionView,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StartRequest {
    user: Option<Arc<str>>,
    #[serde(default)]
    data: Entries,
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
    headers: HeaderMap,
    Call { app, attempt, body: request, .. }: Call<Nothing, StartRequest>,
) -> Result<Response, Problem> {
    let given = request.data.read("data", &app.sessions)?;
    let replaced = replaced(&app, request.replaces.as_ref(), request.ip()).await?;
    if request.idle_seconds == Some(0) {
        return Err(Problem::field(Code::InvalidField, "idle_seconds", "idle_seconds: it must be at least 1"));
    }
    let fresh_data = request.fresh_data;
    // A call that has one is recognised by it, so that it was found to be text.
    let key = attempt.and_then(|_| headers.get(IDEMPOTENCY_KEY)?.to_str().ok());
    let mut start = request.into_start();
    if let Some(key) = key {
        start = start.idempotency_key(key);
    }
    let before = match &replaced {
        Replaced::Nothing => None,
        Replaced::Living(record) => Some(Arc::clone(record)),
        // The first try took its place, and has what was in it.
        Replaced::Taken => first_try(&app, attempt.as_ref(), &start).await?,
    };
    let carried = before.filter(|record| !fresh_data && start.may_carry_over(&record.info));
    start = start.data(merged(carried.as_deref(), given));
    if let Replaced::Living(record) = &replaced {
        start = start.in_place_of(&record.info);
    }
    let started = app.sessions.start(start).await?;
    app.operations.hand(attempt, started.record.info.id);
    let view = StartedView {
        set_cookie: app.sessions.cookie().set(&started.token, &started.record.info, app.sessions.now(), None),
        token: started.token.reveal(),
        session: SessionView::from(&*started.record),
        ended: started.ended.iter().map(|ended| ended.id).collect(),
    };
    Ok(answer(StatusCode::CREATED, &view))
}

/// What became of the session that the new one takes the place of.
enum Replaced {
    /// There is none, or it has no place to take.
    Nothing,
    Living(Arc<Record>),
    /// Another session took its place.
    Taken,
}

/// A token that opens nothing is a mistake that would otherwise leave a session behind.
async fn replaced(app: &App, text: Option<&TokenText>, ip: Option<IpAddr>) -> Result<Replaced, Problem> {
    let Some(text) = text else { return Ok(Replaced::Nothing) };
    let unknown = || Problem::unknown_session().with("field", &"replaces");
    let token = text.token().map_err(|_| unknown())?;
    match app.sessions.resume_without_touch_from(token, ip).await? {
        Found::Live(record) => Ok(Replaced::Living(record)),
        Found::Ended(Ended { reason: Reason::Replaced, .. }) => Ok(Replaced::Taken),
        Found::Ended(_) => Ok(Replaced::Nothing),
        Found::Unknown => Err(unknown()),
    }
}

/// The living session that an earlier try of this very call started, by this process or by another.
async fn first_try(app: &App, attempt: Option<&Attempt>, start: &Start) -> Result<Option<Arc<Record>>, Problem> {
    if let Some(id) = app.operations.handed(attempt)
        && let Found::Live(record) = app.sessions.get(id).await?
    {
        return Ok(Some(record));
    }
    Ok(app.sessions.earlier_try(start).await?)
}

/// What was there before, and over it what is given: built in one go.
fn merged(carried: Option<&Record>, given: Vec<(Arc<str>, Json)>) -> Data {
    let own = |(key, value): (&str, JsonRef<'_>)| (Arc::from(key), value.to_json());
    carried.into_iter().flat_map(|record| record.data.iter()).map(own).chain(given).collect()
}

impl StartRequest {
    fn ip(&self) -> Option<IpAddr> {
        self.client.as_ref().and_then(ClientRequest::ip)
    }

    /// All but its data, and what it replaces.
    fn into_start(self) -> Start {
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
        start
    }
}
