//! The rules of sessions: which sign-ins are admitted, what a change, a rotation or a lease does, how sessions end.
//!
//! They stand here once, over the slots of any [`Store`]: look, decide, commit what was decided together with what it
//! relied on, and look anew where that is not so any more.
//!
//! Applications call none of it: they use [`Sessions`](crate::Sessions). Tests of a store do.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    audit::AuditEntry,
    change::Change,
    clock::Timestamp,
    ended::Ending,
    error::Result,
    record::SessionInfo,
    store::{AuditQuery, Cursor, Finding, Logged, Page, PutUser, Query, Store, StoredUser, slots::Slot},
    token::{PartitionKey, SessionId},
};

mod attempts;
mod calls;
mod create;
mod end;
mod end_all;
mod examine;
mod heads;
mod items;
mod look;
mod reap;
mod touch;
mod transaction;
mod transfer;
mod update;
mod user_text;
mod users;

use attempts::Turns;
pub(crate) use attempts::jitter;
pub use calls::{
    Create, Created, EndAnswer, Fence, Gone, Loaded, Locked, Reap, Reaped, Rotated, Rotation, Tombstone, Touch,
    Updated, Which,
};

pub use items::{Imported, Item, UserFence};

/// What sessions do on a store. Clones share the store, and the turns that callers take.
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
#[derive(Clone)]
pub struct Rules {
    store: Arc<dyn Store>,
    turns: Arc<Turns>,
    /// Whether there is a near cache.
    near: bool,
}

impl Rules {
    /// On this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let near = store.near().is_some();
        Self { store, turns: Arc::new(Turns::new()), near }
    }

    /// On this store.
    pub fn on(store: impl Store) -> Self {
        Self::new(Arc::new(store))
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The key that places users in partitions: made when the store is, the same for every node that opens it.
    pub fn partition_key(&self) -> &PartitionKey {
        self.store.partition_key()
    }

    /// Creates a record, if the user's fence and limit admit it.
    ///
    /// In one transaction: a fence that forbids it refuses; the session of an earlier try with the same idempotency key
    /// and the one it [replaces](Create::replaces) end and do not count; a full limit refuses or evicts the
    /// least recently seen ([`SessionInfo::last_seen_at`], then `created_at`, then id); the record is created. A
    /// refusal is audited, and ends nothing. When several refuse, a disabled user comes first, then the fence, then
    /// the limit. An id that is there already, alive or as a tombstone, is the work of an earlier try of this very call,
    /// because ids are fresh: it answers `Created`, changes nothing and brings nothing back.
    ///
    /// A session in which somebody [acts as another](SessionInfo::acting) counts for nobody's limit: none keeps
    /// it from starting, and it is neither counted nor evicted.
    ///
    /// The replaced session may be anybody's. If it, or that of the earlier try, had expired, it ends for that reason
    /// and is not among those that ended for the new one. An earlier try is looked for in the record's partition
    /// and counts until its session ended.
    ///
    /// Where the directory has an entry of the user, it notes [this sign-in](crate::store::LastSignIn::of) in the same
    /// transaction.
    ///
    /// A store whose partitions live on different servers may end the replaced session in a second step before it
    /// answers, and finishes in [`reap`](Self::reap) what a crash left between the two.
    pub async fn create(&self, create: &Create, now: Timestamp) -> Result<Created> {
        Box::pin(create::create(self, create, now)).await
    }

    /// Reads one session, from a [near cache](crate::store::NearStore) where there is one. Changes nothing.
    pub async fn load(&self, id: SessionId, now: Timestamp) -> Result<Loaded> {
        if let Some(near) = self.store.near().filter(|_| self.near) {
            if let Some(loaded) = self.glance(id, now) {
                return Ok(loaded);
            }
            return Ok(look::loaded(near.recent(id).await?, now));
        }
        self.load_anew(id, now).await
    }

    /// Reads one session, from the store itself.
    pub async fn load_anew(&self, id: SessionId, now: Timestamp) -> Result<Loaded> {
        Ok(look::loaded(look::session(self, id).await?, now))
    }

    /// The answer of [`load`](Self::load) if it lies in memory and is as good as loading; `None` means ask `load`.
    #[inline]
    pub fn peek(&self, id: SessionId, now: Timestamp) -> Option<Loaded> {
        if self.near {
            return self.glance(id, now);
        }
        Some(look::loaded(self.store.peek(id)?, now))
    }

    /// Whether what is loaded may be as old as the way of the backend's news is long.
    pub fn is_near(&self) -> bool {
        self.near
    }

    /// One that looks expired is to be loaded: it may have been used through another node.
    fn glance(&self, id: SessionId, now: Timestamp) -> Option<Loaded> {
        match self.store.near()?.glance(id)? {
            Some(Slot::Open(record)) if record.info.expiry(now).is_some() => None,
            slot => Some(look::loaded(slot, now)),
        }
    }

    /// Applies a change as [`Change::apply_to`] does, and answers with the record as it is afterwards. A change of
    /// user type or deadlines is audited.
    pub async fn update(&self, id: SessionId, change: &Change, now: Timestamp) -> Result<Updated> {
        update::update(self, id, change, now).await
    }

    /// Notes that sessions were used, each at most once in a batch. Last-seen never moves backwards, the version stays.
    /// A touch that is older than the last one still starts the grace it carries. Answers in the order asked: whether
    /// each session is there.
    pub async fn touch(&self, touches: &[Touch], now: Timestamp) -> Result<Vec<bool>> {
        touch::touch(self, touches, now).await
    }

    /// Makes another secret current, as [`Rotation::apply_to`] does. The version stays. Where the successor is current already, an
    /// earlier try of this call succeeded: it answers `Rotated` and audits nothing more.
    pub async fn rotate(&self, id: SessionId, rotation: &Rotation, now: Timestamp) -> Result<Rotated> {
        Box::pin(heads::rotate(self, id, rotation, now)).await
    }

    /// Ends sessions. Their records go, their tombstones stay, their endings are audited. A session that had expired ends
    /// for that reason, whatever `ending` says.
    ///
    /// For [`Which::Ids`] the answers are in the order asked, an id that comes twice answered twice. For
    /// [`Which::OfUser`] they are the sessions that this call ended, newest first, without those that had expired.
    pub async fn end(&self, which: &Which, ending: &Ending, now: Timestamp) -> Result<Vec<EndAnswer>> {
        match which {
            Which::Ids(ids) => Box::pin(end::end(self, ids, ending, now)).await,
            Which::OfUser { user, except, fence } => {
                Box::pin(end_all::end_all(self, user, except, *fence, ending, now)).await
            }
        }
    }

    /// Appends an entry to the audit log that tells of no change: of what was refused outside the store. Whether there
    /// is such a session, and whether it lives, does not matter; an entry about one that is there comes after what
    /// was logged about it before. Where a connection was cut, the entry may be in the log twice.
    pub async fn log(&self, entry: &AuditEntry, now: Timestamp) -> Result<()> {
        transaction::log(self, entry, now).await
    }

    /// Lifts the fence that [`Fence::Disabled`] set. Harmless if there is none.
    pub async fn enable_user(&self, user: &str, now: Timestamp) -> Result<()> {
        users::enable(self, user, now).await
    }

    /// Takes the lock of a session for as long as `lease`, if nobody holds it, as [`Lease::take`](crate::store::Lease::take)
    /// does. Does not wait. The answer holds the record as it is now: what was read before may be old.
    pub async fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> Result<Locked> {
        Box::pin(heads::lock(self, id, lease, now)).await
    }

    /// Extends a lease, as [`Lease::renew`](crate::store::Lease::renew) does; `false` if it was lost, or its session is gone.
    pub async fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> Result<bool> {
        Box::pin(heads::renew(self, id, number, lease, now)).await
    }

    /// Gives a lock back, as [`Lease::release`](crate::store::Lease::release) does; `false` if it was lost, or its session is gone.
    pub async fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> Result<bool> {
        Box::pin(heads::unlock(self, id, number, now)).await
    }

    /// Lists living sessions that match, at most `limit` (one or more), data left out. With a user: newest first
    /// ([`SessionInfo::created_at`], then id). Otherwise in an order of the store's own, and a page may hold fewer than
    /// `limit` although more follow. Paging while sessions come and go never shows one twice, and shows each that
    /// was there throughout. A cursor that this store did not give is [`Cursor::invalid`].
    pub async fn find(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        look::find(self, query, after, limit, now).await
    }

    /// Ends what expired, at most `limit` in one call, and forgets tombstones and audit entries that are
    /// old enough. The end-all fence of a user goes with the tombstones of its time. Safe on any number of nodes at once; costs what it ends, not what is stored.
    pub async fn reap(&self, reap: &Reap, now: Timestamp) -> Result<Reaped> {
        Box::pin(reap::reap(self, reap, now)).await
    }

    /// Reads the audit log, oldest first. A reader that continues from the last cursor it saw misses nothing, not even
    /// an entry whose transaction took long, and goes on behind what was forgotten meanwhile. `limit` is one or more; a
    /// page may hold fewer, or nothing, although more follow. Order holds within a session.
    pub async fn audit(&self, query: &AuditQuery, after: Option<&Cursor>, limit: usize) -> Result<Page<Logged>> {
        self.store.audit(query, after, limit).await
    }

    /// Whether the store can be used now, and what its own clock says if that is not this machine's.
    pub async fn ping(&self) -> Result<Option<Timestamp>> {
        self.store.ping().await
    }

    /// What is known of a user.
    pub async fn user(&self, user: &str) -> Result<Option<StoredUser>> {
        users::user(self, user).await
    }

    /// Writes what is settled about a user, creates or deletes the entry, all in one step; `false` and nothing is done
    /// if [`PutUser::was`] is not what is there. Where [`PutUser::settings`] is there already, an earlier try of this call
    /// succeeded: it answers `true`. A [`PutUser::last_sign_in`] that is older than the one known is left out.
    pub async fn put_user(&self, put: &PutUser) -> Result<bool> {
        users::put(self, put).await
    }

    /// Lists all users in an order of the store's own, at most `limit` (one or more). A page may hold fewer, or none,
    /// although more follow. Paging while users come and go never shows one twice, and shows each that was there
    /// throughout. A cursor that this store did not give is [`Cursor::invalid`].
    pub async fn users(&self, after: Option<&Cursor>, limit: usize) -> Result<Page<StoredUser>> {
        users::list(self, after, limit).await
    }

    /// Says what was looked at and what is wrong. With `repair`, mends what is wrong where that can be done without
    /// guessing, while others work on the store, and ends, loses or changes no session that lives; without, changes
    /// nothing.
    ///
    /// An `Err` means that the store could not be looked at. What this account may not look at is a
    /// [note](crate::store::Severity::Note).
    pub async fn examine(&self, now: Timestamp, repair: bool) -> Result<Vec<Finding>> {
        examine::examine(self, now, repair).await
    }

    /// Reads what the store holds: sessions, then tombstones, then fences, so that a session that ends meanwhile comes
    /// at least as a tombstone. At most `limit` (one or more) in a page, which may hold fewer, or nothing, although more
    /// follow. The order is stable: going on from a cursor, even after this process ended, shows everything that was
    /// there throughout. A cursor that this store did not give is [`Cursor::invalid`].
    pub async fn export(&self, after: Option<&Cursor>, limit: usize) -> Result<Page<Item>> {
        transfer::export(self, after, limit).await
    }

    /// Puts items in, each whole or not at all, each id and user at most once in a call, and answers in the order asked.
    /// Writes no audit entries. Harmless when repeated. The rules, so that it is harmless in a store in use too:
    ///
    /// - A session whose id has a tombstone is left alone, as is one that is ahead of the item in version,
    ///   rotations, last-seen or lock number. One that is there and is not ahead becomes what the item is.
    /// - A tombstone takes the place of a living session; the tombstone that is there first stays.
    /// - Of two fences comes one that lets nobody in whom either of them keeps out.
    ///
    /// A session in a partition that is not its user's under this store's key is [`Error::InvalidArgument`](crate::Error::InvalidArgument), and
    /// nothing is put in: see [`adopt_partition_key`](Self::adopt_partition_key).
    pub async fn import(&self, items: &[Item]) -> Result<Vec<Imported>> {
        transfer::import(self, items).await
    }

    /// Appends entries of another store's audit log, in their order. One that is there already, by its id, stays alone.
    pub async fn import_log(&self, entries: Vec<Logged>) -> Result<()> {
        transfer::import_log(self, entries).await
    }

    /// Takes over another store's key, under which the ids of the sessions to come were made. The key must be the same
    /// already, or there must be neither session nor tombstone nor fence, nor anybody in the directory: otherwise it is [`Error::InvalidArgument`](crate::Error::InvalidArgument),
    /// and nothing changes. This store uses the key from then on; others that have the same place open must open it again.
    pub async fn adopt_partition_key(&self, key: &PartitionKey) -> Result<()> {
        self.store.adopt_partition_key(key).await
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rules").field(&self.store).finish()
    }
}
