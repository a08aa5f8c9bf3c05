//! A store for tower-sessions: an application built on it, or on axum-login, keeps its handlers and has its sessions here.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Change, Data, Error, Found, Json, JsonRef, Partition, Reason, Record, Result, SessionId, Sessions, Start,
    Timestamp, Token,
    store::{Touch, Updated},
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
/// - [Saving](Self#saving) a session that ended, or was never there, is an error. A stale cookie starts a new session.
/// - `create` always chooses the id: two of its 16 bytes say where the session lives, 14 are random.
/// - It is not told where a request comes from: whom the [directory](crate::Builder::users) lets in from some networks only
///   is refused.
/// - A record that was loaded holds one entry more, named `"\0cloakroom"`: what was there, to tell what changed.
///
/// # Saving
///
/// tower-sessions hands over all of a session's data. What is written is what differs from what that request had loaded;
/// of requests that change the same key, the last wins.
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
    user_from: Option<Arc<UserFrom>>,
}

type Values = HashMap<String, Value>;
type UserFrom = dyn Fn(&Values) -> Option<String> + Send + Sync;

impl TowerSessionsStore {
    /// A store of these sessions.
    pub fn new(sessions: &Sessions) -> Self {
        Self { sessions: sessions.clone(), user_from: None }
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

    async fn create(&self, stored: &mut Stored) -> Result<()> {
        let now = self.sessions.now();
        stored.values.remove(BASE);
        let lifetime = stored.expires_at.since(now);
        if lifetime.is_zero() {
            // Nothing would be found of it anyway.
            stored.id = Bearer::generate(Partition::random()?)?.number();
            return Ok(());
        }
        let start = Start { user: self.user(&stored.values), no_absolute_end: true, ..Start::default() };
        let start = start.data(json(&stored.values)?).idle_timeout(lifetime);
        let started = self.sessions.start_with(start, |partition| {
            let bearer = Bearer::generate(partition)?;
            stored.id = bearer.number();
            Ok(self.token(bearer))
        });
        let record = started.await?.record;
        stored.values = values(&record)?;
        Ok(())
    }

    async fn load(&self, id: i128) -> Result<Option<Stored>> {
        let Found::Live(record) = self.sessions.resume_without_touch(&self.token(Bearer::of(id))).await? else {
            return Ok(None);
        };
        let expires_at = record.info.expires_at().unwrap_or(Timestamp::MAX);
        Ok(Some(Stored { id, values: values(&record)?, expires_at }))
    }

    async fn save(&self, mut stored: Stored) -> Result<()> {
        let token = self.token(Bearer::of(stored.id));
        let base = stored.values.remove(BASE);
        let record = match self.sessions.resume_without_touch(&token).await? {
            Found::Live(record) => record,
            // Of a session that is gone, nothing is what there is.
            _ if stored.values.is_empty() => return Ok(()),
            Found::Ended(ended) => return Err(ended.into()),
            Found::Unknown => return Err(Error::UnknownSession),
        };
        if self.user_from.is_some() && self.user(&stored.values) != record.info.user {
            let problem =
                "the user of a session never changes: call cycle_id() to sign somebody in, flush() to sign out";
            return Err(Error::InvalidArgument { what: "user", problem: problem.into() });
        }
        let mut change = self.change(&record, &stored.values, base.as_ref())?;
        if !self.renew(&record, stored.expires_at, &mut change).await? || change.is_empty() {
            return Ok(());
        }
        match self.sessions.update(token.id(), &change).await? {
            Updated::Gone(gone) => Err(gone.into()),
            _ => Ok(()),
        }
    }

    async fn delete(&self, id: i128) -> Result<()> {
        // tower-sessions deletes at sign-out, and when a session gets another id.
        self.sessions.end(self.session_id(id), &Reason::SignedOut.into()).await.map(drop)
    }

    fn user(&self, values: &Values) -> Option<Arc<str>> {
        self.user_from.as_ref()?(values).map(Into::into)
    }

    /// What these values change in what was there when they were loaded. Without that, they are all there is to be.
    fn change(&self, record: &Record, values: &Values, base: Option<&Value>) -> Result<Change> {
        let mut change = self.sessions.change();
        let Some(Value::Object(base)) = base else {
            if !record.data.is_empty() {
                change.remove_all();
            }
            for (key, value) in values {
                change.set(key.as_str(), encode(key, value)?);
            }
            return Ok(change);
        };
        for key in base.keys().filter(|key| !values.contains_key(*key)) {
            change.remove(key.as_str());
        }
        for (key, value) in values {
            if base.get(key) != Some(&fingerprint(value)) {
                change.set(key.as_str(), encode(key, value)?);
            }
        }
        Ok(change)
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

/// A record of tower-sessions, of whatever version.
struct Stored {
    id: i128,
    values: Values,
    expires_at: Timestamp,
}

/// The entry that remembers what was loaded. No application can have one of this name: control characters are refused.
const BASE: &str = "\0cloakroom";

fn values(record: &Record) -> Result<Values> {
    let decode = |(key, value): (&str, JsonRef<'_>)| {
        let decoded = value.decode::<Value>();
        let decoded =
            decoded.map_err(|source| Error::InvalidValue { key: key.to_string(), action: "decoded", source })?;
        Ok((key.to_string(), decoded))
    };
    let mut values = record.data.iter().map(decode).collect::<Result<Values>>()?;
    let base = values.iter().map(|(key, value)| (key.clone(), fingerprint(value))).collect();
    values.insert(BASE.into(), Value::Object(base));
    Ok(values)
}

fn json(values: &Values) -> Result<Data> {
    values.iter().map(|(key, value)| Ok((Arc::from(key.as_str()), encode(key, value)?))).collect()
}

fn encode(key: &str, value: &Value) -> Result<Json> {
    Json::encode(value).map_err(|source| Error::InvalidValue { key: key.into(), action: "encoded", source })
}

/// Tells a value from another one of the same process's.
fn fingerprint(value: &Value) -> Value {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish().into()
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
                let values = record.data.clone();
                let mut stored = Stored { id: record.id.0, values, expires_at };
                self.create(&mut stored).await.map_err(failure!($tower_sessions))?;
                record.id = $tower_sessions::session::Id(stored.id);
                record.data = stored.values;
                Ok(())
            }

            async fn save(
                &self,
                record: &$tower_sessions::session::Record,
            ) -> $tower_sessions::session_store::Result<()> {
                let expires_at = timestamp(record.expiry_date);
                let stored = Stored { id: record.id.0, values: record.data.clone(), expires_at };
                self.save(stored).await.map_err(failure!($tower_sessions))
            }

            async fn load(
                &self,
                id: &$tower_sessions::session::Id,
            ) -> $tower_sessions::session_store::Result<Option<$tower_sessions::session::Record>> {
                let stored = self.load(id.0).await.map_err(failure!($tower_sessions))?;
                Ok(stored.map(|Stored { id, values, expires_at }| $tower_sessions::session::Record {
                    id: $tower_sessions::session::Id(id),
                    data: values,
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
