//! The statements on each table.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::Fault;
use crate::{
    Assurance, AuditEntry, Data, Digest, Json, JsonRef, Lease, RecentChanges, Record, Secrets, SessionId, SessionInfo,
    Timestamp,
    store::{
        Fence, Tombstone,
        sql::rows::{
            AuditRow, Head, InfoRow, SecretsRow, SessionRow, TombstoneRow, duration_column, ip_column, pack_changes,
            pack_predecessors,
        },
    },
};

macro_rules! info_columns {
    () => {
        "id, user_id, full_name, user_type, created_at, last_seen_at, idle_timeout, ends_at, authenticated_at, \
         methods, level, remember, ip, user_agent, device, country, impersonated_by, returns_to, audit_user, version"
    };
}

macro_rules! secrets_columns {
    () => {
        "secret, secret_issued_at, rotations, predecessors"
    };
}

macro_rules! tombstone_columns {
    () => {
        concat!("id, user_id, ended_at, reason, by_whom, note, ", secrets_columns!())
    };
}

macro_rules! audit_columns {
    () => {
        "at, event, session, user_id, impersonated_by, audit_user, ip, reason, by_whom, note"
    };
}

pub(super) const OF_USER: &str = concat!(
    "SELECT ",
    info_columns!(),
    " FROM session WHERE user_id = ?1 AND (created_at, id) < (?2, ?3) ORDER BY created_at DESC, id DESC"
);

pub(super) const AFTER_ID: &str =
    concat!("SELECT ", info_columns!(), " FROM session WHERE id > ?1 ORDER BY id LIMIT ?2");

pub(super) const IDS_OF_USER: &str = "SELECT id FROM session WHERE user_id = ?1 ORDER BY created_at DESC, id DESC";

pub(super) const LIVING_OF_USER: &str = "SELECT id FROM session \
    WHERE user_id = ?1 AND impersonated_by IS NULL AND (expires_at IS NULL OR expires_at > ?2) ORDER BY last_seen_at, created_at, id";

pub(super) const EXPIRED: &str = "SELECT id FROM session WHERE expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2";

pub(super) const ANY_EXPIRED: &str = "SELECT EXISTS (SELECT 1 FROM session WHERE expires_at <= ?1)";

/// In the partition of another session: ids begin with theirs.
pub(super) const STARTED_WITH: &str =
    "SELECT id FROM session WHERE idempotency = ?1 AND substr(id, 1, 2) = substr(?2, 1, 2)";

pub(super) const FORGET_TOMBSTONES: &str = "DELETE FROM tombstone WHERE id IN \
    (SELECT id FROM tombstone WHERE ended_at <= ?1 ORDER BY ended_at LIMIT ?2)";

pub(super) const ANY_OLD_TOMBSTONE: &str = "SELECT EXISTS (SELECT 1 FROM tombstone WHERE ended_at <= ?1)";

pub(super) const FORGET_AUDIT: &str =
    "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at <= ?1 ORDER BY at LIMIT ?2)";

pub(super) const ANY_OLD_AUDIT: &str = "SELECT EXISTS (SELECT 1 FROM audit WHERE at <= ?1)";

pub(super) const FORGET_FENCES: &str = "DELETE FROM user_fence WHERE user_id IN \
    (SELECT user_id FROM user_fence WHERE ended_before <= ?1 ORDER BY ended_before LIMIT ?2)";

pub(super) const ANY_OLD_FENCE: &str = "SELECT EXISTS (SELECT 1 FROM user_fence WHERE ended_before <= ?1)";

pub(super) const AUDIT: &str = concat!("SELECT seq, ", audit_columns!(), " FROM audit WHERE seq > ?1 ORDER BY seq");

pub(super) const AUDIT_OF_USER: &str =
    concat!("SELECT seq, ", audit_columns!(), " FROM audit WHERE user_id = ?2 AND seq > ?1 ORDER BY seq");

pub(super) const AUDIT_OF_SESSION: &str =
    concat!("SELECT seq, ", audit_columns!(), " FROM audit WHERE session = ?2 AND seq > ?1 ORDER BY seq");

/// Reads something that is always there.
pub(super) fn look(db: &Connection) -> Result<(), Fault> {
    Ok(db.prepare_cached("SELECT count(*) FROM meta")?.query_row([], |_| Ok(()))?)
}

pub(super) fn head(db: &Connection, id: SessionId) -> Result<Option<Head>, Fault> {
    const SELECT: &str = concat!(
        "SELECT ",
        info_columns!(),
        ", ",
        secrets_columns!(),
        ", recent_changes, idempotency, lease_number, lease_until FROM session WHERE id = ?1"
    );
    let mut select = db.prepare_cached(SELECT)?;
    let row = select.query_row([id.as_bytes()], |row| {
        Ok(SessionRow {
            info: info_row(row)?,
            secrets: secrets_row(row, 20)?,
            recent_changes: row.get(24)?,
            idempotency: row.get(25)?,
            lease_number: row.get(26)?,
            lease_until: row.get(27)?,
        })
    });
    Ok(row.optional()?.map(SessionRow::decode).transpose()?)
}

pub(super) fn data(db: &Connection, id: SessionId) -> Result<Data, Fault> {
    let mut select = db.prepare_cached("SELECT data_key, value FROM session_data WHERE session = ?1")?;
    let rows = select.query_map([id.as_bytes()], |row| {
        Ok((row.get::<_, Arc<str>>(0)?, Json::from_stored(row.get::<_, Arc<str>>(1)?)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn tombstone(db: &Connection, id: SessionId) -> Result<Option<Tombstone>, Fault> {
    const SELECT: &str = concat!("SELECT ", tombstone_columns!(), " FROM tombstone WHERE id = ?1");
    let mut select = db.prepare_cached(SELECT)?;
    let row = select.query_row([id.as_bytes()], |row| {
        Ok(TombstoneRow {
            id: row.get(0)?,
            user: row.get(1)?,
            ended_at: row.get(2)?,
            reason: row.get(3)?,
            by: row.get(4)?,
            note: row.get(5)?,
            secrets: secrets_row(row, 6)?,
        })
    });
    Ok(row.optional()?.map(TombstoneRow::decode).transpose()?)
}

/// The one row of ids that a statement answers with, in its order.
pub(super) fn ids(db: &Connection, select: &str, params: impl rusqlite::Params) -> Result<Vec<SessionId>, Fault> {
    let mut select = db.prepare_cached(select)?;
    let ids = select.query_map(params, |row| row.get(0).map(SessionId::from_bytes))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Goes through the sessions that a statement answers with until `visit` says stop.
pub(super) fn visit_sessions(
    db: &Connection,
    select: &str,
    params: impl rusqlite::Params,
    mut visit: impl FnMut(SessionInfo) -> bool,
) -> Result<(), Fault> {
    let mut select = db.prepare_cached(select)?;
    let mut rows = select.query(params)?;
    while let Some(row) = rows.next()? {
        if !visit(info_row(row)?.decode()?) {
            break;
        }
    }
    Ok(())
}

/// Goes through the audit entries that a statement answers with until `visit` says stop.
pub(super) fn visit_audit(
    db: &Connection,
    select: &str,
    params: impl rusqlite::Params,
    mut visit: impl FnMut(i64, AuditEntry) -> bool,
) -> Result<(), Fault> {
    let mut select = db.prepare_cached(select)?;
    let mut rows = select.query(params)?;
    while let Some(row) = rows.next()? {
        let entry = AuditRow {
            at: row.get(1)?,
            event: row.get(2)?,
            session: row.get(3)?,
            user: row.get(4)?,
            impersonated_by: row.get(5)?,
            audit_user: row.get(6)?,
            ip: row.get(7)?,
            reason: row.get(8)?,
            by: row.get(9)?,
            note: row.get(10)?,
        };
        if !visit(row.get(0)?, entry.decode()?) {
            break;
        }
    }
    Ok(())
}

pub(super) fn insert_session(db: &Connection, record: &Record) -> Result<(), Fault> {
    const INSERT: &str = concat!(
        "INSERT INTO session (",
        info_columns!(),
        ", ",
        secrets_columns!(),
        ", recent_changes, idempotency, lease_number, lease_until, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, \
         ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29)"
    );
    let Record { info, data, secrets, recent_changes, lease, idempotency, .. } = record;
    db.prepare_cached(INSERT)?.execute(params![
        info.id.as_bytes(),
        info.user,
        info.full_name,
        info.user_type,
        info.created_at.as_millis(),
        info.last_seen_at.as_millis(),
        info.idle_timeout.map(duration_column),
        info.ends_at.map(Timestamp::as_millis),
        info.authenticated_at.map(Timestamp::as_millis),
        info.methods,
        info.level.map(Assurance::number),
        info.remember,
        ip_column(info.client.ip),
        info.client.user_agent,
        info.client.device,
        info.client.country,
        info.impersonated_by,
        info.returns_to.as_ref().map(SessionId::as_bytes),
        info.audit_user,
        info.version.cast_signed(),
        secrets.current.as_bytes(),
        secrets.issued_at.as_millis(),
        secrets.rotations,
        pack_predecessors(secrets),
        pack_changes(recent_changes),
        idempotency.as_ref().map(Digest::as_bytes),
        lease.number.cast_signed(),
        lease.until.as_millis(),
        info.expires_at().map(Timestamp::as_millis),
    ])?;
    data.iter().try_for_each(|(key, value)| set_value(db, info.id, key, value))
}

pub(super) fn set_value(db: &Connection, id: SessionId, key: &str, value: JsonRef<'_>) -> Result<(), Fault> {
    const SET: &str = "INSERT INTO session_data (session, data_key, value) VALUES (?1, ?2, ?3) \
        ON CONFLICT (session, data_key) DO UPDATE SET value = excluded.value";
    db.prepare_cached(SET)?.execute(params![id.as_bytes(), key, value.as_str()])?;
    Ok(())
}

pub(super) fn remove_value(db: &Connection, id: SessionId, key: &str) -> Result<(), Fault> {
    const REMOVE: &str = "DELETE FROM session_data WHERE session = ?1 AND data_key = ?2";
    db.prepare_cached(REMOVE)?.execute(params![id.as_bytes(), key])?;
    Ok(())
}

pub(super) fn set_version(db: &Connection, info: &SessionInfo, changes: &RecentChanges) -> Result<(), Fault> {
    const SET: &str = "UPDATE session SET version = ?2, recent_changes = ?3 WHERE id = ?1";
    let version = info.version.cast_signed();
    db.prepare_cached(SET)?.execute(params![info.id.as_bytes(), version, pack_changes(changes)])?;
    Ok(())
}

pub(super) fn set_fields(db: &Connection, info: &SessionInfo) -> Result<(), Fault> {
    const SET: &str = "UPDATE session SET full_name = ?2, user_type = ?3, idle_timeout = ?4, ends_at = ?5, expires_at = ?6 WHERE id = ?1";
    db.prepare_cached(SET)?.execute(params![
        info.id.as_bytes(),
        info.full_name,
        info.user_type,
        info.idle_timeout.map(duration_column),
        info.ends_at.map(Timestamp::as_millis),
        info.expires_at().map(Timestamp::as_millis),
    ])?;
    Ok(())
}

pub(super) fn set_last_seen(db: &Connection, info: &SessionInfo) -> Result<(), Fault> {
    const SET: &str = "UPDATE session SET last_seen_at = ?2, expires_at = ?3 WHERE id = ?1";
    let expires_at = info.expires_at().map(Timestamp::as_millis);
    db.prepare_cached(SET)?.execute(params![info.id.as_bytes(), info.last_seen_at.as_millis(), expires_at])?;
    Ok(())
}

pub(super) fn set_secrets(db: &Connection, id: SessionId, secrets: &Secrets) -> Result<(), Fault> {
    const SET: &str =
        "UPDATE session SET secret = ?2, secret_issued_at = ?3, rotations = ?4, predecessors = ?5 WHERE id = ?1";
    db.prepare_cached(SET)?.execute(params![
        id.as_bytes(),
        secrets.current.as_bytes(),
        secrets.issued_at.as_millis(),
        secrets.rotations,
        pack_predecessors(secrets),
    ])?;
    Ok(())
}

pub(super) fn set_lease(db: &Connection, id: SessionId, lease: Lease) -> Result<(), Fault> {
    const SET: &str = "UPDATE session SET lease_number = ?2, lease_until = ?3 WHERE id = ?1";
    db.prepare_cached(SET)?.execute(params![id.as_bytes(), lease.number.cast_signed(), lease.until.as_millis()])?;
    Ok(())
}

pub(super) fn delete_session(db: &Connection, id: SessionId) -> Result<(), Fault> {
    db.prepare_cached("DELETE FROM session_data WHERE session = ?1")?.execute([id.as_bytes()])?;
    db.prepare_cached("DELETE FROM session WHERE id = ?1")?.execute([id.as_bytes()])?;
    Ok(())
}

pub(super) fn insert_tombstone(db: &Connection, tombstone: &Tombstone) -> Result<(), Fault> {
    const INSERT: &str = concat!(
        "INSERT OR REPLACE INTO tombstone (",
        tombstone_columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    );
    let Tombstone { ended, secrets } = tombstone;
    db.prepare_cached(INSERT)?.execute(params![
        ended.id.as_bytes(),
        ended.user,
        ended.at.as_millis(),
        ended.reason.code(),
        ended.by,
        ended.note,
        secrets.current.as_bytes(),
        secrets.issued_at.as_millis(),
        secrets.rotations,
        pack_predecessors(secrets),
    ])?;
    Ok(())
}

pub(super) fn insert_audit(db: &Connection, entry: &AuditEntry) -> Result<(), Fault> {
    const INSERT: &str =
        concat!("INSERT INTO audit (", audit_columns!(), ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
    db.prepare_cached(INSERT)?.execute(params![
        entry.at.as_millis(),
        entry.event.code(),
        entry.session.as_bytes(),
        entry.user,
        entry.impersonated_by,
        entry.audit_user,
        ip_column(entry.ip),
        entry.reason.map(crate::Reason::code),
        entry.by,
        entry.note,
    ])?;
    Ok(())
}

/// Whether a user is disabled, and before when their sign-ins are too old.
pub(super) fn fence(db: &Connection, user: &str) -> Result<(bool, Option<Timestamp>), Fault> {
    const SELECT: &str = "SELECT EXISTS (SELECT 1 FROM disabled_user WHERE user_id = ?1), \
        (SELECT ended_before FROM user_fence WHERE user_id = ?1)";
    let mut select = db.prepare_cached(SELECT)?;
    let (disabled, ended_before) = select.query_row([user], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?)))?;
    Ok((disabled, ended_before.map(Timestamp::from_millis)))
}

pub(super) fn set_fence(db: &Connection, user: &str, fence: Fence, now: Timestamp) -> Result<(), Fault> {
    const SET: &str = "INSERT INTO user_fence (user_id, ended_before) VALUES (?1, ?2) \
        ON CONFLICT (user_id) DO UPDATE SET ended_before = max(ended_before, excluded.ended_before)";
    db.prepare_cached(SET)?.execute(params![user, now.as_millis()])?;
    if fence == Fence::Disabled {
        db.prepare_cached("INSERT OR IGNORE INTO disabled_user (user_id) VALUES (?1)")?.execute([user])?;
    }
    Ok(())
}

pub(super) fn enable_user(db: &Connection, user: &str) -> Result<(), Fault> {
    db.prepare_cached("DELETE FROM disabled_user WHERE user_id = ?1")?.execute([user])?;
    Ok(())
}

/// Forgets what is at or before a time, at most `limit`; says how many.
pub(super) fn forget(db: &Connection, delete: &str, before: Timestamp, limit: usize) -> Result<usize, Fault> {
    Ok(db.prepare_cached(delete)?.execute(params![before.as_millis(), at_most(limit)])?)
}

/// Whether there is anything at or before a time.
pub(super) fn is_any(db: &Connection, any: &str, before: Timestamp) -> Result<bool, Fault> {
    Ok(db.prepare_cached(any)?.query_row([before.as_millis()], |row| row.get(0))?)
}

/// A number of rows, as a statement takes it.
pub(super) fn at_most(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn info_row(row: &Row<'_>) -> rusqlite::Result<InfoRow> {
    Ok(InfoRow {
        id: row.get(0)?,
        user: row.get(1)?,
        full_name: row.get(2)?,
        user_type: row.get(3)?,
        created_at: row.get(4)?,
        last_seen_at: row.get(5)?,
        idle_timeout: row.get(6)?,
        ends_at: row.get(7)?,
        authenticated_at: row.get(8)?,
        methods: row.get(9)?,
        level: row.get(10)?,
        remember: row.get(11)?,
        ip: row.get(12)?,
        user_agent: row.get(13)?,
        device: row.get(14)?,
        country: row.get(15)?,
        impersonated_by: row.get(16)?,
        returns_to: row.get(17)?,
        audit_user: row.get(18)?,
        version: row.get(19)?,
    })
}

fn secrets_row(row: &Row<'_>, first: usize) -> rusqlite::Result<SecretsRow> {
    Ok(SecretsRow {
        current: row.get(first)?,
        issued_at: row.get(first + 1)?,
        rotations: row.get(first + 2)?,
        predecessors: row.get(first + 3)?,
    })
}
