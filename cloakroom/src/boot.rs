//! Boot information: what a page needs to know when it starts, as one JSON document.
//!
//! An application names providers. What is [cached](Boot::cached) is asked once for a user, what is
//! [fresh](Boot::fresh) at every request, and what belongs to a [build](Boot::on_build) only when the cache had nothing.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    clock::Timestamp,
    data::Json,
    error::{Error, Result},
    session::Session,
};

type Problem = Box<dyn StdError + Send + Sync>;
type Asked = Pin<Box<dyn Future<Output = Result<Json, Problem>> + Send>>;
type User = Option<Arc<str>>;

/// The providers of a service's boot information. Given to [`Builder::boot`](crate::Builder::boot), asked through
/// [`Session::boot_info`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// use cloakroom::{Session, Sessions, store, boot::Boot};
///
/// let boot = Boot::new()
///     .cached("apps", |_user| async { Ok::<_, std::io::Error>(["shop", "helpdesk"]) })
///     .fresh("unread", |_session| async { Ok::<_, std::io::Error>(3) });
/// let sessions = Sessions::builder(store::open("memory:").await?).boot(boot).build()?;
///
/// let document = Session::anonymous(&sessions).boot_info().await?;
/// assert!(document.as_str().contains(r#""apps":["shop","helpdesk"],"unread":3"#));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Boot {
    providers: Vec<Provider>,
    max_age: Duration,
}

#[derive(Clone)]
struct Provider {
    name: &'static str,
    ask: Ask,
}

#[derive(Clone)]
enum Ask {
    Cached(Arc<dyn Fn(User) -> Asked + Send + Sync>),
    OnBuild(Arc<dyn Fn(User) -> Asked + Send + Sync>),
    Fresh(Arc<dyn Fn(Session) -> Asked + Send + Sync>),
}

impl Default for Boot {
    fn default() -> Self {
        Self::new()
    }
}

impl Boot {
    /// No providers yet.
    pub fn new() -> Self {
        Self { providers: Vec::new(), max_age: Duration::from_mins(10) }
    }

    /// Something that is the same for every session of a user: asked once, and then remembered for them. Visitors who are
    /// not signed in (`None`) share one answer, so it cannot depend on the session.
    pub fn cached<F, T, E>(mut self, name: &'static str, provider: impl Fn(User) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Problem>,
    {
        self.providers.push(Provider { name, ask: Ask::Cached(Arc::new(move |user| encoded(provider(user)))) });
        self
    }

    /// Something that is told only to the request that finds nothing in the cache, such as what changed lately.
    pub fn on_build<F, T, E>(mut self, name: &'static str, provider: impl Fn(User) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Problem>,
    {
        self.providers.push(Provider { name, ask: Ask::OnBuild(Arc::new(move |user| encoded(provider(user)))) });
        self
    }

    /// Something that must be asked at every request.
    pub fn fresh<F, T, E>(mut self, name: &'static str, provider: impl Fn(Session) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Problem>,
    {
        self.providers.push(Provider { name, ask: Ask::Fresh(Arc::new(move |session| encoded(provider(session)))) });
        self
    }

    /// The manifest that a build tool wrote, from names of assets to their URLs: a JSON object in a file, under the
    /// name `assets_json`. Read anew at every request, so that a deployment shows at once.
    pub fn assets(self, manifest: impl Into<PathBuf>) -> Self {
        let manifest: Arc<PathBuf> = Arc::new(manifest.into());
        self.fresh("assets_json", move |_| {
            let manifest = Arc::clone(&manifest);
            async move {
                let read = tokio::task::spawn_blocking(move || std::fs::read(&**manifest)).await?;
                let assets: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&read?)?;
                Ok::<_, Problem>(assets)
            }
        })
    }

    /// How long what is cached may be used. Default 10 minutes; zero caches nothing.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Names must be there, differ from each other, and from those the document has of its own.
    pub(crate) fn check(&self) -> Result<()> {
        for (at, Provider { name, .. }) in self.providers.iter().enumerate() {
            let problem = if name.is_empty() {
                "a provider needs a name".to_owned()
            } else if Facts::NAMES.contains(name) {
                format!("{name:?} is a name the document has of its own: call the provider something else")
            } else if self.providers[..at].iter().any(|other| other.name == *name) {
                format!("two providers are called {name:?}")
            } else {
                continue;
            };
            return Err(Error::InvalidArgument { what: "boot information", problem });
        }
        Ok(())
    }
}

/// A provider's answer as JSON.
fn encoded<T: Serialize, E: Into<Problem>>(asked: impl Future<Output = Result<T, E>> + Send + 'static) -> Asked {
    Box::pin(async move { Ok(Json::encode(&asked.await.map_err(Into::into)?)?) })
}

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.providers.iter().map(|provider| provider.name);
        f.debug_struct("Boot").field("max_age", &self.max_age).field("providers", &names.collect::<Vec<_>>()).finish()
    }
}

/// What a service remembers of its boot information.
#[derive(Default)]
pub(crate) struct BootCache(Mutex<Cached>);

#[derive(Default)]
struct Cached {
    users: HashMap<User, Built>,
    /// Counts what was dropped: what was built before a drop is not remembered after it.
    drops: u64,
}

#[derive(Clone)]
struct Built {
    at: Timestamp,
    values: Arc<[(&'static str, Json)]>,
}

impl BootCache {
    /// For so many users at most; those whose information was built longest ago are asked for again.
    const MAX_USERS: usize = 10_000;

    /// Forgets what was built for a user.
    pub(crate) fn forget(&self, user: Option<&Arc<str>>) {
        let mut cached = self.lock();
        cached.users.remove(&user.cloned());
        cached.drops += 1;
    }

    fn get(&self, user: &User, max_age: Duration, now: Timestamp) -> (Option<Built>, u64) {
        let cached = self.lock();
        let built = cached.users.get(user).filter(|built| now.since(built.at) < max_age && built.at <= now);
        (built.cloned(), cached.drops)
    }

    fn put(&self, user: User, built: Built, drops: u64) {
        let mut cached = self.lock();
        if cached.drops != drops {
            return;
        }
        if cached.users.len() >= Self::MAX_USERS && !cached.users.contains_key(&user) {
            let oldest = cached.users.iter().min_by_key(|(_, built)| built.at).map(|(user, _)| user.clone());
            oldest.and_then(|oldest| cached.users.remove(&oldest));
        }
        cached.users.insert(user, built);
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// The boot information for whom the page is served to, as one JSON object: `user`, `full_name`, `user_type`,
    /// `impersonated_by`, `expires_at` (RFC 3339), `read_only`, then what the [providers](Boot) say in their order, then
    /// `from_cache`, which tells whether what is cached was there.
    ///
    /// A provider that fails is left out and named in `failed`; what goes into the cache is then asked again at the next
    /// request. [`flush`](Session::flush) drops what is cached for the user, in this process; other processes ask
    /// again after [`Boot::max_age`].
    pub async fn boot_info(&self) -> Result<Json> {
        let (boot, cache) = self.sessions().boot();
        let info = self.info();
        let user = info.as_ref().and_then(|info| info.user.clone());
        let now = self.sessions().now();
        let (built, drops) = cache.get(&user, boot.max_age, now);
        let from_cache = built.is_some();

        let mut values = Vec::with_capacity(boot.providers.len());
        let mut to_keep = Vec::new();
        let mut failed = Vec::new();
        let mut is_whole = true;
        for Provider { name, ask } in &boot.providers {
            let asked = match (ask, &built) {
                (Ask::Cached(_), Some(built)) => {
                    values.extend(built.values.iter().filter(|(cached, _)| cached == name).cloned());
                    continue;
                }
                (Ask::OnBuild(_), Some(_)) => continue,
                (Ask::Cached(ask) | Ask::OnBuild(ask), None) => ask(user.clone()).await,
                (Ask::Fresh(ask), _) => ask(self.clone()).await,
            };
            match asked {
                Ok(value) => {
                    if matches!(ask, Ask::Cached(_)) {
                        to_keep.push((*name, value.clone()));
                    }
                    values.push((*name, value));
                }
                Err(error) => {
                    tracing::warn!(provider = name, error = &*error, "boot information could not be had");
                    is_whole &= matches!(ask, Ask::Fresh(_));
                    failed.push(*name);
                }
            }
        }
        if !from_cache && is_whole && !boot.max_age.is_zero() {
            cache.put(user.clone(), Built { at: now, values: to_keep.into() }, drops);
        }
        let facts = Facts {
            user: user.as_deref(),
            full_name: info.as_ref().and_then(|info| info.full_name.as_deref()),
            user_type: info.as_ref().and_then(|info| info.user_type.as_deref()),
            impersonated_by: info.as_ref().and_then(|info| info.impersonator().map(|by| &**by)),
            expires_at: info.as_ref().and_then(crate::record::SessionInfo::expires_at),
            read_only: self.sessions().is_read_only(),
        };
        let document = Document { facts, values, from_cache, failed };
        // The values were encoded already, and here lie a level deeper.
        let text = serde_json::to_string(&document);
        text.map(Json::from_stored).map_err(|source| Error::InvalidValue {
            key: "boot information".into(),
            action: "encoded",
            source,
        })
    }
}

/// What the document says without any provider.
struct Facts<'a> {
    user: Option<&'a str>,
    full_name: Option<&'a str>,
    user_type: Option<&'a str>,
    impersonated_by: Option<&'a str>,
    expires_at: Option<Timestamp>,
    read_only: bool,
}

impl Facts<'_> {
    const NAMES: [&'static str; 8] =
        ["user", "full_name", "user_type", "impersonated_by", "expires_at", "read_only", "from_cache", "failed"];
}

struct Document<'a> {
    facts: Facts<'a>,
    values: Vec<(&'static str, Json)>,
    from_cache: bool,
    failed: Vec<&'static str>,
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Facts { user, full_name, user_type, impersonated_by, expires_at, read_only } = &self.facts;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("user", user)?;
        map.serialize_entry("full_name", full_name)?;
        map.serialize_entry("user_type", user_type)?;
        map.serialize_entry("impersonated_by", impersonated_by)?;
        map.serialize_entry("expires_at", expires_at)?;
        map.serialize_entry("read_only", read_only)?;
        for (name, value) in &self.values {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("from_cache", &self.from_cache)?;
        if !self.failed.is_empty() {
            map.serialize_entry("failed", &self.failed)?;
        }
        map.end()
    }
}
