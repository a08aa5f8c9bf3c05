//! Rows as they are stored and read.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use sqlx::{Error as SqlError, Row, postgres::PgRow};

use super::values;
use crate::{
    Data, Digest, Ended, Error, RecentChanges, Record, Result, SessionId, Timestamp,
    store::{
        LastSignIn,
        head::{self, Beside},
        slots::{Columns, EndedSlot, Slot, UserSlot},
    },
};

/// What of a slot `s` is read, from [`slot`] on. The last column has what only a sealed head needs.
pub(super) const SLOT: &str = "s.revision, s.version, s.seen, s.head, s.data, s.recent, s.ended_by, s.ending, \
    CASE WHEN left(s.head, 1) <> '{' THEN to_jsonb(s) - '{head,data,recent}'::text[] END";
/// As [`SLOT`], without data.
pub(super) const HEAD: &str = "s.revision, s.version, s.seen, s.head, NULL::bytea, s.recent, s.ended_by, s.ending, \
    CASE WHEN left(s.head, 1) <> '{' THEN to_jsonb(s) - '{head,data,recent}'::text[] END";

/// What stands for no idle timeout and no absolute end: it is behind all times, and there is room behind it.
const NEVER: i64 = 1 << 61;
/// The longest time that can go unused.
const LONGEST: i64 = 1 << 59;

/// A time to compare deadlines with. The latest time is behind every deadline there is.
pub(super) fn now(now: Timestamp) -> i64 {
    if now < Timestamp::MAX { now.as_millis() } else { 1 << 60 }
}

/// A row of the table, as JSON. Left out are numbers that the server knows.
#[derive(Serialize)]
pub(super) struct SlotRow<'a> {
    id: Hex<'a>,
    revision: i64,
    head: Cow<'a, str>,
    #[serde(flatten)]
    columns: ColumnsRow<'a>,
    #[serde(flatten)]
    rest: Option<RestRow>,
}

/// What a head write leaves alone.
#[derive(Serialize)]
struct RestRow {
    seen: i64,
    version: i64,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<String>,
}

impl<'a> SlotRow<'a> {
    /// A new head and its columns.
    pub(super) fn head(record: &'a Record) -> Self {
        Self {
            id: Hex(record.info.id.as_bytes()),
            revision: record.revision.cast_signed(),
            head: head::encode(record).into(),
            columns: ColumnsRow::of(record),
            rest: None,
        }
    }

    pub(super) fn open(record: &'a Record) -> Self {
        let rest = RestRow {
            seen: record.info.last_seen_at.as_millis(),
            version: record.info.version.cast_signed(),
            data: hex(&values::stored(&record.data)),
            ended_at: None,
            ended_by: None,
            ending: None,
        };
        Self { rest: Some(rest), ..Self::head(record) }
    }

    pub(super) fn ended(slot: &'a EndedSlot) -> Self {
        let mut row = Self::open(&slot.record);
        row.columns.due_at = None;
        if let Some(rest) = &mut row.rest {
            rest.data = hex(&values::stored(&Data::new()));
            rest.ended_at = Some(slot.ended.at.as_millis());
            rest.ended_by = Some(slot.transaction.cast_signed());
            rest.ending = Some(head::encode_ending(&slot.ended));
        }
        row
    }
}

/// What the server finds and compares, as the table has it.
#[derive(Serialize, Deserialize)]
pub(super) struct ColumnsRow<'a> {
    created_at: i64,
    idle: i64,
    ends_at: i64,
    #[serde(borrow, default)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    impersonated_by: Option<Cow<'a, str>>,
    ip: Option<IpAddr>,
    #[serde(borrow, default)]
    device: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    idempotency: Option<Cow<'a, str>>,
    due_at: Option<i64>,
}

impl<'a> ColumnsRow<'a> {
    fn of(record: &'a Record) -> Self {
        let info = &record.info;
        let Columns { idle, ends_at, idempotency, due_at, .. } = head::columns(record);
        Self {
            created_at: info.created_at.as_millis(),
            idle: idle_column(idle),
            ends_at: ends_column(ends_at),
            user_id: info.user.as_deref().map(Into::into),
            impersonated_by: info.impersonated_by.as_deref().map(Into::into),
            ip: info.client.ip,
            device: info.client.device.as_deref().map(Into::into),
            idempotency: idempotency.map(|digest| hex(digest.as_bytes()).into()),
            due_at: due_at.map(Timestamp::as_millis),
        }
    }

    fn decode(self) -> Option<Columns> {
        let shared = |text: Option<Cow<'_, str>>| text.map(|text| Arc::from(&*text));
        let idempotency = match self.idempotency {
            Some(text) => Some(Digest::from_bytes(bytes_of(&text)?.try_into().ok()?)),
            None => None,
        };
        Some(Columns {
            user: shared(self.user_id),
            created_at: Timestamp::from_millis(self.created_at),
            idle: u64::try_from(self.idle).ok().filter(|_| self.idle < NEVER).map(Duration::from_millis),
            ends_at: (self.ends_at < NEVER).then(|| Timestamp::from_millis(self.ends_at)),
            impersonated_by: shared(self.impersonated_by),
            ip: self.ip,
            device: shared(self.device),
            idempotency,
            due_at: self.due_at.map(Timestamp::from_millis),
        })
    }
}

pub(super) fn idle_column(idle: Option<Duration>) -> i64 {
    idle.map_or(NEVER, |idle| i64::try_from(idle.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST)))
}

pub(super) fn ends_column(ends_at: Option<Timestamp>) -> i64 {
    ends_at.map_or(NEVER, Timestamp::as_millis)
}

/// A slot in a row, its columns those of [`SLOT`] from `first` on.
pub(super) fn slot(row: &PgRow, first: usize, id: SessionId) -> Result<Slot> {
    let record = record(row, first, id)?;
    let ending: Option<&str> = get(row, first + 7)?;
    Ok(match ending {
        None => Slot::Open(Arc::new(record)),
        Some(ending) => {
            let transaction: Option<i64> = get(row, first + 6)?;
            let ended = head::decode_ended(ending, record, transaction.unwrap_or_default().cast_unsigned())?;
            Slot::Ended(Arc::new(ended))
        }
    })
}

fn record(row: &PgRow, first: usize, id: SessionId) -> Result<Record> {
    let beside = Beside {
        id,
        revision: number(row, first)?.cast_unsigned(),
        version: number(row, first + 1)?.cast_unsigned(),
        seen: Timestamp::from_millis(number(row, first + 2)?),
        data: data(row, first + 4, id)?,
    };
    let head: &str = get(row, first + 3)?;
    let recent: Vec<u8> = get(row, first + 5)?;
    let changes = RecentChanges::from_ids(recent_ids(&recent, beside.version));
    let record = head::decode(head, beside, || {
        let columns: Option<ColumnsRow<'_>> = json(row, first + 8)?.and_then(|json| serde_json::from_slice(json).ok());
        columns.and_then(ColumnsRow::decode).ok_or_else(|| damaged(format_args!("the columns of session {id}")))
    })?;
    Ok(Record { recent_changes: changes, ..record })
}

/// The ids of the latest changes, oldest first: that of the change to version n + 1 is at n modulo their number.
fn recent_ids(recent: &[u8], version: u64) -> impl Iterator<Item = u64> {
    let ids = recent.as_chunks().0;
    let start = usize::try_from(version).unwrap_or(0) % ids.len().max(1);
    ids[start..].iter().chain(&ids[..start]).map(|id| u64::from_be_bytes(*id)).filter(|id| *id != 0)
}

fn data(row: &PgRow, column: usize, id: SessionId) -> Result<Data> {
    let stored: Option<Vec<u8>> = get(row, column)?;
    let Some(stored) = stored else { return Ok(Data::new()) };
    values::read(&stored).ok_or_else(|| damaged(format_args!("data of session {id}")))
}

/// The text of a JSON column.
fn json(row: &PgRow, column: usize) -> Result<Option<&[u8]>> {
    let value = row.try_get_raw(column).map_err(unexpected)?;
    if sqlx::ValueRef::is_null(&value) {
        return Ok(None);
    }
    let bytes = value.as_bytes().map_err(|error| unexpected(SqlError::Decode(error)))?;
    // In its binary form it begins with a version.
    Ok(Some(bytes.strip_prefix(&[1]).unwrap_or(bytes)))
}

/// A user's slot, in the columns that [`SLOT`] has for a session's.
pub(super) fn user(row: &PgRow, first: usize) -> Result<UserSlot> {
    let signed_in_at: Option<i64> = get(row, first + 2)?;
    let from: Option<&str> = get(row, first + 3)?;
    let due_at: Option<i64> = get(row, first + 1)?;
    Ok(UserSlot {
        text: get::<&str>(row, first + 7)?.into(),
        revision: number(row, first)?.cast_unsigned(),
        last_sign_in: signed_in_at
            .map(|at| LastSignIn { at: Timestamp::from_millis(at), ip: from.and_then(|ip| ip.parse().ok()) }),
        due_at: due_at.map(Timestamp::from_millis),
    })
}

pub(super) fn id(row: &PgRow, column: usize) -> Result<SessionId> {
    let bytes: Vec<u8> = get(row, column)?;
    bytes.try_into().map(SessionId::from_bytes).map_err(|_| damaged("an id that is none"))
}

pub(super) fn number(row: &PgRow, column: usize) -> Result<i64> {
    get(row, column)
}

pub(super) fn get<'r, T: sqlx::Decode<'r, sqlx::Postgres>>(row: &'r PgRow, column: usize) -> Result<T> {
    row.try_get_unchecked(column).map_err(unexpected)
}

fn unexpected(error: SqlError) -> Error {
    Error::store("PostgreSQL gave an answer that cannot be read", error)
}

fn damaged(what: impl fmt::Display) -> Error {
    Error::Store {
        message: format!("the database holds {what} that cannot be read: it was changed by hand"),
        source: None,
    }
}

/// How a session ended, as a row.
#[derive(Serialize)]
pub(super) struct EndRow<'a> {
    pub(super) id: Hex<'a>,
    pub(super) ended_at: i64,
    pub(super) ending: String,
}

impl<'a> EndRow<'a> {
    pub(super) fn of(ended: &'a Ended) -> Self {
        Self { id: Hex(ended.id.as_bytes()), ended_at: ended.at.as_millis(), ending: head::encode_ending(ended) }
    }
}

/// Bytes, as the server reads them from JSON.
#[derive(Clone, Copy)]
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(self.0))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::from("\\x"), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.strip_prefix("\\x")?.as_bytes().as_chunks::<2>().0;
    digits.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}
