//! Forward authentication, asked as proxies ask.

mod application;
mod direct;
mod proxies;
mod site;

use std::time::Duration;

use crate::common::TestServer;
use cloakroom::Assurance;
use cloakroom_server::{Policies, Policy};

/// A server with a policy of every kind.
fn server() -> TestServer {
    TestServer::with(|server| server.policies(policies()))
}

fn policies() -> Policies {
    let level = |level| Policy { level: Some(level), ..Policy::default() };
    let fresh = Policy { fresh: Some(Duration::from_mins(1)), ..Policy::default() };
    [
        ("public", Policy { anonymous: true, ..Policy::default() }),
        ("staff", Policy { user_types: vec!["staff".into(), "administrator".into()], ..Policy::default() }),
        ("fresh", fresh.clone()),
        ("fresh-staff", Policy { user_types: vec!["staff".into()], ..fresh }),
        ("aal1", level(Assurance::Aal1)),
        ("aal2", level(Assurance::Aal2)),
        ("aal3", level(Assurance::Aal3)),
    ]
    .into_iter()
    .try_fold(Policies::default(), |policies, (name, policy)| policies.with(name, policy))
    .unwrap()
}

fn cookie(token: &str) -> String {
    format!("__Host-session={token}")
}
