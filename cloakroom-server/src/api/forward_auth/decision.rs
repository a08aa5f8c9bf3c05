//! Whether a visitor is let in, however the proxy asked.

use std::sync::Arc;

use cloakroom::{Ended, Error, Found, Record, SessionInfo};
use http::{HeaderMap, StatusCode};

use super::{
    App,
    problem::{Code, Problem},
};
use crate::{policy::Lack, server::Peer};

/// What a proxy tells about a visitor.
#[derive(Debug)]
pub(super) struct Visitor<'a> {
    /// The proxy.
    pub(super) peer: Option<Peer>,
    /// As they came to the proxy, or as it wrote them.
    pub(super) headers: &'a HeaderMap,
}

#[derive(Debug)]
pub(super) struct Decision {
    /// An error has the status 401, 403 or 503: a proxy understands no other.
    pub(super) verdict: Result<(), Problem>,
    found: Option<Found>,
    assertion: Option<Arc<str>>,
}

impl Decision {
    pub(super) fn refused(problem: Problem) -> Self {
        Self { verdict: Err(problem), found: None, assertion: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.verdict.as_ref().map_or_else(Problem::status, |()| StatusCode::OK)
    }

    /// The visitor's session, if they are let in with one.
    pub(super) fn session(&self) -> Option<&SessionInfo> {
        self.verdict.is_ok().then(|| Some(&self.living()?.info)).flatten()
    }

    /// The same, signed.
    pub(super) fn assertion(&self) -> Option<&str> {
        self.assertion.as_deref()
    }

    /// How the visitor's session ended.
    pub(super) fn ended(&self) -> Option<&Ended> {
        match &self.found {
            Some(Found::Ended(ended)) => Some(ended),
            _ => None,
        }
    }

    fn living(&self) -> Option<&Arc<Record>> {
        match &self.found {
            Some(Found::Live(record)) => Some(record),
            _ => None,
        }
    }
}

/// Decides by the policy of this name.
pub(super) async fn decide(app: &App, policy: &str, visitor: &Visitor<'_>) -> Decision {
    let Some((name, policy)) = app.forward_auth.policies.find(policy) else {
        app.forward_auth.said.unknown_policy(policy, app);
        return Decision::refused(no_such_policy());
    };
    let found = match recognise(app, visitor).await {
        Ok(found) => found,
        Err(error @ Error::Refused(_)) => return Decision::refused(not_admitted(error)),
        Err(error) => {
            tracing::error!(%error, "a visitor could not be recognised");
            let detail = "The session store is unavailable.";
            return Decision::refused(Problem::new(Code::StoreUnavailable, detail));
        }
    };
    let mut decision = Decision { verdict: Ok(()), found: Some(found), assertion: None };
    let now = app.sessions.now();
    let lack = policy.judge(decision.living().map(|record| &record.info), now).err();
    decision.verdict = lack.map_or(Ok(()), |lack| Err(missing(lack, decision.ended())));
    decision.assertion = decision.session().and_then(|session| app.forward_auth.assertions.about(session, name, now));
    decision
}

/// The session of the visitor's cookie.
async fn recognise(app: &App, visitor: &Visitor<'_>) -> Result<Found, Error> {
    let proxies = app.trusted_proxies.as_ref().zip(visitor.peer);
    let ip = proxies.and_then(|(proxies, Peer(peer))| proxies.client(peer, visitor.headers));
    let presented = app.sessions.cookie().read(visitor.headers);
    Ok(app.sessions.recognise(&presented, ip).await?.found)
}

pub(super) fn no_such_policy() -> Problem {
    Problem::new(Code::PolicyUnknown, "The proxy asks for no policy of this server; the server's log says what to do.")
}

/// The directory of users does not let them in.
fn not_admitted(error: Error) -> Problem {
    let problem = Problem::from(error);
    if problem.status() == StatusCode::FORBIDDEN {
        return problem;
    }
    Problem::new(Code::NotSignedIn, "The visitor's session does not count any more: sign in again.")
}

fn missing(lack: Lack, ended: Option<&Ended>) -> Problem {
    match lack {
        Lack::SignIn => {
            let why = ended.map_or("The visitor is not signed in.", |ended| ended.reason.text());
            Problem::new(Code::NotSignedIn, why)
        }
        Lack::UserType => Problem::new(Code::RequirementNotMet, "Another type of user is asked for."),
        Lack::FreshSignIn => Problem::new(Code::RequirementNotMet, "A more recent sign-in is asked for."),
        Lack::Level => Problem::new(Code::RequirementNotMet, "A stronger sign-in is asked for."),
    }
}
