//! Policies: what forward authentication asks of visitors, by name.
//!
//! The operator's settings decide it, and nothing that a visitor can write:
//! `docs/decisions/0017-policies-are-named-by-the-server.md`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cloakroom::{Assurance, SessionInfo, Timestamp, period::parse_period};
use serde::Deserialize;

/// What a part of a site asks of its visitors. By default: that they are signed in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Policy {
    /// Lets visitors in who are not signed in. It can ask for nothing else then.
    pub anonymous: bool,
    /// The types of user that are let in; empty for all.
    pub user_types: Vec<String>,
    /// How recently the person must have proved who they are.
    pub fresh: Option<Duration>,
    /// The lowest level of assurance.
    pub level: Option<Assurance>,
}

/// The policies of a server. There is always one of the name [`Policies::DEFAULT`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Policy>")]
pub struct Policies(BTreeMap<Arc<str>, Policy>);

/// A policy cannot be as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Its name would not be safe in a path.
    #[error(
        "{0:?} is no name for a policy: it has 1 to 64 characters, all of them a to z, 0 to 9, - or _, and begins with a \
         letter or digit"
    )]
    Name(String),
    /// It lets everyone in, and asks for something.
    #[error(
        "a policy that lets anonymous visitors in cannot ask for a user type, a fresh sign-in or a level: leave out \
         either"
    )]
    AnonymousAndMore,
    /// No user could be of a type of the list.
    #[error("user_types holds an empty name: leave user_types out to let users of every type in")]
    UserType,
}

/// What a visitor's session lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    SignIn,
    UserType,
    FreshSignIn,
    Level,
}

impl Policies {
    /// The policy of the path `/auth`.
    pub const DEFAULT: &str = "default";

    /// Adds a policy, or replaces the one of this name.
    pub fn with(mut self, name: &str, policy: Policy) -> Result<Self, PolicyError> {
        if !is_name(name) {
            return Err(PolicyError::Name(name.to_owned()));
        }
        policy.check()?;
        self.0.insert(name.into(), policy);
        Ok(self)
    }

    /// The policy of this name, with the name as it is kept.
    pub(crate) fn find(&self, name: &str) -> Option<(&Arc<str>, &Policy)> {
        self.0.get_key_value(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self(BTreeMap::from([(Self::DEFAULT.into(), Policy::default())]))
    }
}

impl TryFrom<BTreeMap<String, Policy>> for Policies {
    type Error = PolicyError;

    fn try_from(written: BTreeMap<String, Policy>) -> Result<Self, PolicyError> {
        written.into_iter().try_fold(Self::default(), |policies, (name, policy)| policies.with(&name, policy))
    }
}

impl Policy {
    fn check(&self) -> Result<(), PolicyError> {
        let asks = !self.user_types.is_empty() || self.fresh.is_some() || self.level.is_some();
        if self.anonymous && asks {
            return Err(PolicyError::AnonymousAndMore);
        }
        if self.user_types.iter().any(String::is_empty) {
            return Err(PolicyError::UserType);
        }
        Ok(())
    }

    /// Whether it lets a visitor with this session in, or one without.
    pub(crate) fn judge(&self, session: Option<&SessionInfo>, now: Timestamp) -> Result<(), Lack> {
        if self.anonymous {
            return Ok(());
        }
        let Some(session) = session.filter(|session| session.user.is_some()) else { return Err(Lack::SignIn) };
        let user_type = session.user_type.as_deref().unwrap_or_default();
        if !self.user_types.is_empty() && !self.user_types.iter().any(|allowed| allowed == user_type) {
            return Err(Lack::UserType);
        }
        let age = session.authenticated_at().map_or(Duration::MAX, |at| now.since(at));
        if self.fresh.is_some_and(|fresh| age > fresh) {
            return Err(Lack::FreshSignIn);
        }
        if self.level.is_some() && session.level() < self.level {
            return Err(Lack::Level);
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 64
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || b"-_".contains(&byte))
}

/// A policy as settings hold it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    anonymous: bool,
    user_types: Vec<String>,
    fresh: Option<String>,
    level: Option<u8>,
}

impl TryFrom<Written> for Policy {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let fresh = written.fresh.as_deref().map(parse_period).transpose();
        let level = |number| Assurance::from_number(number).ok_or_else(|| format!("level is 1, 2 or 3, not {number}"));
        let policy = Self {
            anonymous: written.anonymous,
            user_types: written.user_types,
            fresh: fresh.map_err(|error| format!("fresh: {error}"))?,
            level: written.level.map(level).transpose()?,
        };
        policy.check().map_err(|error| error.to_string())?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Policies, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_a_default_policy_which_settings_may_replace() {
        assert_eq!(*Policies::default().find("default").unwrap().1, Policy::default());
        let policies = read("[default]\nlevel = 2\n[staff]\nuser_types = ['staff', 'root']\nfresh = '0:10'").unwrap();
        assert_eq!(policies.find("default").unwrap().1.level, Some(Assurance::Aal2));
        let staff = policies.find("staff").unwrap().1;
        assert_eq!((staff.user_types.len(), staff.fresh), (2, Some(Duration::from_mins(10))));
        assert!(policies.find("Staff").is_none());
        assert_eq!(policies.names().collect::<Vec<_>>(), ["default", "staff"]);
    }

    #[test]
    fn s1_a_policy_with_a_mistake_is_refused_by_name() {
        for (text, says) in [
            ("[Staff]", "\"Staff\""),
            ("['a/b']", "\"a/b\""),
            ("['-a']", "\"-a\""),
            ("['']", "\"\""),
            ("[staff]\nuser_type = 'staff'", "user_type"),
            ("[staff]\nuser_types = 'staff'", "user_types"),
            ("[staff]\nuser_types = ['']", "user_types"),
            ("[staff]\nlevel = 4", "level is 1, 2 or 3"),
            ("[staff]\nfresh = 'soon'", "fresh"),
            ("[public]\nanonymous = true\nlevel = 1", "anonymous"),
            ("[public]\nanonymous = 1", "anonymous"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(Policies::default().with("a".repeat(65).as_str(), Policy::default()).is_err());
    }
}
