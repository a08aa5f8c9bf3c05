//! From a token to its session.

use std::{sync::Arc, time::Duration};

use super::{
    Sessions,
    impersonate::{Look, withdrawn},
    users::Whence,
    visitor::Visitor,
};
use crate::{
    clock::Timestamp,
    ended::{Ended, Ending, Reason},
    error::Result,
    record::Record,
    rules::{Loaded, Touch},
    secrets::{Presented, Secrets},
    token::{Digest, SessionId, Token},
};

/// A session as it was found.
#[derive(Clone, Debug)]
pub enum Found {
    /// It lives.
    Live(Arc<Record>),
    /// It ended not long ago.
    Ended(Ended),
    /// There is none, or it was forgotten, or the token's secret never belonged to it.
    Unknown,
}

impl Sessions {
    /// The session that a visitor's token opens. Counts as use, unless its [`touch`](Visitor::touch) is false: it moves
    /// the idle deadline, at most as often as the throttle allows.
    ///
    /// A token of an ended session is told why it ended; a stranger who knows only the id is not.
    ///
    /// With a [directory](super::Builder::users) of users: a user who is disabled there loses all sessions, and the answer
    /// tells so; one who may not come from the visitor's [address](Visitor::ip) is
    /// [`Error::Refused`](crate::Error::Refused), and the session stays.
    pub async fn resume(&self, visitor: impl Into<Visitor<'_>>) -> Result<Found> {
        let Visitor { token, ip, touch } = visitor.into();
        let now = self.now();
        let found = self.resume_at(token, Whence::from(ip), now, touch).await?;
        if let Found::Live(record) = &found
            && touch
        {
            self.note_use(record, now).await;
        }
        Ok(found)
    }

    /// What a token opens, if the directory lets its holder in. Where it `counts` as use, the session of who acts as another
    /// in it was used. What lies beyond the record is boxed: it is rare, and needs much room.
    pub(super) async fn resume_at(&self, token: &Token, whence: Whence, now: Timestamp, counts: bool) -> Result<Found> {
        let found = self.attended(token, now, counts).await?;
        match (&self.0.known_users, found) {
            (Some(known), Found::Live(record)) => Box::pin(self.judge(known, record, whence, now)).await,
            (_, found) => Ok(found),
        }
    }

    /// What a token opens, whatever the directory says of its holder.
    async fn attended(&self, token: &Token, now: Timestamp, counts: bool) -> Result<Found> {
        let found = self.found_at(token, now).await?;
        match &found {
            Found::Live(record) if record.info.returns_to().is_some() => {
                Box::pin(self.while_actor_is_there(Arc::clone(record), now, Look::ByToken { counts })).await
            }
            _ => Ok(found),
        }
    }

    async fn found_at(&self, token: &Token, now: Timestamp) -> Result<Found> {
        let loaded = self.load(token.id(), now).await?;
        self.found_in(token, loaded, now, !self.rules().is_near()).await
    }

    /// What a token opens, going by what was loaded; `anew` where that is no older than the request.
    async fn found_in(&self, token: &Token, loaded: Loaded, now: Timestamp, anew: bool) -> Result<Found> {
        match loaded {
            Loaded::Live(record) => match self.present_first(token, &record, now) {
                Presented::Current | Presented::Predecessor => Ok(Found::Live(record)),
                // The token may be newer than what lies near.
                Presented::Withdrawn | Presented::Reused | Presented::Unknown if !anew => {
                    let loaded = self.load_anew(token.id(), now).await?;
                    Box::pin(self.found_in(token, loaded, now, true)).await
                }
                Presented::Withdrawn => Ok(Found::Ended(withdrawn(&record))),
                Presented::Successor => {
                    let grace_ends = Some(now.after(self.config().rotation_grace));
                    let seen_at = record.info.last_seen_at;
                    self.queue_touch(Touch { id: token.id(), seen_at, grace_ends });
                    Ok(Found::Live(record))
                }
                Presented::Reused => Box::pin(self.end_reused(token)).await,
                Presented::Unknown => Ok(refused(token, "wrong secret")),
            },
            Loaded::Ended(tombstone) => match self.present(token, &tombstone.secrets, now) {
                Presented::Unknown => Ok(refused(token, "wrong secret")),
                _ => Ok(Found::Ended(tombstone.ended.clone())),
            },
            Loaded::Unknown => Ok(refused(token, "unknown session")),
        }
    }

    /// A session by its id alone, for administration: never counts as use.
    pub async fn get(&self, id: SessionId) -> Result<Found> {
        let now = self.now();
        Ok(match self.load(id, now).await? {
            Loaded::Live(record) if record.info.returns_to().is_some() => {
                Box::pin(self.while_actor_is_there(record, now, Look::ById)).await?
            }
            Loaded::Live(record) => Found::Live(record),
            Loaded::Ended(tombstone) => Found::Ended(tombstone.ended.clone()),
            Loaded::Unknown => Found::Unknown,
        })
    }

    /// Notes that the session of this record was used now, as resuming it does: at most as often as the throttle allows, and
    /// written together with others.
    pub async fn note_used(&self, record: &Record) {
        self.note_use(record, self.now()).await;
    }

    /// Writes that a session was used now, without waiting for others and however lately it was noted. Harmless where there
    /// is none.
    pub async fn touch(&self, id: SessionId) -> Result<()> {
        self.touch_now(Touch { id, seen_at: self.now(), grace_ends: None }).await
    }

    /// From memory where that is as good. Only what must ask the store pays for the asking.
    pub(crate) async fn load(&self, id: SessionId, now: Timestamp) -> Result<Loaded> {
        let loaded = match self.rules().peek(id, now) {
            Some(loaded) => loaded,
            None => Box::pin(self.store_read(self.rules().load(id, now))).await?,
        };
        match &loaded {
            Loaded::Ended(tombstone) if tombstone.ended.reason == Reason::IdleTimeout => {
                let deadline = tombstone.ended.at;
                match self.used(id) {
                    Some(used) => Box::pin(self.load_used(id, used, deadline, now, loaded)).await,
                    None => Ok(loaded),
                }
            }
            _ => Ok(loaded),
        }
    }

    /// A session that was used before its deadline lives on, although that is not written yet: the store was slow, or nothing
    /// may be written. Only of a session that lived a use is noted.
    async fn load_used(
        &self,
        id: SessionId,
        used: Timestamp,
        deadline: Timestamp,
        now: Timestamp,
        expired: Loaded,
    ) -> Result<Loaded> {
        let before = deadline.before(Duration::from_millis(1));
        let Loaded::Live(mut record) = self.store_read(self.rules().load(id, before)).await? else {
            return Ok(expired);
        };
        let seen = record.info.last_seen_at.max(used);
        Arc::make_mut(&mut record).info.last_seen_at = seen;
        Ok(if record.info.expiry(now).is_none() { Loaded::Live(record) } else { expired })
    }

    /// From the store itself.
    async fn load_anew(&self, id: SessionId, now: Timestamp) -> Result<Loaded> {
        Box::pin(self.store_read(self.rules().load_anew(id, now))).await
    }

    /// The session of a token as it is loaded, and anew where the token is newer than what lies near.
    pub(super) async fn load_for(&self, token: &Token, now: Timestamp) -> Result<Loaded> {
        let loaded = self.load(token.id(), now).await?;
        match &loaded {
            Loaded::Live(record) if self.rules().is_near() && !self.opens(token, &record.secrets, now) => {
                self.load_anew(token.id(), now).await
            }
            _ => Ok(loaded),
        }
    }

    async fn end_reused(&self, token: &Token) -> Result<Found> {
        tracing::warn!(session = %token.id(), "a replaced token was used again: the session ends");
        let answer = self.end(token.id(), &Ending::new(Reason::TokenReuse)).await?;
        Ok(answer.into())
    }

    /// While the digest is computed, memory brings what the handler will look at.
    fn present_first(&self, token: &Token, record: &Record, now: Timestamp) -> Presented {
        record.data.prefetch();
        self.present(token, &record.secrets, now)
    }

    pub(crate) fn present(&self, token: &Token, secrets: &Secrets, now: Timestamp) -> Presented {
        if self.0.macs.is_none() {
            return secrets.present(&token.digest(), now);
        }
        let mut meanings = self.digests(token).map(|digest| secrets.present(&digest, now));
        meanings.find(|meaning| *meaning != Presented::Unknown).unwrap_or(Presented::Unknown)
    }

    /// Whether a token opens a session now.
    pub(super) fn opens(&self, token: &Token, secrets: &Secrets, now: Timestamp) -> bool {
        let presented = self.present(token, secrets, now);
        matches!(presented, Presented::Current | Presented::Successor | Presented::Predecessor)
    }

    /// What is kept of a token's secret.
    pub(super) fn digest(&self, token: &Token) -> Digest {
        self.0.macs.as_ref().map_or_else(|| token.digest(), |macs| macs.digest(token))
    }

    /// The secret beneath a session's CSRF tokens.
    pub(crate) fn csrf_secret(&self, id: SessionId) -> Digest {
        self.csrf_secrets(id).next().expect("there is a key at least")
    }

    /// The secrets that a session's CSRF tokens may have been made with: one, or one for each record MAC key. Who has no
    /// such key can still not compute them from an id: the store's own key is needed.
    pub(crate) fn csrf_secrets(&self, id: SessionId) -> impl Iterator<Item = Digest> {
        let macs = self.0.macs.as_ref();
        // No user's name holds the NUL, so no user's partition is computed from the same text.
        let plain = || self.store().partition_key().keyed_digest(&[b"csrf\0", &id.as_bytes()[..]].concat());
        let plain = macs.is_none().then(plain);
        plain.into_iter().chain(macs.into_iter().flat_map(move |macs| macs.csrf_secrets(id)))
    }

    /// What may be kept of a token's secret: one digest, or one for each key that makes them.
    pub(super) fn digests(&self, token: &Token) -> impl Iterator<Item = Digest> {
        let macs = self.0.macs.as_ref();
        let plain = macs.is_none().then(|| token.digest());
        plain.into_iter().chain(macs.into_iter().flat_map(|macs| macs.digests(token)))
    }
}

pub(crate) fn refused(token: &Token, why: &'static str) -> Found {
    tracing::warn!(session = %token.id(), why, "token refused");
    Found::Unknown
}
