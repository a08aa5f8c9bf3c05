//! Where sessions live.
//!
//! A [`Store`] keeps records, tombstones, the fences of users and the audit log. Applications never call one: they open
//! it and hand it to [`Sessions`](crate::Sessions).
//!
//! | address | store | feature |
//! |---|---|---|
//! | `memory:` | [`MemoryStore`]: gone when the process ends | always there |
//! | `file:sessions` | [`FileStore`]: a JSON file a session, in one directory | `file` |
//! | `sqlite:sessions.db` | [`SqliteStore`]: one file on this machine | `sqlite` |
//! | `postgres://user:password@host/database` | [`PostgresStore`]: PostgreSQL 13 or newer | `postgres` |
//! | `mysql://user:password@host/database` | [`MysqlStore`]: MariaDB 10.6 or newer | `mysql` |
//! | `redis://HOST:PORT` · `redis-cluster://HOST:PORT` | `RedisStore`: in Redis 7 or a cluster | `redis` |
//!
//! # Writing a store
//!
//! Implement [`Store`] and mount the conformance suite on it (feature `testing`, [`crate::testing`]). A store that holds
//! records in this process, or decides inside one transaction of an embedded database, uses the rules as they stand:
//! [`Change::apply_to`], [`Secrets::rotate`](crate::Secrets::rotate), [`SessionInfo::expired`]. A store behind a
//! network says the same in its own language, and the suite's random operations compare the two.

use std::{fmt, future::Future, net::IpAddr, pin::Pin, str::FromStr, sync::Arc, time::Duration};

use crate::{
    AuditEntry, Change, Digest, Ended, Ending, Error, PartitionKey, Record, Result, Secrets, SessionId, SessionInfo,
    Timestamp,
};

#[cfg(feature = "file")]
mod file;
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod sealed;
mod shared;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sql;

#[cfg(feature = "file")]
pub use file::FileStore;
pub use memory::MemoryStore;
#[cfg(feature = "redis")]
pub use redis::RedisStore;
pub(crate) use sealed::SealedStore;
#[cfg(feature = "mysql")]
pub use sql::MysqlStore;
#[cfg(feature = "postgres")]
pub use sql::PostgresStore;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use sql::SqlStore;
#[cfg(feature = "sqlite")]
pub use sql::SqliteStore;

/// What a store's calls return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where sessions live.
///
/// # Contract
///
/// *Atomic*: every call that changes something does all of it or nothing, together with its audit entries, and other
/// callers on any node see it so. Dropping a future leaves all of it done or nothing. For [`touch`](Self::touch),
/// [`end`](Self::end) of several ids and [`reap`](Self::reap) that holds for each session by itself: they may live on
/// different servers.
///
/// *Answers are not errors*: a session that is missing, expired or ended is an answer. An `Err` means the store could
/// not do its work; a call that cannot tell whether it did returns [`Error::OutcomeUnknown`].
///
/// *Time is given*: a deadline has passed when it is at or before `now`, as [`SessionInfo::expired`] decides, whatever
/// the backend's own clock says. An expired record that was not reaped yet counts as ended everywhere.
///
/// *Durable*: what was answered survives what the store's documentation says it survives.
///
/// # Which failures are harmless
///
/// A lost touch ends a session early by at most the throttle; a late reap delays tombstones and audit entries; an audit
/// page that comes late is only late. These are *holes*, and let somebody in who must stay out: an update, touch or
/// rotation that makes a record where there is none; a load that answers `Live` after an [`end`](Self::end) returned; an
/// admission counted outside the transaction that creates; an index that misses a living session of a user. So no
/// method has a default body.
pub trait Store: Locks + fmt::Debug + Send + Sync + 'static {
    /// The key that places users in partitions: made when the store is, the same for every node that opens it.
    fn partition_key(&self) -> &PartitionKey;

    /// Creates a record, if the user's fence and limit admit it.
    ///
    /// In one transaction: a fence that forbids it refuses; the session of an earlier try with the same idempotency key
    /// and the one it [replaces](Create::replaces) end and do not count; a full limit refuses or evicts the
    /// least recently seen ([`SessionInfo::last_seen_at`], then `created_at`, then id); the record is created. A
    /// refusal is audited, and ends nothing. When several refuse, a disabled user comes first, then the fence, then
    /// the limit. An id that is there already, alive or as a tombstone, is the work of an earlier try of this very call,
    /// because ids are fresh: it answers `Created`, changes nothing and brings nothing back.
    ///
    /// The replaced session may be anybody's. If it, or that of the earlier try, had expired, it ends for that reason
    /// and is not among those that ended for the new one. An earlier try is looked for in the record's partition
    /// and counts until its session ended.
    ///
    /// A store whose partitions live on different servers may end the replaced session in a second step before it
    /// answers, and finishes in [`reap`](Self::reap) what a crash left between the two.
    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>>;

    /// Reads one session. Changes nothing.
    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>>;

    /// The answer of [`load`](Self::load) if it lies in memory and is as good as loading; `None` means ask `load`.
    fn peek(&self, id: SessionId, now: Timestamp) -> Option<Loaded>;

    /// Applies a change as [`Change::apply_to`] does, and answers with the record as it is afterwards. A change of
    /// user type or deadlines is audited.
    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>>;

    /// Notes that sessions were used, each at most once in a batch. Last-seen never moves backwards, the version stays.
    /// A touch that is older than the last one still starts the grace it carries. Answers in the order asked: whether
    /// each session is there.
    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>>;

    /// Makes another secret current, as [`Secrets::rotate`] does. The version stays. Where the successor is current already, an
    /// earlier try of this call succeeded: it answers `Rotated` and audits nothing more.
    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>>;

    /// Ends sessions. Their records go, their tombstones stay, their endings are audited. A session that had expired ends
    /// for that reason, whatever `ending` says.
    ///
    /// For [`Which::Ids`] the answers are in the order asked, an id that comes twice answered twice. For
    /// [`Which::OfUser`] they are the sessions that this call ended, newest first, without those that had expired.
    fn end<'a>(&'a self, which: &'a Which, ending: &'a Ending, now: Timestamp)
    -> BoxFuture<'a, Result<Vec<EndAnswer>>>;

    /// Lifts the fence that [`Fence::Disabled`] set. Harmless if there is none.
    fn enable_user<'a>(&'a self, user: &'a str, now: Timestamp) -> BoxFuture<'a, Result<()>>;

    /// Lists living sessions that match, at most `limit` (one or more), data left out. With a user: newest first
    /// ([`SessionInfo::created_at`], then id). Otherwise in an order of the store's own, and a page may hold fewer than
    /// `limit` although more follow. Paging while sessions come and go never shows one twice, and shows each that
    /// was there throughout. A cursor that this store did not give is [`Cursor::invalid`].
    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>>;

    /// Ends what expired, at most `limit` in one call, and forgets tombstones and audit entries that are
    /// old enough. The end-all fence of a user goes with the tombstones of its time. Safe on any number of nodes at once; costs what it ends, not what is stored.
    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>>;

    /// Reads the audit log, oldest first. A reader that continues from the last cursor it saw misses nothing, not even
    /// an entry whose transaction took long, and goes on behind what was forgotten meanwhile. `limit` is one or more; a
    /// page may hold fewer, or nothing, although more follow. Order holds within a session.
    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>>;

    /// Whether the store can be used now, and what its own clock says if that is not this machine's.
    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>>;
}

/// Exclusive access to one session at a time, among those who ask for it. See [`Lease`](crate::Lease).
///
/// Taking, renewing and releasing change neither version nor last-seen, and are not audited.
pub trait Locks {
    /// Takes the lock of a session for as long as `lease`, if nobody holds it, as [`Lease::take`](crate::Lease::take)
    /// does. Does not wait. The answer holds the record as it is now: what was read before may be old.
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>>;

    /// Extends a lease, as [`Lease::renew`](crate::Lease::renew) does; `false` if it was lost, or its session is gone.
    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>>;

    /// Gives a lock back, as [`Lease::release`](crate::Lease::release) does; `false` if it was lost, or its session is gone.
    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>>;
}

/// What became of an attempt to lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locked {
    /// The caller holds the lock, under the number in [`Record::lease`].
    Granted(Arc<Record>),
    /// Somebody else holds it, until then at the latest.
    Held {
        /// When that lease runs out.
        until: Timestamp,
    },
    /// There is no such living session.
    Gone(Gone),
}

/// A record to create, and what must hold for it.
#[derive(Clone, Debug)]
pub struct Create {
    /// The record. Its id is a fresh one: only a repeated try of the same call has it again. Its user's fence is compared
    /// with [`SessionInfo::authenticated_at`], or without one with [`SessionInfo::created_at`].
    pub record: Record,
    /// How many sessions its user may have.
    pub limit: Option<Limit>,
    /// The session this one takes the place of.
    pub replaces: Option<SessionId>,
    /// Who starts it, if not its user.
    pub by: Option<Arc<str>>,
}

/// How many sessions a user may have at once, and what a further sign-in does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At least 1.
    pub max: u32,
    /// What a sign-in beyond it does.
    pub when_full: WhenFull,
}

impl Limit {
    /// A limit that ends the least recently seen sessions to make room.
    pub const fn evict(max: u32) -> Self {
        Self { max, when_full: WhenFull::Evict }
    }

    /// A limit that refuses further sign-ins.
    pub const fn refuse(max: u32) -> Self {
        Self { max, when_full: WhenFull::Refuse }
    }
}

/// What a sign-in beyond the limit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Ends the least recently seen sessions.
    Evict,
    /// Is refused.
    Refuse,
}

/// What became of a creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The session lives; these ended for it.
    Created {
        /// The replaced, the earlier try's and the evicted sessions, in any order.
        ended: Vec<Ended>,
    },
    /// It does not.
    Refused(Refusal),
}

/// Why a session was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The user has as many sessions as allowed.
    #[error("the limit of {max} sessions is reached: sign out elsewhere first")]
    LimitReached {
        /// The limit.
        max: u32,
    },
    /// The user is disabled.
    #[error("the user is disabled")]
    UserDisabled,
    /// All sessions of the user were ended after the person had authenticated.
    #[error("all sessions of the user were ended while this sign-in was under way: sign in again")]
    EndedMeanwhile,
}

/// A session as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It lives.
    Live(Arc<Record>),
    /// It ended not long ago.
    Ended(Arc<Tombstone>),
    /// There is none, or it was forgotten.
    Unknown,
}

/// How a session ended, and the digests that tell its holder from a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// How it ended.
    pub ended: Ended,
    /// Its secrets when it did.
    pub secrets: Secrets,
}

/// Why a call on one session found nothing to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It ended.
    Ended(Ended),
    /// There is none, or it was forgotten.
    Unknown,
}

impl From<Gone> for Error {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Ended(ended) => ended.into(),
            Gone::Unknown => Self::UnknownSession,
        }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// It is in the record, which is now so.
    Applied(Arc<Record>),
    /// Something it relied on is different. Nothing was changed; the record is so.
    Conflict(Arc<Record>),
    /// The writer no longer holds the session's lock. Nothing was changed.
    LeaseLost,
    /// The data would have this many bytes, more than the change allows. Nothing was changed.
    TooLarge(usize),
    /// There is no such living session.
    Gone(Gone),
}

/// A note that a session was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The session.
    pub id: SessionId,
    /// When it was used.
    pub seen_at: Timestamp,
    /// Set when the current secret was presented while a predecessor still waited for it: until when predecessors are
    /// served from now on. See [`Secrets::confirm`].
    pub grace_ends: Option<Timestamp>,
}

/// A new secret for a session.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// What the client holds.
    pub presented: Digest,
    /// What it shall hold.
    pub successor: Digest,
    /// How long the predecessor is served after the successor was first presented.
    pub grace: Duration,
    /// Who rotates, if not the session's user.
    pub by: Option<Arc<str>>,
}

/// What became of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The successor is current.
    Rotated(Arc<Record>),
    /// It is not: somebody else's rotation came first. What the client holds keeps working for its grace.
    Superseded(Arc<Record>),
    /// There is no such living session.
    Gone(Gone),
}

/// Which sessions to end.
#[derive(Clone, Debug)]
pub enum Which {
    /// These.
    Ids(Vec<SessionId>),
    /// All of a user, in one transaction with the fence that keeps sign-ins under way from slipping past.
    OfUser {
        /// The user.
        user: Arc<str>,
        /// Sessions that stay.
        except: Vec<SessionId>,
        /// What the user's partition remembers.
        fence: Fence,
    },
}

/// What a user's partition remembers, to be checked by every [`create`](Store::create).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Sign-ins that authenticated before now are refused; those of this very millisecond are not. It never moves back.
    EndedBefore,
    /// Every sign-in is refused until [`enable_user`](Store::enable_user), and after that those from before now.
    Disabled,
}

/// What became of one session to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndAnswer {
    /// It ended now.
    EndedNow(Ended),
    /// It had ended before, or had expired.
    EndedBefore(Ended),
    /// There is none, or it was forgotten.
    Unknown(SessionId),
}

/// Which sessions to list: those that match every field given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Of this user, compared byte for byte.
    pub user: Option<Arc<str>>,
    /// Started from this address.
    pub ip: Option<IpAddr>,
    /// On the device of this name.
    pub device: Option<Arc<str>>,
    /// Last seen at or before this time.
    pub last_seen_before: Option<Timestamp>,
}

impl Query {
    /// All sessions of one user.
    pub fn of_user(user: impl Into<Arc<str>>) -> Self {
        Self { user: Some(user.into()), ..Self::default() }
    }

    /// Whether a session matches.
    pub fn matches(&self, info: &SessionInfo) -> bool {
        let Self { user, ip, device, last_seen_before } = self;
        user.as_ref().is_none_or(|user| info.user.as_ref() == Some(user))
            && ip.is_none_or(|ip| info.client.ip == Some(ip))
            && device.as_ref().is_none_or(|device| info.client.device.as_ref() == Some(device))
            && last_seen_before.is_none_or(|limit| info.last_seen_at <= limit)
    }
}

/// A place in a listing. Opaque: only the store that gave it understands it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// A store's own cursor: printable ASCII without white space.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for a client to hand back.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a part of a store's own cursor.
    pub fn parse<T: FromStr>(&self) -> Result<T> {
        self.0.parse().map_err(|_| Self::invalid())
    }

    /// What a cursor that the store did not give is answered with.
    pub fn invalid() -> Error {
        Error::InvalidArgument { what: "cursor", problem: "it is not one that this store gave".into() }
    }
}

/// Part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// How much to reap.
#[derive(Clone, Copy, Debug)]
pub struct Reap {
    /// At most so many sessions, tombstones and audit entries each.
    pub limit: usize,
    /// Tombstones of sessions that ended at or before this are forgotten.
    pub tombstones_before: Timestamp,
    /// Audit entries of this time or before are forgotten, the oldest first. One that was written behind a newer entry,
    /// such as an expiry that was noticed late, may stay as long as that.
    pub audit_before: Timestamp,
}

/// What was reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Sessions that ended.
    pub ended: Vec<Ended>,
    /// Whether the limit may have left something to do.
    pub more: bool,
}

/// Which audit entries to read: those that match every field given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// About sessions of this user.
    pub user: Option<Arc<str>>,
    /// About this session.
    pub session: Option<SessionId>,
}

impl AuditQuery {
    /// Whether an entry matches.
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        self.user.as_ref().is_none_or(|user| entry.user.as_ref() == Some(user))
            && self.session.is_none_or(|session| entry.session == session)
    }
}

/// An audit entry and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Continue after this entry from here.
    pub cursor: Cursor,
    /// The entry.
    pub entry: AuditEntry,
}

/// Opens the store at `url`. See the [table](self) for addresses.
///
/// A scheme that is known but was not compiled in is an error that names the feature to enable.
#[allow(clippy::unused_async, reason = "memory: opens without waiting, and may be all there is")]
pub async fn open(url: &str) -> Result<Arc<dyn Store>> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "memory" if rest.is_empty() => Ok(Arc::new(MemoryStore::new()?)),
        "memory" => Err(Error::StoreUrl("memory: takes nothing behind the colon".into())),
        #[cfg(feature = "file")]
        "file" => Ok(Arc::new(FileStore::open(rest).await?)),
        #[cfg(not(feature = "file"))]
        "file" => Err(Error::StoreUrl(
            "file: needs the feature \"file\" of the crate cloakroom: cargo add cloakroom --features file".into(),
        )),
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Arc::new(SqliteStore::open(rest).await?)),
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => Err(Error::StoreUrl(
            "sqlite: needs the feature \"sqlite\" of the crate cloakroom: cargo add cloakroom --features sqlite".into(),
        )),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Arc::new(PostgresStore::open(url).await?)),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(Error::StoreUrl(format!(
            "{scheme}: needs the feature \"postgres\" of the crate cloakroom: cargo add cloakroom --features postgres"
        ))),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => Ok(Arc::new(MysqlStore::open(url).await?)),
        #[cfg(not(feature = "mysql"))]
        "mysql" | "mariadb" => Err(Error::StoreUrl(format!(
            "{scheme}: needs the feature \"mysql\" of the crate cloakroom: cargo add cloakroom --features mysql"
        ))),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis-cluster" => Ok(Arc::new(RedisStore::open(url).await?)),
        #[cfg(not(feature = "redis"))]
        "redis" | "rediss" | "redis-cluster" => Err(Error::StoreUrl(format!(
            "{scheme}: needs the feature \"redis\" of the crate cloakroom: cargo add cloakroom --features redis"
        ))),
        _ => Err(Error::StoreUrl(format!(
            "{scheme:?} is not a store address: use memory:, file:DIRECTORY, sqlite:FILE such as sqlite:sessions.db, \
             postgres://USER:PASSWORD@HOST/DATABASE, mysql://USER:PASSWORD@HOST/DATABASE, redis://HOST:PORT or \
             redis-cluster://HOST:PORT"
        ))),
    }
}
