//! What a session begins with: what a request came with, and from where.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use http::HeaderValue;

use super::{CookieOrder, Session, Shared, Stage, State, pending::Pending};
use crate::{
    ended::Ended,
    error::Result,
    record::{Client, Record},
    sessions::{Found, Recognised, Sessions, Visitor},
    token::{SessionId, Token},
};

impl Session {
    /// The session of a visitor who came without one.
    pub fn anonymous(sessions: &Sessions) -> Self {
        Self::arrive(sessions, Arrival::Nothing, Origin::default())
    }

    /// The session that a visitor's token opens, for a framework without an integration of its own: what the layer does when
    /// a handler asks. The caller [commits](Self::commit) and carries tokens itself. A session that it starts is recorded as
    /// from the visitor's address.
    pub async fn resume(sessions: &Sessions, visitor: impl Into<Visitor<'_>>) -> Result<Self> {
        let visitor = visitor.into();
        let recognised = Recognised::of(Some(visitor.token), sessions.resume(visitor).await?);
        let origin = Origin { ip: visitor.ip, user_agent: None, several: false };
        Ok(Self::arrive(sessions, recognised.into(), origin))
    }

    pub(crate) fn arrive(sessions: &Sessions, arrival: Arrival, origin: Origin) -> Self {
        let (stage, cookie) = match arrival {
            Arrival::Nothing => (Stage::ANONYMOUS, CookieOrder::Keep),
            Arrival::Unknown => (Stage::ANONYMOUS, CookieOrder::Delete),
            // Another request may sign in at this moment: what that one sets must stay.
            Arrival::Several(rivals) => (Stage::Anonymous { lapsed: None, rivals }, CookieOrder::Keep),
            Arrival::Ended(ended) => {
                let keep = sessions.has_fresh_successor(&ended);
                let cookie = if keep { CookieOrder::Keep } else { CookieOrder::Delete };
                (Stage::Anonymous { lapsed: Some(ended), rivals: Vec::new() }, cookie)
            }
            Arrival::Live(record, token) => (Stage::Stored { record, token }, CookieOrder::Keep),
        };
        let pending = Pending::new(sessions.max_data_bytes());
        let state = State {
            stage,
            pending,
            in_flight: None,
            lease: None,
            releasing: None,
            cookie,
            signed_out: false,
            head_sent: false,
        };
        let (state, turn) = (Mutex::new(state), tokio::sync::Mutex::new(()));
        Self(Arc::new(Shared { sessions: sessions.clone(), origin, state, turn }))
    }
}

/// What a request came with.
pub(crate) enum Arrival {
    /// No cookie, or none that can be believed.
    Nothing,
    /// A cookie that opens nothing.
    Unknown,
    /// The token of an ended session.
    Ended(Ended),
    /// The tokens of several living sessions, none of which is believed.
    Several(Vec<SessionId>),
    /// The token of a living session.
    Live(Arc<Record>, Token),
}

impl From<Recognised> for Arrival {
    fn from(recognised: Recognised) -> Self {
        match recognised {
            Recognised { found: Found::Live(record), token: Some(token), .. } => Self::Live(record, token),
            Recognised { found: Found::Ended(ended), .. } => Self::Ended(ended),
            Recognised { rivals, .. } if !rivals.is_empty() => {
                Self::Several(rivals.into_iter().map(|info| info.id).collect())
            }
            Recognised { .. } => Self::Unknown,
        }
    }
}

/// Where a request comes from, as it said: made a [`Client`] when a session starts.
#[derive(Default)]
pub(crate) struct Origin {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) user_agent: Option<HeaderValue>,
    /// Whether there were several session cookies.
    pub(crate) several: bool,
}

impl Origin {
    pub(super) fn client(&self) -> Client {
        let user_agent = self.user_agent.as_ref().and_then(|value| value.to_str().ok());
        Client { ip: self.ip, user_agent: user_agent.map(Into::into), device: None, country: None }
    }
}
