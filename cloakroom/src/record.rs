//! Everything stored about one session.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    assurance::Assurance,
    client::canonical,
    clock::Timestamp,
    data::Data,
    ended::{Ended, Reason},
    lease::Lease,
    secrets::Secrets,
    token::{Digest, SessionId},
};

/// Everything stored about one session.
///
/// Stores never overwrite a record: they apply a [`Change`](crate::Change), a touch or a rotation to it.
///
/// Two are equal where they say the same of the session, whatever their store notes about them: which changes were the
/// latest, the revision, the epoch of the user, what is still to be ended.
#[derive(Clone, Debug, Eq)]
#[repr(C)] // What every request reads comes first, beside the count of who holds it: data, secrets and the info's times.
pub struct Record {
    /// What the application keeps in it.
    pub data: Data,
    /// Digests of the current secret and its predecessors.
    pub secrets: Secrets,
    /// Whose session it is, since when and until when.
    pub info: SessionInfo,
    /// Ids of the latest changes, newest last, so that a repeated change is recognised.
    pub recent_changes: RecentChanges,
    /// Who holds the session's lock.
    pub lease: Lease,
    /// Digest of the idempotency key the session was started with.
    pub idempotency: Option<Digest>,
    /// Which state of the head this is (everything but data, version and last-seen): random, new with each write of it.
    pub revision: u64,
    /// How often all sessions of its user had been ended when it started: those born before the latest time are dead.
    pub user_epoch: u64,
    /// What few records have.
    pub extra: Option<Box<Extra>>,
}

/// What few records have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// The session it took the place of, in another group of partitions, as long as that one may not have ended yet.
    pub replaces: Option<SessionId>,
    /// The head as it is stored, where it is sealed: then the other fields hold no more than the store's columns.
    pub sealed: Option<Arc<str>>,
    /// Fields that a newer version wrote and this one does not know.
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        let Self { data, secrets, info, recent_changes: _, lease, idempotency, revision: _, user_epoch: _, extra } =
            self;
        *info == other.info
            && *data == other.data
            && *secrets == other.secrets
            && *lease == other.lease
            && *idempotency == other.idempotency
            && Extra::same(extra.as_deref(), other.extra.as_deref())
    }
}

impl Extra {
    /// Whether both say the same of the session.
    fn same(one: Option<&Self>, other: Option<&Self>) -> bool {
        let nothing = Self::default();
        let Self { replaces: _, sealed, unknown } = one.unwrap_or(&nothing);
        let other = other.unwrap_or(&nothing);
        *sealed == other.sealed && *unknown == other.unknown
    }
}

impl Record {
    /// A session as it starts, with nothing in it.
    pub fn new(info: SessionInfo, secrets: Secrets) -> Self {
        Self {
            data: Data::new(),
            secrets,
            info,
            recent_changes: RecentChanges::default(),
            lease: Lease::default(),
            idempotency: None,
            revision: 0,
            user_epoch: 0,
            extra: None,
        }
    }

    /// When the reaper is to look at it: when it expires if it is not used again, or at once if what it replaces may not
    /// have ended.
    pub fn due_at(&self) -> Option<Timestamp> {
        if self.extra.as_ref().is_some_and(|extra| extra.replaces.is_some()) {
            return Some(self.info.created_at);
        }
        self.info.expires_at()
    }
}

/// A session without its data: what lists, consoles and audits show.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)] // What every request reads comes first, beside the record's data and secrets.
pub struct SessionInfo {
    /// When a request last used it, as far as it was recorded: touches are throttled, so the true time is later by
    /// at most the throttle.
    pub last_seen_at: Timestamp,
    /// How long it may go unused; `None` for as long as it likes.
    pub idle_timeout: Option<Duration>,
    /// When it ends whatever happens; `None` for no absolute end.
    pub ends_at: Option<Timestamp>,
    /// The session's handle.
    pub id: SessionId,
    /// Who is signed in; `None` for an anonymous visitor.
    pub user: Option<Arc<str>>,
    /// The person's name, for display.
    pub full_name: Option<Arc<str>>,
    /// What kind of user, in the application's own words.
    pub user_type: Option<Arc<str>>,
    /// When it started.
    pub created_at: Timestamp,
    /// The latest proof of who the person is; `None` for an anonymous visitor.
    pub authentication: Option<Authentication>,
    /// Whether the cookie outlives the browser ("remember me").
    pub remember: bool,
    /// Where it was started from.
    pub client: Client,
    /// The impersonator, who acts as `user`; `None` for the user's own session.
    pub acting: Option<Acting>,
    /// The auditor who looks into the user's account in it.
    pub audit_user: Option<Arc<str>>,
    /// How many changes were applied. Touches and rotations do not count.
    pub version: u64,
}

/// A person's proof of who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// When it was given.
    pub at: Timestamp,
    /// How: names of RFC 8176 with a space between them, such as `pwd otp`.
    pub methods: Option<Arc<str>>,
    /// How strong it is, as far as it is known; never more than the authentication allowed.
    pub level: Option<Assurance>,
}

impl Authentication {
    /// A proof given at this time, in a way that is not known.
    pub fn at(at: Timestamp) -> Self {
        Self { at, methods: None, level: None }
    }
}

/// The impersonator of a session: another person, who acts as its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acting {
    /// The impersonator.
    pub by: Arc<str>,
    /// The impersonator's own session, to which they return; `None` only where the session's head is sealed and its keys are
    /// not known.
    pub returns_to: Option<SessionId>,
}

impl SessionInfo {
    /// A session of an anonymous visitor, without deadlines: what a record begins with.
    pub fn new(id: SessionId, created_at: Timestamp) -> Self {
        Self {
            last_seen_at: created_at,
            idle_timeout: None,
            ends_at: None,
            acting: None,
            id,
            user: None,
            full_name: None,
            user_type: None,
            created_at,
            authentication: None,
            remember: false,
            client: Client::default(),
            audit_user: None,
            version: 0,
        }
    }

    /// The impersonator, who acts as the user.
    pub fn impersonator(&self) -> Option<&Arc<str>> {
        self.acting.as_ref().map(|acting| &acting.by)
    }

    /// The impersonator's own session, to which they return.
    pub fn returns_to(&self) -> Option<SessionId> {
        self.acting.as_ref()?.returns_to
    }

    /// When the person last proved who they are.
    pub fn authenticated_at(&self) -> Option<Timestamp> {
        Some(self.authentication.as_ref()?.at)
    }

    /// How the person proved who they are: names of RFC 8176 with a space between them.
    pub fn methods(&self) -> Option<&str> {
        self.authentication.as_ref()?.methods.as_deref()
    }

    /// How strongly the person proved who they are.
    pub fn level(&self) -> Option<Assurance> {
        self.authentication.as_ref()?.level
    }

    /// When the session expires if nobody uses it again: the earlier of its idle and absolute deadlines.
    pub fn expires_at(&self) -> Option<Timestamp> {
        let idle = self.idle_timeout.map(|idle| self.last_seen_at.after(idle));
        match (idle, self.ends_at) {
            (Some(idle), Some(end)) => Some(idle.min(end)),
            (deadline, None) | (None, deadline) => deadline,
        }
    }

    /// Why and when the session ran out, if it has by `now`. A deadline has passed at its very millisecond.
    pub fn expiry(&self, now: Timestamp) -> Option<(Reason, Timestamp)> {
        let deadline = self.expires_at().filter(|deadline| *deadline <= now)?;
        let reason = if self.ends_at == Some(deadline) { Reason::AbsoluteTimeout } else { Reason::IdleTimeout };
        Some((reason, deadline))
    }

    /// What the fence of its user is compared with when it starts: when the person authenticated, or without that, and
    /// where somebody acts as the user, when it started.
    pub fn fenced_at(&self) -> Timestamp {
        let proved = self.authenticated_at().filter(|_| self.acting.is_none());
        proved.unwrap_or(self.created_at)
    }

    /// How this session ended, if its time has run out by `now`.
    pub fn expired(&self, now: Timestamp) -> Option<Ended> {
        let (reason, at) = self.expiry(now)?;
        Some(Ended { id: self.id, user: self.user.clone(), at, reason, by: None, note: None })
    }
}

/// Where a session was started from, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    /// The client's address; kept in the spelling of [`ClientIp`](crate::client::ClientIp).
    pub ip: Option<IpAddr>,
    /// The `User-Agent` header, at most 512 bytes of it.
    pub user_agent: Option<Arc<str>>,
    /// A name for the device: the application's own, or what the user agent says. At most 512 bytes of it.
    pub device: Option<Arc<str>>,
    /// The country the address belongs to, as two letters of ISO 3166-1, such as `DE`.
    pub country: Option<Arc<str>>,
}

impl Client {
    const MAX_BYTES: usize = 512;

    /// As it is stored: the address in its one spelling. Cuts what a client made too long, and blanks control characters, which not every store can keep. It is shown,
    /// never compared for safety.
    pub(crate) fn cleaned(self) -> Self {
        let shorten = |text: Arc<str>| {
            if text.len() <= Self::MAX_BYTES && !text.chars().any(char::is_control) {
                return text;
            }
            let start = &text[..text.floor_char_boundary(Self::MAX_BYTES)];
            start.replace(char::is_control, " ").into()
        };
        Self {
            ip: canonical(self.ip),
            user_agent: self.user_agent.map(shorten),
            device: self.device.map(shorten),
            country: self.country.map(shorten),
        }
    }
}

/// The ids of the latest changes to a record, newest last.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RecentChanges {
    // Most records have few, and pay for no more.
    ids: Vec<u64>,
}

impl Clone for RecentChanges {
    /// With room for one more: records are copied when they change.
    fn clone(&self) -> Self {
        let mut ids = Vec::with_capacity((self.ids.len() + 1).min(Self::KEPT));
        ids.extend_from_slice(&self.ids);
        Self { ids }
    }
}

impl RecentChanges {
    /// How many are kept. A change is repeated right after its connection was cut; if more than so many others come in
    /// between, it is not recognised and applied again.
    pub const KEPT: usize = 64;

    /// As a store kept them; the newest [`KEPT`](Self::KEPT) count.
    pub fn from_ids(ids: impl IntoIterator<Item = u64>) -> Self {
        let mut recent = Self::default();
        ids.into_iter().for_each(|id| recent.push(id));
        recent
    }

    /// The ids, oldest first.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Whether this change was applied.
    pub fn contains(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Notes an applied change.
    pub fn push(&mut self, id: u64) {
        if self.ids.len() == Self::KEPT {
            self.ids.remove(0);
        }
        self.ids.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Partition;

    fn info() -> SessionInfo {
        SessionInfo {
            last_seen_at: Timestamp::from_millis(2000),
            idle_timeout: Some(Duration::from_millis(500)),
            ends_at: Some(Timestamp::from_millis(2600)),
            ..SessionInfo::new(SessionId::generate(Partition::random().unwrap()).unwrap(), Timestamp::from_millis(1000))
        }
    }

    #[test]
    fn get_expired_threshold_is_the_earlier_of_both_deadlines() {
        let mut info = info();
        assert_eq!(info.expiry(Timestamp::from_millis(2499)), None);
        let idle_end = Timestamp::from_millis(2500);
        assert_eq!(info.expiry(idle_end), Some((Reason::IdleTimeout, idle_end)));
        // Found late, it still ended at its deadline and for that deadline's reason.
        assert_eq!(info.expiry(Timestamp::MAX), Some((Reason::IdleTimeout, idle_end)));

        info.last_seen_at = Timestamp::from_millis(2200);
        let end = Timestamp::from_millis(2600);
        assert_eq!(info.expiry(Timestamp::from_millis(2599)), None);
        assert_eq!(info.expiry(end), Some((Reason::AbsoluteTimeout, end)));

        info.idle_timeout = None;
        info.ends_at = None;
        assert_eq!(info.expiry(Timestamp::MAX), None);
    }

    #[test]
    fn the_latest_changes_are_remembered() {
        let recent = RecentChanges::from_ids(0..100);
        assert_eq!(recent.ids(), (36..100).collect::<Vec<_>>());
        assert!(recent.contains(99) && !recent.contains(35));
    }
}
