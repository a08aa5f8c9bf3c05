//! Rows as they are stored and read.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};
use sqlx::{Error as SqlError, Row, postgres::PgRow};

use crate::{
    clock::Timestamp,
    data::Data,
    ended::Ended,
    error::Result,
    record::Record,
    store::{
        head, packed,
        slots::{Columns, EndedSlot},
        sql::rows::{self, SqlRow, end_of, ends_column, idle_column, idle_of, unexpected},
    },
    token::Digest,
};

/// What of a slot `s` is read, from [`slot`](rows::slot) on. The last column has what only a sealed head needs.
pub(super) const SLOT: &str = "s.revision, s.version, s.seen, s.head, s.data, s.recent, s.ended_by, s.ending, \
    CASE WHEN left(s.head, 1) <> '{' THEN to_jsonb(s) - '{head,data,recent}'::text[] END";
/// As [`SLOT`], without data.
pub(super) const HEAD: &str = "s.revision, s.version, s.seen, s.head, NULL::bytea, s.recent, s.ended_by, s.ending, \
    CASE WHEN left(s.head, 1) <> '{' THEN to_jsonb(s) - '{head,data,recent}'::text[] END";

/// As [`HEAD`], where the head cannot be read.
pub(super) const KNOWN: &str = "s.revision, s.version, s.seen, s.head, NULL::bytea, s.recent, s.ended_by, s.ending, \
    to_jsonb(s) - '{head,data,recent}'::text[]";

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
            data: hex(&packed::stored(&record.data)),
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
            rest.data = hex(&packed::stored(&Data::new()));
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
            impersonated_by: info.impersonator().map(|by| (&**by).into()),
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
            idle: idle_of(self.idle),
            ends_at: end_of(self.ends_at),
            impersonated_by: shared(self.impersonated_by),
            ip: self.ip,
            device: shared(self.device),
            idempotency,
            due_at: self.due_at.map(Timestamp::from_millis),
        })
    }
}

impl SqlRow for PgRow {
    fn int(&self, column: usize) -> Result<Option<i64>> {
        get(self, column)
    }

    fn text(&self, column: usize) -> Result<Option<&str>> {
        get(self, column)
    }

    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>> {
        get(self, column)
    }

    fn columns(&self, first: usize) -> Result<Option<Columns>> {
        let columns: Option<ColumnsRow<'_>> = json(self, first)?.and_then(|json| serde_json::from_slice(json).ok());
        Ok(columns.and_then(ColumnsRow::decode))
    }
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

pub(super) fn get<'r, T: sqlx::Decode<'r, sqlx::Postgres>>(row: &'r PgRow, column: usize) -> Result<T> {
    row.try_get_unchecked(column).map_err(unexpected)
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
    format!("\\x{}", rows::hex(bytes))
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.strip_prefix("\\x")?.as_bytes().as_chunks::<2>().0;
    digits.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}
