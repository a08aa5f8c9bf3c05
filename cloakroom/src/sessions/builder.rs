//! What a deployment decides: the settings of a session service, and making one of them.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{
    Inner, Lifetimes, Sessions, StoredUsers, clock_offset,
    policy::{Person, Policy},
    update, users, watch,
};
use crate::{
    admission::Limit,
    boot::{Boot, BootCache},
    clock::{Clock, SystemClock},
    cookie::CookieConfig,
    data::Data,
    error::{Error, Result},
    record::{Record, SessionInfo},
    rules::Rules,
    store::{NearCache, NearStore, RecordKeys, SealedStore, Store},
    users::Users,
};

/// Settings of a session service.
#[derive(Clone)]
#[must_use]
pub struct Builder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    config: Config,
    record_keys: Rings,
    near_cache: Option<NearCache>,
    #[cfg(feature = "geoip")]
    country_database: Option<std::path::PathBuf>,
    boot: Boot,
    after_start: Option<AfterStart>,
    read_only: bool,
    upkeep: bool,
    users: Directory,
    users_cache: Duration,
    only_known_users: bool,
}

impl Builder {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let config = Config {
            lifetimes: Lifetimes::default(),
            mobile_lifetimes: None,
            limit: None,
            rotation_grace: Duration::from_secs(30),
            max_data_bytes: 64 * 1024,
            max_key_bytes: 128,
            tombstone_retention: Duration::from_hours(24),
            audit_retention: Duration::from_hours(90 * 24),
            call_timeout: Duration::from_secs(5),
            lock_lease: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            reap_interval: Duration::from_mins(5),
            cookie: CookieConfig::default(),
            impersonation_limit: Duration::from_hours(8),
            impersonation_policy: Policy::default(),
            audit_policy: Policy::default(),
        };
        Self {
            store,
            clock: Arc::new(SystemClock),
            config,
            record_keys: Rings::default(),
            near_cache: None,
            #[cfg(feature = "geoip")]
            country_database: None,
            boot: Boot::new(),
            after_start: None,
            read_only: false,
            upkeep: true,
            users: Directory::None,
            users_cache: Duration::from_secs(5),
            only_known_users: false,
        }
    }

    /// How long sessions live. Default: [`Lifetimes::default`].
    pub fn lifetimes(mut self, lifetimes: Lifetimes) -> Self {
        self.config.lifetimes = lifetimes;
        self
    }

    /// How long sessions live that start on a telephone or tablet, as far as its [user agent](crate::client::Device) says so.
    /// An assurance level among the other lifetimes bounds these too. Default: as everywhere.
    pub fn mobile_lifetimes(mut self, lifetimes: Lifetimes) -> Self {
        self.config.mobile_lifetimes = Some(lifetimes);
        self
    }

    /// How many sessions a user may have, unless a sign-in says otherwise. Default: any number.
    pub fn limit(mut self, limit: Limit) -> Self {
        self.config.limit = Some(limit);
        self
    }

    /// How long a replaced token is served after its successor was first presented, and how long requests that still
    /// carry the token from before a sign-in leave the cookie alone. Default 30 seconds.
    pub fn rotation_grace(mut self, grace: Duration) -> Self {
        self.config.rotation_grace = grace;
        self
    }

    /// How large the data of one session may be: bytes of all keys and values. Default 65,536, at most a gibibyte.
    pub fn max_data_bytes(mut self, bytes: usize) -> Self {
        self.config.max_data_bytes = bytes;
        self
    }

    /// How long a key may be, in bytes. Default 128.
    pub fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.config.max_key_bytes = bytes;
        self
    }

    /// For how long an ended session's reason is remembered. Default 24 hours.
    pub fn tombstone_retention(mut self, retention: Duration) -> Self {
        self.config.tombstone_retention = retention;
        self
    }

    /// For how long audit entries are kept. Default 90 days.
    pub fn audit_retention(mut self, retention: Duration) -> Self {
        self.config.audit_retention = retention;
        self
    }

    /// How long a call of the store may take. Default 5 seconds.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.config.call_timeout = timeout;
        self
    }

    /// For how long a lock is granted: a holder that crashes delays others by so much. Default 30 seconds.
    pub fn lock_lease(mut self, lease: Duration) -> Self {
        self.config.lock_lease = lease;
        self
    }

    /// How long to wait for a lock. Default 10 seconds.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.config.lock_timeout = timeout;
        self
    }

    /// How often expired sessions are ended, give or take a tenth so that nodes spread out. Default 5 minutes. They count
    /// as ended from their deadline on, whenever that is.
    pub fn reap_interval(mut self, interval: Duration) -> Self {
        self.config.reap_interval = interval;
        self
    }

    /// The cookie's name and attributes. Default: [`CookieConfig::default`].
    pub fn cookie(mut self, cookie: CookieConfig) -> Self {
        self.config.cookie = cookie;
        self
    }

    /// How long somebody may [act as another](Sessions::impersonate), or [look in as an auditor](crate::SignIn::audit_user), at
    /// most. Default 8 hours.
    pub fn impersonation_limit(mut self, most: Duration) -> Self {
        self.config.impersonation_limit = most;
        self
    }

    /// Who may [act as](Sessions::impersonate) whom, given the actor's session and what is known of the other. Default:
    /// whoever the application lets ask, as anybody whose user type is not `administrator`.
    ///
    /// Whatever it says, nobody acts as themselves, as a disabled user, or out of a session that is not their own.
    pub fn may_impersonate(mut self, rule: impl Fn(&SessionInfo, &Person) -> bool + Send + Sync + 'static) -> Self {
        self.config.impersonation_policy = Policy::new(rule);
        self
    }

    /// Which [auditor](crate::SignIn::audit_user) may look into whose account, given what is known of each. Default: whoever the
    /// application names, into that of anybody whose user type is not `administrator`.
    ///
    /// Of those the [directory](Self::users) knows, it says name and type, whatever the sign-in says; of others the sign-in
    /// does, and of the auditor nothing is known but who they are, or what [their own session](crate::Impersonate::as_auditor) says. Whatever the rule says, nobody audits themselves or a
    /// disabled user, and no disabled user audits.
    pub fn may_audit(mut self, rule: impl Fn(&Person, &Person) -> bool + Send + Sync + 'static) -> Self {
        self.config.audit_policy = Policy::new(rule);
        self
    }

    /// Seals the head of every record with a MAC under the first of these keys, each 32 random bytes that are kept away from
    /// the database, so that who can write to the database cannot make a session of their choice. Default: no seals, and rows
    /// are believed.
    ///
    /// What is covered is all of the head: whose session it is, who impersonates, when and how the person authenticated, when it
    /// started and ends and how long it may go unused, its secrets, its lock and where it was started from, all bound to
    /// its id. Secrets are kept as digests under the key too. A record whose seal does not hold, or whose columns say something
    /// else than its head, is logged as an error and answered like one that does not exist. It still counts for its user's
    /// limit, and ends by the reaper, a sign-in that evicts it and whoever ends all sessions of its user.
    ///
    /// What a writer to the database can still do: end sessions and delete them; change data (but see
    /// [`encryption_keys`](Self::encryption_keys)); move when a session was last seen, which delays its idle timeout but never its
    /// end; put back what was there before *of the same session*, such as a secret that was replaced, a user type that was taken
    /// away, or all of a session that ended before its time; change the directory of users, lift limits and a user's disabling;
    /// make up tombstones and audit entries.
    ///
    /// The first key makes seals, all of them check: [`docs/security.md`] says how to change keys without signing anybody
    /// out. Sessions that were sealed with none of them, or not at all, are signed out. All nodes need the same keys.
    ///
    /// [`docs/security.md`]: https://github.com/cloakroom-rs/cloakroom/blob/main/docs/security.md#keys-for-records
    pub fn record_mac_keys(mut self, keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        self.record_keys.mac = keys.into_iter().collect();
        self
    }

    /// Encrypts the head of every record and every value of its data under the first of these keys, each 32 random bytes that are
    /// kept away from the database, so that who reads the database, a copy or a log of it sees neither. Default: nothing is
    /// encrypted.
    ///
    /// It is AES-256 in SIV mode, which authenticates too: all that is said of [`record_mac_keys`](Self::record_mac_keys) holds,
    /// and a value that was changed, or moved to another key or session, makes its session one that does not exist. With both,
    /// heads are encrypted and secrets kept as digests under the MAC key.
    ///
    /// What stays readable, because a store must find or compare it: ids, users, when sessions started, were used and end, how
    /// long they may go unused, who impersonates, addresses and device names, digests of idempotency keys; the names of keys and
    /// how long values are, and that a value is the one that this key of this session had before; how sessions ended; the
    /// directory of users and the audit log.
    ///
    /// Limits on the size of data count what was set, not what is stored, which is about a third more. A change that sets several
    /// values, or sets and removes some, looks at the session first: one round trip more.
    ///
    /// The first key encrypts, all of them decrypt. Sessions from before encryption, or under a key that is gone, are signed out.
    pub fn encryption_keys(mut self, keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        self.record_keys.encryption = keys.into_iter().collect();
        self
    }

    /// Whether sessions that are used are kept in this process's memory, and how many, where the store's backend tells what
    /// changes: see [`NearStore`]. `None`, the default, for not at all.
    pub fn near_cache(mut self, near_cache: Option<NearCache>) -> Self {
        self.near_cache = near_cache;
        self
    }

    /// A file in MaxMind's format (`.mmdb`), such as GeoLite2-Country, that says in which country an address is used: each
    /// session then records that of the address it starts from. Read into memory by [`build`](Self::build), so a newer file
    /// counts from the next start on. Default: none, and no country is recorded.
    #[cfg(feature = "geoip")]
    pub fn country_database(mut self, file: impl Into<std::path::PathBuf>) -> Self {
        self.country_database = Some(file.into());
        self
    }

    /// A directory of users, asked at every sign-in and resume: whether they may have sessions, how many, and from where.
    /// Default: none, which costs nothing and restricts nobody.
    ///
    /// Signing in asks it anew; later requests go by what it said within [`users_cache`](Self::users_cache). Who is
    /// disabled there loses all sessions at their next request. Where it cannot be read, requests of signed-in users fail.
    pub fn users(mut self, users: impl Users) -> Self {
        self.users = Directory::Given(Arc::new(users));
        self
    }

    /// The directory in the store itself, written by [`Directory::patch`](crate::sessions::Directory::patch).
    pub fn stored_users(mut self) -> Self {
        self.users = Directory::Stored;
        self
    }

    /// For how long what the directory said of a user is believed, even that it does not know them; zero for not at all.
    /// Default 5 seconds. A user disabled through [`Directory::patch`](crate::sessions::Directory::patch) loses their sessions at once all the same.
    /// At most 10,000 users are remembered.
    pub fn users_cache(mut self, kept_for: Duration) -> Self {
        self.users_cache = kept_for;
        self
    }

    /// Lets nobody sign in whom the directory does not know, and ends the sessions of those it no longer knows. Default:
    /// who is not in it has no restrictions of their own.
    pub fn only_known_users(mut self) -> Self {
        self.only_known_users = true;
        self
    }

    /// Where `now` comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What a page needs to know when it starts: see [`Session::boot_info`](crate::Session::boot_info). Default: what
    /// the session itself tells.
    pub fn boot(mut self, boot: Boot) -> Self {
        self.boot = boot;
        self
    }

    /// What to do once a session has started, before the caller hears of it: count it, greet the person, tell them of
    /// a new device. The session is stored by then, and stays whatever this does. Default: nothing.
    pub fn after_start<F>(mut self, hook: impl Fn(Arc<Record>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.after_start = Some(Arc::new(move |record| Box::pin(hook(record))));
        self
    }

    /// Whether the service starts in read-only mode, as for a copy of the store or a standby. Default false;
    /// [`Sessions::set_read_only`] changes it while the service runs.
    ///
    /// In read-only mode sessions are served as they are stored. Whatever would change the store is
    /// [`Error::ReadOnly`], and nothing is half done: starts, sign-ins, changes, rotations, locks, endings and the
    /// reaper by hand. That a session is used is remembered by the process, which serves it accordingly, and written when the
    /// mode ends; in the store idle deadlines stand where they were until then. Sessions whose deadline there passed meanwhile
    /// have ended when the mode ends, so that no limit counts wrong.
    /// What expires meanwhile counts as ended, and is reaped afterwards.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Starts no tasks: call [`Sessions::reap`] and [`Sessions::flush`] yourself.
    pub fn without_upkeep(mut self) -> Self {
        self.upkeep = false;
        self
    }

    /// The service. Must be called within a Tokio runtime, where the upkeep runs, unless there is
    /// [none](Self::without_upkeep).
    pub fn build(mut self) -> Result<Sessions> {
        self.config.lifetimes.check()?;
        if let Some(mobile) = &mut self.config.mobile_lifetimes {
            mobile.assurance = mobile.assurance.max(self.config.lifetimes.assurance);
            mobile.check()?;
        }
        self.config.cookie.check()?;
        self.boot.check()?;
        for (what, time) in [("call timeout", self.config.call_timeout), ("reap interval", self.config.reap_interval)] {
            if time.is_zero() {
                return Err(Error::InvalidArgument { what, problem: "it must not be zero".into() });
            }
        }
        if self.config.limit.is_some_and(|limit| limit.max == 0) {
            return Err(Error::InvalidArgument {
                what: "limit",
                problem: "at least one session must be allowed".into(),
            });
        }
        if self.config.max_data_bytes > Data::MAX_BYTES {
            let problem = format!("it is {}, at most {} are possible", self.config.max_data_bytes, Data::MAX_BYTES);
            return Err(Error::InvalidArgument { what: "max_data_bytes", problem });
        }
        if self.only_known_users && matches!(self.users, Directory::None) {
            let problem = "there is no directory that could know them: give one with users or stored_users";
            return Err(Error::InvalidArgument { what: "only_known_users", problem: problem.into() });
        }
        let Rings { mac, encryption } = self.record_keys;
        let keys = RecordKeys::default().mac(mac)?.encryption(encryption)?;
        let store = if keys.is_empty() { self.store } else { Arc::new(SealedStore::new(self.store, keys.clone())) };
        // Outside the seal: what lies in memory needs no key.
        let near = self.near_cache.filter(|_| store.near().is_none());
        let store = match near.and_then(|settings| NearStore::over(Arc::clone(&store), &settings)) {
            Some(near) => Arc::new(near),
            None => store,
        };
        let users = match self.users {
            Directory::None => None,
            Directory::Stored => Some(Arc::new(StoredUsers::new(Arc::clone(&store))) as Arc<dyn Users>),
            Directory::Given(users) => Some(users),
        };
        let known_users = users.map(|users| users::Known::new(users, self.users_cache, self.only_known_users));
        let inner = Inner {
            rules: Rules::new(store),
            clock: self.clock,
            config: self.config,
            macs: keys.macs().cloned(),
            touches: Arc::default(),
            clock_offset: clock_offset::LastOffset::default(),
            watchers: watch::Watchers::default(),
            #[cfg(feature = "geoip")]
            countries: self.country_database.as_deref().map(crate::client::Countries::open).transpose()?,
            boot: (self.boot, BootCache::default()),
            after_start: self.after_start,
            read_only: AtomicBool::new(self.read_only),
            lanes: update::Lanes::default(),
            known_users,
            tasks: std::sync::Mutex::default(),
        };
        let sessions = Sessions(Arc::new(inner), None);
        if self.upkeep {
            let problem = "call it within a Tokio runtime, or ask for no upkeep".to_owned();
            let runtime = tokio::runtime::Handle::try_current()
                .map_err(|_| Error::InvalidArgument { what: "Builder::build", problem })?;
            sessions.start_upkeep(&runtime);
        }
        Ok(sessions)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("store", &self.store).field("config", &self.config).finish_non_exhaustive()
    }
}

/// What a deployment decides. See [`Builder`] for each.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) lifetimes: Lifetimes,
    pub(crate) mobile_lifetimes: Option<Lifetimes>,
    pub(crate) limit: Option<Limit>,
    pub(crate) rotation_grace: Duration,
    pub(crate) max_data_bytes: usize,
    pub(crate) max_key_bytes: usize,
    pub(crate) tombstone_retention: Duration,
    pub(crate) audit_retention: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) lock_lease: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) reap_interval: Duration,
    pub(crate) cookie: CookieConfig,
    pub(crate) impersonation_limit: Duration,
    pub(crate) impersonation_policy: Policy<SessionInfo>,
    pub(crate) audit_policy: Policy<Person>,
}

impl Config {
    /// What holds for a session that starts on such a device.
    pub(super) fn lifetimes_of(&self, is_mobile: bool) -> Lifetimes {
        self.mobile_lifetimes.filter(|_| is_mobile).unwrap_or(self.lifetimes)
    }
}

/// What an application does once a session has started.
pub(super) type AfterStart = Arc<dyn Fn(Arc<Record>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Where users are known by name.
#[derive(Clone, Debug)]
enum Directory {
    None,
    Stored,
    Given(Arc<dyn Users>),
}

/// Keys for records, the first of each to write with.
#[derive(Clone, Default)]
struct Rings {
    mac: Vec<[u8; 32]>,
    encryption: Vec<[u8; 32]>,
}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rings(hidden)")
    }
}
