//! The statements on each table.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::fault::Fault;
use crate::{
    clock::Timestamp,
    data::{Data, Json},
    error::Error,
    record::{RecentChanges, Record},
    store::{
        Cursor, LastSignIn, Logged,
        embedded::Tables,
        head::{self, Beside},
        slots::{Columns, Expect, Listed, LogEntry, SeenAt, Slot, Transaction, UserSlot, Write},
    },
    token::{Digest, Partition, SessionId},
};

macro_rules! slot_columns {
    () => {
        "id, head, revision, version, seen, data, large, changes, user_id, created_at, idle, ends_at, impersonated_by, ip, \
         device, idempotency, due_at, ended_at, ending, ended_by"
    };
}

/// Whether an open session lives at the time `?2`.
macro_rules! lives {
    () => {
        "(idle IS NULL OR idle > ?2 - seen) AND (ends_at IS NULL OR ends_at > ?2)"
    };
}

macro_rules! select_slots {
    ($($rest:literal),+) => {
        concat!("SELECT ", slot_columns!(), " FROM slot ", $($rest),+)
    };
}

pub(super) const OF_USER: &str = select_slots!(
    "WHERE user_id = ?1 AND ended_at IS NULL AND (created_at, id) < (?2, ?3) ORDER BY created_at DESC, id DESC LIMIT ?4"
);
pub(super) const AFTER_ID: &str = select_slots!("WHERE id > ?1 ORDER BY id LIMIT ?2");
pub(super) const DUE_PLACES: &str = "SELECT due_at, id FROM slot \
    WHERE due_at <= ?1 AND ended_at IS NULL AND (due_at, id) > (?2, ?3) ORDER BY due_at, id LIMIT ?4";

/// Of this user, without an impersonator.
pub(super) const COUNT: &str = concat!(
    "SELECT count(*) FROM slot WHERE user_id = ?1 AND ended_at IS NULL AND impersonated_by IS NULL AND ",
    lives!()
);
/// The latest first: an earlier one may have moved in.
pub(super) const STARTED_WITH: &str =
    "SELECT id FROM slot WHERE idempotency = ?1 AND ended_at IS NULL ORDER BY rowid DESC";
pub(super) const IS_LOGGED: &str = "SELECT EXISTS (SELECT 1 FROM audit WHERE session = ?1 AND id = ?2)";

pub(super) const FIRST_USERS: &str =
    "SELECT name, text, revision, signed_in_at, signed_in_from, due_at FROM user ORDER BY name LIMIT ?1";
pub(super) const USERS: &str = "SELECT name, text, revision, signed_in_at, signed_in_from, due_at FROM user \
    WHERE name > ?2 ORDER BY name LIMIT ?1";
pub(super) const DUE_USERS: &str = "SELECT name, text, revision, signed_in_at, signed_in_from, due_at \
    FROM user INDEXED BY user_by_due WHERE due_at <= ?2 AND (?3 IS NULL OR name > ?3) ORDER BY name LIMIT ?1";

pub(super) const AUDIT: &str = "SELECT seq, id, session, entry FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2";
pub(super) const AUDIT_OF_USER: &str =
    "SELECT seq, id, session, entry FROM audit WHERE user_id = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2";
pub(super) const AUDIT_OF_SESSION: &str =
    "SELECT seq, id, session, entry FROM audit WHERE session = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2";

pub(super) const FORGET_SLOTS: &str =
    "DELETE FROM slot WHERE id IN (SELECT id FROM slot WHERE ended_at <= ?1 ORDER BY ended_at LIMIT ?2)";
pub(super) const FORGET_AUDIT: &str =
    "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at <= ?1 ORDER BY at LIMIT ?2)";

/// A connection inside a transaction.
#[derive(Clone, Copy)]
pub(super) struct Within<'a> {
    db: &'a Connection,
    /// Whether sessions are looked at only to be counted or ended: of those that cannot be read the columns are known.
    bare: bool,
}

impl<'a> Within<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self { db, bare: false }
    }

    pub(super) fn bare(self) -> Self {
        Self { bare: true, ..self }
    }

    /// For a transaction. One that does no more to sessions than end them can do so though they cannot be read.
    pub(super) fn for_transaction(db: &'a Connection, transaction: &Transaction) -> Self {
        let ends = |write: &Write| !matches!(write, Write::Data { .. } | Write::Head(_));
        let looks = |expect: &Expect| !matches!(expect, Expect::Value(..));
        let bare = transaction.writes.iter().all(ends) && transaction.relies_on.iter().all(looks);
        Self { db, bare }
    }
}

impl Within<'_> {
    /// An open slot, or what is left of an ended one, read without its data where they are not asked for.
    fn read(self, row: &Row<'_>, with_data: bool) -> Result<Slot, Fault> {
        let read = self.read_as(row, with_data, |head, beside, columns| head::decode(head, beside, columns));
        match read {
            Err(fault) if self.bare && fault.is_of_a_row() => {
                self.read_as(row, false, |head, beside, columns| head::decode_or_known(head, beside, columns))
            }
            read => read,
        }
    }

    fn read_as(
        self,
        row: &Row<'_>,
        with_data: bool,
        decode: impl FnOnce(&str, Beside, &dyn Fn() -> Result<Columns, Error>) -> Result<Record, Error>,
    ) -> Result<Slot, Fault> {
        let id = SessionId::from_bytes(row.get("id")?);
        let mut data = Data::new();
        if with_data {
            let text = row.get_ref("data")?.as_str().map_err(rusqlite::Error::from)?;
            data = Data::from_text(text).map_err(|error| Fault::damaged(id, &error))?;
            if row.get::<_, i64>("large")? > 0 {
                self.add_large_values(id, &mut data)?;
            }
        }
        let beside = Beside {
            id,
            revision: bits(row.get("revision")?),
            version: bits(row.get("version")?),
            seen: Timestamp::from_millis(row.get("seen")?),
            data,
        };
        let text = row.get_ref("head")?.as_str().map_err(rusqlite::Error::from)?;
        let mut record =
            decode(text, beside, &|| columns(row).map_err(|error| Error::store("its columns are damaged", error)))
                .map_err(|error| Fault::damaged(id, &error))?;
        match row.get_ref("ending")?.as_str_or_null().map_err(rusqlite::Error::from)? {
            None => {
                let changes = row.get_ref("changes")?.as_blob().map_err(rusqlite::Error::from)?;
                let changes = changes.chunks_exact(8).filter_map(|id| Some(u64::from_be_bytes(id.try_into().ok()?)));
                record.recent_changes = RecentChanges::from_ids(changes);
                Ok(Slot::Open(Arc::new(record)))
            }
            Some(ending) => {
                let ended = head::decode_ended(ending, record, bits(row.get("ended_by")?));
                Ok(Slot::Ended(Arc::new(ended.map_err(|error| Fault::damaged(id, &error))?)))
            }
        }
    }

    fn add_large_values(self, id: SessionId, data: &mut Data) -> Result<(), Fault> {
        let mut select = self.db.prepare_cached("SELECT name, value FROM large_value WHERE session = ?1")?;
        let mut rows = select.query([id.as_bytes()])?;
        while let Some(row) = rows.next()? {
            data.insert(
                row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?,
                Json::from_stored(row.get::<_, Arc<str>>(1)?),
            );
        }
        Ok(())
    }

    fn put_large_value(self, id: SessionId, name: &str, value: &str) -> Result<(), Fault> {
        let put = "INSERT OR REPLACE INTO large_value (session, name, value) VALUES (?1, ?2, ?3)";
        self.db.prepare_cached(put)?.execute(params![id.as_bytes(), name, value])?;
        Ok(())
    }

    pub(super) fn slot_of(self, id: SessionId, with_data: bool) -> Result<Option<Slot>, Fault> {
        let mut select = self.db.prepare_cached(select_slots!("WHERE id = ?1"))?;
        let mut rows = select.query([id.as_bytes()])?;
        rows.next()?.map(|row| self.read(row, with_data)).transpose()
    }

    /// The slots that a statement answers with.
    pub(super) fn slots(self, select: &str, params: impl Params, with_data: bool) -> Result<Vec<Slot>, Fault> {
        let mut select = self.db.prepare_cached(select)?;
        let mut rows = select.query(params)?;
        let mut slots = Vec::new();
        while let Some(row) = rows.next()? {
            slots.push(self.read(row, with_data)?);
        }
        Ok(slots)
    }

    /// As [`slots`](Self::slots), each with its id, and what cannot be read with why.
    pub(super) fn each(self, select: &str, params: impl Params, with_data: bool) -> Result<Vec<Read>, Fault> {
        let mut select = self.db.prepare_cached(select)?;
        let mut rows = select.query(params)?;
        let mut slots = Vec::new();
        while let Some(row) = rows.next()? {
            let slot = match self.read(row, with_data) {
                Err(fault) if !fault.is_of_a_row() => return Err(fault),
                slot => slot,
            };
            let created_at = row.get("created_at").unwrap_or_default();
            slots.push(Read { id: SessionId::from_bytes(row.get("id")?), created_at, slot });
        }
        Ok(slots)
    }

    pub(super) fn places(self, select: &str, params: impl Params) -> Result<Vec<(i64, SessionId)>, Fault> {
        let mut select = self.db.prepare_cached(select)?;
        let places = select.query_map(params, |row| Ok((row.get(0)?, SessionId::from_bytes(row.get(1)?))))?;
        Ok(places.collect::<Result<_, _>>()?)
    }

    pub(super) fn users(self, select: &str, params: impl Params) -> Result<Vec<Listed>, Fault> {
        let mut select = self.db.prepare_cached(select)?;
        let users = select.query_map(params, |row| Ok(Listed::User(row.get(0)?, user(row)?)))?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    /// Entries, and the place of the last that was looked at where there were as many as `most`.
    pub(super) fn entries(
        self,
        select: &str,
        params: impl Params,
        most: usize,
    ) -> Result<(Vec<Logged>, Option<Cursor>), Fault> {
        let mut select = self.db.prepare_cached(select)?;
        let mut rows = select.query(params)?;
        let (mut entries, mut last, mut count) = (Vec::new(), None, 0);
        while let Some(row) = rows.next()? {
            let session = SessionId::from_bytes(row.get(2)?);
            let text = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
            let cursor = Cursor::new(row.get::<_, i64>(0)?.to_string());
            (last, count) = (Some(cursor.clone()), count + 1);
            entries.extend(head::logged(cursor, bits(row.get(1)?), head::decode_entry(session, text)));
        }
        Ok((entries, last.filter(|_| count == most)))
    }

    pub(super) fn touch(self, touch: &SeenAt, now: Timestamp) -> Result<bool, Fault> {
        let select = concat!("SELECT seen FROM slot WHERE id = ?1 AND ended_at IS NULL AND ", lives!());
        let mut select = self.db.prepare_cached(select)?;
        let seen = select.query_row(params![touch.id.as_bytes(), now.as_millis()], |row| row.get::<_, i64>(0));
        let Some(seen) = seen.optional()? else { return Ok(false) };
        if touch.at.as_millis() > seen {
            let mut update = self.db.prepare_cached("UPDATE slot SET seen = ?2 WHERE id = ?1")?;
            update.execute(params![touch.id.as_bytes(), touch.at.as_millis()])?;
        }
        Ok(true)
    }
}

/// A slot as it was read.
pub(super) struct Read {
    pub(super) id: SessionId,
    pub(super) created_at: i64,
    pub(super) slot: Result<Slot, Fault>,
}

impl Tables for Within<'_> {
    type Fault = Fault;

    fn slot(&self, id: SessionId) -> Result<Option<Slot>, Fault> {
        self.slot_of(id, true)
    }

    fn user(&self, name: &str) -> Result<Option<UserSlot>, Fault> {
        let select = "SELECT name, text, revision, signed_in_at, signed_in_from, due_at FROM user WHERE name = ?1";
        Ok(self.db.prepare_cached(select)?.query_row([name], user).optional()?)
    }

    fn count(&self, user: &str, now: Timestamp) -> Result<usize, Fault> {
        let count: i64 = self.db.prepare_cached(COUNT)?.query_row(params![user, now.as_millis()], |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn started_with(&self, partition: Partition, key: &Digest) -> Result<Option<SessionId>, Fault> {
        let mut select = self.db.prepare_cached(STARTED_WITH)?;
        let ids = select.query_map([key.as_bytes()], |row| row.get(0).map(SessionId::from_bytes))?;
        for id in ids {
            let id = id?;
            if id.partition() == partition {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn is_logged(&self, session: SessionId, entry: u64) -> Result<bool, Fault> {
        Ok(self
            .db
            .prepare_cached(IS_LOGGED)?
            .query_row(params![session.as_bytes(), integer(entry)], |row| row.get(0))?)
    }

    fn put(&self, slot: &Slot) -> Result<(), Fault> {
        let (record, ended) = match slot {
            Slot::Open(record) => (record, None),
            Slot::Ended(ended) => (&ended.record, Some(ended)),
        };
        // All that may say that the slot is open goes with the end.
        let columns = head::columns(record);
        let open = |time: Option<Timestamp>| time.filter(|_| ended.is_none()).map(Timestamp::as_millis);
        self.db
            .prepare_cached(concat!(
                "INSERT OR REPLACE INTO slot (",
                slot_columns!(),
                ") \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)"
            ))?
            .execute(params![
                record.info.id.as_bytes(),
                head::encode(record),
                integer(record.revision),
                integer(record.info.version),
                record.info.last_seen_at.as_millis(),
                record.data.to_text(is_small),
                count_large(&record.data),
                changes(record),
                columns.user,
                columns.created_at.as_millis(),
                columns.idle.map(millis),
                columns.ends_at.map(Timestamp::as_millis),
                columns.impersonated_by,
                columns.ip.map(|ip| ip.to_string()),
                columns.device,
                columns.idempotency.as_ref().map(Digest::as_bytes),
                open(columns.due_at),
                ended.map(|slot| slot.ended.at.as_millis()),
                ended.map(|slot| head::encode_ending(&slot.ended)),
                ended.map(|slot| integer(slot.transaction)),
            ])?;
        let id = record.info.id;
        self.db.prepare_cached("DELETE FROM large_value WHERE session = ?1")?.execute([id.as_bytes()])?;
        large(&record.data).try_for_each(|(name, value)| self.put_large_value(id, name, value))
    }

    fn put_head(&self, record: &Record) -> Result<(), Fault> {
        let columns = head::columns(record);
        let update = "UPDATE slot SET head = ?2, revision = ?3, user_id = ?4, created_at = ?5, idle = ?6, ends_at = ?7, \
             impersonated_by = ?8, ip = ?9, device = ?10, idempotency = ?11, due_at = ?12 WHERE id = ?1";
        self.db.prepare_cached(update)?.execute(params![
            record.info.id.as_bytes(),
            head::encode(record),
            integer(record.revision),
            columns.user,
            columns.created_at.as_millis(),
            columns.idle.map(millis),
            columns.ends_at.map(Timestamp::as_millis),
            columns.impersonated_by,
            columns.ip.map(|ip| ip.to_string()),
            columns.device,
            columns.idempotency.as_ref().map(Digest::as_bytes),
            columns.due_at.map(Timestamp::as_millis),
        ])?;
        Ok(())
    }

    fn put_data(&self, before: &Data, record: &Record) -> Result<(), Fault> {
        let update = "UPDATE slot SET data = ?2, large = ?3, version = ?4, changes = ?5 WHERE id = ?1";
        let (id, count) = (record.info.id, count_large(&record.data));
        let text = record.data.to_text(is_small);
        let params = params![id.as_bytes(), text, count, integer(record.info.version), changes(record)];
        self.db.prepare_cached(update)?.execute(params)?;
        for (name, value) in large(&record.data) {
            if before.get(name).is_none_or(|before| before.as_str() != value) {
                self.put_large_value(id, name, value)?;
            }
        }
        for (name, _) in large(before) {
            if record.data.get(name).is_none_or(|now| is_small(now.as_str())) {
                let mut delete = self.db.prepare_cached("DELETE FROM large_value WHERE session = ?1 AND name = ?2")?;
                delete.execute(params![id.as_bytes(), name])?;
            }
        }
        Ok(())
    }

    fn put_due(&self, id: SessionId, due: Option<Timestamp>) -> Result<(), Fault> {
        let mut update = self.db.prepare_cached("UPDATE slot SET due_at = ?2 WHERE id = ?1")?;
        update.execute(params![id.as_bytes(), due.map(Timestamp::as_millis)])?;
        Ok(())
    }

    fn put_user(&self, name: &str, slot: Option<&UserSlot>) -> Result<(), Fault> {
        let Some(slot) = slot else {
            self.db.prepare_cached("DELETE FROM user WHERE name = ?1")?.execute([name])?;
            return Ok(());
        };
        let put = "INSERT OR REPLACE INTO user (name, text, revision, signed_in_at, signed_in_from, due_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.db.prepare_cached(put)?.execute(params![
            name,
            slot.text,
            integer(slot.revision),
            slot.last_sign_in.map(|stamp| stamp.at.as_millis()),
            slot.last_sign_in.and_then(|stamp| stamp.ip).map(|ip| ip.to_string()),
            slot.due_at.map(Timestamp::as_millis),
        ])?;
        Ok(())
    }

    fn log(&self, LogEntry { id, entry }: &LogEntry) -> Result<(), Fault> {
        let insert = "INSERT INTO audit (id, at, session, user_id, entry) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (at, session) = (entry.at.as_millis(), entry.session.as_bytes());
        let params = params![integer(*id), at, session, entry.user, head::encode_entry(entry)];
        self.db.prepare_cached(insert)?.execute(params)?;
        Ok(())
    }
}

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    let time = |name: &str| row.get::<_, Option<i64>>(name).map(|millis| millis.map(Timestamp::from_millis));
    Ok(Columns {
        user: row.get("user_id")?,
        created_at: Timestamp::from_millis(row.get("created_at")?),
        idle: row.get::<_, Option<i64>>("idle")?.map(duration),
        ends_at: time("ends_at")?,
        impersonated_by: row.get("impersonated_by")?,
        ip: row.get::<_, Option<String>>("ip")?.and_then(|ip| ip.parse().ok()),
        device: row.get("device")?,
        idempotency: row.get::<_, Option<[u8; Digest::LEN]>>("idempotency")?.map(Digest::from_bytes),
        due_at: time("due_at")?,
    })
}

fn user(row: &Row<'_>) -> rusqlite::Result<UserSlot> {
    let at: Option<i64> = row.get(3)?;
    let ip = row.get::<_, Option<String>>(4)?.and_then(|ip| ip.parse().ok());
    Ok(UserSlot {
        text: row.get(1)?,
        revision: bits(row.get(2)?),
        last_sign_in: at.map(|at| LastSignIn { at: Timestamp::from_millis(at), ip }),
        due_at: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_millis),
    })
}

/// Whether a value lies in its session's row.
fn is_small(value: &str) -> bool {
    value.len() <= 1000
}

fn large(data: &Data) -> impl Iterator<Item = (&str, &str)> {
    data.iter().map(|(name, value)| (name, value.as_str())).filter(|(_, value)| !is_small(value))
}

fn count_large(data: &Data) -> i64 {
    at_most(large(data).count())
}

fn changes(record: &Record) -> Vec<u8> {
    record.recent_changes.ids().iter().flat_map(|id| id.to_be_bytes()).collect()
}

/// All 64 bits of a number, as SQLite keeps them.
fn integer(number: u64) -> i64 {
    number.cast_signed()
}

fn bits(integer: i64) -> u64 {
    integer.cast_unsigned()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// How many rows a statement may answer with.
pub(super) fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
