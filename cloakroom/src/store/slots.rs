//! Slots: what a store keeps, without a rule of sessions.
//!
//! A [`Store`] keeps a slot a session, a slot for each user about whom something is settled, and the audit log. It
//! merges data key by key and commits [transactions](Transaction) that say what they relied on. What a session *is* (who
//! is admitted, what a rotation does, when a lease is lost) is decided above it, in Rust, once.
//!
//! # A session's slot
//!
//! | part | changed by | kept as |
//! |---|---|---|
//! | head: identity, times, secrets, lease, client, who impersonates | [`Write::Head`], compare-and-swap on [`Record::revision`] | one opaque text, made and read by [`head`](super::head) |
//! | data: raw JSON text by key | [`Write::Data`], merged key by key; raises `version` | as the store likes, byte for byte |
//! | last seen | [`touch`](Store::touch), which only moves it forward; raises nothing | a number |
//! | ending | [`Write::End`], which drops the data and keeps head and last seen | one opaque text |
//!
//! An ended session stays in its slot until it is [forgotten](Store::forget), so its id is never free.
//!
//! Columns of their own have only what a store must find or compare: [`Columns`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    audit::AuditEntry,
    clock::Timestamp,
    data::Json,
    ended::Ended,
    error::Result,
    record::Record,
    store::{
        AuditQuery, BoxFuture, Cursor, Finding, LastSignIn, Logged, NearStore, Page, Query,
        feed::{Feed, Pace},
    },
    token::{Digest, Partition, PartitionKey, SessionId},
};

/// Where slots live.
///
/// # Contract
///
/// *Atomic*: a transaction commits whole, with its audit entries, or not at all, and other callers on any node see it so.
/// Dropping a future leaves each of its transactions done whole or not at all, and never disturbs transactions of others
/// that travel with it.
///
/// *Looked at under the locks*: what a transaction relies on is compared with what is so when it commits, after whatever
/// it had to wait for. What a [`Conflict`](Outcome::Conflict) shows was looked at after that too.
///
/// *Answers are not errors*: a slot that is empty or ended, and a conflict, are answers. An `Err` means that the store
/// could not do its work; a call that cannot tell whether it did answers [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown).
///
/// *Damage stays where it is*: what cannot be read fails the call that asks for it by itself, and nothing that travels with
/// it. Lists leave it out, but for [`List::Everything`], which names it. Where heads are counted or ended ([`Ask::Head`],
/// [`Ask::HeadsOf`], [`List::Due`]) a head that cannot be read shows the [`Columns`] that are known of it, as a sealed one
/// does, so that its session counts where it is counted and can end.
///
/// *Time is given*: whether a session lives is decided by its own deadlines against the `now` of the call
/// ([`Columns::lives`]), never by the backend's clock.
///
/// *The same store*: a store that notices that what it opened is gone, emptied or replaced refuses with
/// [`Error::Unavailable`](crate::Error::Unavailable), every commit first of all.
///
/// # Which failures are harmless
///
/// A lost touch ends a session early by at most the throttle; a slot whose [due time](Columns::due_at) is too early is looked
/// at once too often; an audit page that comes late is only late. These are *holes*, and let a client in that must stay
/// out: a commit that writes into an empty or ended slot; a read that shows a session as open after its [`Write::End`]
/// was answered; a [`Count`](Expect::Count) or [`User`](Expect::User) compared before the user's lock was taken; an index
/// that misses an open slot of a user; a due time that is too late. So no method has a default body.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The key that places users in partitions: made when the store is, the same for every node that opens it.
    fn partition_key(&self) -> &PartitionKey;

    /// Whether one transaction may name sessions and users of different [groups](Partition::group). Otherwise all that it
    /// names, and all sessions that its audit entries tell of, are of one group.
    fn spans_groups(&self) -> bool;

    /// Looks at slots, in the order asked: one round trip, and one moment for all that is of one group.
    fn read<'a>(&'a self, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Found>>>;

    /// Commits transactions, each by itself, and answers in the order given. They may travel together, and with those of
    /// other callers.
    ///
    /// With `again` each was sent before and its answer was lost: its mark is looked for first, and one that is found is
    /// answered as committed and not applied again. See [`Transaction::id`]. The ids of changes of data are looked for
    /// without it too: callers repeat a change whose outcome they do not know.
    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Vec<Outcome>>>;

    /// Notes that sessions were used, each id at most once in a call; says of each whether its session
    /// [lives](Columns::lives) at `now`. Last-seen never moves backwards, and nothing else changes. It is `now` that counts, not the
    /// touch's own time: a session that a limit counted as dead must not come back.
    fn touch<'a>(&'a self, touches: &'a [SeenAt], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>>;

    /// Lists slots, at most `limit` (one or more). A page may hold fewer, or none, although more follow. Paging while
    /// slots come and go never shows one twice, and shows each that was there throughout. A cursor that this store did
    /// not give is [`Cursor::invalid`].
    fn list<'a>(
        &'a self,
        what: &'a List,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Listed>>>;

    /// Forgets ended slots and audit entries that are old enough, at most `limit` of each; says whether the limit may have
    /// left something. Safe on any number of nodes at once; costs what it forgets.
    fn forget<'a>(&'a self, forget: &'a Forget) -> BoxFuture<'a, Result<bool>>;

    /// Reads the audit log, oldest first. A reader that continues from the last cursor it saw misses nothing, not even an
    /// entry whose transaction took long, and goes on behind what was forgotten meanwhile. `limit` is one or more; a page
    /// may hold fewer, or nothing, although more follow. Order holds within a session.
    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>>;

    /// Whether the store can be used now, writes included, and what its own clock says if that is not this machine's.
    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>>;

    /// The slot, if it lies in memory and that is as good as [reading](Self::read) it; `None` means: read it.
    fn peek(&self, id: SessionId) -> Option<Option<Slot>>;

    /// Whether [`edit`](Self::edit) is how data change here. Callers then let go of a record before they change it, and
    /// otherwise say which one they [know](Write::Data).
    fn edits_in_place(&self) -> bool;

    /// Changes an open slot where it lies, if that is in memory and as good as [committing](Self::commit): `change` is called
    /// once, under the slot's lock, and may change data, version and [latest changes](Record::recent_changes) and nothing
    /// else. Answers the slot as it is afterwards. Where nobody else holds the record, it is changed in place. `None` means:
    /// commit.
    fn edit(&self, id: SessionId, change: &mut dyn FnMut(&mut Arc<Record>)) -> Option<Option<Slot>>;

    /// Looks at what is particular to this store: settings of its server, indexes, what its account may do. With `repair`,
    /// mends indexes and routines. What slots themselves should be is looked at above, for every store.
    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>>;

    /// Takes over another store's key. It must be the same already, or there must be no slot: otherwise it is
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument), and nothing changes.
    fn adopt_partition_key<'a>(&'a self, key: &'a PartitionKey) -> BoxFuture<'a, Result<()>>;

    /// What the backend says changed, if it can say so. Asked once, by a [near cache](super::NearStore); must not wait.
    fn feed(&self, pace: &Pace) -> Option<Arc<dyn Feed>>;

    /// The near cache that this store is, if it is one.
    fn near(&self) -> Option<&NearStore>;
}

/// A session's slot that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// It was not ended. Its deadlines may have passed.
    Open(Arc<Record>),
    /// It ended; what is left is its head, when it was last seen, and how it ended.
    Ended(Arc<EndedSlot>),
}

impl Slot {
    /// Whose slot it is.
    pub fn id(&self) -> SessionId {
        match self {
            Self::Open(record) => record.info.id,
            Self::Ended(slot) => slot.ended.id,
        }
    }
}

/// What is left of a session that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSlot {
    /// The session, without data.
    pub record: Arc<Record>,
    /// How it ended.
    pub ended: Ended,
    /// The [id](Transaction::id) of the transaction that ended it.
    pub transaction: u64,
}

/// A user's slot. There is one only where something is settled about the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSlot {
    /// What the rules keep about the user: one opaque text.
    pub text: Arc<str>,
    /// Random, new with each [`Write::User`], so that a slot which was deleted and made anew is another one. Never 0: that
    /// stands for no slot.
    pub revision: u64,
    /// When the user last signed in: moved forward by [`Write::SignedIn`], which changes no revision. In a [`Write::User`]
    /// `None` forgets it, and otherwise the later one stays.
    pub last_sign_in: Option<LastSignIn>,
    /// When it is next to be looked at, if ever: lower bound, as for sessions.
    pub due_at: Option<Timestamp>,
}

/// What a store must be able to find and compare of an open slot. All but `seen` comes from the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Whose session it is; in whose list it stands.
    pub user: Option<Arc<str>>,
    /// When it started: a user's list is newest first, by this and then by id.
    pub created_at: Timestamp,
    /// How long it may go unused.
    pub idle: Option<Duration>,
    /// When it ends whatever happens.
    pub ends_at: Option<Timestamp>,
    /// The user who impersonates. Such a session stands in its user's list and does not [count](Expect::Count).
    pub impersonated_by: Option<Arc<str>>,
    /// Where it was started from.
    pub ip: Option<IpAddr>,
    /// The device's name.
    pub device: Option<Arc<str>>,
    /// Digest of the idempotency key it was started with.
    pub idempotency: Option<Digest>,
    /// When the reaper is to look at it: never later than the session expires, often earlier, because touches do not
    /// move it. `None`: never.
    pub due_at: Option<Timestamp>,
}

impl Columns {
    /// Whether a session that was last seen then lives at `now`: a deadline has passed at its very millisecond.
    pub fn lives(&self, seen: Timestamp, now: Timestamp) -> bool {
        let idle = self.idle.map(|idle| seen.after(idle));
        idle.is_none_or(|end| now < end) && self.ends_at.is_none_or(|end| now < end)
    }
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A session's slot with its data.
    Session(SessionId),
    /// A session's slot without data.
    Head(SessionId),
    /// A user's slot.
    User(Arc<str>),
    /// Open slots of a user, newest first, at most so many, without data. Expired ones are among them.
    HeadsOf(Arc<str>, usize),
    /// The open slot that was started with this idempotency key, in this partition.
    Try(Partition, Digest),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// For [`Ask::Session`] and [`Ask::Head`].
    Session(Option<Slot>),
    /// For [`Ask::User`].
    User(Option<UserSlot>),
    /// For [`Ask::HeadsOf`].
    Heads(Vec<Arc<Record>>),
    /// For [`Ask::Try`].
    Try(Option<SessionId>),
}

/// Writes that are done together or not at all, if what they rely on is so.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Random. A commit that is sent [again](Store::commit) is recognised by the mark of its first write:
    ///
    /// | write | mark |
    /// |---|---|
    /// | `Create` | the id is taken |
    /// | `Head`, `User` | the revision is the new one already |
    /// | `Data` | the slot keeps the ids of the latest transactions that changed its data, [`KEPT_IDS`] at least. Where the id is not among them and more changes than are kept came in between (the version [known](Write::Data) then tells), the call is [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown). Where its session ended since, it is a conflict that shows the ended slot |
    /// | `End` | the ended slot keeps the id |
    /// | `Import`, `Due`, `SignedIn`, none | harmless twice; audit entries are recognised by their [id](LogEntry::id) where the session has one of that id already |
    pub id: u64,
    /// The caller's time.
    pub now: Timestamp,
    /// What must be so.
    pub relies_on: Vec<Expect>,
    /// What becomes so, in this order. Each session and each user is named by one write of a kind at most.
    pub writes: Vec<Write>,
    /// What the audit log tells of it.
    pub log: Vec<LogEntry>,
}

/// An entry on its way into the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Random: tells two entries about one session apart.
    pub id: u64,
    /// The entry.
    pub entry: AuditEntry,
}

impl Transaction {
    /// The session it is about, if it names one and no user.
    pub(crate) fn only_session(&self) -> Option<SessionId> {
        let relied_on = self.relies_on.iter().map(|expect| match expect {
            Expect::Live(id)
            | Expect::Head(id, _)
            | Expect::Version(id, _)
            | Expect::Value(id, ..)
            | Expect::DataAtMost(id, _)
            | Expect::NotSeenSince(id, _)
            | Expect::Empty(id) => Some(*id),
            Expect::User(..) | Expect::Count(..) | Expect::Try(..) => None,
        });
        let written = self.writes.iter().map(Write::session);
        let mut ids = relied_on.chain(written);
        let first = ids.next()??;
        ids.all(|id| id == Some(first)).then_some(first)
    }
}

/// So many ids of transactions a slot keeps at least.
pub const KEPT_IDS: usize = 16;

/// What a transaction relies on. Anything else is a [conflict](Outcome::Conflict).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The slot is open, and the session [lives](Columns::lives) at the transaction's `now`.
    Live(SessionId),
    /// The slot is open and its head has this revision. The session may have expired.
    Head(SessionId, u64),
    /// The slot is open and its data have this version.
    Version(SessionId, u64),
    /// The slot is open and the key has this value, byte for byte, or is absent.
    Value(SessionId, Arc<str>, Option<Json>),
    /// The slot is open, and after this transaction its data have at most so many bytes (of all keys and values), or not
    /// more than before it.
    DataAtMost(SessionId, usize),
    /// The slot is open and the session was last seen then or before.
    NotSeenSince(SessionId, Timestamp),
    /// The slot is empty.
    Empty(SessionId),
    /// The user's slot has this revision; 0 for no slot.
    User(Arc<str>, u64),
    /// So many of the user's sessions live at `now` and have no impersonator, before this transaction's writes.
    Count(Arc<str>, usize),
    /// The open slot that was started with this idempotency key in this partition is this one, or there is none.
    Try(Partition, Digest, Option<SessionId>),
}

impl Expect {
    /// Whether it is so of an open slot; `None` where it is not about the slot of one session.
    #[cfg(any(feature = "file", feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(super) fn is_so_of(&self, record: &Record, transaction: &Transaction) -> Option<bool> {
        Some(match self {
            Self::Live(_) => record.info.expiry(transaction.now).is_none(),
            Self::Head(_, revision) => record.revision == *revision,
            Self::Version(_, version) => record.info.version == *version,
            Self::Value(_, key, value) => record.data.get(key) == value.as_ref().map(Json::as_ref),
            Self::DataAtMost(id, most) => {
                let change = transaction.writes.iter().find_map(|write| match write {
                    Write::Data { id: changed, change, .. } if changed == id => Some(change),
                    _ => None,
                });
                change.is_none_or(|change| change.applied_to(&record.data, *most).is_some())
            }
            Self::NotSeenSince(_, at) => record.info.last_seen_at <= *at,
            Self::Empty(_) => false,
            Self::User(..) | Self::Count(..) | Self::Try(..) => return None,
        })
    }
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub enum Write {
    /// Fills an empty slot. One that is taken is a conflict.
    Create(Arc<Record>),
    /// Takes the place of the head, whose new [revision](Record::revision) it carries, and of the columns. Data, version and
    /// last-seen stay, whatever the record says of them. Goes with [`Expect::Head`].
    Head(Arc<Record>),
    /// Merges data key by key and raises the version by one. Goes with [`Expect::Live`].
    ///
    /// `known`: version and head revision that the caller's record has. If the slot then is one version further and its head the
    /// same, the answer needs no record. `None`: the answer holds it.
    Data {
        /// Which session's.
        id: SessionId,
        /// What changes.
        change: DataChange,
        /// What the caller knows.
        known: Option<Known>,
    },
    /// Ends the session in an open slot: data go, head and last-seen stay, and the slot leaves every index but that of
    /// [`forget`](Store::forget). An empty or ended slot is a conflict.
    End(Ended),
    /// Puts a slot as it is in the place of whatever is there. For copies from other stores.
    Import(Slot),
    /// Moves the due time of an open slot. Goes with [`Expect::Head`].
    Due(SessionId, Option<Timestamp>),
    /// Puts a user's slot, its revision a new one; `None` deletes it. Goes with [`Expect::User`].
    User(Arc<str>, Option<UserSlot>),
    /// Notes a sign-in of a user whose slot is there; otherwise nothing. Of two at one time the second stays.
    SignedIn(Arc<str>, LastSignIn),
}

impl Write {
    /// The session whose slot it writes, if it is one's.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Create(record) | Self::Head(record) => Some(record.info.id),
            Self::Data { id, .. } | Self::Due(id, _) => Some(*id),
            Self::End(ended) => Some(ended.id),
            Self::Import(slot) => Some(slot.id()),
            Self::User(..) | Self::SignedIn(..) => None,
        }
    }
}

/// A change of data. Applied in this order: `remove_all`, `remove`, `set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataChange {
    /// Whether every key that is there goes first.
    pub remove_all: bool,
    /// Keys that go.
    pub remove: BTreeSet<Arc<str>>,
    /// Keys that get a value.
    pub set: BTreeMap<Arc<str>, Json>,
}

impl DataChange {
    /// Data after it; `None` if they would be larger than before and than `most` bytes.
    #[cfg(any(feature = "file", feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(super) fn applied_to(&self, data: &crate::data::Data, most: usize) -> Option<crate::data::Data> {
        let Self { remove_all, remove, set } = self;
        let mut data = data.clone();
        data.change(*remove_all, remove, set, most).is_ok().then_some(data)
    }

    /// Whether a key cannot have this value right behind it.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(super) fn contradicts(&self, key: &str, value: Option<&Json>) -> bool {
        match self.set.get(key) {
            Some(set) => value != Some(set),
            None => value.is_some() && (self.remove_all || self.remove.contains(key)),
        }
    }
}

/// What a caller knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The version of its data.
    pub version: u64,
    /// The revision of its head.
    pub revision: u64,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, now or by an earlier try: an answer for each write, in their order.
    Committed(Vec<Committed>),
    /// Something it relies on is not so, or a write found the wrong slot: nothing was done.
    ///
    /// A transaction that names one session and no user is answered with that session's slot and its data, looked at after
    /// the locks. `None` where the slot is empty, and for every other transaction: look anew.
    Conflict(Option<Slot>),
}

/// What a write answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is as the caller knew, and the write in it.
    AsKnown {
        /// When the session was last seen.
        seen: Timestamp,
    },
    /// The whole slot as it is after the transaction, for [`Write::Data`] where that is not so.
    Record(Arc<Record>),
    /// Any other write.
    Done,
}

/// A note that a session was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenAt {
    /// The session.
    pub id: SessionId,
    /// When it was used.
    pub at: Timestamp,
}

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// Sessions that live at this time and match, without data. With a user: newest first (`created_at`, then id).
    Sessions(Query, Timestamp),
    /// Open slots that are [due](Columns::due_at) at this time, without data; those that have been due longest first, as far as
    /// the store can.
    Due(Timestamp),
    /// Users' slots that are due at this time.
    DueUsers(Timestamp),
    /// All users' slots, in an order of the store's own.
    Users,
    /// All sessions' slots, open ones with data, in an order that stays.
    Everything,
}

/// One item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A session's slot.
    Session(Slot),
    /// A user's slot.
    User(Arc<str>, UserSlot),
    /// A session's slot that cannot be read, and why: shown by [`List::Everything`] alone.
    Damaged(SessionId, String),
}

/// How much to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Slots of sessions that ended then or before.
    pub ended_before: Timestamp,
    /// Audit entries of then or before, the oldest first. One that was written behind a newer entry may stay as long as that.
    pub audit_before: Timestamp,
    /// At most so many of each.
    pub limit: usize,
}
