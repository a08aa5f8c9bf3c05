//! Calls that change something. Each runs inside a write transaction: nobody else changes the database meanwhile, so
//! they read, decide by the library's own rules, and write what changed.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::{directory, fault::Fault, tables};
use crate::{
    AuditEntry, Change, Ended, Ending, Event, Lease, Reason, SessionId, SessionInfo, Timestamp,
    change::Applied,
    store::{
        Create, Created, EndAnswer, Gone, Limit, Locked, Refusal, Rotated, Rotation, Tombstone, Touch, Updated,
        WhenFull, Which, sql::rows::Head,
    },
};

pub(super) fn create(db: &Connection, create: &Create, now: Timestamp) -> Result<Created, Fault> {
    let Create { record, limit, replaces, by, note: _ } = create;
    let id = record.info.id;
    if tables::head(db, id)?.is_some() || tables::tombstone(db, id)?.is_some() {
        return Ok(Created::Created { ended: Vec::new() });
    }
    let earlier_tries = match &record.idempotency {
        Some(key) => tables::ids(db, tables::STARTED_WITH, params![key.as_bytes(), record.info.id.as_bytes()])?,
        None => Vec::new(),
    };
    let uncounted: Vec<_> = replaces.iter().copied().chain(earlier_tries).collect();
    let evicted = match admit(db, &record.info, *limit, &uncounted, now)? {
        Ok(evicted) => evicted,
        Err(refusal) => {
            tables::insert_audit(db, &create.refused(refusal, now))?;
            return Ok(Created::Refused(refusal));
        }
    };

    let replace = Ending { reason: Reason::Replaced, by: by.clone(), note: None };
    let evict = Ending { reason: Reason::SignedInElsewhere, ..replace.clone() };
    let mut ended = Vec::new();
    for (id, ending) in uncounted.iter().map(|id| (id, &replace)).chain(evicted.iter().map(|id| (id, &evict))) {
        if let EndAnswer::EndedNow(now_ended) = end_one(db, *id, ending, now)? {
            ended.push(now_ended);
        }
    }
    tables::insert_audit(db, &create.started(now))?;
    tables::insert_session(db, record)?;
    directory::note_sign_in(db, &record.info)?;
    Ok(Created::Created { ended })
}

pub(super) fn update(db: &Connection, id: SessionId, change: &Change, now: Timestamp) -> Result<Updated, Fault> {
    let head = match living(db, id, now)? {
        Ok(head) => head,
        Err(gone) => return Ok(Updated::Gone(gone)),
    };
    let before = tables::data(db, id)?;
    let mut record = head.with_data(before.clone());
    match change.apply_to(&mut record, now) {
        Applied::Now => {}
        Applied::Before => return Ok(Updated::Applied(record.into())),
        Applied::Conflict => return Ok(Updated::Conflict(record.into())),
        Applied::LeaseLost => return Ok(Updated::LeaseLost),
        Applied::TooLarge { size } => return Ok(Updated::TooLarge(size)),
    }
    for (key, _) in before.iter().filter(|(key, _)| record.data.get(key).is_none()) {
        tables::remove_value(db, id, key)?;
    }
    for (key, value) in record.data.iter().filter(|(key, value)| before.get(key) != Some(*value)) {
        tables::set_value(db, id, key, value)?;
    }
    if change.fields != crate::Fields::default() {
        tables::set_fields(db, &record.info)?;
    }
    tables::set_version(db, &record.info, &record.recent_changes)?;
    if change.fields.are_audited() {
        tables::insert_audit(db, &AuditEntry::about(&record.info, Event::Changed, now))?;
    }
    Ok(Updated::Applied(record.into()))
}

/// Says whether the session is there.
pub(super) fn touch(db: &Connection, touch: &Touch, now: Timestamp) -> Result<bool, Fault> {
    let Ok(mut head) = living(db, touch.id, now)? else { return Ok(false) };
    if touch.seen_at > head.info.last_seen_at {
        head.info.last_seen_at = touch.seen_at;
        tables::set_last_seen(db, &head.info)?;
    }
    if touch.grace_ends.is_some_and(|end| head.secrets.confirm(end)) {
        tables::set_secrets(db, touch.id, &head.secrets)?;
    }
    Ok(true)
}

pub(super) fn rotate(db: &Connection, id: SessionId, rotation: &Rotation, now: Timestamp) -> Result<Rotated, Fault> {
    let mut head = match living(db, id, now)? {
        Ok(head) => head,
        Err(gone) => return Ok(Rotated::Gone(gone)),
    };
    let before = head.secrets.rotations;
    let rotated = rotation.apply_to(&mut head.secrets, now);
    if head.secrets.rotations != before {
        tables::set_secrets(db, id, &head.secrets)?;
        let entry = AuditEntry { by: rotation.by.clone(), ..AuditEntry::about(&head.info, Event::Rotated, now) };
        tables::insert_audit(db, &entry)?;
    }
    let record = head.with_data(tables::data(db, id)?).into();
    Ok(if rotated { Rotated::Rotated(record) } else { Rotated::Superseded(record) })
}

pub(super) fn lock(db: &Connection, id: SessionId, lease: Duration, now: Timestamp) -> Result<Locked, Fault> {
    let mut head = match living(db, id, now)? {
        Ok(head) => head,
        Err(gone) => return Ok(Locked::Gone(gone)),
    };
    if !head.lease.take(lease, now) {
        return Ok(Locked::Held { until: head.lease.until });
    }
    tables::set_lease(db, id, head.lease)?;
    Ok(Locked::Granted(head.with_data(tables::data(db, id)?).into()))
}

/// Changes a lease that somebody holds; says whether they still did.
pub(super) fn keep_or_release(
    db: &Connection,
    id: SessionId,
    now: Timestamp,
    change: impl FnOnce(&mut Lease) -> bool,
) -> Result<bool, Fault> {
    let Ok(mut head) = living(db, id, now)? else { return Ok(false) };
    let held = change(&mut head.lease);
    if held {
        tables::set_lease(db, id, head.lease)?;
    }
    Ok(held)
}

pub(super) fn end(db: &Connection, which: &Which, ending: &Ending, now: Timestamp) -> Result<Vec<EndAnswer>, Fault> {
    match which {
        Which::Ids(ids) => ids.iter().map(|id| end_one(db, *id, ending, now)).collect(),
        Which::OfUser { user, except, fence } => {
            tables::set_fence(db, user, *fence, now)?;
            let mut answers = Vec::new();
            for id in tables::ids(db, tables::IDS_OF_USER, [user])?.into_iter().filter(|id| !except.contains(id)) {
                answers.push(end_one(db, id, ending, now)?);
            }
            answers.retain(|answer| matches!(answer, EndAnswer::EndedNow(_)));
            Ok(answers)
        }
    }
}

/// The session, if it lives.
fn living(db: &Connection, id: SessionId, now: Timestamp) -> Result<Result<Head, Gone>, Fault> {
    Ok(match tables::head(db, id)? {
        Some(head) => head.info.expired(now).map_or(Ok(head), |ended| Err(Gone::Ended(ended))),
        None => Err(tables::tombstone(db, id)?.map_or(Gone::Unknown, |tombstone| Gone::Ended(tombstone.ended))),
    })
}

/// Which sessions must end for a new one of its user, if it is admitted.
fn admit(
    db: &Connection,
    info: &SessionInfo,
    limit: Option<Limit>,
    uncounted: &[SessionId],
    now: Timestamp,
) -> Result<Result<Vec<SessionId>, Refusal>, Fault> {
    let Some(user) = &info.user else { return Ok(Ok(Vec::new())) };
    let (disabled, ended_before) = tables::fence(db, user)?;
    if disabled {
        return Ok(Err(Refusal::UserDisabled));
    }
    if ended_before.is_some_and(|ended| info.fenced_at() < ended) {
        return Ok(Err(Refusal::EndedMeanwhile));
    }
    let limit = limit.filter(|_| info.impersonated_by.is_none());
    let Some(Limit { max, when_full }) = limit else { return Ok(Ok(Vec::new())) };
    let room_for = max as usize;
    let mut living = tables::ids(db, tables::LIVING_OF_USER, params![user, now.as_millis()])?;
    living.retain(|id| !uncounted.contains(id));
    if living.len() < room_for {
        return Ok(Ok(Vec::new()));
    }
    if when_full == WhenFull::Refuse {
        return Ok(Err(Refusal::LimitReached { max }));
    }
    living.truncate((living.len() + 1).saturating_sub(room_for.max(1)));
    Ok(Ok(living))
}

fn end_one(db: &Connection, id: SessionId, ending: &Ending, now: Timestamp) -> Result<EndAnswer, Fault> {
    let Some(head) = tables::head(db, id)? else {
        let tombstone = tables::tombstone(db, id)?;
        return Ok(tombstone.map_or(EndAnswer::Unknown(id), |tombstone| EndAnswer::EndedBefore(tombstone.ended)));
    };
    if let Some(expired) = head.info.expired(now) {
        bury(db, head, expired.clone())?;
        return Ok(EndAnswer::EndedBefore(expired));
    }
    let ended = ending.of(id, head.info.user.clone(), now);
    bury(db, head, ended.clone())?;
    Ok(EndAnswer::EndedNow(ended))
}

/// Deletes a session that is there, and leaves a tombstone and an audit entry.
pub(super) fn bury(db: &Connection, head: Head, ended: Ended) -> Result<(), Fault> {
    tables::delete_session(db, ended.id)?;
    tables::insert_audit(db, &AuditEntry::ended(&head.info, &ended))?;
    tables::insert_tombstone(db, &Tombstone { ended, secrets: head.secrets })
}
