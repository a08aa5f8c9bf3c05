//! A directory of users that an application keeps itself, and worlds that ask it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use cloakroom::{
    Builder, Error, Result, Sessions, User, Users,
    audit::{AuditEntry, Event},
    store::{AuditQuery, BoxFuture},
};

use super::world::{World, world_with};

/// A directory that an application keeps itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Staff(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    users: Mutex<HashMap<String, User>>,
    failing: Mutex<Option<fn() -> Error>>,
    asked: AtomicUsize,
}

impl Staff {
    pub(crate) fn of<const N: usize>(users: [(&str, User); N]) -> Self {
        let staff = Self::default();
        for (name, user) in users {
            staff.set(name, user);
        }
        staff
    }

    pub(crate) fn set(&self, name: &str, user: User) {
        self.0.users.lock().unwrap().insert(name.into(), user);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.0.users.lock().unwrap().remove(name);
    }

    pub(crate) fn fail(&self, error: Option<fn() -> Error>) {
        *self.0.failing.lock().unwrap() = error;
    }

    /// How often it was asked since the last time.
    pub(crate) fn asked(&self) -> usize {
        self.0.asked.swap(0, Ordering::Relaxed)
    }
}

impl Users for Staff {
    fn find<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<User>>> {
        Box::pin(async move {
            self.0.asked.fetch_add(1, Ordering::Relaxed);
            match *self.0.failing.lock().unwrap() {
                Some(error) => Err(error()),
                None => Ok(self.0.users.lock().unwrap().get(user).cloned()),
            }
        })
    }
}

pub(crate) fn disabled() -> User {
    User { enabled: false, ..User::default() }
}

pub(crate) fn from_networks(networks: &[&str]) -> User {
    User { allowed_networks: networks.iter().map(|text| text.parse().unwrap()).collect(), ..User::default() }
}

pub(crate) fn at(address: &str) -> Option<IpAddr> {
    (!address.is_empty()).then(|| address.parse().unwrap())
}

pub(crate) fn world_of(staff: &Staff) -> World {
    world_where(staff, |builder| builder)
}

pub(crate) fn world_where(staff: &Staff, configure: impl FnOnce(Builder) -> Builder) -> World {
    world_with(|builder| configure(builder.users(staff.clone())))
}

/// What the log says of refusals to a user: the session, and why.
pub(crate) async fn refusals(sessions: &Sessions, user: &str) -> Vec<AuditEntry> {
    let query = AuditQuery { user: Some(user.into()), session: None };
    let logged = sessions.audit_log().page(&query, None, 100).await.unwrap().items.into_iter();
    logged.map(|logged| logged.entry).filter(|entry| entry.event == Event::Refused).collect()
}
