//! What a handler holds: the session of one request.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::HeaderValue;

use crate::{
    Client, Data, Ended, Ending, Error, Found, Impersonate, ImpersonationRefusal, Lock, Reason, Record, Result,
    Returned, RotatedToken, SessionId, SessionInfo, Sessions, SignIn, Start, Started, Token, store::Touch,
};

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

/// What a request came with.
pub(crate) enum Arrival {
    /// No cookie, or none that can be believed.
    Nothing,
    /// A cookie that opens nothing.
    Unknown,
    /// The token of an ended session.
    Ended(Ended),
    /// The token of a living session.
    Live(Arc<Record>, Token),
}

impl Arrival {
    /// With this token, which opens what was found.
    pub(crate) fn with(token: Token, found: Found) -> Self {
        match found {
            Found::Live(record) => Self::Live(record, token),
            Found::Ended(ended) => Self::Ended(ended),
            Found::Unknown => Self::Unknown,
        }
    }
}

/// Where a request comes from, as it said: made a [`Client`] when a session starts.
#[derive(Default)]
pub(crate) struct Origin {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) user_agent: Option<HeaderValue>,
}

impl Origin {
    fn client(&self) -> Client {
        let user_agent = self.user_agent.as_ref().and_then(|value| value.to_str().ok());
        Client { ip: self.ip, user_agent: user_agent.map(Into::into), device: None, country: None }
    }
}

impl Session {
    /// The session of a visitor who came without one.
    pub fn anonymous(sessions: &Sessions) -> Self {
        Self::arrive(sessions, Arrival::Nothing, Origin::default())
    }

    /// The session that a token opens, for a framework without an integration of its own: what the layer does when a
    /// handler asks. The caller [commits](Self::commit) and carries tokens itself.
    pub async fn resume(sessions: &Sessions, token: &Token) -> Result<Self> {
        Self::resume_from(sessions, token, None).await
    }

    /// As [`resume`](Self::resume), for a request from this address. A session that it starts is recorded as from there.
    pub async fn resume_from(sessions: &Sessions, token: &Token, ip: Option<IpAddr>) -> Result<Self> {
        let found = sessions.resume_from(token, ip).await?;
        let origin = Origin { ip, user_agent: None };
        Ok(Self::arrive(sessions, Arrival::with(token.clone(), found), origin))
    }

    pub(crate) fn arrive(sessions: &Sessions, arrival: Arrival, origin: Origin) -> Self {
        let (stage, cookie) = match arrival {
            Arrival::Nothing => (Stage::Anonymous { lapsed: None }, CookieOrder::Keep),
            Arrival::Unknown => (Stage::Anonymous { lapsed: None }, CookieOrder::Delete),
            Arrival::Ended(ended) => {
                let keep = sessions.has_fresh_successor(&ended);
                let cookie = if keep { CookieOrder::Keep } else { CookieOrder::Delete };
                (Stage::Anonymous { lapsed: Some(ended) }, cookie)
            }
            Arrival::Live(record, token) => (Stage::Stored { record, token }, CookieOrder::Keep),
        };
        let pending = Pending::new(sessions.max_data_bytes());
        let state = State {
            stage,
            pending,
            in_flight: None,
            lease: None,
            releasing: None,
            cookie,
            signed_out: false,
            head_sent: false,
        };
        let (state, turn) = (Mutex::new(state), tokio::sync::Mutex::new(()));
        Self(Arc::new(Shared { sessions: sessions.clone(), origin, state, turn }))
    }

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
            Stage::Anonymous { lapsed } => lapsed.clone(),
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
        let SignIn { mut start, fresh_data } = sign_in;
        {
            let state = self.state();
            if state.head_sent {
                return Err(Error::HeadSent);
            }
            let current = state.stage.record().map(|record| &record.info);
            if !fresh_data && current.is_none_or(|info| start.may_carry_over(info)) {
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
        let started = self.0.sessions.start(start).await?;
        Ok(self.state().become_stored(started))
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
        if let Some((id, original)) = self.with_info(|info| (info.id, info.returns_to)) {
            // Who acts as another signs out of both: nobody could open their own session any more.
            let ids = [Some(id), original].into_iter().flatten().collect();
            self.0.sessions.end_many(ids, &Ending::new(Reason::SignedOut)).await?;
        }
        {
            let mut state = self.state();
            state.stage = Stage::Anonymous { lapsed: None };
            state.pending.discard();
            state.in_flight = None;
            state.cookie = CookieOrder::Delete;
            state.signed_out = true;
        }
        if !kept.is_empty() {
            let start = Start::anonymous().data(kept).client(self.0.origin.client());
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
        self.with_info(|info| info.impersonated_by.clone()).flatten()
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
    /// The [directory](crate::Builder::users) is asked as when the request arrived: see [`Sessions::rotate_from`].
    pub async fn rotate(&self) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        let Some(token) = self.token_to_replace()? else { return Ok(()) };
        let rotated = self.0.sessions.rotate_from(&token, self.0.origin.ip).await?;
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
            Stage::Anonymous { lapsed } => shown.field("anonymous", &true).field("lapsed", lapsed),
            Stage::Stored { record, .. } => shown.field("id", &record.info.id).field("user", &record.info.user),
            Stage::LetGo { token } => shown.field("id", &token.id()),
        };
        shown.field("pending", &state.pending.len()).finish_non_exhaustive()
    }
}
