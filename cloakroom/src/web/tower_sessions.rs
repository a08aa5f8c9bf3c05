//! A store for tower-sessions: an application built on it, or on axum-login, keeps its handlers and has its sessions here.

mod views;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use serde_json::Value;

use self::views::Views;
use crate::{
    change::Change,
    clock::Timestamp,
    data::{Data, Json, JsonRef},
    ended::Reason,
    error::{Error, Result},
    record::Record,
    rules::{Touch, Updated},
    sessions::{Found, Sessions, SignIn, Visitor},
    token::{Partition, SessionId, Token},
};

/// A store for tower-sessions 0.15 (feature `tower-sessions`) and for 0.14, which axum-login 0.18 builds on (feature
/// `axum-login`). An application replaces the line that makes its store, and nothing else:
///
#[cfg_attr(feature = "tower-sessions", doc = "```")]
#[cfg_attr(not(feature = "tower-sessions"), doc = "```ignore")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// use cloakroom::{Sessions, web::TowerSessionsStore};
/// use tower_sessions::{Expiry, SessionManagerLayer};
///
/// let sessions = Sessions::open("memory:").await?;
/// let store = TowerSessionsStore::new(&sessions)
///     .user_from(|data| data.get("user_id")?.as_str().map(str::to_owned));
/// let layer = SessionManagerLayer::new(store)
///     .with_expiry(Expiry::OnInactivity(time::Duration::hours(1)));
/// # let _: SessionManagerLayer<TowerSessionsStore> = layer;
/// # Ok(()) }
/// ```
///
/// What it adds: sessions appear in lists, in the console and in the audit log; what is ended there stays ended;
/// limits and disabling hold where [`user_from`](Self::user_from) says who a session belongs to; requests at the
/// same time that change different keys do not lose each other's values; the store keeps nothing a thief of it could put
/// into a cookie.
///
/// What differs from other stores of tower-sessions:
/// - [Saving](Self#saving) a session that ended, or was never there, is an error. A stale cookie starts a new session. Only
///   of a session that was deleted, as at sign-out, what a request still saves is dropped without one.
/// - `create` always chooses the id: two of its 16 bytes say where the session lives, 14 are random.
/// - It is not told where a request comes from: whom the [directory](crate::Builder::users) lets in from some networks only
///   is refused.
///
/// # Saving
///
/// tower-sessions hands over all of a session's data. What is written is what differs from what that request loaded or saved
/// last; of requests that change the same key, the last wins. The store remembers what it handed out lately (65,536
/// records, 32 MiB). A record that it does not remember is written as a whole, as other stores do; and behind a
/// `CachingSessionStore` requests at the same time share what they loaded, so that the last one's record wins.
///
/// # Expiry
///
/// tower-sessions' alone decides, up to the bounds of an [assurance level](crate::Lifetimes::assurance). As there, reading
/// does not postpone it, and saving does, so [`last_seen_at`](crate::SessionInfo::last_seen_at) is when a session was last
/// saved, give or take a twentieth of its lifetime and at most a minute.
#[derive(Clone)]
#[must_use]
pub struct TowerSessionsStore {
    sessions: Sessions,
    views: Arc<Views>,
    user_from: Option<Arc<UserFrom>>,
}

type Values = HashMap<String, Value>;
type UserFrom = dyn Fn(&Values) -> Option<String> + Send + Sync;

impl TowerSessionsStore {
    /// A store of these sessions.
    pub fn new(sessions: &Sessions) -> Self {
        Self { sessions: sessions.clone(), views: Arc::default(), user_from: None }
    }

    /// Who a session's data says is signed in. Default: nobody, all sessions are anonymous visitors'.
    ///
    /// A session belongs to one user from its creation to its end: an application calls `cycle_id` when somebody signs in,
    /// as axum-login does, and `flush` when they sign out. Without it saving is an error, because a session that
    /// changes hands under one id is what session fixation needs.
    pub fn user_from(
        mut self,
        user: impl Fn(&HashMap<String, Value>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.user_from = Some(Arc::new(user));
        self
    }

    /// Who axum-login says is signed in. Its `AuthUser::Id` must be a text or a number.
    pub fn user_of_axum_login(self) -> Self {
        self.user_from(|data| match data.get("axum-login.data")?.get("user_id")? {
            Value::String(user) => Some(user.clone()),
            Value::Number(user) => Some(user.to_string()),
            _ => None,
        })
    }

    /// The handle under which lists, the console and the audit log know the session with this id of tower-sessions: the
    /// number in its `Id`.
    pub fn session_id(&self, id: i128) -> SessionId {
        self.token(Bearer::of(id)).id()
    }

    /// The token that stands for an id: the id itself is in no store, nor is anything it could be computed from.
    fn token(&self, Bearer(bearer): Bearer) -> Token {
        let key = self.sessions.store().partition_key();
        let derived = |what: &str| *key.keyed_digest(&[what.as_bytes(), &bearer].concat()).as_bytes();
        let mut id = [0; SessionId::LEN];
        id[..2].copy_from_slice(&bearer[..2]);
        id[2..].copy_from_slice(&derived("tower-sessions id\0")[..16]);
        Token::from_parts(SessionId::from_bytes(id), derived("tower-sessions secret\0"))
    }

    /// Answers the id that was chosen.
    async fn create(&self, values: &Values, expires_at: Timestamp) -> Result<i128> {
        let lifetime = expires_at.since(self.sessions.now());
        if lifetime.is_zero() {
            // Nothing would be found of it anyway.
            return Ok(Bearer::generate(Partition::random()?)?.number());
        }
        let start = self.user(values).map_or_else(SignIn::anonymous, SignIn::new).no_configured_end();
        let start = start.data(json(values)?).idle_timeout(lifetime);
        let mut id = 0;
        let started = self.sessions.start_with(start, |partition| {
            let bearer = Bearer::generate(partition)?;
            id = bearer.number();
            Ok(self.token(bearer))
        });
        let record = started.await?.record;
        self.views.keep(id, values, record.data.clone());
        Ok(id)
    }

    /// What is there, and when it expires.
    async fn load(&self, id: i128) -> Result<Option<(Values, Timestamp)>> {
        let Found::Live(record) = self.sessions.resume(Visitor::new(&self.token(Bearer::of(id))).touch(false)).await?
        else {
            return Ok(None);
        };
        let values = values(&record)?;
        self.views.keep(id, &values, record.data.clone());
        Ok(Some((values, record.info.expires_at().unwrap_or(Timestamp::MAX))))
    }

    async fn save(&self, id: i128, values: &Values, expires_at: Timestamp) -> Result<()> {
        let token = self.token(Bearer::of(id));
        let record = match self.sessions.resume(Visitor::new(&token).touch(false)).await? {
            Found::Live(record) => record,
            // Of a session that is gone, nothing is what there is.
            _ if values.is_empty() => return Ok(()),
            // tower-sessions' middleware saves what it deleted in the same request.
            Found::Ended(ended) if ended.reason == Reason::SignedOut => {
                tracing::debug!(session = %token.id(), "what was changed in a deleted session is dropped");
                return Ok(());
            }
            Found::Ended(ended) => return Err(ended.into()),
            Found::Unknown => return Err(Error::UnknownSession),
        };
        if self.user_from.is_some() && self.user(values) != record.info.user {
            let problem =
                "the user of a session never changes: call cycle_id() to sign somebody in, flush() to sign out";
            return Err(Error::InvalidArgument { what: "user", problem: problem.into() });
        }
        let now = json(values)?;
        let mut change = self.change(&record, &now, self.views.of(id, values).as_ref());
        if !self.renew(&record, expires_at, &mut change).await? {
            return Ok(());
        }
        if !change.is_empty()
            && let Updated::Gone(gone) = self.sessions.update(token.id(), &change).await?
        {
            return Err(gone.into());
        }
        self.views.keep(id, values, now);
        Ok(())
    }

    async fn delete(&self, id: i128) -> Result<()> {
        // tower-sessions deletes at sign-out, and when a session gets another id.
        self.sessions.end(self.session_id(id), &Reason::SignedOut.into()).await.map(drop)
    }

    fn user(&self, values: &Values) -> Option<Arc<str>> {
        self.user_from.as_ref()?(values).map(Into::into)
    }

    /// What these values change in what they were. Without that, they are all there is to be.
    fn change(&self, record: &Record, values: &Data, before: Option<&Data>) -> Change {
        let mut change = self.sessions.change();
        let Some(before) = before else {
            if !record.data.is_empty() {
                change.remove_all();
            }
            for (key, value) in values.iter() {
                change.set(key, value.to_json());
            }
            return change;
        };
        for (key, _) in before.iter().filter(|(key, _)| values.get(key).is_none()) {
            change.remove(key);
        }
        for (key, value) in values.iter() {
            if before.get(key).is_none_or(|before| !is_same(before, value)) {
                change.set(key, value.to_json());
            }
        }
        change
    }

    /// Moves the expiry where it shall be; `false` if that is now, and the session ended.
    async fn renew(&self, record: &Record, expires_at: Timestamp, change: &mut Change) -> Result<bool> {
        let (now, id) = (self.sessions.now(), record.info.id);
        let lifetime = expires_at.since(now);
        if lifetime.is_zero() {
            self.sessions.end(id, &Reason::IdleTimeout.into()).await?;
            return Ok(false);
        }
        let throttle = (lifetime / 20).min(Duration::from_mins(1));
        let stored = record.info.expires_at().unwrap_or(Timestamp::MAX);
        if expires_at.since(stored).max(stored.since(expires_at)) < throttle {
            return Ok(true);
        }
        if record.info.idle_timeout.is_none_or(|idle| lifetime.abs_diff(idle) >= throttle) {
            // A fixed date, or another inactivity than before. Counted from now on, so that it ends when it shall.
            change.fields.idle_timeout = Some(Some(lifetime));
        }
        self.sessions.touch_now(Touch { id, seen_at: now, grace_ends: None }).await?;
        Ok(true)
    }
}

impl fmt::Debug for TowerSessionsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerSessionsStore").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

/// tower-sessions' id: what the cookie holds.
#[derive(Clone, Copy)]
struct Bearer([u8; 16]);

impl Bearer {
    fn of(number: i128) -> Self {
        Self(number.to_le_bytes())
    }

    fn number(self) -> i128 {
        i128::from_le_bytes(self.0)
    }

    /// The partition, and 14 random bytes.
    fn generate(partition: Partition) -> Result<Self> {
        let id = SessionId::generate(partition)?;
        Ok(Self(std::array::from_fn(|at| id.as_bytes()[at])))
    }
}

fn values(record: &Record) -> Result<Values> {
    let decode = |(key, value): (&str, JsonRef<'_>)| {
        let decoded = value.decode::<Value>();
        let decoded =
            decoded.map_err(|source| Error::InvalidValue { key: key.to_string(), action: "decoded", source })?;
        Ok((key.to_string(), decoded))
    };
    record.data.iter().map(decode).collect()
}

/// Whether two texts are one value, which another program may have written in another way.
fn is_same(one: JsonRef<'_>, other: JsonRef<'_>) -> bool {
    let value = |text: JsonRef<'_>| text.decode::<Value>().ok();
    one == other || value(one).is_some_and(|one| value(other) == Some(one))
}

fn json(values: &Values) -> Result<Data> {
    values.iter().map(|(key, value)| Ok((Arc::from(key.as_str()), encode(key, value)?))).collect()
}

fn encode(key: &str, value: &Value) -> Result<Json> {
    Json::encode(value).map_err(|source| Error::InvalidValue { key: key.into(), action: "encoded", source })
}

/// An error of ours as one of tower-sessions', which knows texts alone.
macro_rules! failure {
    ($tower_sessions:ident) => {
        |error| match error {
            Error::InvalidValue { action: "decoded", .. } => {
                $tower_sessions::session_store::Error::Decode(error.to_string())
            }
            Error::InvalidKey { .. } | Error::InvalidValue { .. } | Error::TooLarge { .. } => {
                $tower_sessions::session_store::Error::Encode(error.to_string())
            }
            _ => $tower_sessions::session_store::Error::Backend(error.to_string()),
        }
    };
}

/// Implements the trait of one version of tower-sessions.
macro_rules! session_store {
    ($tower_sessions:ident) => {
        #[async_trait::async_trait]
        impl $tower_sessions::SessionStore for TowerSessionsStore {
            async fn create(
                &self,
                record: &mut $tower_sessions::session::Record,
            ) -> $tower_sessions::session_store::Result<()> {
                let expires_at = timestamp(record.expiry_date);
                let id = self.create(&record.data, expires_at).await.map_err(failure!($tower_sessions))?;
                record.id = $tower_sessions::session::Id(id);
                Ok(())
            }

            async fn save(
                &self,
                record: &$tower_sessions::session::Record,
            ) -> $tower_sessions::session_store::Result<()> {
                let expires_at = timestamp(record.expiry_date);
                self.save(record.id.0, &record.data, expires_at).await.map_err(failure!($tower_sessions))
            }

            async fn load(
                &self,
                id: &$tower_sessions::session::Id,
            ) -> $tower_sessions::session_store::Result<Option<$tower_sessions::session::Record>> {
                let loaded = self.load(id.0).await.map_err(failure!($tower_sessions))?;
                Ok(loaded.map(|(data, expires_at)| $tower_sessions::session::Record {
                    id: *id,
                    data,
                    expiry_date: date(expires_at),
                }))
            }

            async fn delete(&self, id: &$tower_sessions::session::Id) -> $tower_sessions::session_store::Result<()> {
                self.delete(id.0).await.map_err(failure!($tower_sessions))
            }
        }
    };
}

#[cfg(feature = "tower-sessions")]
session_store!(tower_sessions_core);
#[cfg(feature = "axum-login")]
session_store!(tower_sessions_core_014);

fn timestamp(date: time::OffsetDateTime) -> Timestamp {
    let millis = date.unix_timestamp_nanos().div_euclid(1_000_000);
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

/// The last one there is, for a time beyond it.
fn date(at: Timestamp) -> time::OffsetDateTime {
    let latest = time::PrimitiveDateTime::MAX.assume_utc();
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_millis()) * 1_000_000).unwrap_or(latest)
}
