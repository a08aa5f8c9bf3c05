//! Who may have sessions, how many, and from where: the directory of users.
//!
//! An application that keeps its users elsewhere implements [`Users`] over that place. One that does not uses the directory
//! in the store itself: [`Builder::stored_users`](crate::Builder::stored_users).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    admission::WhenFull,
    error::{Error, Result},
    future::BoxFuture,
    network::Network,
};

/// A directory of users. Asked at every sign-in and resume, through a [cache](crate::Builder::users_cache).
///
/// ```
/// use cloakroom::{Result, Sessions, SignIn, User, Users, store};
///
/// #[derive(Debug)]
/// struct Staff;
///
/// impl Users for Staff {
///     fn find<'a>(&'a self, user: &'a str) -> store::BoxFuture<'a, Result<Option<User>>> {
///         Box::pin(async move {
///             let user = (user == "anna").then(|| User { full_name: Some("Anna Berg".into()), ..User::default() });
///             Ok(user)
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let sessions = Sessions::builder(store::open("memory:").await?).users(Staff).build()?;
/// let started = sessions.start(SignIn::new("anna")).await?;
/// assert_eq!(started.record.info.full_name.as_deref(), Some("Anna Berg"));
/// # Ok(()) }
/// ```
pub trait Users: std::fmt::Debug + Send + Sync + 'static {
    /// What the directory says of a user; `None` if it does not know them.
    ///
    /// A directory that cannot be read must answer with an error, best with [`Error::Unavailable`]: then nobody whom it would
    /// have kept out gets in. Users are compared byte for byte.
    fn find<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<User>>>;
}

/// What a directory says of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Whether they may have sessions at all. Default true.
    pub enabled: bool,
    /// The person's name, for a sign-in that gives none. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<Arc<str>>,
    /// What kind of user, for a sign-in that does not say. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_type: Option<Arc<str>>,
    /// How many sessions they may have, where a sign-in does not say: one or more. Default: what is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_limit: Option<u32>,
    /// What a sign-in beyond `session_limit` does. Default: what is configured, and without that evict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
    /// Where they may sign in from, and use their sessions from. Empty, the default, for anywhere. A request of which nobody
    /// knows where it comes from is in no network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_networks: Vec<Network>,
}

impl Default for User {
    fn default() -> Self {
        Self {
            enabled: true,
            full_name: None,
            user_type: None,
            session_limit: None,
            when_full: None,
            allowed_networks: Vec::new(),
        }
    }
}

impl User {
    /// Whether they may come from an address.
    pub fn may_come_from(&self, address: Option<std::net::IpAddr>) -> bool {
        let allowed = &self.allowed_networks;
        allowed.is_empty() || address.is_some_and(|address| allowed.iter().any(|network| network.contains(address)))
    }

    /// The same with some of it changed.
    pub fn patched(mut self, patch: &UserPatch) -> Self {
        let UserPatch { enabled, full_name, user_type, session_limit, when_full, allowed_networks } = patch;
        replace(&mut self.enabled, enabled.as_ref());
        replace(&mut self.full_name, full_name.as_ref());
        replace(&mut self.user_type, user_type.as_ref());
        replace(&mut self.session_limit, session_limit.as_ref());
        replace(&mut self.when_full, when_full.as_ref());
        replace(&mut self.allowed_networks, allowed_networks.as_ref());
        self
    }

    /// How many networks one user may have.
    const MAX_NETWORKS: usize = 256;

    pub(crate) fn check(&self) -> Result<()> {
        if self.session_limit == Some(0) {
            let problem = "at least one session must be allowed; disable the user to allow none".into();
            return Err(Error::InvalidArgument { what: "session_limit", problem });
        }
        if self.allowed_networks.len() > Self::MAX_NETWORKS {
            let problem = format!("{} are too many, the limit is {}", self.allowed_networks.len(), Self::MAX_NETWORKS);
            return Err(Error::InvalidArgument { what: "allowed_networks", problem });
        }
        Ok(())
    }
}

/// A change of what a directory says of a user. `None` leaves a field alone; the inner `None` empties it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of User of its name")]
pub struct UserPatch {
    pub enabled: Option<bool>,
    pub full_name: Option<Option<Arc<str>>>,
    pub user_type: Option<Option<Arc<str>>>,
    pub session_limit: Option<Option<u32>>,
    pub when_full: Option<Option<WhenFull>>,
    pub allowed_networks: Option<Vec<Network>>,
}

impl From<User> for UserPatch {
    /// Every field.
    fn from(user: User) -> Self {
        let User { enabled, full_name, user_type, session_limit, when_full, allowed_networks } = user;
        Self {
            enabled: Some(enabled),
            full_name: Some(full_name),
            user_type: Some(user_type),
            session_limit: Some(session_limit),
            when_full: Some(when_full),
            allowed_networks: Some(allowed_networks),
        }
    }
}

fn replace<T: Clone>(field: &mut T, change: Option<&T>) {
    if let Some(value) = change {
        field.clone_from(value);
    }
}
