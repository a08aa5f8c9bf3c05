//! Acting as somebody else, and going back.
//!
//! A session in which somebody acts as another lives beside the other's own: what ends all of those ends it too. It
//! names the actor's own session, to which they return, and lives no longer than that: whoever looks at the one
//! looks at the other. The actor's token is dead meanwhile: the current secret of their own session is a [mark](Sessions::mark)
//! that no token has. Going back takes the mark's place, so of several who go back one does, and the other session is over
//! from that moment on.

use std::{sync::Arc, time::Duration};

use super::{Found, Sessions, Started, check_name, check_text, policy::Person, users::Whence};
use crate::{
    audit::{AuditEntry, Event},
    clock::Timestamp,
    ended::{Ended, Ending, Reason},
    error::{Error, ImpersonationRefusal, Result},
    record::{Acting, Client, Record, SessionInfo},
    rules::{Create, Created, Loaded, Rotated, Rotation},
    secrets::Secrets,
    token::{Digest, SessionId, Token},
};

/// Whom somebody wants to act as, why, and for how long.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// use cloakroom::{Impersonate, Sessions, SignIn};
///
/// let sessions = Sessions::open("memory:").await?;
/// let root = sessions.start(SignIn::new("root").user_type("administrator")).await?;
///
/// let acting = sessions.impersonate(&root.token, Impersonate::new("anna", "ticket 17").minutes(30)).await?;
/// assert_eq!(acting.record.info.user.as_deref(), Some("anna"));
/// assert_eq!(acting.record.info.impersonator().map(|by| &**by), Some("root"));
///
/// let returned = sessions.stop_impersonating(&acting.token).await?;
/// assert_eq!(returned.record.info.user.as_deref(), Some("root"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Impersonate {
    user: Arc<str>,
    reason: Arc<str>,
    lasts: Duration,
    full_name: Option<Arc<str>>,
    user_type: Option<Arc<str>>,
    as_auditor: bool,
    pub(crate) client: Client,
}

impl Impersonate {
    /// How long it lasts unless told otherwise.
    pub const DEFAULT_DURATION: Duration = Duration::from_hours(1);

    /// As `user`, for a reason that the audit log keeps. Both have at least one byte and at most 256.
    pub fn new(user: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) -> Self {
        Self {
            user: user.into(),
            reason: reason.into(),
            lasts: Self::DEFAULT_DURATION,
            full_name: None,
            user_type: None,
            as_auditor: false,
            client: Client::default(),
        }
    }

    /// For so many minutes, instead of 60.
    pub fn minutes(self, minutes: u32) -> Self {
        self.lasting(Duration::from_mins(minutes.into()))
    }

    /// For so long, instead of an hour. At most as long as [`Builder::impersonation_limit`](crate::Builder::impersonation_limit)
    /// says, and never longer than the actor's own session.
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasts = time;
        self
    }

    /// The person's name, for display. At most 256 bytes.
    pub fn full_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.full_name = Some(name.into());
        self
    }

    /// What kind of user they are, in the application's own words. At most 256 bytes.
    pub fn user_type(mut self, user_type: impl Into<Arc<str>>) -> Self {
        self.user_type = Some(user_type.into());
        self
    }

    /// To look into their account as an auditor: the session names the actor as [`audit_user`](SessionInfo::audit_user) too, in
    /// every entry of the audit log, and [`Builder::may_audit`](crate::Builder::may_audit) decides in place of
    /// [`may_impersonate`](crate::Builder::may_impersonate).
    pub fn as_auditor(mut self) -> Self {
        self.as_auditor = true;
        self
    }

    /// Where the actor is, if not where their own session was started from.
    pub fn client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }
}

/// Somebody is back in their own session.
#[derive(Clone, Debug)]
pub struct Returned {
    /// A new one of their own session; for the client, and nobody else.
    pub token: Token,
    /// Their own session.
    pub record: Arc<Record>,
}

impl Sessions {
    /// Lets the holder of `token` act as another: a new session and a new token, while their own session waits and its
    /// tokens are dead at once.
    ///
    /// The new session names both, in every entry of the audit log too, and counts for nobody's limit. It is of the
    /// actor's assurance level, and ends with the actor's own session, when all of the other's sessions end, when either
    /// is disabled, or when its time is over. Using it is using both.
    ///
    /// # Errors
    ///
    /// [`Error::ImpersonationRefused`] where it is not allowed, or where the [directory](crate::Builder::users) does not know
    /// the other, and [`Error::Refused`] where the other is disabled, or the actor may not come from where they are: both
    /// are in the audit log. [`Error::Ended`] and [`Error::UnknownSession`] if the token opens nothing, as where the
    /// directory says that the actor is disabled: then all of their sessions end.
    pub async fn impersonate(&self, token: &Token, impersonate: Impersonate) -> Result<Started> {
        check_name("user", Some(&impersonate.user))?;
        check_text("full_name", impersonate.full_name.as_deref())?;
        check_text("user_type", impersonate.user_type.as_deref())?;
        check_text("reason", Some(&*impersonate.reason))?;
        let now = self.now();
        let original = living(self.resume_at(token, Whence::Anywhere, now, true).await?)?;
        self.check_clock().await?;
        let Some(target) = self.target_facts(&impersonate).await? else {
            let why = ImpersonationRefusal::UnknownUser;
            return Err(self.refuse(&original.info, &impersonate, why, now).await);
        };
        let auditor = if impersonate.as_auditor { self.auditor_facts(&original.info).await? } else { None };
        let actor = match self.may_impersonate(&original.info, &impersonate, auditor.as_ref(), &target) {
            Ok(actor) => actor,
            Err(why) => return Err(self.refuse(&original.info, &impersonate, why, now).await),
        };

        let (mut create, acting) = self.acting(&original.info, actor, impersonate, target, now)?;
        self.admit(&mut create, now).await??;
        // The other's limit is for their own sessions.
        create.limit = None;
        let sessions = self.clone();
        let token = token.clone();
        // Steps that belong together: a client that goes away between them must not leave one without the other.
        let started = tokio::spawn(async move { sessions.start_acting(create, acting, original, &token, now).await });
        started.await.map_err(|error| Error::unavailable("starting to act as another was interrupted", error))?
    }

    /// Takes whoever acts as another in the session of `token` back to their own: this session ends, and there is a new
    /// token of the other one.
    ///
    /// Once this session has expired or was ended, there is no way back: the person signs in again. Their own session, which
    /// nobody can open then, is listed as theirs and counts for their limit until its own time is over. A
    /// [sign-in](crate::Session::sign_in) in this session ends both.
    ///
    /// Of several calls at the same time one goes back. Where it fails, the way back stays.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if either session has ended, as where another call went back, or if the
    /// [directory](crate::Builder::users) says that either person is disabled; [`Error::UnknownSession`] if the token opens
    /// nothing, [`Error::ImpersonationRefused`] if the session of the token is its user's own.
    pub async fn stop_impersonating(&self, token: &Token) -> Result<Returned> {
        let acting = living(self.resume_at(token, Whence::Anywhere, self.now(), true).await?)?;
        let Some(id) = acting.info.returns_to() else {
            return Err(Error::ImpersonationRefused(ImpersonationRefusal::NotImpersonating));
        };
        let sessions = self.clone();
        let returned = tokio::spawn(async move { sessions.go_back(&acting.info, id).await });
        returned.await.map_err(|error| Error::unavailable("going back was interrupted", error))?
    }

    async fn go_back(&self, acting: &SessionInfo, id: SessionId) -> Result<Returned> {
        let now = self.now();
        living(self.get(id).await?)?;
        let token = Token::generate(id)?;
        let ending = Ending::new(Reason::ImpersonationEnded);
        let record = match self.withdraw(id, self.mark(acting.id), self.digest(&token), now).await? {
            Rotated::Rotated(record) => record,
            // Another call went back, and has the token.
            Rotated::Superseded(_) => return Err(ending.of(acting.id, acting.user.clone(), now).into()),
            Rotated::Gone(gone) => return Err(gone.into()),
        };
        // It is over already: without the mark its tokens open nothing. This tells lists and the audit log.
        if let Err(error) = self.end(acting.id, &ending).await {
            tracing::warn!(session = %acting.id, %error, "a session whose tokens are dead is left until it expires");
        }
        Ok(Returned { token, record })
    }

    /// What is known of the person whom somebody wants to act as: what the directory says of them, or what the call says
    /// where there is none. Nothing if the directory does not know them.
    async fn target_facts(&self, impersonate: &Impersonate) -> Result<Option<Person>> {
        let Impersonate { user, full_name, user_type, .. } = impersonate;
        if self.0.known_users.is_none() {
            let (user, full_name, user_type) = (Arc::clone(user), full_name.clone(), user_type.clone());
            return Ok(Some(Person { user, full_name, user_type }));
        }
        // Not what the call says: a policy that protects a type of users must not be talked out of it.
        Ok(self.find_user(user).await?.map(|known| Person::known(user, &known)))
    }

    /// What is known of somebody who looks in out of a session of theirs: what the directory says of them, or what that
    /// session does where it says nothing.
    async fn auditor_facts(&self, own: &SessionInfo) -> Result<Option<Person>> {
        let Some(user) = &own.user else { return Ok(None) };
        let known = self.find_user(user).await?;
        Ok(known.map_or_else(|| Person::of(own), |known| Some(Person::known(user, &known))))
    }

    /// Who acts, if they may: as an `auditor`, or as the other themselves.
    fn may_impersonate(
        &self,
        actor: &SessionInfo,
        impersonate: &Impersonate,
        auditor: Option<&Person>,
        target: &Person,
    ) -> Result<Arc<str>, ImpersonationRefusal> {
        let Some(user) = &actor.user else { return Err(ImpersonationRefusal::NobodySignedIn) };
        if actor.impersonator().is_some() || actor.audit_user.is_some() {
            return Err(ImpersonationRefusal::Nested);
        }
        if impersonate.reason.trim().is_empty() {
            return Err(ImpersonationRefusal::NoReason);
        }
        if *user == impersonate.user {
            return Err(ImpersonationRefusal::Oneself);
        }
        let most = self.config().impersonation_limit;
        if impersonate.lasts.as_millis() == 0 || impersonate.lasts > most {
            return Err(ImpersonationRefusal::TooLong { most });
        }
        let config = self.config();
        let allowed = match auditor {
            Some(auditor) => config.audit_policy.allows(auditor, target),
            None => config.impersonation_policy.allows(actor, target),
        };
        if allowed { Ok(Arc::clone(user)) } else { Err(ImpersonationRefusal::Policy) }
    }

    /// Puts a refusal into the audit log, and answers with the error that says so.
    async fn refuse(
        &self,
        actor: &SessionInfo,
        impersonate: &Impersonate,
        why: ImpersonationRefusal,
        now: Timestamp,
    ) -> Error {
        let Impersonate { user, reason, .. } = impersonate;
        let note = format!(
            "to act as {user}: {why}{}",
            if reason.is_empty() { String::new() } else { format!(" ({reason})") }
        );
        let (by, note) = (self.attributed(None), Some(note.into()));
        let entry = AuditEntry { by, note, ..AuditEntry::about(actor, Event::Refused, now) };
        self.log_refusal(&entry).await;
        tracing::warn!(session = %actor.id, actor = actor.user.as_deref(), %user, %why, "acting as another refused");
        Error::ImpersonationRefused(why)
    }

    /// The session in which the actor acts as the other, about to start.
    fn acting(
        &self,
        original: &SessionInfo,
        actor: Arc<str>,
        impersonate: Impersonate,
        target: Person,
        now: Timestamp,
    ) -> Result<(Create, Token)> {
        let Person { user, full_name, user_type } = target;
        let partition = self.store().partition_key().partition_of(&user);
        let token = Token::generate(SessionId::generate(partition)?)?;
        let end = now.after(impersonate.lasts);
        let client = if impersonate.client == Client::default() { original.client.clone() } else { impersonate.client };
        let info = SessionInfo {
            user: Some(user),
            full_name,
            user_type,
            client: client.cleaned(),
            audit_user: impersonate.as_auditor.then(|| Arc::clone(&actor)),
            idle_timeout: original.idle_timeout,
            ends_at: Some(original.ends_at.map_or(end, |latest| latest.min(end))),
            authentication: original.authentication.clone(),
            acting: Some(Acting { by: Arc::clone(&actor), returns_to: Some(original.id) }),
            ..SessionInfo::new(token.id(), now)
        };
        let record = Record::new(info, Secrets::new(self.digest(&token), now));
        let (by, note) = (self.attributed(Some(actor)), Some(impersonate.reason));
        Ok((Create { record, limit: None, replaces: None, by, note }, token))
    }

    /// Starts the new session, and withdraws every token of the original; where that fails, neither has happened.
    async fn start_acting(
        &self,
        create: Create,
        acting: Token,
        mut original: Arc<Record>,
        token: &Token,
        now: Timestamp,
    ) -> Result<Started> {
        if let Created::Refused(refusal) = self.store_write(self.rules().create(&create, now)).await? {
            return Err(refusal.into());
        }
        let error = loop {
            match self.withdraw(original.info.id, original.secrets.current, self.mark(acting.id()), now).await {
                Ok(Rotated::Rotated(_)) => {
                    let info = &create.record.info;
                    let (actor, user) = (info.impersonator().map(|by| &**by), info.user.as_deref());
                    tracing::info!(session = %info.id, actor, user, "somebody acts as another");
                    return Ok(Started { token: acting, record: Arc::new(create.record), ended: Vec::new() });
                }
                // A rotation of the same client's came in between; unless it was another request's that acts already.
                Ok(Rotated::Superseded(fresh)) if self.opens(token, &fresh.secrets, now) => original = fresh,
                Ok(Rotated::Superseded(fresh)) => break withdrawn(&fresh).into(),
                Ok(Rotated::Gone(gone)) => break gone.into(),
                Err(error) => break error,
            }
        };
        // Nobody holds its token, so that leaving it would do no harm.
        if let Err(error) = self.end(acting.id(), &Ending::new(Reason::ImpersonationEnded)).await {
            tracing::warn!(session = %acting.id(), %error, "a session that nobody can use is left until it expires");
        }
        Err(error)
    }

    /// Makes a secret the only one of a session, in the place of its current one. A lost answer is asked for again: the same
    /// rotation is not made twice.
    pub(super) async fn withdraw(
        &self,
        id: SessionId,
        current: Digest,
        successor: Digest,
        now: Timestamp,
    ) -> Result<Rotated> {
        let by = self.attributed(None);
        let rotation = Rotation { presented: current, successor, grace: Duration::ZERO, at_once: true, by };
        match self.store_write(self.rules().rotate(id, &rotation, now)).await {
            Err(Error::OutcomeUnknown { .. }) => self.store_write(self.rules().rotate(id, &rotation, now)).await,
            answered => answered,
        }
    }

    /// What stands for the secret of the actor's own session while they act in another: of no token is it the digest.
    pub(super) fn mark(&self, acting: SessionId) -> Digest {
        self.store().partition_key().keyed_digest(&[b"acting\0", &acting.as_bytes()[..]].concat())
    }

    /// Whether the actor is still there, where somebody acts as another in this session and its token was presented. Costs
    /// nothing where nobody does.
    pub(super) async fn check_attended(&self, record: &Arc<Record>, now: Timestamp) -> Result<()> {
        if record.info.returns_to().is_some() {
            let by = Look::ByToken { counts: false };
            living(Box::pin(self.while_actor_is_there(Arc::clone(record), now, by)).await?)?;
        }
        Ok(())
    }

    /// A session in which somebody acts as another, if the actor's own still lives; otherwise it ends as that did. If its
    /// token was presented, the actor must not have gone back either.
    pub(super) async fn while_actor_is_there(&self, record: Arc<Record>, now: Timestamp, look: Look) -> Result<Found> {
        let Some(id) = record.info.returns_to() else { return Ok(Found::Live(record)) };
        let is_over = || Ending { by: self.attributed(None), ..Ending::new(Reason::ImpersonationEnded) };
        let ending = match self.load(id, now).await? {
            // While the session is made there is no mark yet, and no token of it is out.
            Loaded::Live(original) if look != Look::ById && original.secrets.current != self.mark(record.info.id) => {
                is_over()
            }
            Loaded::Live(original) => {
                if look == (Look::ByToken { counts: true }) {
                    self.note_use(&original, now).await;
                }
                return Ok(Found::Live(record));
            }
            Loaded::Ended(tombstone) => {
                let Ended { reason, by, note, .. } = tombstone.ended.clone();
                Ending { reason, by, note }
            }
            Loaded::Unknown => is_over(),
        };
        let SessionInfo { id, user, .. } = &record.info;
        match self.end_as(*id, &ending).await {
            Ok(answer) => Ok(answer.into()),
            // It is over, even where nothing may be written.
            Err(Error::ReadOnly) => Ok(Found::Ended(ending.of(*id, user.clone(), now))),
            Err(error) => Err(error),
        }
    }

    /// Leaves out sessions in which somebody acted as another whose own session has ended.
    pub(super) async fn retain_attended(&self, sessions: &mut Vec<SessionInfo>) -> Result<()> {
        let now = self.now();
        let mut gone = Vec::new();
        for info in sessions.iter() {
            if let Some(id) = info.returns_to()
                && !matches!(self.load(id, now).await?, Loaded::Live(_))
            {
                gone.push(info.id);
            }
        }
        sessions.retain(|info| !gone.contains(&info.id));
        Ok(())
    }
}

/// How a session was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// By its id, for administration.
    ById,
    /// By its token, which may count as use.
    ByToken { counts: bool },
}

/// How a session ended, as far as the holder of a withdrawn token is concerned: they were given another's.
pub(super) fn withdrawn(record: &Record) -> Ended {
    let SessionInfo { id, user, .. } = &record.info;
    Ended { id: *id, user: user.clone(), at: record.secrets.issued_at, reason: Reason::Replaced, by: None, note: None }
}

pub(super) fn living(found: Found) -> Result<Arc<Record>> {
    match found {
        Found::Live(record) => Ok(record),
        Found::Ended(ended) => Err(ended.into()),
        Found::Unknown => Err(Error::UnknownSession),
    }
}
