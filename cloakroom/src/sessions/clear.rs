//! Ending a user's other sessions, as a sign-in, the person or an administrator wants it.

use std::sync::Arc;

use super::Sessions;
use crate::{
    ended::{Ended, Ending, Reason},
    error::Result,
    record::SessionInfo,
    rules::EndAnswer,
    token::SessionId,
};

/// Which of a user's sessions to clear, and for whom.
///
/// Of the person's own sessions as many stay as they may have at once, the latest used ones: their limit in the directory,
/// else the configured one, else 1. All of them go if the person forces it, or if somebody else clears them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Clear {
    user: Arc<str>,
    keep: Option<SessionId>,
    force: bool,
    by: Option<Arc<str>>,
}

impl Clear {
    /// The sessions of this user, which they clear themselves.
    pub fn of(user: impl Into<Arc<str>>) -> Self {
        Self { user: user.into(), keep: None, force: false, by: None }
    }

    /// This one stays, and is one of those that may.
    pub fn keep(mut self, current: SessionId) -> Self {
        self.keep = Some(current);
        self
    }

    /// All go, however many the user may have.
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Who clears them. If it is not the user, it is an administrator.
    pub fn by(mut self, by: impl Into<Arc<str>>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// Why they end, and by whom.
    pub fn ending(&self) -> Ending {
        let reason = if self.is_somebody_elses() {
            Reason::RevokedByAdmin
        } else if self.force {
            Reason::SignedOutElsewhere
        } else {
            Reason::SignedInElsewhere
        };
        Ending { by: self.by.clone(), ..Ending::new(reason) }
    }

    fn is_somebody_elses(&self) -> bool {
        self.by.as_ref().is_some_and(|by| *by != self.user)
    }

    /// Those of the user's living sessions that go, the latest used first.
    fn choose(&self, mut living: Vec<SessionInfo>, limit: u32) -> Vec<SessionInfo> {
        living.sort_unstable_by_key(|info| std::cmp::Reverse((info.last_seen_at, info.created_at, info.id)));
        let mut stay = if self.force || self.is_somebody_elses() { 0 } else { limit as usize };
        if let Some(current) = self.keep {
            stay = stay.saturating_sub(1);
            living.retain(|info| info.id != current);
        }
        living.split_off(stay.min(living.len()))
    }
}

impl Sessions {
    /// Which sessions [`clear_sessions`](Self::clear_sessions) would end now, the latest used first.
    pub async fn sessions_to_clear(&self, clear: &Clear) -> Result<Vec<SessionInfo>> {
        super::check_name("user", Some(&clear.user))?;
        super::check_text("by", clear.by.as_deref())?;
        // What was used a moment ago counts as used.
        self.flush().await?;
        let user = self.find_user(&clear.user).await?;
        let limit = user.map_or(self.config().limit, |user| self.limit_of(&user));
        let living = self.list(Arc::clone(&clear.user)).await?;
        Ok(clear.choose(living, limit.map_or(1, |limit| limit.max)))
    }

    /// Ends the sessions that a [`Clear`] chooses, and answers which ended, the latest used first.
    ///
    /// Their holders are told that the person signed in elsewhere, or ended them from elsewhere if it was forced, or that an
    /// administrator did if it was somebody else.
    pub async fn clear_sessions(&self, clear: &Clear) -> Result<Vec<Ended>> {
        let chosen = self.sessions_to_clear(clear).await?;
        let ids = chosen.iter().map(|info| info.id).collect();
        let answers = self.end_many(ids, &clear.ending()).await?;
        Ok(answers.into_iter().filter_map(EndAnswer::ended_now).collect())
    }
}
