//! How the library's types are written as JSON in the files of this store: field by field, so that a field more in one of
//! them does not compile until it has its place here.

#![allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde hands out references to fields")]

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layout::hex;
use crate::{
    Assurance, AuditEntry, Client, Digest, Ended, Event, Lease, Predecessor, Reason, Secrets, SessionId, SessionInfo,
    Timestamp,
};

#[derive(Serialize, Deserialize)]
#[serde(remote = "SessionInfo")]
pub(super) struct InfoFields {
    id: SessionId,
    #[serde(with = "text")]
    user: Option<Arc<str>>,
    #[serde(with = "text")]
    full_name: Option<Arc<str>>,
    #[serde(with = "text")]
    user_type: Option<Arc<str>>,
    #[serde(with = "millis")]
    created_at: Timestamp,
    #[serde(with = "millis")]
    last_seen_at: Timestamp,
    idle_timeout: Option<Duration>,
    #[serde(with = "optional_millis")]
    ends_at: Option<Timestamp>,
    #[serde(with = "optional_millis")]
    authenticated_at: Option<Timestamp>,
    #[serde(with = "text")]
    methods: Option<Arc<str>>,
    #[serde(with = "level")]
    level: Option<Assurance>,
    remember: bool,
    #[serde(with = "ClientFields")]
    client: Client,
    #[serde(with = "text")]
    impersonated_by: Option<Arc<str>>,
    returns_to: Option<SessionId>,
    #[serde(with = "text")]
    audit_user: Option<Arc<str>>,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Client")]
pub(super) struct ClientFields {
    ip: Option<IpAddr>,
    #[serde(with = "text")]
    user_agent: Option<Arc<str>>,
    #[serde(with = "text")]
    device: Option<Arc<str>>,
    #[serde(with = "text")]
    country: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Secrets")]
pub(super) struct SecretsFields {
    #[serde(with = "digest_hex")]
    current: Digest,
    #[serde(with = "millis")]
    issued_at: Timestamp,
    rotations: u32,
    #[serde(with = "predecessors")]
    predecessors: Vec<Predecessor>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Predecessor")]
pub(super) struct PredecessorFields {
    #[serde(with = "digest_hex")]
    digest: Digest,
    #[serde(with = "optional_millis")]
    grace_ends: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Lease")]
pub(super) struct LeaseFields {
    number: u64,
    #[serde(with = "millis")]
    until: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Ended")]
pub(super) struct EndedFields {
    id: SessionId,
    #[serde(with = "text")]
    user: Option<Arc<str>>,
    #[serde(with = "millis")]
    at: Timestamp,
    #[serde(with = "code")]
    reason: Reason,
    #[serde(with = "text")]
    by: Option<Arc<str>>,
    #[serde(with = "text")]
    note: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AuditEntry")]
pub(super) struct EntryFields {
    #[serde(with = "millis")]
    at: Timestamp,
    #[serde(with = "code")]
    event: Event,
    session: SessionId,
    #[serde(with = "text")]
    user: Option<Arc<str>>,
    #[serde(with = "text")]
    impersonated_by: Option<Arc<str>>,
    #[serde(with = "text")]
    audit_user: Option<Arc<str>>,
    ip: Option<IpAddr>,
    #[serde(with = "optional_code")]
    reason: Option<Reason>,
    #[serde(with = "text")]
    by: Option<Arc<str>>,
    #[serde(with = "text")]
    note: Option<Arc<str>>,
}

mod text {
    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        text: &Option<Arc<str>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Arc::from))
    }
}

/// A level by its number.
mod level {
    use serde::de::Error;

    use super::{Assurance, Deserialize, Deserializer, Serialize, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        level: &Option<Assurance>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        level.map(Assurance::number).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Assurance>, D::Error> {
        let number = Option::<u8>::deserialize(deserializer)?;
        number
            .map(|number| {
                Assurance::from_number(number).ok_or_else(|| D::Error::custom(format_args!("{number} is no level")))
            })
            .transpose()
    }
}

/// Times are integers: every one of them comes back, printable or not.
mod millis {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Timestamp};

    pub(in super::super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_millis().serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp::from_millis)
    }
}

pub(super) mod optional_millis {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Timestamp};

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Timestamp::as_millis).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(Timestamp::from_millis))
    }
}

pub(super) mod digest_hex {
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Digest, Serializer, hex};

    pub(in super::super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(digest.as_bytes()))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("not a digest"))
    }

    pub(in super::super) fn parse(text: &str) -> Option<Digest> {
        let mut bytes = [0; Digest::LEN];
        if text.len() != 2 * Digest::LEN {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Digest::from_bytes(bytes))
    }
}

pub(super) mod optional_digest_hex {
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Digest, Serialize, Serializer, digest_hex, hex};

    pub(in super::super) fn serialize<S: Serializer>(
        digest: &Option<Digest>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        digest.map(|digest| hex(digest.as_bytes())).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Digest>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| digest_hex::parse(&text).ok_or_else(|| D::Error::custom("not a digest"))).transpose()
    }
}

mod predecessors {
    use super::{Deserialize, Deserializer, Predecessor, PredecessorFields, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct One(#[serde(with = "PredecessorFields")] Predecessor);

    pub(in super::super) fn serialize<S: Serializer>(all: &[Predecessor], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(all.iter().map(|one| One(*one)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Predecessor>, D::Error> {
        Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|One(one)| one).collect())
    }
}

/// Something with a stable name.
mod code {
    use std::{fmt::Display, str::FromStr};

    use serde::de::Error;

    use super::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod optional_code {
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Reason, Serialize, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        reason: &Option<Reason>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        reason.map(Reason::code).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Reason>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|code| code.parse().map_err(D::Error::custom)).transpose()
    }
}
