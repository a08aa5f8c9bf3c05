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
//! | `redis://HOST:PORT` · `redis-cluster://HOST:PORT` · `redis-sentinel://HOST:PORT,HOST:PORT/NAME` | `RedisStore`: in Redis 7, a cluster, or behind sentinels | `redis` |
//!
//! # Writing a store
//!
//! Implement [`SlotStore`](slots::SlotStore), which keeps slots, merges data and commits transactions, and knows no rule
//! of sessions: those stand once, above it, and make every such store a [`Store`]. Then mount two suites on it (feature
//! `testing`, [`crate::testing`]): [`slots!`](crate::slots) looks at what it keeps, [`conformance!`](crate::conformance)
//! at what sessions do on it.

use std::{fmt, future::Future, pin::Pin, time::Duration};

pub use crate::seal::RecordKeys;
use crate::{AuditEntry, Change, Ending, PartitionKey, Result, SessionId, SessionInfo, Timestamp};

#[cfg(any(feature = "mysql", feature = "postgres"))]
mod batcher;
mod calls;
mod directory;
#[cfg(any(feature = "file", feature = "mysql", feature = "sqlite"))]
mod embedded;
mod examine;
#[cfg(feature = "file")]
mod file;
pub mod head;
mod memory;
mod open;
mod pages;
#[cfg(any(feature = "file", feature = "sqlite"))]
mod place;
#[cfg(feature = "redis")]
mod redis;
mod schema;
mod sealed;
mod shared;
pub mod slots;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sql;
pub(crate) mod transfer;

pub use calls::{
    Create, Created, EndAnswer, Fence, Gone, Limit, Loaded, Locked, Reap, Reaped, Refusal, Rotated, Rotation,
    Tombstone, Touch, Updated, WhenFull, Which,
};
pub use directory::{Directory, LastSignIn, Put, PutUser, StoredUser};
pub(crate) use examine::Damage;
pub use examine::{Examine, Finding, Severity};
#[cfg(feature = "file")]
pub use file::FileStore;
pub use memory::MemoryStore;
pub use open::open;
pub use pages::{AuditQuery, Cursor, Logged, Page, Query};
#[cfg(feature = "redis")]
pub use redis::RedisStore;
pub use schema::{Schema, schema};
pub use sealed::{Sealable, SealedStore};
#[cfg(feature = "mysql")]
pub use sql::MysqlStore;
#[cfg(feature = "postgres")]
pub use sql::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sql::SqliteStore;
pub use transfer::{Copied, Imported, Item, Progress, Tally, Transfer, UserFence, copy};

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
/// not do its work; a call that cannot tell whether it did returns [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown).
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
pub trait Store: Directory + Examine + Locks + Sealable + Transfer + fmt::Debug + Send + Sync + 'static {
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
    /// A session in which somebody [acts as another](SessionInfo::impersonated_by) counts for nobody's limit: none keeps
    /// it from starting, and it is neither counted nor evicted.
    ///
    /// The replaced session may be anybody's. If it, or that of the earlier try, had expired, it ends for that reason
    /// and is not among those that ended for the new one. An earlier try is looked for in the record's partition
    /// and counts until its session ended.
    ///
    /// Where the [directory](Directory) has an entry of the user, it notes [this sign-in](LastSignIn::of) in the same
    /// transaction.
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

    /// Makes another secret current, as [`Rotation::apply_to`] does. The version stays. Where the successor is current already, an
    /// earlier try of this call succeeded: it answers `Rotated` and audits nothing more.
    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>>;

    /// Ends sessions. Their records go, their tombstones stay, their endings are audited. A session that had expired ends
    /// for that reason, whatever `ending` says.
    ///
    /// For [`Which::Ids`] the answers are in the order asked, an id that comes twice answered twice. For
    /// [`Which::OfUser`] they are the sessions that this call ended, newest first, without those that had expired.
    fn end<'a>(&'a self, which: &'a Which, ending: &'a Ending, now: Timestamp)
    -> BoxFuture<'a, Result<Vec<EndAnswer>>>;

    /// Appends an entry to the audit log that tells of no change: of what was refused outside the store. Whether there
    /// is such a session, and whether it lives, does not matter; an entry about one that is there comes after what
    /// was logged about it before. Where a connection was cut, the entry may be in the log twice.
    fn log<'a>(&'a self, entry: &'a AuditEntry, now: Timestamp) -> BoxFuture<'a, Result<()>>;

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
