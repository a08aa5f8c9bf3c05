//! What a session starts with.

use std::{sync::Arc, time::Duration};

use crate::{
    admission::Limit,
    assurance::Assurance,
    clock::Timestamp,
    data::Data,
    record::{Client, SessionInfo},
    token::SessionId,
};

/// What a session starts with: a user who signs in, or an anonymous visitor.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// use cloakroom::{Sessions, SignIn};
///
/// let sessions = Sessions::open("memory:").await?;
/// let anna = sessions.start(SignIn::new("anna").full_name("Anna Berg").remember(true)).await?;
/// let visitor = sessions.start(SignIn::anonymous()).await?;
/// assert_eq!(anna.record.info.user.as_deref(), Some("anna"));
/// assert_eq!(visitor.record.info.user, None);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SignIn {
    pub(crate) user: Option<Arc<str>>,
    pub(crate) full_name: Option<Arc<str>>,
    pub(crate) user_type: Option<Arc<str>>,
    pub(crate) audit_user: Option<Arc<str>>,
    pub(crate) authenticated_at: Option<Timestamp>,
    pub(crate) authenticated_level: Option<Assurance>,
    pub(crate) methods: Option<Arc<str>>,
    pub(crate) level: Option<Assurance>,
    pub(crate) data: Data,
    pub(crate) client: Client,
    pub(crate) device: Option<Arc<str>>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) end: AbsoluteEnd,
    pub(crate) remember: bool,
    pub(crate) limit: Option<Limit>,
    pub(crate) replaces: Option<SessionId>,
    /// The session that hangs on the replaced one.
    pub(crate) ends_with_it: Option<SessionId>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) by: Option<Arc<str>>,
    pub(crate) note: Option<Arc<str>>,
    /// Whether an anonymous visitor's data is left behind.
    pub(crate) fresh_data: bool,
}

/// When a session ends whatever happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AbsoluteEnd {
    /// When the service's lifetimes say.
    #[default]
    Configured,
    At(Timestamp),
    /// Never; refused where a level of assurance asks for an end.
    Never,
    /// When a level of assurance says, if one is configured.
    Assurance,
}

impl SignIn {
    /// A sign-in of `user`, who has just proved who they are: at least one byte, at most 256, without control characters.
    /// Compared byte for byte.
    pub fn new(user: impl Into<Arc<str>>) -> Self {
        Self { user: Some(user.into()), ..Self::default() }
    }

    /// A session without a user: of a visitor who has not signed in.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// The person's name, for display. At most 256 bytes.
    pub fn full_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.full_name = Some(name.into());
        self
    }

    /// What kind of user, in the application's own words. At most 256 bytes.
    pub fn user_type(mut self, user_type: impl Into<Arc<str>>) -> Self {
        self.user_type = Some(user_type.into());
        self
    }

    /// The auditor who looks into the user's account in this session. At most 256 bytes, and somebody else than the
    /// user.
    ///
    /// Every audit entry of the session names both. It lasts for [8 hours](crate::Builder::impersonation_limit) at
    /// most. Where there is a [directory](crate::Builder::users), the auditor must be enabled there, may come from
    /// the auditor's networks, and is out at the next request once disabled; it also says the user's name and type,
    /// if it knows them. [`Builder::may_audit`](crate::Builder::may_audit) says who may look into whose account. What
    /// these refuse is [`Error::Refused`](crate::Error::Refused), and in the audit log.
    pub fn audit_user(mut self, user: impl Into<Arc<str>>) -> Self {
        self.audit_user = Some(user.into());
        self
    }

    /// When the person proved who they are, at the latest now. Default: now.
    pub fn authenticated_at(mut self, at: Timestamp) -> Self {
        self.authenticated_at = Some(at);
        self
    }

    /// How the person proved who they are: names of RFC 8176 with a space between them, such as `pwd otp`. At
    /// most 256 bytes.
    pub fn methods(mut self, methods: impl Into<Arc<str>>) -> Self {
        self.methods = Some(methods.into());
        self
    }

    /// How strongly the person proved who they are. The session is of this level unless
    /// [`level`](Self::level) says a lower one.
    pub fn authenticated_level(mut self, level: Assurance) -> Self {
        self.authenticated_level = Some(level);
        self
    }

    /// What the session counts for: at most the [level of its
    /// authentication](Self::authenticated_level), which must be given too (NIST SP 800-63B-4, section 5.1).
    pub fn level(mut self, level: Assurance) -> Self {
        self.level = Some(level);
        self
    }

    /// Where the session is started from, all of it.
    pub fn client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// A name for the device, in the application's own words. Default: what the user agent says, such as "Firefox
    /// on Windows".
    pub fn device(mut self, device: impl Into<Arc<str>>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// How long it may go unused, instead of the configured time.
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle_timeout = Some(idle);
        self
    }

    /// When it ends whatever happens, instead of the configured time.
    pub fn ends_at(mut self, end: Timestamp) -> Self {
        self.end = AbsoluteEnd::At(end);
        self
    }

    /// It lives for as long as it is used, whatever is configured. Refused where a [level of
    /// assurance](crate::Lifetimes::assurance) asks for an end.
    pub fn never_ends(mut self) -> Self {
        self.end = AbsoluteEnd::Never;
        self
    }

    /// It has no absolute end, but the one that a [level of assurance](crate::Lifetimes::assurance) asks for, if one is
    /// configured. For an application that decides by itself when its sessions end.
    pub fn no_configured_end(mut self) -> Self {
        self.end = AbsoluteEnd::Assurance;
        self
    }

    /// "Remember me": the longer lifetimes, and a cookie that outlives the browser.
    pub fn remember(mut self, remember: bool) -> Self {
        self.remember = remember;
        self
    }

    /// How many sessions the user may have, instead of the configured limit.
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// A remark for its entry in the audit log. At most 256 bytes.
    pub fn note(mut self, note: impl Into<Arc<str>>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Who starts it, if not the user themselves.
    pub fn by(mut self, by: impl Into<Arc<str>>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// Starts with no data but its own, even where [`Session::sign_in`](crate::Session::sign_in) would carry over an
    /// anonymous visitor's.
    pub fn fresh_data(mut self) -> Self {
        self.fresh_data = true;
        self
    }

    /// The data it starts with.
    pub fn data(mut self, data: Data) -> Self {
        self.data = data;
        self
    }

    /// The session that this one takes the place of: it ends at once, and does not count towards the limit. Of a session that
    /// was found, rather say [`in_place_of`](Self::in_place_of).
    pub fn replaces(mut self, id: SessionId) -> Self {
        self.replaces = Some(id);
        self
    }

    /// As [`replaces`](Self::replaces), of a session as it was found. Where somebody acts as another in it, their own session
    /// ends too, and theirs is the one that does not count towards the limit.
    pub fn in_place_of(mut self, session: &SessionInfo) -> Self {
        // The one hangs on the other, so that no crash can leave it usable.
        let own = session.returns_to().unwrap_or(session.id);
        self.replaces = Some(own);
        self.ends_with_it = (own != session.id).then_some(session.id);
        self
    }

    /// Whether the data of a session that this one takes the place of belongs to whoever starts it: an anonymous visitor's
    /// does, and that of the same user with the same [auditor](Self::audit_user); not what somebody put in who acted as them.
    pub fn may_carry_over(&self, session: &SessionInfo) -> bool {
        let same_person = session.user == self.user && session.audit_user == self.audit_user;
        session.user.is_none() || (same_person && session.impersonator().is_none())
    }

    /// Makes a repeated start harmless: a further one with the same key ends the session of the first, which does not
    /// count towards the limit. At most 256 bytes.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}
