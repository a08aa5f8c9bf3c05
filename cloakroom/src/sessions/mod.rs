//! The service: starts, resumes, changes, ends and lists sessions, and keeps the store tidy.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::task::JoinHandle;

use self::builder::{AfterStart, Config};
use crate::{
    audit,
    boot::{Boot, BootCache},
    clock::{Clock, Timestamp},
    cookie::CookieConfig,
    ended::Ended,
    error::{Error, Result},
    rules::Rules,
    seal::MacKeys,
    store::{self, Store},
};

mod builder;
mod clear;
mod clock_offset;
mod deadlines;
mod directory;
mod end;
mod follow;
mod handed;
mod impersonate;
mod lifetimes;
mod lock;
mod policy;
mod recognise;
mod resume;
mod settings;
mod sign_in;
mod start;
mod update;
mod upkeep;
mod users;
mod visitor;
mod watch;

pub use builder::Builder;
pub use clear::Clear;
pub use clock_offset::ClockOffset;
pub use deadlines::Deadlines;
pub use directory::{Directory, DirectoryEntry};
pub use follow::{AuditLog, AuditSink, TracingSink};
pub use impersonate::{Impersonate, Returned};
pub use lifetimes::Lifetimes;
pub use lock::{Lock, TakeLock};
pub use policy::Person;
pub use recognise::Recognised;
pub(crate) use recognise::SEVERAL;
pub use resume::Found;
pub use settings::Settings;
pub use sign_in::SignIn;
pub use start::Started;
pub use update::{Rotate, RotatedToken};
pub use users::StoredUsers;
pub use visitor::Visitor;

pub(crate) use resume::refused;
pub(crate) use start::{check_name, check_text};

/// The session service. Cheap to clone: clones share the store and its upkeep.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// use cloakroom::{Ending, Found, Reason, Sessions, SignIn};
///
/// let sessions = Sessions::open("memory:").await?;
/// let started = sessions.start(SignIn::new("anna").full_name("Anna Berg")).await?;
/// assert!(matches!(sessions.resume(&started.token).await?, Found::Live(_)));
///
/// sessions.end(started.token.id(), &Ending::new(Reason::RevokedByAdmin).by("root")).await?;
/// let Found::Ended(ended) = sessions.resume(&started.token).await? else { panic!("it ended") };
/// assert_eq!(ended.reason, Reason::RevokedByAdmin);
///
/// sessions.shutdown().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sessions(Arc<Inner>, Option<Arc<str>>);

/// On cache lines of its own: each request counts its handle beside this, and threads that only read must not wait for
/// those that count.
#[repr(align(128))]
struct Inner {
    rules: Rules,
    clock: Arc<dyn Clock>,
    config: Config,
    /// Those of the store's records, if there are any.
    macs: Option<MacKeys>,
    touches: Arc<upkeep::Touches>,
    clock_offset: clock_offset::LastOffset,
    watchers: watch::Watchers,
    #[cfg(feature = "geoip")]
    countries: Option<crate::client::Countries>,
    boot: (Boot, BootCache),
    after_start: Option<AfterStart>,
    read_only: AtomicBool,
    lanes: update::Lanes,
    known_users: Option<users::Known>,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Sessions {
    /// Opens the store at `url` and serves sessions from it with every default. See [`store::open`] for addresses and
    /// [`builder`](Self::builder) for everything else.
    pub async fn open(url: &str) -> Result<Self> {
        Self::builder(store::open(url).await?).build()
    }

    /// Serves sessions from a store, with other than default settings.
    pub fn builder(store: Arc<dyn Store>) -> Builder {
        Builder::new(store)
    }

    /// The same service, for calls that come through an API key of this name, or whatever else acts on behalf of others. Every
    /// entry that these calls write into the audit log begins its [`by`](crate::audit::AuditEntry::by) with `key:` and the name,
    /// whatever they say who they are made for.
    pub fn acting_through(&self, key: impl Into<Arc<str>>) -> Self {
        Self(Arc::clone(&self.0), Some(key.into()))
    }

    /// How entries of the audit log name who a call was made for.
    pub fn attributed(&self, by: Option<Arc<str>>) -> Option<Arc<str>> {
        audit::attributed(self.1.as_deref(), by)
    }

    /// Writes what is still in memory (when sessions were last seen) and stops the upkeep. Sessions still work
    /// afterwards, but nothing is reaped any more and touches are written by [`flush`](Self::flush) alone.
    pub async fn shutdown(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // It was aborted: all that counts is that it is over.
            drop(task.await);
        }
        self.flush_for_good().await;
    }

    /// Whether the service changes nothing: see [`Builder::read_only`].
    pub fn is_read_only(&self) -> bool {
        self.0.read_only.load(Ordering::Acquire)
    }

    /// Starts or ends [read-only mode](Builder::read_only), in this process. Calls that are under way when it starts are
    /// answered within the [call timeout](Builder::call_timeout); when it ends, what waited is written within a
    /// second or so.
    pub fn set_read_only(&self, read_only: bool) {
        self.0.read_only.store(read_only, Ordering::Release);
        if !read_only {
            self.0.touches.wake();
        }
    }

    /// The store, for what the service does not offer.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.0.rules.store()
    }

    /// What the [near cache](Builder::near_cache) has done; `None` where there is none.
    pub fn near_figures(&self) -> Option<store::NearFigures> {
        Some(self.store().near()?.figures())
    }

    /// Looks at what the store keeps and at how what keeps it is set up, and says what is wrong. With `repair`, mends what can be
    /// mended without guessing, while others work on the store, and ends, loses or changes no session that lives; without,
    /// changes nothing. For operators, not for requests: it reads everything there is once, in pages, and may take minutes.
    ///
    /// # Errors
    ///
    /// If the store could not be looked at. What this account may not look at is a [note](store::Severity::Note).
    pub async fn examine(&self, repair: bool) -> Result<Vec<store::Finding>> {
        self.rules().examine(self.now(), repair).await
    }

    /// What sessions do on the store.
    pub(crate) fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// The current time, by the service's clock.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// How cookies of these sessions look.
    pub fn cookie(&self) -> &CookieConfig {
        &self.0.config.cookie
    }

    /// How large the data of one session may be: bytes of all keys and values.
    pub fn max_data_bytes(&self) -> usize {
        self.0.config.max_data_bytes
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// Whether the client may be about to receive the token of the session that took this one's place.
    pub(crate) fn has_fresh_successor(&self, ended: &Ended) -> bool {
        ended.reason.is_replacement() && self.now().since(ended.at) < self.config().rotation_grace
    }

    pub(crate) fn boot(&self) -> (&Boot, &BootCache) {
        let (boot, cache) = &self.0.boot;
        (boot, cache)
    }

    fn watchers(&self) -> &watch::Watchers {
        &self.0.watchers
    }

    /// A call that changes nothing: late is as good as unavailable.
    async fn store_read<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let after = self.config().call_timeout;
        within(after, call).await.unwrap_or_else(|| {
            Err(Error::Unavailable { message: format!("it did not answer within {after:?}"), source: None })
        })
    }

    /// A call that changes something: late may be done or not.
    async fn store_write<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let after = self.config().call_timeout;
        within(after, call).await.unwrap_or(Err(Error::OutcomeUnknown { after }))
    }
}

/// What the call answers, unless it takes longer.
async fn within<T>(time: Duration, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    // A store in memory answers at once: no timer is set for that.
    match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => Box::pin(tokio::time::timeout(time, call)).await.ok(),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("store", self.store()).finish_non_exhaustive()
    }
}
