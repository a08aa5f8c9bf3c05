//! Calls that change something.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Arg, Dialect, SqlStore,
    answers::{Answer, Answers, record, unexpected},
};
use crate::{
    AuditEntry, Change, Ended, Ending, Fields, Json, Reason, Record, Result, SessionId, Timestamp,
    store::{
        Create, Created, EndAnswer, Fence, Limit, Reap, Reaped, Refusal, Rotated, Rotation, Touch, Updated, WhenFull,
        sql::rows::{duration_column, ip_column, pack_changes, pack_predecessors},
    },
};

impl<D: Dialect> SqlStore<D> {
    pub(super) async fn create_record(&self, create: &Create, now: Timestamp) -> Result<Created> {
        let Create { record, limit, replaces, by, note } = create;
        let limit = limit.filter(|_| record.info.impersonated_by.is_none());
        let mut args = vec![
            self.lock_of(record),
            Arg::at(now),
            Arg::Int(limit.map(|limit| i64::from(limit.max))),
            Arg::Bool(limit.is_some_and(|limit| limit.when_full == WhenFull::Evict)),
            Arg::Bytes(replaces.map(|id| id.as_bytes().to_vec())),
            Arg::maybe_text(by.as_ref()),
            Arg::text(AuditEntry::started(record, now).event.code()),
            Arg::maybe_text(note.as_ref()),
        ];
        args.extend(refusals(limit).map(|refusal| Arg::text(&create.refusal_note(refusal))));
        args.extend(columns(record).into_iter().map(|(_, arg)| arg));
        args.push(Arg::entries(record.data.iter()));
        let answers = self.write("create", args).await?;

        let [disabled, fence, full] = refusals(limit);
        let mut ended = Vec::new();
        for answer in answers.iter() {
            let (reason, is_first) = match answer.text("kind")?.as_deref() {
                Some("replaced") => (Reason::Replaced, true),
                Some("evicted") => (Reason::SignedInElsewhere, false),
                Some("created") => continue,
                Some("user_disabled") => return Ok(Created::Refused(disabled)),
                Some("ended_meanwhile") => return Ok(Created::Refused(fence)),
                Some("limit_reached") => return Ok(Created::Refused(full)),
                _ => return Err(unexpected::<D>("an unknown outcome")),
            };
            let info = answer.info()?;
            if info.expiry(now).is_none() {
                let ending = Ending { reason, by: by.clone(), note: None };
                let is_replaced = *replaces == Some(info.id);
                let order = (!is_replaced, !is_first, info.last_seen_at, info.created_at, info.id);
                ended.push((order, ending.of(info.id, info.user, now)));
            }
        }
        ended.sort_unstable_by_key(|(order, _)| *order);
        Ok(Created::Created { ended: ended.into_iter().map(|(_, ended)| ended).collect() })
    }

    pub(super) async fn update_record(&self, id: SessionId, change: &Change, now: Timestamp) -> Result<Updated> {
        let Change { id: change_id, remove_all, remove, set, fields, relied_on, if_version, lease, max_data_bytes } =
            change;
        let Fields { full_name, user_type, idle_timeout, ends_at } = fields;
        let args = vec![
            Arg::id(id),
            Arg::at(now),
            Arg::Bytes(Some(change_id.to_be_bytes().to_vec())),
            Arg::Int(lease.map(u64::cast_signed)),
            Arg::Int(if_version.map(u64::cast_signed)),
            relied_on_arg(relied_on),
            Arg::Bool(*remove_all),
            Arg::texts(remove),
            Arg::entries(set.iter().map(|(key, value)| (&**key, value.as_ref()))),
            Arg::count(*max_data_bytes),
            Arg::Bool(fields.are_audited()),
            Arg::Bool(full_name.is_some()),
            Arg::Text(full_name.clone().flatten()),
            Arg::Bool(user_type.is_some()),
            Arg::Text(user_type.clone().flatten()),
            Arg::Bool(idle_timeout.is_some()),
            Arg::Int(idle_timeout.flatten().map(duration_column)),
            Arg::Bool(ends_at.is_some()),
            Arg::maybe_at(ends_at.flatten()),
        ];
        let answers = self.changes.change(id, args).await?;
        Ok(match answers.kind()?.as_deref() {
            Some("applied") => Updated::Applied(record(&answers)?),
            Some("conflict") => Updated::Conflict(record(&answers)?),
            Some("lease_lost") => Updated::LeaseLost,
            Some("too_large") => {
                Updated::TooLarge(usize::try_from(answers.number()?.unwrap_or(i64::MAX)).unwrap_or(usize::MAX))
            }
            _ => Updated::Gone(answers.gone(now)?),
        })
    }

    pub(super) async fn touch_records(&self, touches: &[Touch], now: Timestamp) -> Result<Vec<bool>> {
        if touches.is_empty() {
            return Ok(Vec::new());
        }
        let mut in_order = touches.to_vec();
        in_order.sort_unstable_by_key(|touch| touch.id);
        let answers = self.write("touch", vec![Arg::Touches(in_order), Arg::at(now)]).await?;
        let mut living = answers.iter().map(|answer| answer.id()).collect::<Result<Vec<_>>>()?;
        living.sort_unstable();
        Ok(touches.iter().map(|touch| living.binary_search(&touch.id).is_ok()).collect())
    }

    pub(super) async fn rotate_record(&self, id: SessionId, rotation: &Rotation, now: Timestamp) -> Result<Rotated> {
        let Rotation { presented, successor, grace, at_once, by } = rotation;
        let args = vec![
            Arg::id(id),
            Arg::digest(presented),
            Arg::digest(successor),
            Arg::Int(Some(duration_column(*grace))),
            Arg::at(now.after(*grace)),
            Arg::Bool(*at_once),
            Arg::maybe_text(by.as_ref()),
            Arg::at(now),
        ];
        let answers = self.write("rotate", args).await?;
        Ok(match answers.kind()?.as_deref() {
            Some("rotated") => Rotated::Rotated(record(&answers)?),
            Some("superseded") => Rotated::Superseded(record(&answers)?),
            _ => Rotated::Gone(answers.gone(now)?),
        })
    }

    pub(super) async fn end_ids(&self, ids: &[SessionId], ending: &Ending, now: Timestamp) -> Result<Vec<EndAnswer>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut args = vec![Arg::ids(ids.iter().copied())];
        args.extend(ending_args(ending, now));
        let answers = self.write("end", args).await?;
        let mut found = HashMap::new();
        for answer in answers.iter() {
            let id = answer.id()?;
            let ended = if answer.is("tombstone")? {
                EndAnswer::EndedBefore(answer.tombstone()?.ended)
            } else {
                end_answer(&answer, ending, now)?
            };
            found.insert(id, ended);
        }
        Ok(ids.iter().map(|id| answer_once(&mut found, *id)).collect())
    }

    pub(super) async fn end_of_user(
        &self,
        user: &Arc<str>,
        except: &[SessionId],
        fence: Fence,
        ending: &Ending,
        now: Timestamp,
    ) -> Result<Vec<EndAnswer>> {
        let mut args = vec![
            self.lock_of_user(user),
            Arg::text(user),
            Arg::ids(except.iter().copied()),
            Arg::Bool(fence == Fence::Disabled),
        ];
        args.extend(ending_args(ending, now));
        let answers = self.write("end_of_user", args).await?;
        let mut ended = Vec::new();
        for answer in answers.iter() {
            if let ended_now @ EndAnswer::EndedNow(_) = end_answer(&answer, ending, now)? {
                let info = answer.info()?;
                ended.push(((info.created_at, info.id), ended_now));
            }
        }
        ended.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
        Ok(ended.into_iter().map(|(_, ended)| ended).collect())
    }

    pub(super) async fn append_to_log(&self, entry: &AuditEntry) -> Result<()> {
        let AuditEntry { at, event, session, user, impersonated_by, audit_user, ip, reason, by, note } = entry;
        let args = vec![
            Arg::at(*at),
            Arg::text(event.code()),
            Arg::id(*session),
            Arg::maybe_text(user.as_ref()),
            Arg::maybe_text(impersonated_by.as_ref()),
            Arg::maybe_text(audit_user.as_ref()),
            Arg::Text(ip_column(*ip).map(Into::into)),
            Arg::Text(reason.map(|reason| reason.code().into())),
            Arg::maybe_text(by.as_ref()),
            Arg::maybe_text(note.as_ref()),
        ];
        self.write("log", args).await.map(drop)
    }

    /// In steps, so that no transaction is long.
    pub(super) async fn reap_in_steps(&self, reap: Reap, now: Timestamp) -> Result<Reaped> {
        let Reap { limit, tombstones_before, audit_before } = reap;
        let [mut sessions, mut tombstones, mut entries] = [limit; 3];
        let mut ended = Vec::new();
        loop {
            let fences = STEP;
            let args = vec![
                Arg::count(sessions.min(STEP)),
                Arg::count(tombstones.min(STEP)),
                Arg::at(tombstones_before),
                Arg::count(entries.min(STEP)),
                Arg::at(audit_before),
                Arg::count(fences),
                Arg::at(now),
            ];
            let answers = self.write("reap", args).await?;
            let ended_before = ended.len();
            for answer in answers.iter().filter(|answer| answer.is("expired").unwrap_or(false)) {
                ended.push(answer.expired(now)?);
            }
            let sessions_left = is_step_full(&answers, "looked_at", sessions)?;
            sessions -= (ended.len() - ended_before).min(sessions);
            let tombstones_left = use_up(&answers, "tombstones", &mut tombstones)?;
            let entries_left = use_up(&answers, "entries", &mut entries)?;
            let fences_left = is_step_full(&answers, "fences", fences)?;
            let may_go_on = [(sessions, sessions_left), (tombstones, tombstones_left), (entries, entries_left)];
            if !fences_left && may_go_on.iter().all(|(quota, left)| *quota == 0 || !left) {
                return Ok(Reaped { ended, more: may_go_on.iter().any(|(_, left)| *left) });
            }
        }
    }

    /// What creations that could disturb each other wait for: those of one user, or of one idempotency key.
    fn lock_of(&self, record: &Record) -> Arg {
        match (&record.info.user, &record.idempotency) {
            (Some(user), _) => self.lock_of_user(user),
            (None, Some(key)) => lock_number(key.as_bytes()),
            (None, None) => lock_number(&record.info.id.as_bytes()[2..]),
        }
    }

    pub(super) fn lock_of_user(&self, user: &str) -> Arg {
        lock_number(self.key.keyed_digest(user.as_bytes()).as_bytes())
    }
}

/// So many rows of each kind are reaped in one transaction: a few milliseconds' work.
const STEP: usize = 256;

fn lock_number(bytes: &[u8]) -> Arg {
    Arg::Int(bytes.first_chunk().map(|chunk| i64::from_be_bytes(*chunk)))
}

/// All that a creation can be refused for, in the order in which it is looked at.
fn refusals(limit: Option<Limit>) -> [Refusal; 3] {
    let max = limit.map_or(0, |limit| limit.max);
    [Refusal::UserDisabled, Refusal::EndedMeanwhile, Refusal::LimitReached { max }]
}

/// The columns of a session that hold what it is, in the order in which they are created.
pub(super) fn columns(record: &Record) -> Vec<(&'static str, Arg)> {
    let Record { info, data: _, secrets, recent_changes, lease, idempotency, .. } = record;
    vec![
        ("id", Arg::id(info.id)),
        ("user_id", Arg::maybe_text(info.user.as_ref())),
        ("full_name", Arg::maybe_text(info.full_name.as_ref())),
        ("user_type", Arg::maybe_text(info.user_type.as_ref())),
        ("created_at", Arg::at(info.created_at)),
        ("last_seen_at", Arg::at(info.last_seen_at)),
        ("idle_timeout", Arg::Int(info.idle_timeout.map(duration_column))),
        ("ends_at", Arg::maybe_at(info.ends_at)),
        ("authenticated_at", Arg::maybe_at(info.authenticated_at)),
        ("methods", Arg::maybe_text(info.methods.as_ref())),
        ("level", Arg::Int(info.level.map(|level| level.number().into()))),
        ("remember", Arg::Bool(info.remember)),
        ("ip", Arg::Text(ip_column(info.client.ip).map(Into::into))),
        ("user_agent", Arg::maybe_text(info.client.user_agent.as_ref())),
        ("device", Arg::maybe_text(info.client.device.as_ref())),
        ("country", Arg::maybe_text(info.client.country.as_ref())),
        ("impersonated_by", Arg::maybe_text(info.impersonated_by.as_ref())),
        ("returns_to", Arg::Bytes(info.returns_to.map(|id| id.as_bytes().to_vec()))),
        ("audit_user", Arg::maybe_text(info.audit_user.as_ref())),
        ("version", Arg::Int(Some(info.version.cast_signed()))),
        ("secret", Arg::digest(&secrets.current)),
        ("secret_issued_at", Arg::at(secrets.issued_at)),
        ("rotations", Arg::Int(Some(secrets.rotations.into()))),
        ("predecessors", Arg::Bytes(Some(pack_predecessors(secrets)))),
        ("recent_changes", Arg::Bytes(Some(pack_changes(recent_changes)))),
        ("lease_number", Arg::Int(Some(lease.number.cast_signed()))),
        ("lease_until", Arg::at(lease.until)),
        ("idempotency", Arg::Bytes(idempotency.as_ref().map(|key| key.as_bytes().to_vec()))),
    ]
}

fn relied_on_arg(relied_on: &BTreeMap<Arc<str>, Option<Json>>) -> Arg {
    let text = |value: &Option<Json>| value.as_ref().map(|value| value.as_str().into());
    Arg::Entries(relied_on.iter().map(|(key, value)| (Arc::clone(key), text(value))).collect())
}

fn ending_args(ending: &Ending, now: Timestamp) -> [Arg; 4] {
    let Ending { reason, by, note } = ending;
    [Arg::text(reason.code()), Arg::maybe_text(by.as_ref()), Arg::maybe_text(note.as_ref()), Arg::at(now)]
}

/// What became of a session that was there.
fn end_answer<D: Dialect>(answer: &Answer<'_, D>, ending: &Ending, now: Timestamp) -> Result<EndAnswer> {
    let info = answer.info()?;
    Ok(match info.expired(now) {
        Some(expired) => EndAnswer::EndedBefore(expired),
        None => EndAnswer::EndedNow(ending.of(info.id, info.user, now)),
    })
}

/// An id that comes twice ended the first time.
fn answer_once(found: &mut HashMap<SessionId, EndAnswer>, id: SessionId) -> EndAnswer {
    let Some(answer) = found.get(&id).cloned() else { return EndAnswer::Unknown(id) };
    let before = |ended: &Ended| EndAnswer::EndedBefore(ended.clone());
    if let EndAnswer::EndedNow(ended) = &answer {
        found.insert(id, before(ended));
    }
    answer
}

/// How many rows of a kind a reap went through.
fn count_of<D: Dialect>(answers: &Answers<D>, kind: &str) -> Result<usize> {
    for answer in answers.iter() {
        if answer.is(kind)? {
            let count = answer.int_of("number")?;
            return usize::try_from(count).map_err(|_| unexpected::<D>("a negative count"));
        }
    }
    Err(unexpected::<D>("no count"))
}

/// Whether a step went through as many as it was allowed to, so that there may be more.
fn is_step_full<D: Dialect>(answers: &Answers<D>, kind: &str, quota: usize) -> Result<bool> {
    Ok(count_of(answers, kind)? >= quota.min(STEP))
}

fn use_up<D: Dialect>(answers: &Answers<D>, kind: &str, quota: &mut usize) -> Result<bool> {
    let count = count_of(answers, kind)?;
    let left = count >= (*quota).min(STEP);
    *quota -= count.min(*quota);
    Ok(left)
}
