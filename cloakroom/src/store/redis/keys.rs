//! Where things lie: the hash tag of each group of partitions, and the names of keys.

use std::sync::LazyLock;

use crate::{Digest, Partition, PartitionKey, SessionId, SessionInfo, Timestamp};

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
    pub(super) fn of_group(&self, name: &str, group: u16) -> Vec<u8> {
        format!("{}{name}:{{{}}}", self.prefix, TAGS[usize::from(group)].0).into_bytes()
    }

    /// What the keys of a group's sessions begin with; the id follows.
    pub(super) fn of_sessions(&self, group: u16) -> Vec<u8> {
        format!("{}s:{{{}}}:", self.prefix, TAGS[usize::from(group)].0).into_bytes()
    }

    pub(super) fn of_session(&self, id: SessionId) -> Vec<u8> {
        let mut key = self.of_sessions(id.partition().group());
        key.extend_from_slice(id.to_string().as_bytes());
        key
    }

    /// The keys of a group that its scripts know by position.
    pub(super) fn group(&self, group: u16) -> Vec<Vec<u8>> {
        const NAMES: [&str; 9] =
            ["expiry", "seen", "index", "retries", "buried", "fenced", "disabled", "audit", "todo"];
        NAMES.iter().map(|name| self.of_group(name, group)).collect()
    }
}

/// A session's place in its group's index. Places sort by user, then start, then id: a digest of the user, because
/// names have no fixed length; the start; the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place([u8; Place::LEN]);

impl Place {
    pub(super) const LEN: usize = 42;
    const USER: usize = 16;
    const START: usize = 24;

    pub(super) fn of(info: &SessionInfo, key: &PartitionKey) -> Self {
        Self::new(info.user.as_deref(), info.created_at, info.id, key)
    }

    pub(super) fn new(user: Option<&str>, created_at: Timestamp, id: SessionId, key: &PartitionKey) -> Self {
        let mut place = [0; Self::LEN];
        place[..Self::USER].copy_from_slice(&user_digest(user, key));
        place[Self::USER..Self::START].copy_from_slice(&sortable(created_at));
        place[Self::START..].copy_from_slice(id.as_bytes());
        Self(place)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn id(&self) -> SessionId {
        SessionId::from_bytes(*self.0.last_chunk().expect("a place ends with an id"))
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
