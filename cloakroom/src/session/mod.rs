//! What a handler holds: the session of one request.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    data::Data,
    ended::{Ended, Ending, Reason},
    error::{Error, ImpersonationRefusal, Result},
    record::{Client, Record, SessionInfo},
    rules::{EndAnswer, Touch},
    sessions::{Found, Impersonate, Lock, Returned, RotatedToken, SEVERAL, Sessions, SignIn, Started, Visitor},
    token::{SessionId, Token},
};

mod arrival;
mod commit;
mod csrf;
mod dict;
mod key;
mod lock;
mod pending;
mod step_up;

pub use dict::Entry;
pub use key::{Key, ValueKey};
pub use lock::SessionLock;

pub(crate) use arrival::{Arrival, Origin};

use pending::Pending;

/// The session of one request: a dict of named values, and the visitor's coming and going.
///
/// Reading and writing values is synchronous and cannot fail for want of the store: the record was loaded when the handler
/// asked for the session, and what changed is stored before the response's head is sent. An anonymous visitor costs
/// no store write until something is put in.
///
/// Clones are the same session.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// use cloakroom::{Key, Session, Sessions, SignIn};
///
/// const CART: Key<Vec<String>> = Key::new("cart");
///
/// let sessions = Sessions::open("memory:").await?;
/// let session = Session::anonymous(&sessions);
/// session.set(CART, &vec!["umbrella".to_owned()])?;
/// session.sign_in(SignIn::new("anna")).await?;
///
/// assert_eq!(session.user().as_deref(), Some("anna"));
/// assert_eq!(session.get(CART)?.unwrap(), ["umbrella"]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Session(Arc<Shared>);

struct Shared {
    sessions: Sessions,
    origin: Origin,
    state: Mutex<State>,
    /// One caller at a time talks to the store about this session.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    stage: Stage,
    pending: Pending,
    /// A change that was sent and whose answer did not come: it is sent again as it was before anything else, so that it
    /// cannot count twice.
    in_flight: Option<commit::InFlight>,
    /// The number of the lock's grant, while it is held.
    lease: Option<u64>,
    /// The lock, when its guard is gone but what was decided under it is still pending.
    releasing: Option<Lock>,
    cookie: CookieOrder,
    signed_out: bool,
    head_sent: bool,
}

/// Where the session stands.
enum Stage {
    /// Nothing is stored.
    Anonymous {
        /// Why the token that the request came with opens nothing.
        lapsed: Option<Ended>,
        /// The sessions whose tokens the request came with, of which none is believed because there are several.
        rivals: Vec<SessionId>,
    },
    /// There is a record.
    Stored {
        /// As it was last seen.
        record: Arc<Record>,
        /// What the client holds, or will when this response arrives.
        token: Token,
    },
    /// There is a record, which was let go so that the store may change it in place: nobody will look at it again.
    LetGo {
        /// As of a stored one.
        token: Token,
    },
}

/// What the response shall do to the client's cookie.
#[derive(Clone, Debug)]
pub(crate) enum CookieOrder {
    Keep,
    Set(Token, Box<SessionInfo>),
    Delete,
}

impl Session {
    /// The service this session belongs to.
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// The session's handle; `None` while nothing is stored.
    pub fn id(&self) -> Option<SessionId> {
        self.with_info(|info| info.id)
    }

    /// Who is signed in.
    pub fn user(&self) -> Option<Arc<str>> {
        self.with_info(|info| info.user.clone()).flatten()
    }

    /// Everything about the session but its data; `None` while nothing is stored.
    pub fn info(&self) -> Option<SessionInfo> {
        self.with_info(Clone::clone)
    }

    /// How the session ended whose token the request came with, if it came with such a token: what to tell a visitor who
    /// finds themselves signed out.
    pub fn lapsed(&self) -> Option<Ended> {
        match &self.state().stage {
            Stage::Anonymous { lapsed, .. } => lapsed.clone(),
            Stage::Stored { .. } | Stage::LetGo { .. } => None,
        }
    }

    /// Signs somebody in who has just proved who they are: a new session and a new token take the place of this one.
    ///
    /// An anonymous visitor's data is carried over, and so is that of the same user; another user starts with none, and so
    /// does a user as whom somebody acts here, or into whose account another [auditor](SignIn::audit_user) looks. Pending
    /// changes are part of what is carried. Where somebody acts as another here, their own session ends with this
    /// one. A full limit or a disabled user is [`Error::Refused`], and leaves everything as it was.
    pub async fn sign_in(&self, sign_in: SignIn) -> Result<Vec<Ended>> {
        let _turn = self.0.turn.lock().await;
        let mut start = sign_in;
        {
            let state = self.state();
            if state.head_sent {
                return Err(Error::HeadSent);
            }
            let current = state.stage.record().map(|record| &record.info);
            if !start.fresh_data && current.is_none_or(|info| start.may_carry_over(info)) {
                let mut data = state.view();
                for (key, value) in start.data.iter() {
                    data.insert(key, value.to_json());
                }
                start.data = data;
            }
            if let Some(info) = current.filter(|_| start.replaces.is_none()) {
                start = start.in_place_of(info);
            }
        }
        if start.client == Client::default() {
            start.client = self.0.origin.client();
        }
        let rivals = self.rivals();
        let started = self.0.sessions.start(start).await?;
        let mut ended = self.state().become_stored(started);
        if !rivals.is_empty() {
            ended.extend(self.end_rivals(rivals).await);
        }
        Ok(ended)
    }

    /// Ends sessions whose tokens the browser holds beside that of the one that started: as long as they live, none would be
    /// believed.
    async fn end_rivals(&self, rivals: Vec<SessionId>) -> Vec<Ended> {
        let ending = Ending::new(Reason::Replaced).note(SEVERAL);
        match self.0.sessions.end_many(rivals, &ending).await {
            Ok(answers) => answers.into_iter().filter_map(EndAnswer::ended_now).collect(),
            Err(error) => {
                tracing::warn!(%error, "sessions of other cookies of a browser are left, and will be in the way there");
                Vec::new()
            }
        }
    }

    /// Signs out: the session ends, and what is pending is dropped with it. The visitor is anonymous afterwards.
    pub async fn sign_out(&self) -> Result<()> {
        self.sign_out_keeping(&[]).await
    }

    /// Signs out, and keeps the values of these keys in a new anonymous session.
    pub async fn sign_out_keeping(&self, keys: &[&str]) -> Result<()> {
        let kept: Data = {
            let state = self.state();
            let view = state.view();
            let kept = view.iter().filter(|(key, _)| keys.contains(key));
            let kept: Data = kept.map(|(key, value)| (key.into(), value.to_json())).collect();
            if state.head_sent && !kept.is_empty() {
                return Err(Error::HeadSent);
            }
            kept
        };
        // Two steps that belong together: a client that goes away between them must not lose what was to be kept.
        let session = self.clone();
        let both = tokio::spawn(async move { session.end_and_start_with(kept).await });
        both.await.map_err(|error| Error::unavailable("signing out was interrupted", error))?
    }

    async fn end_and_start_with(&self, kept: Data) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        let own = self.with_info(|info| (info.id, info.returns_to()));
        // Who acts as another signs out of both: nobody could open their own session any more.
        let own = own.into_iter().flat_map(|(id, original)| [Some(id), original]).flatten();
        let ids: Vec<_> = own.chain(self.rivals()).collect();
        if !ids.is_empty() {
            let mut ending = Ending::new(Reason::SignedOut);
            if self.0.origin.several {
                ending = ending.note("the browser held several session cookies");
            }
            self.0.sessions.end_many(ids, &ending).await?;
        }
        {
            let mut state = self.state();
            state.stage = Stage::ANONYMOUS;
            state.pending.discard();
            state.in_flight = None;
            state.cookie = CookieOrder::Delete;
            state.signed_out = true;
        }
        if !kept.is_empty() {
            let start = SignIn::anonymous().data(kept).client(self.0.origin.client());
            let started = self.0.sessions.start(start).await?;
            self.state().become_stored(started);
        }
        Ok(())
    }

    /// Lets the signed-in person act as another, in a new session with a new token that takes the place of this one; see
    /// [`Sessions::impersonate`]. What is pending is stored first. The application decides who may ask.
    pub async fn impersonate(&self, impersonate: Impersonate) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        let Some(token) = self.token_to_replace()? else {
            return Err(Error::ImpersonationRefused(ImpersonationRefusal::NobodySignedIn));
        };
        self.commit_in_turn().await?;
        let mut impersonate = impersonate;
        if impersonate.client == Client::default() {
            impersonate.client = self.0.origin.client();
        }
        let started = self.0.sessions.impersonate(&token, impersonate).await?;
        self.state().become_stored(started);
        Ok(())
    }

    /// Takes whoever acts as another here back to their own session, with a new token; see
    /// [`Sessions::stop_impersonating`]. What is pending is stored first. Once this session is over there is no way back:
    /// they sign in again.
    pub async fn stop_impersonating(&self) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        let Some(token) = self.token_to_replace()? else {
            return Err(self.lapsed().map_or(Error::UnknownSession, Error::from));
        };
        self.commit_in_turn().await?;
        let Returned { token, record } = self.0.sessions.stop_impersonating(&token).await?;
        self.state().become_stored(Started { token, record, ended: Vec::new() });
        Ok(())
    }

    /// Who really acts, where somebody acts as the signed-in user.
    pub fn impersonator(&self) -> Option<Arc<str>> {
        self.with_info(|info| info.impersonator().cloned()).flatten()
    }

    /// The sessions whose tokens the request came with, where none is believed because there are several.
    pub(crate) fn rivals(&self) -> Vec<SessionId> {
        match &self.state().stage {
            Stage::Anonymous { rivals, .. } => rivals.clone(),
            Stage::Stored { .. } | Stage::LetGo { .. } => Vec::new(),
        }
    }

    /// What the client holds, if the response can still bring it something else.
    fn token_to_replace(&self) -> Result<Option<Token>> {
        let state = self.state();
        if state.head_sent {
            return Err(Error::HeadSent);
        }
        Ok(match &state.stage {
            Stage::Stored { token, .. } => Some(token.clone()),
            Stage::Anonymous { .. } | Stage::LetGo { .. } => None,
        })
    }

    /// "Sign out everywhere else": ends all other sessions of the signed-in user, and answers which, newest first.
    pub async fn sign_out_others(&self) -> Result<Vec<Ended>> {
        let Some((id, Some(user))) = self.with_info(|info| (info.id, info.user.clone())) else {
            return Ok(Vec::new());
        };
        let by = self.impersonator().unwrap_or_else(|| Arc::clone(&user));
        let ending = Ending::new(Reason::SignedOutElsewhere).by(by);
        self.0.sessions.end_all_of(user, vec![id], &ending).await
    }

    /// Ends one of the signed-in user's other sessions. `false` if they have no such session, whoever else may.
    pub async fn sign_out_other(&self, other: SessionId) -> Result<bool> {
        let Some(user) = self.user() else { return Ok(false) };
        let Found::Live(record) = self.0.sessions.get(other).await? else { return Ok(false) };
        if record.info.user.as_ref() != Some(&user) {
            return Ok(false);
        }
        let ending = Ending::new(Reason::SignedOutElsewhere).by(self.impersonator().unwrap_or(user));
        self.0.sessions.end(other, &ending).await?;
        Ok(true)
    }

    /// Gives the client a new token: after a privilege changed, or now and then. The session, its id and its data stay;
    /// the old token is served for a short grace. If another request was first, the client keeps what it has.
    ///
    /// The [directory](crate::Builder::users) is asked as when the request arrived: see [`Sessions::rotate`].
    pub async fn rotate(&self) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        let Some(token) = self.token_to_replace()? else { return Ok(()) };
        let rotated = self.0.sessions.rotate(Visitor::new(&token).ip(self.0.origin.ip)).await?;
        let mut state = self.state();
        match rotated {
            RotatedToken::Rotated { token, record } => {
                state.cookie = CookieOrder::Set(token.clone(), Box::new(record.info.clone()));
                state.rebase(record, Some(token))
            }
            RotatedToken::Superseded { record } => state.rebase(record, None),
        }
    }

    /// Waits until this session has ended, and answers how; `None` if nothing is stored. For connections that outlive
    /// their request: see [`Sessions::ended`].
    pub async fn ended(&self) -> Result<Option<Ended>> {
        match self.id() {
            Some(id) => self.0.sessions.ended(id).await,
            None => Ok(None),
        }
    }

    /// Forces the session to durable storage now: what is pending, and that it was used. What was
    /// [cached for the user's pages](Session::boot_info) is dropped.
    pub async fn flush(&self) -> Result<()> {
        self.0.sessions.boot().1.forget(self.user().as_ref());
        self.commit().await?;
        let Some(id) = self.id() else { return Ok(()) };
        let touch = Touch { id, seen_at: self.0.sessions.now(), grace_ends: None };
        self.0.sessions.touch_now(touch).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_info<T>(&self, look: impl FnOnce(&SessionInfo) -> T) -> Option<T> {
        self.state().stage.record().map(|record| look(&record.info))
    }
}

/// What the layer asks.
impl Session {
    /// How many hold this session.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Drops what is pending, as after a failed request.
    pub(crate) fn discard(&self) {
        let mut state = self.state();
        state.pending.discard();
        state.release_if_stored();
    }

    /// What the head must say; from now on nothing may need a cookie. Whether somebody signed out is the second part.
    pub(crate) fn seal(&self) -> (CookieOrder, bool) {
        let mut state = self.state();
        state.head_sent = true;
        (std::mem::replace(&mut state.cookie, CookieOrder::Keep), state.signed_out)
    }
}

impl State {
    fn view(&self) -> Data {
        self.pending.view(self.stage.data())
    }

    fn become_stored(&mut self, started: Started) -> Vec<Ended> {
        let Started { token, record, ended } = started;
        self.pending.discard();
        self.in_flight = None;
        self.lease = None;
        self.releasing = None;
        self.cookie = CookieOrder::Set(token.clone(), Box::new(record.info.clone()));
        self.stage = Stage::Stored { record, token };
        ended
    }

    /// Goes on from a fresh record; with another token where there is one.
    fn rebase(&mut self, fresh: Arc<Record>, new_token: Option<Token>) -> Result<()> {
        self.stage.see(fresh);
        if let (Some(new_token), Stage::Stored { token, .. }) = (new_token, &mut self.stage) {
            *token = new_token;
        }
        self.pending.rebase(self.stage.data())
    }
}

impl Stage {
    const ANONYMOUS: Self = Self::Anonymous { lapsed: None, rivals: Vec::new() };

    fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Anonymous { .. } | Self::LetGo { .. } => None,
            Self::Stored { record, .. } => Some(record),
        }
    }

    /// Takes note of the record as it is now, if there is one.
    fn see(&mut self, fresh: Arc<Record>) {
        match self {
            Self::Anonymous { .. } => {}
            Self::Stored { record, .. } => *record = fresh,
            Self::LetGo { token } => *self = Self::Stored { record: fresh, token: token.clone() },
        }
    }

    fn let_go(&mut self) {
        if let Self::Stored { token, .. } = self {
            *self = Self::LetGo { token: token.clone() };
        }
    }

    fn data(&self) -> &Data {
        const NONE: &Data = &Data::new();
        self.record().map_or(NONE, |record| &record.data)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let mut shown = f.debug_struct("Session");
        match &state.stage {
            Stage::Anonymous { lapsed, .. } => shown.field("anonymous", &true).field("lapsed", lapsed),
            Stage::Stored { record, .. } => shown.field("id", &record.info.id).field("user", &record.info.user),
            Stage::LetGo { token } => shown.field("id", &token.id()),
        };
        shown.field("pending", &state.pending.len()).finish_non_exhaustive()
    }
}
