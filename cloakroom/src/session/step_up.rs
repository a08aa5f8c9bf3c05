//! How lately and how strongly the person proved who they are, and proving it once more.

use std::time::Duration;

use super::Session;
use crate::{
    assurance::Assurance,
    ended::Ended,
    error::{Error, Result},
    record::SessionInfo,
    sessions::SignIn,
};

impl Session {
    /// Whether the signed-in person proved who they are at most this long ago.
    pub fn authenticated_within(&self, time: Duration) -> bool {
        let at = self.with_info(SessionInfo::authenticated_at).flatten();
        at.is_some_and(|at| self.0.sessions.now().since(at) <= time)
    }

    /// Whether the session is of this level or a higher one. One whose level is not known is of none.
    pub fn at_least(&self, level: Assurance) -> bool {
        self.with_info(SessionInfo::level).flatten().is_some_and(|own| own >= level)
    }

    /// Asks for a person who proved who they are at most this long ago: anybody else is
    /// [`Error::ReauthenticationRequired`], which is answered 401.
    pub fn require_authenticated_within(&self, time: Duration) -> Result<()> {
        let error = || Error::ReauthenticationRequired { max_age: Some(time), level: None };
        self.authenticated_within(time).then_some(()).ok_or_else(error)
    }

    /// Asks for a session of this level or a higher one: any other is [`Error::ReauthenticationRequired`].
    pub fn require_at_least(&self, level: Assurance) -> Result<()> {
        let error = || Error::ReauthenticationRequired { max_age: None, level: Some(level) };
        self.at_least(level).then_some(()).ok_or_else(error)
    }

    /// Notes that the signed-in person has just proved once more who they are, perhaps more strongly: a new session and a new
    /// token take the place of this one, with all of its data and with both of its timers at their beginning. The old token
    /// is dead at once.
    ///
    /// Full name, type, auditor and "remember me" stay unless the sign-in says otherwise. [Methods](SignIn::methods) and
    /// [level](SignIn::authenticated_level) do not: they are those of this proof.
    ///
    /// It must be the same person: another one is [`Error::InvalidArgument`], as is somebody who acts as this user. Nobody
    /// signed in is [`Error::UnknownSession`], or [`Error::Ended`] where the session ended meanwhile.
    pub async fn reauthenticate(&self, sign_in: SignIn) -> Result<Vec<Ended>> {
        let info = self.info().ok_or_else(|| self.lapsed().map_or(Error::UnknownSession, Error::from))?;
        let wrong = |problem: String| Err(Error::InvalidArgument { what: "user", problem });
        if info.user.is_none() {
            return Err(Error::UnknownSession);
        }
        if info.user != sign_in.user {
            return wrong("somebody else is signed in here: this takes a sign-in".into());
        }
        if let Some(actor) = info.impersonator() {
            return wrong(format!("{actor} acts as this user, and goes back to their own session first"));
        }
        let mut again = sign_in;
        let start = &mut again;
        start.full_name = start.full_name.take().or(info.full_name);
        start.user_type = start.user_type.take().or(info.user_type);
        start.audit_user = start.audit_user.take().or(info.audit_user);
        start.remember |= info.remember;
        start.note = start.note.take().or_else(|| Some("authenticated again".into()));
        // What somebody else replaced meanwhile is not replaced by this.
        start.replaces = Some(info.id);
        self.sign_in(again).await
    }
}
