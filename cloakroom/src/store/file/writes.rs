//! Calls that change something. Each runs while nobody else changes the directory: it reads, decides by the library's own
//! rules, and says what changes.

use std::time::Duration;

use super::{fault::Fault, format::StoredFence, tables, transaction::Transaction};
use crate::{
    AuditEntry, Change, Ended, Ending, Event, Lease, PartitionKey, Reason, SessionId, SessionInfo, Timestamp,
    change::Applied,
    store::{
        Create, Created, EndAnswer, Fence, Limit, Locked, Refusal, Rotated, Rotation, Touch, Updated, WhenFull, Which,
    },
};

pub(super) fn create(
    directory: &mut Transaction<'_>,
    key: &PartitionKey,
    create: &Create,
    now: Timestamp,
) -> Result<Created, Fault> {
    let Create { record, limit, replaces, by, note: _ } = create;
    if tables::session(directory, record.info.id)?.is_some() || tables::ended(directory, record.info.id)?.is_some() {
        // An earlier try of this very call succeeded: ids are random.
        return Ok(Created::Created { ended: Vec::new() });
    }
    let earlier_try = match &record.idempotency {
        Some(idempotency) => tables::first_try(directory, record.info.id, idempotency)?,
        None => None,
    };
    let uncounted: Vec<_> = replaces.iter().copied().chain(earlier_try).collect();
    let evicted = match admit(directory, key, &record.info, *limit, &uncounted, now)? {
        Ok(evicted) => evicted,
        Err(refusal) => {
            directory.log(&create.refused(refusal, now));
            return Ok(Created::Refused(refusal));
        }
    };

    let replace = Ending { reason: Reason::Replaced, by: by.clone(), note: None };
    let evict = Ending { reason: Reason::SignedInElsewhere, ..replace.clone() };
    let mut ended = Vec::new();
    for (id, ending) in uncounted.iter().map(|id| (id, &replace)).chain(evicted.iter().map(|id| (id, &evict))) {
        if let EndAnswer::EndedNow(now_ended) = end_one(directory, key, *id, ending, now)? {
            ended.push(now_ended);
        }
    }
    directory.log(&create.started(now));
    tables::insert(directory, key, record);
    super::directory::note_sign_in(directory, key, &record.info)?;
    Ok(Created::Created { ended })
}

pub(super) fn update(
    directory: &mut Transaction<'_>,
    id: SessionId,
    change: &Change,
    now: Timestamp,
) -> Result<Updated, Fault> {
    let mut stored = match tables::living(directory, id, now)? {
        Ok(stored) => stored,
        Err(gone) => return Ok(Updated::Gone(gone)),
    };
    match change.apply_to(&mut stored.record, now) {
        Applied::Now => {}
        Applied::Before => return Ok(Updated::Applied(stored.record.into())),
        Applied::Conflict => return Ok(Updated::Conflict(stored.record.into())),
        Applied::LeaseLost => return Ok(Updated::LeaseLost),
        Applied::TooLarge { size } => return Ok(Updated::TooLarge(size)),
    }
    tables::put(directory, &mut stored);
    if change.fields.are_audited() {
        directory.log(&AuditEntry::about(&stored.record.info, Event::Changed, now));
    }
    Ok(Updated::Applied(stored.record.into()))
}

/// Says whether the session is there.
pub(super) fn touch(directory: &mut Transaction<'_>, touch: &Touch, now: Timestamp) -> Result<bool, Fault> {
    let Ok(mut stored) = tables::living(directory, touch.id, now)? else { return Ok(false) };
    let record = &mut stored.record;
    let confirmed = touch.grace_ends.is_some_and(|end| record.secrets.confirm(end));
    if confirmed || touch.seen_at > record.info.last_seen_at {
        record.info.last_seen_at = record.info.last_seen_at.max(touch.seen_at);
        tables::put(directory, &mut stored);
    }
    Ok(true)
}

pub(super) fn rotate(
    directory: &mut Transaction<'_>,
    id: SessionId,
    rotation: &Rotation,
    now: Timestamp,
) -> Result<Rotated, Fault> {
    let mut stored = match tables::living(directory, id, now)? {
        Ok(stored) => stored,
        Err(gone) => return Ok(Rotated::Gone(gone)),
    };
    let before = stored.record.secrets.rotations;
    if !rotation.apply_to(&mut stored.record.secrets, now) {
        return Ok(Rotated::Superseded(stored.record.into()));
    }
    if stored.record.secrets.rotations != before {
        tables::put(directory, &mut stored);
        directory.log(&AuditEntry {
            by: rotation.by.clone(),
            ..AuditEntry::about(&stored.record.info, Event::Rotated, now)
        });
    }
    Ok(Rotated::Rotated(stored.record.into()))
}

pub(super) fn end(
    directory: &mut Transaction<'_>,
    key: &PartitionKey,
    which: &Which,
    ending: &Ending,
    now: Timestamp,
) -> Result<Vec<EndAnswer>, Fault> {
    let (name, except, fence) = match which {
        Which::Ids(ids) => return ids.iter().map(|id| end_one(directory, key, *id, ending, now)).collect(),
        Which::OfUser { user, except, fence } => (user, except, *fence),
    };
    let user = tables::digest_of(key, name);
    let before = tables::fence(directory, &user)?;
    let disabled = before.disabled || fence == Fence::Disabled;
    let ended_before = before.ended_before.max(Some(now));
    let after = StoredFence { user: Some(name.clone()), disabled, ended_before };
    tables::set_fence(directory, &user, &before, &after);
    let mut answers = Vec::new();
    for session in tables::sessions_of(directory, &user)? {
        if !except.contains(&session.name) {
            answers.push(end_one(directory, key, session.name, ending, now)?);
        }
    }
    answers.retain(|answer| matches!(answer, EndAnswer::EndedNow(_)));
    Ok(answers)
}

pub(super) fn enable_user(directory: &mut Transaction<'_>, key: &PartitionKey, user: &str) -> Result<(), Fault> {
    let user = tables::digest_of(key, user);
    let before = tables::fence(directory, &user)?;
    tables::set_fence(directory, &user, &before, &StoredFence { disabled: false, ..before.clone() });
    Ok(())
}

pub(super) fn lock(
    directory: &mut Transaction<'_>,
    id: SessionId,
    lease: Duration,
    now: Timestamp,
) -> Result<Locked, Fault> {
    let mut stored = match tables::living(directory, id, now)? {
        Ok(stored) => stored,
        Err(gone) => return Ok(Locked::Gone(gone)),
    };
    if !stored.record.lease.take(lease, now) {
        return Ok(Locked::Held { until: stored.record.lease.until });
    }
    tables::put(directory, &mut stored);
    Ok(Locked::Granted(stored.record.into()))
}

/// Renews or releases a lease. Says whether it was still held.
pub(super) fn change_lease(
    directory: &mut Transaction<'_>,
    id: SessionId,
    change: impl FnOnce(&mut Lease) -> bool,
    now: Timestamp,
) -> Result<bool, Fault> {
    let Ok(mut stored) = tables::living(directory, id, now)? else { return Ok(false) };
    let held = change(&mut stored.record.lease);
    if held {
        tables::put(directory, &mut stored);
    }
    Ok(held)
}

fn end_one(
    directory: &mut Transaction<'_>,
    key: &PartitionKey,
    id: SessionId,
    ending: &Ending,
    now: Timestamp,
) -> Result<EndAnswer, Fault> {
    let Some(stored) = tables::session(directory, id)? else {
        return Ok(tables::ended(directory, id)?.map_or(EndAnswer::Unknown(id), EndAnswer::EndedBefore));
    };
    let info = &stored.record.info;
    let (answer, ended): (fn(Ended) -> EndAnswer, _) = match info.expired(now) {
        Some(expired) => (EndAnswer::EndedBefore, expired),
        None => (EndAnswer::EndedNow, ending.of(id, info.user.clone(), now)),
    };
    tables::bury(directory, key, stored, ended.clone())?;
    Ok(answer(ended))
}

/// Which sessions go to make room for one more, or why it is refused.
fn admit(
    directory: &Transaction<'_>,
    key: &PartitionKey,
    info: &SessionInfo,
    limit: Option<Limit>,
    uncounted: &[SessionId],
    now: Timestamp,
) -> Result<Result<Vec<SessionId>, Refusal>, Fault> {
    let Some(user) = &info.user else { return Ok(Ok(Vec::new())) };
    let user = tables::digest_of(key, user);
    let fence = tables::fence(directory, &user)?;
    if fence.disabled {
        return Ok(Err(Refusal::UserDisabled));
    }
    if fence.ended_before.is_some_and(|ended| info.fenced_at() < ended) {
        return Ok(Err(Refusal::EndedMeanwhile));
    }
    let limit = limit.filter(|_| info.impersonated_by.is_none());
    let Some(Limit { max, when_full }) = limit else { return Ok(Ok(Vec::new())) };
    let room_for = max as usize;
    let mut living = Vec::new();
    for session in tables::sessions_of(directory, &user)? {
        if uncounted.contains(&session.name) {
            continue;
        }
        let counts = |info: &SessionInfo| info.impersonated_by.is_none() && info.expiry(now).is_none();
        if let Some(info) = tables::info(directory, session.name)?.filter(counts) {
            living.push((info.last_seen_at, info.created_at, info.id));
        }
    }
    if living.len() < room_for {
        return Ok(Ok(Vec::new()));
    }
    if when_full == WhenFull::Refuse {
        return Ok(Err(Refusal::LimitReached { max }));
    }
    living.sort_unstable();
    let surplus = (living.len() + 1).saturating_sub(room_for.max(1));
    Ok(Ok(living.into_iter().take(surplus).map(|(_, _, id)| id).collect()))
}
