//! Whom a deployment lets into somebody else's account.

use std::{fmt, sync::Arc};

use crate::{record::SessionInfo, users::User};

/// What is known of a person: what the directory of users says, or without an entry there what the call says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Person {
    /// Who.
    pub user: Arc<str>,
    /// The person's name.
    pub full_name: Option<Arc<str>>,
    /// What kind of user.
    pub user_type: Option<Arc<str>>,
}

impl Person {
    /// As the directory knows them.
    pub(super) fn known(user: &Arc<str>, known: &User) -> Self {
        Self { user: Arc::clone(user), full_name: known.full_name.clone(), user_type: known.user_type.clone() }
    }

    /// Somebody of whom nothing is known but their name.
    pub(super) fn named(user: &Arc<str>) -> Self {
        Self { user: Arc::clone(user), full_name: None, user_type: None }
    }

    /// Whose session it is.
    pub(super) fn of(info: &SessionInfo) -> Option<Self> {
        let user = info.user.clone()?;
        Some(Self { user, full_name: info.full_name.clone(), user_type: info.user_type.clone() })
    }
}

/// Whether somebody may do something with another person's account.
pub(crate) struct Policy<Asking>(Arc<Rule<Asking>>);

type Rule<Asking> = dyn Fn(&Asking, &Person) -> bool + Send + Sync;

impl<Asking> Policy<Asking> {
    pub(super) fn new(rule: impl Fn(&Asking, &Person) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }

    pub(super) fn allows(&self, asking: &Asking, other: &Person) -> bool {
        let Self(rule) = self;
        rule(asking, other)
    }
}

impl<Asking> Default for Policy<Asking> {
    fn default() -> Self {
        Self::new(|_, other| other.user_type.as_deref() != Some("administrator"))
    }
}

impl<Asking> Clone for Policy<Asking> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Asking> fmt::Debug for Policy<Asking> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}
