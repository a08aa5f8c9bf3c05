//! Rows that stored routines answer with.
//!
//! Most routines answer with rows of one shape, each of a kind: a session's columns, one of its values, a tombstone, or
//! an outcome without columns.

use std::{marker::PhantomData, sync::Arc};

use sqlx::{Database, Error as SqlError};

use super::Dialect;
use crate::{
    AuditEntry, Data, Ended, Error, Json, Record, Result, SessionId, SessionInfo, Timestamp,
    store::{
        Gone, Loaded, StoredUser, Tombstone, UserFence,
        sql::rows::{AuditRow, BadRow, Head, InfoRow, SecretsRow, SessionRow, TombstoneRow, UserRow},
    },
};

/// All rows of one answer.
pub(super) struct Answers<D: Dialect> {
    rows: Vec<<D::Db as Database>::Row>,
}

/// One row.
pub(super) struct Answer<'a, D: Dialect> {
    row: &'a <D::Db as Database>::Row,
    dialect: PhantomData<D>,
}

impl<D: Dialect> Answers<D> {
    pub(super) fn new(rows: Vec<<D::Db as Database>::Row>) -> Self {
        Self { rows }
    }

    /// The answers of so many calls that travelled together; a row of its own begins each.
    pub(super) fn apart(rows: Vec<<D::Db as Database>::Row>, calls: usize) -> Result<Vec<Self>> {
        let mut answers: Vec<Self> = Vec::with_capacity(calls);
        for row in rows {
            let first: Answer<'_, D> = Answer { row: &row, dialect: PhantomData };
            if first.is("call")? {
                answers.push(Self::new(Vec::new()));
                continue;
            }
            answers.last_mut().ok_or_else(|| unexpected::<D>("what nobody asked for"))?.rows.push(row);
        }
        if answers.len() == calls { Ok(answers) } else { Err(unexpected::<D>("fewer answers than calls")) }
    }

    /// Whether the call was not carried out because somebody else has the session's row.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self.kind(), Ok(Some(kind)) if &*kind == "locked")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Answer<'_, D>> {
        self.rows.iter().map(|row| Answer { row, dialect: PhantomData })
    }

    /// The kind of the first row, which tells the outcome.
    pub(super) fn kind(&self) -> Result<Option<Arc<str>>> {
        self.iter().next().map_or(Ok(None), |first| first.text("kind"))
    }

    /// The number of the first row.
    pub(super) fn number(&self) -> Result<Option<i64>> {
        self.iter().next().map_or(Ok(None), |first| first.int("number"))
    }

    /// A session, its tombstone, or neither.
    pub(super) fn loaded(&self, now: Timestamp) -> Result<Loaded> {
        let Some(first) = self.iter().next() else { return Ok(Loaded::Unknown) };
        if first.is("tombstone")? {
            return Ok(Loaded::Ended(Arc::new(first.tombstone()?)));
        }
        let head = first.head()?;
        Ok(match head.info.expired(now) {
            Some(ended) => Loaded::Ended(Arc::new(Tombstone { ended, secrets: head.secrets })),
            None => Loaded::Live(Arc::new(head.with_data(self.data()?))),
        })
    }

    /// Why there is no living session.
    pub(super) fn gone(&self, now: Timestamp) -> Result<Gone> {
        Ok(match self.loaded(now)? {
            Loaded::Ended(tombstone) => Gone::Ended(tombstone.ended.clone()),
            Loaded::Unknown => Gone::Unknown,
            Loaded::Live(record) => {
                return Err(Error::Store {
                    message: format!("session {} is said to be gone", record.info.id),
                    source: None,
                });
            }
        })
    }

    fn data(&self) -> Result<Data> {
        let entries = self.iter().filter_map(|answer| answer.entry().transpose());
        entries.collect()
    }
}

/// The record that an answer consists of.
pub(super) fn record<D: Dialect>(answers: &Answers<D>) -> Result<Arc<Record>> {
    let first = answers.iter().next().ok_or_else(|| unexpected::<D>("nothing"))?;
    Ok(Arc::new(first.head()?.with_data(answers.data()?)))
}

/// A row of the values of several sessions.
pub(super) fn entry_of_session<D: Dialect>(answer: &Answer<'_, D>) -> Result<(SessionId, Arc<str>, Json)> {
    let id = answer.bytes_of("session")?.try_into().map_err(|_| unexpected::<D>("an id that is none"))?;
    let (key, value) = answer.entry()?.ok_or_else(|| missing::<D>("data_key"))?;
    Ok((SessionId::from_bytes(id), key, value))
}

impl<D: Dialect> Answer<'_, D> {
    pub(super) fn is(&self, kind: &str) -> Result<bool> {
        Ok(self.text("kind")?.as_deref() == Some(kind))
    }

    pub(super) fn id(&self) -> Result<SessionId> {
        let id = self.bytes_of("id")?;
        id.try_into().map(SessionId::from_bytes).map_err(|_| unexpected::<D>("an id that is none"))
    }

    pub(super) fn info(&self) -> Result<SessionInfo> {
        self.info_row()?.decode().map_err(damaged::<D>)
    }

    pub(super) fn head(&self) -> Result<Head> {
        let row = SessionRow {
            info: self.info_row()?,
            secrets: self.secrets_row()?,
            recent_changes: self.bytes_of("recent_changes")?,
            lease_number: self.int_of("lease_number")?,
            lease_until: self.int_of("lease_until")?,
            idempotency: self.bytes("idempotency")?,
        };
        row.decode().map_err(damaged::<D>)
    }

    pub(super) fn tombstone(&self) -> Result<Tombstone> {
        let row = TombstoneRow {
            id: self.bytes_of("id")?,
            user: self.text("user_id")?,
            ended_at: self.int_of("ended_at")?,
            reason: self.text_of("reason")?.as_ref().to_owned(),
            by: self.text("by_whom")?,
            note: self.text("note")?,
            secrets: self.secrets_row()?,
        };
        row.decode().map_err(damaged::<D>)
    }

    pub(super) fn audit_entry(&self) -> Result<AuditEntry> {
        let row = AuditRow {
            at: self.int_of("at")?,
            event: self.text_of("event")?.as_ref().to_owned(),
            session: self.bytes_of("session")?,
            user: self.text("user_id")?,
            impersonated_by: self.text("impersonated_by")?,
            audit_user: self.text("audit_user")?,
            ip: self.text("ip")?.map(|ip| ip.as_ref().to_owned()),
            reason: self.text("reason")?.map(|reason| reason.as_ref().to_owned()),
            by: self.text("by_whom")?,
            note: self.text("note")?,
        };
        row.decode().map_err(damaged::<D>)
    }

    pub(super) fn user(&self) -> Result<StoredUser> {
        let row = UserRow {
            user: self.text_of("user_id")?,
            settings: self.text_of("settings")?,
            signed_in_at: self.int("signed_in_at")?,
            signed_in_from: self.text("signed_in_from")?.map(|ip| ip.as_ref().to_owned()),
        };
        row.decode().map_err(damaged::<D>)
    }

    /// How a session ended that the server says expired.
    pub(super) fn expired(&self, now: Timestamp) -> Result<Ended> {
        self.info()?.expired(now).ok_or_else(|| unexpected::<D>("an expired session that lives"))
    }

    pub(super) fn int(&self, column: &str) -> Result<Option<i64>> {
        D::int(self.row, column).map_err(undecoded::<D>)
    }

    pub(super) fn text(&self, column: &str) -> Result<Option<Arc<str>>> {
        D::text(self.row, column).map_err(undecoded::<D>)
    }

    pub(super) fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>> {
        D::bytes(self.row, column).map_err(undecoded::<D>)
    }

    /// A number that is always there.
    pub(super) fn int_of(&self, column: &str) -> Result<i64> {
        self.int(column)?.ok_or_else(|| missing::<D>(column))
    }

    fn text_of(&self, column: &str) -> Result<Arc<str>> {
        self.text(column)?.ok_or_else(|| missing::<D>(column))
    }

    fn bytes_of(&self, column: &str) -> Result<Vec<u8>> {
        self.bytes(column)?.ok_or_else(|| missing::<D>(column))
    }

    pub(super) fn fence(&self) -> Result<UserFence> {
        Ok(UserFence {
            user: self.text_of("user_id")?,
            disabled: D::bool(self.row, "disabled").map_err(undecoded::<D>)?.ok_or_else(|| missing::<D>("disabled"))?,
            ended_before: self.int("ended_before")?.map(Timestamp::from_millis),
        })
    }

    fn entry(&self) -> Result<Option<(Arc<str>, Json)>> {
        let Some(key) = self.text("data_key")? else { return Ok(None) };
        Ok(Some((key, Json::from_stored(self.text_of("value")?))))
    }

    fn info_row(&self) -> Result<InfoRow> {
        Ok(InfoRow {
            id: self.bytes_of("id")?,
            user: self.text("user_id")?,
            full_name: self.text("full_name")?,
            user_type: self.text("user_type")?,
            created_at: self.int_of("created_at")?,
            last_seen_at: self.int_of("last_seen_at")?,
            idle_timeout: self.int("idle_timeout")?,
            ends_at: self.int("ends_at")?,
            authenticated_at: self.int("authenticated_at")?,
            methods: self.text("methods")?,
            level: self.int("level")?,
            remember: D::bool(self.row, "remember").map_err(undecoded::<D>)?.ok_or_else(|| missing::<D>("remember"))?,
            ip: self.text("ip")?.map(|ip| ip.as_ref().to_owned()),
            user_agent: self.text("user_agent")?,
            device: self.text("device")?,
            country: self.text("country")?,
            impersonated_by: self.text("impersonated_by")?,
            returns_to: self.bytes("returns_to")?,
            audit_user: self.text("audit_user")?,
            version: self.int_of("version")?,
        })
    }

    fn secrets_row(&self) -> Result<SecretsRow> {
        Ok(SecretsRow {
            current: self.bytes_of("secret")?,
            issued_at: self.int_of("secret_issued_at")?,
            rotations: self.int_of("rotations")?,
            predecessors: self.bytes_of("predecessors")?,
        })
    }
}

/// What our own routines never answer.
pub(super) fn unexpected<D: Dialect>(what: &str) -> Error {
    Error::Store {
        message: format!("{} answered with {what}: were its tables or routines changed?", D::NAME),
        source: None,
    }
}

fn missing<D: Dialect>(column: &str) -> Error {
    unexpected::<D>(&format!("a row without {column}"))
}

fn undecoded<D: Dialect>(error: SqlError) -> Error {
    Error::store(format_args!("{} answered with what is not ours: were its tables changed?", D::NAME), error)
}

fn damaged<D: Dialect>(bad: BadRow) -> Error {
    Error::store(format!("{} holds a damaged row ({bad}): correct it or delete it", D::NAME), bad)
}
