//! Other deadlines for a session that lives.

use std::time::Duration;

use super::Sessions;
use crate::{
    change::Fields,
    client::Device,
    clock::Timestamp,
    error::{Error, Result},
    period::format_period,
    record::SessionInfo,
};

/// Other deadlines for a session that lives. What is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// How long it may go unused.
    pub idle: Option<Duration>,
    /// When it ends whatever happens; the inner `None` for no absolute end.
    pub ends_at: Option<Option<Timestamp>>,
}

impl Sessions {
    /// What gives a session these deadlines. Refused is what its start would not have been given: more than the configured
    /// [level of assurance](super::Lifetimes::assurance) allows since the person proved who they are, or more than
    /// [allowed](super::Builder::impersonation_limit) since the start where somebody acts as another or an auditor looks in.
    /// So is what would end it: there are calls that end sessions, and give a reason.
    pub fn moved_deadlines(&self, info: &SessionInfo, asked: &Deadlines) -> Result<Fields> {
        let config = self.config();
        let now = self.now();
        let agent = info.client.user_agent.as_deref();
        let lifetimes = config.lifetimes_of(agent.is_some_and(|agent| Device::of(agent).kind.is_mobile()));
        if let Some(idle) = asked.idle {
            lifetimes.check_idle(Some(idle))?;
            let unused = now.since(info.last_seen_at);
            if unused >= idle {
                let problem = format!("it has been unused for {} (h:m:s): touch it too", format_period(unused));
                return Err(Error::InvalidArgument { what: "idle timeout", problem });
            }
        }
        if let Some(ends_at) = asked.ends_at {
            let wrong = |problem: String| Err(Error::InvalidArgument { what: "ends_at", problem });
            if ends_at.is_some_and(|end| end <= now) {
                return wrong(format!("that has passed already; it is {now}: end the session instead"));
            }
            if info.user.is_some() {
                let proved = info.authenticated_at().unwrap_or(info.created_at);
                lifetimes.check_absolute(ends_at.map(|end| end.since(proved)))?;
            }
            let most = config.impersonation_limit;
            let is_watched = info.impersonator().is_some() || info.audit_user.is_some();
            if is_watched && ends_at.is_none_or(|end| end > info.created_at.after(most)) {
                let most = format_period(most);
                return wrong(format!(
                    "a session in which somebody else acts or looks in lasts at most {most} (h:m:s)"
                ));
            }
        }
        Ok(Fields { idle_timeout: asked.idle.map(Some), ends_at: asked.ends_at, ..Fields::default() })
    }
}
