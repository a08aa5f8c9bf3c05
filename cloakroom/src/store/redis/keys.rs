//! Where things lie: the hash tag of each group of partitions, and the names of keys.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    clock::Timestamp,
    record::SessionInfo,
    token::{Digest, Partition, PartitionKey, SessionId},
};

/// How many slots a Redis Cluster has.
pub(super) const SLOTS: u16 = 16_384;

const GROUPS: usize = Partition::GROUPS as usize;

/// A hash tag for each group, and its slot: the first number whose slot lies in the group's share of all slots. They never
/// change, because everything stored lies under them.
static TAGS: LazyLock<Vec<(String, u16)>> = LazyLock::new(|| {
    let mut tags = vec![None; GROUPS];
    let mut missing = GROUPS;
    for number in 0u32.. {
        let tag = number.to_string();
        let slot = crc16(tag.as_bytes()) % SLOTS;
        let place = &mut tags[usize::from(slot / (SLOTS / Partition::GROUPS))];
        if place.is_none() {
            *place = Some((tag, slot));
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags.into_iter().flatten().collect()
});

/// The slot that everything of a group lies in.
pub(super) fn slot_of_group(group: u16) -> u16 {
    TAGS[usize::from(group)].1
}

/// What each group has a key of, in the order in which the scripts know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OfGroup {
    /// Hash: when each session was last seen, and whose store this is.
    Seen = 1,
    /// Stream: the audit log.
    Audit,
    /// Set: which entries are in it.
    Logged,
    /// Sorted set: the [places](Place) of open sessions.
    Index,
    /// Sorted set: when each open session is to be looked at.
    Due,
    /// Hash: the open session that was started with an idempotency key.
    Tries,
    /// Sorted set: when each session ended.
    Ended,
    /// Hash: users' slots.
    Users,
    /// Hash: when each of these users last signed in.
    SignedIn,
    /// Sorted set: names of the users who have a slot.
    Names,
    /// Sorted set: when each user's slot is to be looked at.
    UsersDue,
}

impl OfGroup {
    pub(super) const ALL: [Self; 11] = [
        Self::Seen,
        Self::Audit,
        Self::Logged,
        Self::Index,
        Self::Due,
        Self::Tries,
        Self::Ended,
        Self::Users,
        Self::SignedIn,
        Self::Names,
        Self::UsersDue,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Audit => "audit",
            Self::Logged => "logged",
            Self::Index => "index",
            Self::Due => "due",
            Self::Tries => "tries",
            Self::Users => "users",
            Self::SignedIn => "signed_in",
            Self::Ended => "ended",
            Self::Names => "names",
            Self::UsersDue => "users_due",
        }
    }
}

/// Names of keys, all beginning with the same prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What is known of the store as a whole, and its slot.
    pub(super) fn meta(&self) -> (Vec<u8>, u16) {
        let key = format!("{}meta", self.prefix).into_bytes();
        let slot = crc16(&key) % SLOTS;
        (key, slot)
    }

    /// A key of one group.
    pub(super) fn of_group(&self, what: OfGroup, group: u16) -> Vec<u8> {
        self.in_group(what.name(), group)
    }

    /// What is written to so that replicas can be waited for.
    pub(super) fn wait(&self, group: u16) -> Vec<u8> {
        self.in_group("wait", group)
    }

    /// What the keys of a group's sessions begin with; the id follows.
    pub(super) fn of_sessions(&self, group: u16) -> Vec<u8> {
        let mut key = self.in_group("s", group);
        key.push(b':');
        key
    }

    pub(super) fn of_session(&self, id: SessionId) -> Vec<u8> {
        let mut key = self.of_sessions(id.partition().group());
        key.extend_from_slice(&text(id));
        key
    }

    /// What a node writes to see it told.
    pub(super) fn beat(&self, group: u16, node: u64) -> Vec<u8> {
        let mut key = self.in_group("beat", group);
        key.extend_from_slice(format!(":{node:016x}").as_bytes());
        key
    }

    /// The session whose key it is, if it is one's.
    pub(super) fn session_of(&self, key: &[u8]) -> Option<SessionId> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"s:{")?;
        let (_, id) = rest.split_at_checked(rest.len().checked_sub(SessionId::TEXT_LEN)?)?;
        str::from_utf8(id).ok()?.parse().ok()
    }

    pub(super) fn is_beat(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| rest.starts_with(b"beat:{"))
    }

    fn in_group(&self, name: &str, group: u16) -> Vec<u8> {
        let tag = &TAGS[usize::from(group)].0;
        let mut key = Vec::with_capacity(self.prefix.len() + name.len() + tag.len() + 4 + SessionId::TEXT_LEN);
        for part in [&self.prefix, name, ":{", tag, "}"] {
            key.extend_from_slice(part.as_bytes());
        }
        key
    }
}

/// A session's id as it stands in keys.
pub(super) fn text(id: SessionId) -> [u8; SessionId::TEXT_LEN] {
    let mut text = [0; SessionId::TEXT_LEN];
    URL_SAFE_NO_PAD.encode_slice(id.as_bytes(), &mut text).expect("there is room for exactly that");
    text
}

/// All groups, in order.
pub(super) fn groups() -> impl DoubleEndedIterator<Item = u16> {
    0..Partition::GROUPS
}

/// The field that leads to the session that was started with an idempotency key.
pub(super) fn try_of(partition: Partition, key: &Digest) -> Vec<u8> {
    [&partition.to_bytes()[..], key.as_bytes()].concat()
}

/// A session's place in its group's index. Places sort by user, then start, then id: a digest of the user, because
/// names have no fixed length; the start; the id; and the id as it stands in its key, for scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place([u8; Place::LEN]);

impl Place {
    pub(super) const LEN: usize = Self::TEXT + SessionId::TEXT_LEN;
    const USER: usize = 16;
    const START: usize = 24;
    const TEXT: usize = Self::START + SessionId::LEN;

    pub(super) fn of(info: &SessionInfo, key: &PartitionKey) -> Self {
        let mut place = [0; Self::LEN];
        place[..Self::USER].copy_from_slice(&user_digest(info.user.as_deref(), key));
        place[Self::USER..Self::START].copy_from_slice(&sortable(info.created_at));
        place[Self::START..Self::TEXT].copy_from_slice(info.id.as_bytes());
        place[Self::TEXT..].copy_from_slice(&text(info.id));
        Self(place)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let place = Self(bytes.try_into().ok()?);
        (place.0[Self::TEXT..] == text(place.id())).then_some(place)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn id(&self) -> SessionId {
        let id = self.0[Self::START..Self::TEXT].try_into();
        SessionId::from_bytes(id.expect("the id has its place"))
    }

    pub(super) fn belongs_to(&self, user: &str, key: &PartitionKey) -> bool {
        self.0[..Self::USER] == user_digest(Some(user), key)
    }

    /// The bounds of all places of a user, as `ZRANGEBYLEX` wants them.
    pub(super) fn all_of(user: &str, key: &PartitionKey) -> [Vec<u8>; 2] {
        let digest = user_digest(Some(user), key);
        let fill = |filler: u8| {
            let mut bound = vec![b'['];
            bound.extend_from_slice(&digest);
            bound.resize(1 + Self::LEN, filler);
            bound
        };
        [fill(0), fill(0xFF)]
    }

    /// The bound that leaves this place itself out.
    pub(super) fn beyond(&self) -> Vec<u8> {
        [b"(", self.as_bytes()].concat()
    }
}

fn user_digest(user: Option<&str>, key: &PartitionKey) -> [u8; Place::USER] {
    let mut digest = [0; Place::USER];
    if let Some(user) = user {
        let keyed: Digest = key.keyed_digest(user.as_bytes());
        digest.copy_from_slice(&keyed.as_bytes()[Digest::LEN - Place::USER..]);
    }
    digest
}

/// Eight bytes that sort as times do.
fn sortable(time: Timestamp) -> [u8; 8] {
    (time.as_millis() ^ i64::MIN).to_be_bytes()
}

/// CRC-16/XMODEM, which Redis Cluster places keys by: of the tag in braces where there is one.
fn crc16(key: &[u8]) -> u16 {
    key.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From the specification of Redis Cluster.
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn the_tags_are_spread_evenly_and_never_change() {
        assert_eq!(TAGS.len(), GROUPS);
        for (group, (tag, slot)) in TAGS.iter().enumerate() {
            assert_eq!(usize::from(*slot) / 16, group);
            assert_eq!(crc16(tag.as_bytes()) % SLOTS, *slot);
        }
        let every_tag = TAGS.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>().join(" ");
        assert_eq!(crc16(every_tag.as_bytes()), 58634, "stored sessions lie under these tags");
    }

    #[test]
    fn places_sort_by_user_start_and_id() {
        let key = PartitionKey::from_bytes([7; 32]);
        let place = |user: Option<&str>, millis, id: u8| {
            let mut info = crate::store::redis::tests::info(SessionId::from_bytes([id; SessionId::LEN]));
            info.user = user.map(Into::into);
            info.created_at = Timestamp::from_millis(millis);
            Place::of(&info, &key)
        };
        let [from, to] = Place::all_of("anna", &key);
        let anna = [(-5, 9), (0, 1), (0, 2), (1_767_225_600_000, 0), (i64::MAX, 0xFF)];
        let bounds = anna.map(|(millis, id)| place(Some("anna"), millis, id).beyond());
        assert!(bounds.is_sorted());
        assert!(bounds.iter().all(|bound| from[1..] <= bound[1..] && bound[1..] <= to[1..]));
        let others = [place(None, 0, 1), place(Some("Anna"), 0, 1), place(Some("ann"), 0, 1)];
        assert!(others.iter().all(|other| !other.belongs_to("anna", &key)));
    }
}
