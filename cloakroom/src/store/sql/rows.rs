//! What the columns mean, for every dialect: rows as a driver read them become records, or say what is wrong with them.
//!
//! Times and durations are integer milliseconds, ids and digests are bytes, addresses and names of reasons and events
//! are text. Lists too short for a table of their own are packed into bytes, see [`pack_predecessors`] and
//! [`pack_changes`].

use std::{fmt::Write, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use crate::{
    Assurance, AuditEntry, Client, Data, Digest, Ended, Lease, Predecessor, RecentChanges, Record, Secrets, SessionId,
    SessionInfo, Timestamp,
    store::{LastSignIn, StoredUser, Tombstone},
};

/// A stored value that cannot be what it stands for: the database was edited by hand, or damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table} {row}: {column}: {problem}")]
pub(crate) struct BadRow {
    table: &'static str,
    row: String,
    column: &'static str,
    problem: String,
}

/// All columns of a user in the directory.
pub(crate) struct UserRow {
    pub(crate) user: Arc<str>,
    pub(crate) settings: Arc<str>,
    pub(crate) signed_in_at: Option<i64>,
    pub(crate) signed_in_from: Option<String>,
}

/// A session's columns, data and secrets left out.
pub(crate) struct InfoRow {
    pub(crate) id: Vec<u8>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) full_name: Option<Arc<str>>,
    pub(crate) user_type: Option<Arc<str>>,
    pub(crate) created_at: i64,
    pub(crate) last_seen_at: i64,
    pub(crate) idle_timeout: Option<i64>,
    pub(crate) ends_at: Option<i64>,
    pub(crate) authenticated_at: Option<i64>,
    pub(crate) methods: Option<Arc<str>>,
    pub(crate) level: Option<i64>,
    pub(crate) remember: bool,
    pub(crate) ip: Option<String>,
    pub(crate) user_agent: Option<Arc<str>>,
    pub(crate) device: Option<Arc<str>>,
    pub(crate) country: Option<Arc<str>>,
    pub(crate) impersonated_by: Option<Arc<str>>,
    pub(crate) returns_to: Option<Vec<u8>>,
    pub(crate) audit_user: Option<Arc<str>>,
    pub(crate) version: i64,
}

/// The columns of a session's or a tombstone's secrets.
pub(crate) struct SecretsRow {
    pub(crate) current: Vec<u8>,
    pub(crate) issued_at: i64,
    pub(crate) rotations: i64,
    pub(crate) predecessors: Vec<u8>,
}

/// All columns of a session.
pub(crate) struct SessionRow {
    pub(crate) info: InfoRow,
    pub(crate) secrets: SecretsRow,
    pub(crate) recent_changes: Vec<u8>,
    pub(crate) idempotency: Option<Vec<u8>>,
    pub(crate) lease_number: i64,
    pub(crate) lease_until: i64,
}

/// The columns of a tombstone.
pub(crate) struct TombstoneRow {
    pub(crate) id: Vec<u8>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) ended_at: i64,
    pub(crate) reason: String,
    pub(crate) by: Option<Arc<str>>,
    pub(crate) note: Option<Arc<str>>,
    pub(crate) secrets: SecretsRow,
}

/// The columns of an audit entry, its place in the log left out.
pub(crate) struct AuditRow {
    pub(crate) at: i64,
    pub(crate) event: String,
    pub(crate) session: Vec<u8>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) impersonated_by: Option<Arc<str>>,
    pub(crate) audit_user: Option<Arc<str>>,
    pub(crate) ip: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) by: Option<Arc<str>>,
    pub(crate) note: Option<Arc<str>>,
}

/// A record whose data was not read.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) info: SessionInfo,
    pub(crate) secrets: Secrets,
    pub(crate) recent_changes: RecentChanges,
    pub(crate) idempotency: Option<Digest>,
    pub(crate) lease: Lease,
}

impl Head {
    pub(crate) fn with_data(self, data: Data) -> Record {
        let Self { info, secrets, recent_changes, idempotency, lease } = self;
        Record { revision: 0, user_epoch: 0, extra: None, data, secrets, info, recent_changes, lease, idempotency }
    }
}

impl InfoRow {
    pub(crate) fn decode(self) -> Result<SessionInfo, BadRow> {
        let place = Place::new("session", &self.id);
        Ok(SessionInfo {
            id: place.id("id", &self.id)?,
            user: self.user,
            full_name: self.full_name,
            user_type: self.user_type,
            created_at: Timestamp::from_millis(self.created_at),
            last_seen_at: Timestamp::from_millis(self.last_seen_at),
            idle_timeout: self.idle_timeout.map(|millis| place.duration("idle_timeout", millis)).transpose()?,
            ends_at: self.ends_at.map(Timestamp::from_millis),
            authenticated_at: self.authenticated_at.map(Timestamp::from_millis),
            methods: self.methods,
            level: self.level.map(|number| place.level(number)).transpose()?,
            remember: self.remember,
            client: Client {
                ip: self.ip.map(|ip| place.parse("ip", &ip)).transpose()?,
                user_agent: self.user_agent,
                device: self.device,
                country: self.country,
            },
            impersonated_by: self.impersonated_by,
            returns_to: self.returns_to.map(|id| place.id("returns_to", &id)).transpose()?,
            audit_user: self.audit_user,
            version: self.version.cast_unsigned(),
        })
    }
}

impl SessionRow {
    pub(crate) fn decode(self) -> Result<Head, BadRow> {
        let key = self.info.id.clone();
        let place = Place::new("session", &key);
        Ok(Head {
            info: self.info.decode()?,
            secrets: self.secrets.decode(&place)?,
            recent_changes: place.unpack_changes(&self.recent_changes)?,
            idempotency: self.idempotency.map(|key| place.digest("idempotency", &key)).transpose()?,
            lease: Lease { number: self.lease_number.cast_unsigned(), until: Timestamp::from_millis(self.lease_until) },
        })
    }
}

impl SecretsRow {
    fn decode(self, place: &Place<'_>) -> Result<Secrets, BadRow> {
        let rotations = u32::try_from(self.rotations);
        Ok(Secrets {
            current: place.digest("secret", &self.current)?,
            issued_at: Timestamp::from_millis(self.issued_at),
            rotations: rotations.map_err(|_| place.bad("rotations", format!("{} is no count", self.rotations)))?,
            predecessors: place.unpack_predecessors(&self.predecessors)?,
        })
    }
}

impl TombstoneRow {
    pub(crate) fn decode(self) -> Result<Tombstone, BadRow> {
        let place = Place::new("tombstone", &self.id);
        let ended = Ended {
            id: place.id("id", &self.id)?,
            user: self.user,
            at: Timestamp::from_millis(self.ended_at),
            reason: place.parse("reason", &self.reason)?,
            by: self.by,
            note: self.note,
        };
        Ok(Tombstone { ended, secrets: self.secrets.decode(&place)? })
    }
}

impl AuditRow {
    pub(crate) fn decode(self) -> Result<AuditEntry, BadRow> {
        let place = Place::new("audit entry of", &self.session);
        Ok(AuditEntry {
            at: Timestamp::from_millis(self.at),
            event: place.parse("event", &self.event)?,
            session: place.id("session", &self.session)?,
            user: self.user,
            impersonated_by: self.impersonated_by,
            audit_user: self.audit_user,
            ip: self.ip.map(|ip| place.parse("ip", &ip)).transpose()?,
            reason: self.reason.map(|reason| place.parse("reason", &reason)).transpose()?,
            by: self.by,
            note: self.note,
        })
    }
}

impl UserRow {
    pub(crate) fn decode(self) -> Result<StoredUser, BadRow> {
        let place = Place::new("directory", self.user.as_bytes());
        let ip = self.signed_in_from.map(|ip| place.parse("signed_in_from", &ip)).transpose()?;
        let last_sign_in = self.signed_in_at.map(|at| LastSignIn { at: Timestamp::from_millis(at), ip });
        Ok(StoredUser { last_sign_in, user: self.user, settings: self.settings })
    }
}

/// A duration as its column keeps it: milliseconds, as many as fit.
pub(crate) fn duration_column(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// An address as its column keeps it.
pub(crate) fn ip_column(ip: Option<IpAddr>) -> Option<String> {
    ip.map(|ip| ip.to_string())
}

/// Predecessors, newest first, each as its digest and the big-endian milliseconds when its grace ends, or [`WAITING`].
pub(crate) fn pack_predecessors(secrets: &Secrets) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(secrets.predecessors.len() * PREDECESSOR_LEN);
    for predecessor in &secrets.predecessors {
        bytes.extend(predecessor.digest.as_bytes());
        bytes.extend(predecessor.grace_ends.map_or(WAITING, Timestamp::as_millis).to_be_bytes());
    }
    bytes
}

/// Ids of changes, oldest first, eight big-endian bytes each.
pub(crate) fn pack_changes(changes: &RecentChanges) -> Vec<u8> {
    changes.ids().iter().flat_map(|id| id.to_be_bytes()).collect()
}

/// Stands for the grace of a secret whose successor was not presented yet. No time is so late.
const WAITING: i64 = i64::MAX;
const PREDECESSOR_LEN: usize = Digest::LEN + size_of::<i64>();

/// Where a value lies, for the error that tells of it.
struct Place<'a> {
    table: &'static str,
    id: &'a [u8],
}

impl<'a> Place<'a> {
    fn new(table: &'static str, id: &'a [u8]) -> Self {
        Self { table, id }
    }

    fn bad(&self, column: &'static str, problem: impl Into<String>) -> BadRow {
        let row = match self.id.try_into() {
            Ok(id) => SessionId::from_bytes(id).to_string(),
            Err(_) => self.id.iter().fold("0x".to_owned(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
        };
        BadRow { table: self.table, row, column, problem: problem.into() }
    }

    fn id(&self, column: &'static str, bytes: &[u8]) -> Result<SessionId, BadRow> {
        self.bytes(column, bytes).map(SessionId::from_bytes)
    }

    fn digest(&self, column: &'static str, bytes: &[u8]) -> Result<Digest, BadRow> {
        self.bytes(column, bytes).map(Digest::from_bytes)
    }

    fn bytes<const N: usize>(&self, column: &'static str, bytes: &[u8]) -> Result<[u8; N], BadRow> {
        bytes.try_into().map_err(|_| self.bad(column, format!("{} bytes instead of {N}", bytes.len())))
    }

    fn duration(&self, column: &'static str, millis: i64) -> Result<Duration, BadRow> {
        let millis = u64::try_from(millis).map_err(|_| self.bad(column, format!("{millis} ms is negative")))?;
        Ok(Duration::from_millis(millis))
    }

    fn level(&self, number: i64) -> Result<Assurance, BadRow> {
        Assurance::from_number(number).ok_or_else(|| self.bad("level", format!("{number} is no level")))
    }

    fn parse<T: FromStr<Err: ToString>>(&self, column: &'static str, text: &str) -> Result<T, BadRow> {
        text.parse().map_err(|error: T::Err| self.bad(column, format!("{text:?}: {}", error.to_string())))
    }

    fn unpack_predecessors(&self, bytes: &[u8]) -> Result<Vec<Predecessor>, BadRow> {
        let (predecessors, []) = bytes.as_chunks::<PREDECESSOR_LEN>() else {
            return Err(self.bad("predecessors", format!("{} bytes are cut short", bytes.len())));
        };
        let unpack = |predecessor: &[u8; PREDECESSOR_LEN]| {
            let (digest, grace_ends) = predecessor.split_at(Digest::LEN);
            let grace_ends = i64::from_be_bytes(self.bytes("predecessors", grace_ends)?);
            Ok(Predecessor {
                digest: self.digest("predecessors", digest)?,
                grace_ends: (grace_ends != WAITING).then_some(Timestamp::from_millis(grace_ends)),
            })
        };
        predecessors.iter().map(unpack).collect()
    }

    fn unpack_changes(&self, bytes: &[u8]) -> Result<RecentChanges, BadRow> {
        match bytes.as_chunks() {
            (ids, []) => Ok(RecentChanges::from_ids(ids.iter().map(|id| u64::from_be_bytes(*id)))),
            _ => Err(self.bad("recent_changes", format!("{} bytes are cut short", bytes.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { table: "session", id: &[7; SessionId::LEN] };

    #[test]
    fn packed_lists_come_back() {
        let digest = |n| Digest::from_bytes([n; Digest::LEN]);
        let mut secrets = Secrets::new(digest(0), Timestamp::EPOCH);
        for n in 1..=3 {
            assert!(secrets.rotate(&digest(n - 1), digest(n), Duration::from_secs(30), Timestamp::from_millis(5)));
        }
        assert!(secrets.predecessors.iter().any(|predecessor| predecessor.grace_ends.is_none()));
        assert!(secrets.predecessors.iter().any(|predecessor| predecessor.grace_ends.is_some()));
        assert_eq!(PLACE.unpack_predecessors(&pack_predecessors(&secrets)).unwrap(), secrets.predecessors);

        let changes = RecentChanges::from_ids([0, 1, u64::MAX]);
        assert_eq!(PLACE.unpack_changes(&pack_changes(&changes)).unwrap(), changes);
    }

    #[test]
    fn bad_values_name_row_and_column() {
        for error in [
            PLACE.unpack_predecessors(&[0; 41]).unwrap_err(),
            PLACE.unpack_changes(&[0; 7]).unwrap_err(),
            PLACE.digest("secret", &[0; 31]).unwrap_err(),
            PLACE.duration("idle_timeout", -1).unwrap_err(),
            PLACE.level(4).unwrap_err(),
            PLACE.parse::<IpAddr>("ip", "nowhere").unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.starts_with("session BwcHBwcHBwcHBwcHBwcHBwcH: ") && text.contains(error.column), "{text}");
        }
        let place = Place::new("tombstone", &[0xab, 0xcd]);
        assert_eq!(place.id("id", place.id).unwrap_err().to_string(), "tombstone 0xabcd: id: 2 bytes instead of 18");
    }
}
