//! Changing sessions: data, and the token.

use std::sync::Arc;

use super::{
    Found, Sessions,
    impersonate::{Look, living, withdrawn},
    resume::refused,
    users::Whence,
    visitor::Visitor,
};
use crate::{
    change::Change,
    data,
    ended::{Ending, Reason},
    error::{Error, Result},
    record::Record,
    rules::jitter,
    rules::{Gone, Rotated, Rotation, Updated},
    secrets::Presented,
    token::{SessionId, Token},
};

/// How often a change whose basis others changed is decided anew.
const MAX_ATTEMPTS: u32 = 32;

/// Turns for changes that met a conflict. Within one process the second try of each, and the first of all
/// who come meanwhile, waits for those before it: a crowd on one key needs a try or two more each, not one for every
/// other.
pub(super) struct Lanes(Box<[tokio::sync::Mutex<()>]>);

impl Lanes {
    const COUNT: usize = 256;

    fn of(&self, id: SessionId) -> &tokio::sync::Mutex<()> {
        &self.0[usize::from(id.as_bytes()[SessionId::LEN - 1]) % Self::COUNT]
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self((0..Self::COUNT).map(|_| tokio::sync::Mutex::default()).collect())
    }
}

/// What became of a token that was to be rotated.
#[derive(Clone, Debug)]
pub enum RotatedToken {
    /// There is a new token; the old one is served until its grace ends.
    Rotated {
        /// For the client, and nobody else.
        token: Token,
        /// The session.
        record: Arc<Record>,
    },
    /// Another request's rotation came first: what the client holds keeps working for its grace.
    Superseded {
        /// The session.
        record: Arc<Record>,
    },
}

/// How a token is to be rotated. A [`Visitor`], or a token alone, says enough.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Rotate<'a> {
    visitor: Visitor<'a>,
    at_once: bool,
}

impl<'a> Rotate<'a> {
    /// The rotation of this visitor's token.
    pub fn new(visitor: impl Into<Visitor<'a>>) -> Self {
        Self { visitor: visitor.into(), at_once: false }
    }

    /// Whether the old token is dead at once, instead of being served for its grace: a client that presents it afterwards is
    /// told that it was replaced, and one whose answer is lost is signed out. Default false.
    pub fn at_once(mut self, at_once: bool) -> Self {
        self.at_once = at_once;
        self
    }
}

impl<'a> From<Visitor<'a>> for Rotate<'a> {
    fn from(visitor: Visitor<'a>) -> Self {
        Self::new(visitor)
    }
}

impl<'a> From<&'a Token> for Rotate<'a> {
    fn from(token: &'a Token) -> Self {
        Self::new(token)
    }
}

impl Sessions {
    /// A change of nothing yet, under this service's size limit.
    pub fn change(&self) -> Change {
        Change::new(self.max_data_bytes())
    }

    /// Applies a change. Never changes or brings back an ended session; one in which somebody acts as another counts as
    /// ended when the actor's own did.
    ///
    /// [`Updated::Conflict`] carries the record as it is; data that would be too large is an error.
    pub async fn update(&self, id: SessionId, change: &Change) -> Result<Updated> {
        self.check_keys(change)?;
        self.apply(id, change).await
    }

    fn check_keys(&self, change: &Change) -> Result<()> {
        change.set.keys().try_for_each(|key| data::check_key(key, self.config().max_key_bytes))
    }

    async fn apply(&self, id: SessionId, change: &Change) -> Result<Updated> {
        let now = self.now();
        let updated = self.store_write(self.rules().update(id, change, now)).await?;
        match &updated {
            Updated::Applied(record) | Updated::Conflict(record) if record.info.returns_to().is_some() => {
                // What was written went with the session, if the actor's had ended: nobody reads it.
                match Box::pin(self.while_actor_is_there(Arc::clone(record), now, Look::ById)).await? {
                    Found::Live(_) => {}
                    Found::Ended(ended) => return Ok(Updated::Gone(Gone::Ended(ended))),
                    Found::Unknown => return Ok(Updated::Gone(Gone::Unknown)),
                }
            }
            Updated::TooLarge(size) => {
                let key = change.largest_key().map(ToString::to_string);
                return Err(Error::TooLarge { key, size: *size, limit: change.max_data_bytes });
            }
            Updated::LeaseLost => return Err(Error::LockLost),
            Updated::Gone(Gone::Ended(ended)) => self.watchers().tell(ended),
            Updated::Gone(Gone::Unknown) | Updated::Applied(_) | Updated::Conflict(_) => {}
        }
        Ok(updated)
    }

    /// Decides a change from the record as it is and applies it, anew whenever what it relied on was changed meanwhile.
    /// Without a lock. Starts from `record`; after 32 tries it gives up with [`Error::Contended`].
    pub async fn modify(
        &self,
        record: Arc<Record>,
        mut decide: impl FnMut(&Record) -> Result<Change>,
    ) -> Result<Arc<Record>> {
        let decide = |record: &Arc<Record>| {
            let change = decide(record)?;
            self.check_keys(&change)?;
            Ok(Arc::new(change))
        };
        self.modify_with(record, decide).await
    }

    /// [`modify`](Self::modify) for a caller that keeps its changes, and has checked their keys.
    pub(crate) async fn modify_with(
        &self,
        record: Arc<Record>,
        mut decide: impl FnMut(&Arc<Record>) -> Result<Arc<Change>>,
    ) -> Result<Arc<Record>> {
        let id = record.info.id;
        let mut record = record;
        let turns = self.0.lanes.of(id);
        let mut lane = None;
        for attempt in 0..MAX_ATTEMPTS {
            let mut change = decide(&record)?;
            if change.is_empty() {
                return Ok(record);
            }
            // A crowd that waits already is joined, or those who come would always be ahead of those who wait.
            if lane.is_none() && change.can_conflict() && turns.try_lock().is_err() {
                lane = Some(turns.lock().await);
            }
            if self.store().edits_in_place() {
                drop(record);
            } else {
                Arc::make_mut(&mut change).known = Some(record);
            }
            match self.apply(id, &change).await? {
                Updated::Applied(record) => return Ok(record),
                Updated::Conflict(fresh) => record = fresh,
                Updated::Gone(gone) => return Err(gone.into()),
                Updated::TooLarge(_) | Updated::LeaseLost => unreachable!("it was made an error"),
            }
            if lane.is_none() {
                lane = Some(turns.lock().await);
            } else if attempt > 1 {
                // Only other nodes are in the way now: step aside for a moment, each for another one.
                Box::pin(tokio::time::sleep(jitter(attempt))).await;
            }
        }
        Err(Error::Contended { attempts: MAX_ATTEMPTS })
    }

    /// Gives the holder of a token a new one. The session, its id and its data stay, and it does not count as use.
    ///
    /// With a [directory](super::Builder::users) of users, which costs a load more: a user who is disabled there loses all
    /// sessions, which is [`Error::Ended`]; one who may not come from the visitor's [address](Visitor::ip) is
    /// [`Error::Refused`], and both session and token stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with the reason for the holder of an ended session's token, [`Error::UnknownSession`] for everybody
    /// else whose token opens nothing.
    pub async fn rotate(&self, rotate: impl Into<Rotate<'_>>) -> Result<RotatedToken> {
        let Rotate { visitor: Visitor { token, ip, .. }, at_once } = rotate.into();
        if self.0.known_users.is_some() {
            // Before the rotation: the holder of a token that is refused here must not make it a predecessor.
            living(self.resume_at(token, Whence::from(ip), self.now(), false).await?)?;
        }
        let successor = Token::generate(token.id())?;
        let now = self.now();
        for presented in self.digests(token) {
            let successor_digest = self.digest(&successor);
            let grace = self.config().rotation_grace;
            let by = self.attributed(None);
            let rotation = Rotation { presented, successor: successor_digest, grace, at_once, by };
            match self.store_write(self.rules().rotate(token.id(), &rotation, now)).await? {
                Rotated::Rotated(record) => {
                    self.check_attended(&record, now).await?;
                    tracing::info!(session = %token.id(), "token rotated");
                    return Ok(RotatedToken::Rotated { token: successor, record });
                }
                Rotated::Superseded(record) => match record.secrets.present(&presented, now) {
                    Presented::Current | Presented::Successor | Presented::Predecessor => {
                        self.check_attended(&record, now).await?;
                        return Ok(RotatedToken::Superseded { record });
                    }
                    Presented::Withdrawn => return Err(withdrawn(&record).into()),
                    Presented::Reused => {
                        self.end(token.id(), &Ending::new(Reason::TokenReuse)).await?;
                        return Err(self.ended_or_unknown(token).await);
                    }
                    // Unless the next digest is the one that was kept.
                    Presented::Unknown => {}
                },
                // Only who held its token may learn how it ended.
                Rotated::Gone(_) => return Err(self.ended_or_unknown(token).await),
            }
        }
        refused(token, "wrong secret");
        Err(Error::UnknownSession)
    }

    async fn ended_or_unknown(&self, token: &Token) -> Error {
        match self.resume(Visitor::new(token).touch(false)).await {
            Ok(Found::Ended(ended)) => ended.into(),
            Ok(_) => Error::UnknownSession,
            Err(error) => error,
        }
    }
}
