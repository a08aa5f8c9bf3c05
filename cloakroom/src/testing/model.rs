//! The plain model: a list of all sessions ever, searched from one end to the other.
//!
//! It is written from the contract alone and shares no code with any store, so that a mistake would have to be made
//! twice to go unnoticed. Where the contract leaves a choice to the store, the model takes its word after checking it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    admission::{Limit, Refusal, WhenFull},
    audit::{AuditEntry, Event},
    change::Change,
    clock::Timestamp,
    data::{Data, Json},
    ended::{Ended, Ending, Reason},
    lease::Lease,
    record::{Record, SessionInfo},
    rules::{
        Create, Created, EndAnswer, Fence, Gone, Loaded, Locked, Rotated, Rotation, Tombstone, Touch, Updated, Which,
    },
    secrets::Predecessor,
    store::{LastSignIn, PutUser, Query, StoredUser},
    token::{Digest, SessionId},
};

#[derive(Default)]
pub(super) struct Model {
    sessions: Vec<Session>,
    disabled: Vec<Arc<str>>,
    fences: Vec<(Arc<str>, Timestamp)>,
    directory: BTreeMap<Arc<str>, (Arc<str>, Option<LastSignIn>)>,
    pub(super) log: Vec<AuditEntry>,
}

struct Session {
    record: Record,
    fate: Fate,
}

#[derive(Clone, PartialEq)]
enum Fate {
    /// It was not ended; its deadlines may have passed.
    Open,
    Ended(Ended),
    Forgotten,
}

impl Session {
    fn info(&self) -> &SessionInfo {
        &self.record.info
    }

    /// How it ended, if it has by `now`, whether that was noticed or not.
    fn end_by(&self, now: Timestamp) -> Option<Ended> {
        match &self.fate {
            Fate::Ended(ended) => Some(ended.clone()),
            Fate::Open => expiry(self.info(), now),
            Fate::Forgotten => None,
        }
    }

    fn lives(&self, now: Timestamp) -> bool {
        self.fate == Fate::Open && self.end_by(now).is_none()
    }
}

/// How a session that nobody ended has run out by `now`.
fn expiry(info: &SessionInfo, now: Timestamp) -> Option<Ended> {
    let idle = info.idle_timeout.map(|idle| (info.last_seen_at.after(idle), 1, Reason::IdleTimeout));
    let absolute = info.ends_at.map(|end| (end, 0, Reason::AbsoluteTimeout));
    let (at, _, reason) = idle.into_iter().chain(absolute).min_by_key(|(at, rank, _)| (*at, *rank))?;
    (at <= now).then(|| Ended { id: info.id, user: info.user.clone(), at, reason, by: None, note: None })
}

impl Model {
    pub(super) fn create(&mut self, create: &Create, now: Timestamp) -> Created {
        let info = &create.record.info;
        if self.session(info.id).is_some() {
            return Created::Created { ended: Vec::new() };
        }
        if let Some(refusal) = self.refusal(create, now) {
            let remark = create.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
            let note = Some(format!("{refusal}{remark}").into());
            self.log.push(AuditEntry { by: create.by.clone(), note, ..entry(info, Event::Refused, now) });
            return Created::Refused(refusal);
        }
        let surplus = self.surplus(create, now);
        let mut ended = Vec::new();
        for (ids, reason) in [(self.uncounted(create), Reason::Replaced), (surplus, Reason::SignedInElsewhere)] {
            for id in ids {
                let ending = Ending { reason, by: create.by.clone(), note: None };
                if let EndAnswer::EndedNow(now_ended) = self.end_one(id, &ending, now) {
                    ended.push(now_ended);
                }
            }
        }
        let event = match (&info.user, info.impersonator()) {
            (_, Some(_)) => Event::Impersonated,
            (Some(_), None) => Event::SignedIn,
            (None, None) => Event::Started,
        };
        self.log.push(AuditEntry { by: create.by.clone(), note: create.note.clone(), ..entry(info, event, now) });
        if let Some(user) = info.user.as_ref().filter(|_| info.impersonator().is_none())
            && let Some((_, last)) = self.directory.get_mut(user)
            && last.is_none_or(|last| last.at <= info.created_at)
        {
            *last = Some(LastSignIn { at: info.created_at, ip: info.client.ip });
        }
        self.sessions.push(Session { record: create.record.clone(), fate: Fate::Open });
        Created::Created { ended }
    }

    fn refusal(&self, create: &Create, now: Timestamp) -> Option<Refusal> {
        let info = &create.record.info;
        let user = info.user.as_ref()?;
        if self.disabled.contains(user) {
            return Some(Refusal::UserDisabled);
        }
        let proven = match info.impersonator() {
            Some(_) => info.created_at,
            None => info.authenticated_at().unwrap_or(info.created_at),
        };
        if self.fences.iter().any(|(fenced, at)| fenced == user && proven < *at) {
            return Some(Refusal::EndedMeanwhile);
        }
        let limit = limit_of(create).filter(|limit| limit.when_full == WhenFull::Refuse)?;
        let full = self.counted(create, now).len() >= limit.max as usize;
        full.then_some(Refusal::LimitReached { max: limit.max })
    }

    /// The sessions that must go so that the limit has room for one more.
    fn surplus(&self, create: &Create, now: Timestamp) -> Vec<SessionId> {
        let Some(limit) = limit_of(create) else { return Vec::new() };
        let mut counted = self.counted(create, now);
        let room = limit.max as usize;
        let mut surplus = Vec::new();
        while counted.len() >= room && !counted.is_empty() {
            let oldest = counted.iter().copied().min_by_key(|info| (info.last_seen_at, info.created_at, info.id));
            let oldest = oldest.expect("it is not empty").id;
            counted.retain(|info| info.id != oldest);
            surplus.push(oldest);
        }
        surplus
    }

    fn counted(&self, create: &Create, now: Timestamp) -> Vec<&SessionInfo> {
        let uncounted = self.uncounted(create);
        let user = &create.record.info.user;
        let of_user = self.sessions.iter().filter(|session| user.is_some() && session.info().user == *user);
        let living = of_user.filter(|session| session.lives(now)).map(Session::info);
        let counts = |info: &&SessionInfo| info.impersonator().is_none() && !uncounted.contains(&info.id);
        living.filter(counts).collect()
    }

    /// The replaced session and that of an earlier try.
    fn uncounted(&self, create: &Create) -> Vec<SessionId> {
        let key = create.record.idempotency;
        let open = self.sessions.iter().filter(|session| session.fate == Fate::Open);
        let tried = open.filter(|session| key.is_some() && session.record.idempotency == key);
        create.replaces.into_iter().chain(tried.map(|session| session.info().id)).collect()
    }

    pub(super) fn load(&self, id: SessionId, now: Timestamp) -> Loaded {
        let Some(session) = self.session(id) else { return Loaded::Unknown };
        match session.end_by(now) {
            Some(ended) => Loaded::Ended(Arc::new(Tombstone { ended, secrets: session.record.secrets.clone() })),
            None => Loaded::Live(Arc::new(session.record.clone())),
        }
    }

    fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.iter().find(|session| session.info().id == id && session.fate != Fate::Forgotten)
    }

    fn living(&mut self, id: SessionId, now: Timestamp) -> Result<&mut Record, Gone> {
        let known = |session: &&mut Session| session.info().id == id && session.fate != Fate::Forgotten;
        let Some(session) = self.sessions.iter_mut().find(known) else { return Err(Gone::Unknown) };
        session.end_by(now).map_or(Ok(&mut session.record), |ended| Err(Gone::Ended(ended)))
    }

    /// The record of a session that lives.
    pub(super) fn record(&mut self, id: SessionId, now: Timestamp) -> Option<&Record> {
        self.living(id, now).ok().map(|record| &*record)
    }

    pub(super) fn update(&mut self, id: SessionId, change: &Change, now: Timestamp) -> Updated {
        let record = match self.living(id, now) {
            Ok(record) => record,
            Err(gone) => return Updated::Gone(gone),
        };
        if record.recent_changes.ids().contains(&change.id) {
            return Updated::Applied(Arc::new(record.clone()));
        }
        let before: BTreeMap<Arc<str>, Json> =
            record.data.iter().map(|(key, value)| (key.into(), value.to_json())).collect();
        let held = |number| record.lease.number == number && now < record.lease.until;
        if change.lease.is_some_and(|number| !held(number)) {
            return Updated::LeaseLost;
        }
        let wrong_version = change.if_version.is_some_and(|version| version != record.info.version);
        if wrong_version || change.relied_on.iter().any(|(key, value)| before.get(key) != value.as_ref()) {
            return Updated::Conflict(Arc::new(record.clone()));
        }

        let mut after = if change.remove_all { BTreeMap::new() } else { before.clone() };
        after.retain(|key, _| !change.remove.contains(key));
        after.extend(change.set.clone());
        let (size_before, size) = (size_of(&before), size_of(&after));
        if size > change.max_data_bytes && size > size_before {
            return Updated::TooLarge(size);
        }
        record.data = after.into_iter().collect::<Data>();
        let fields = change.fields.clone();
        let info = &mut record.info;
        info.full_name = fields.full_name.unwrap_or(info.full_name.clone());
        info.idle_timeout = fields.idle_timeout.unwrap_or(info.idle_timeout);
        info.ends_at = fields.ends_at.unwrap_or(info.ends_at);
        info.user_type = fields.user_type.clone().unwrap_or(info.user_type.clone());
        info.version += 1;
        let mut recent = [record.recent_changes.ids(), &[change.id]].concat();
        if recent.len() > 64 {
            recent.remove(0);
        }
        record.recent_changes = crate::record::RecentChanges::from_ids(recent);
        let record = record.clone();
        if fields.user_type.is_some() || fields.idle_timeout.is_some() || fields.ends_at.is_some() {
            self.log.push(entry(&record.info, Event::Changed, now));
        }
        Updated::Applied(Arc::new(record))
    }

    pub(super) fn touch(&mut self, touches: &[Touch], now: Timestamp) -> Vec<bool> {
        let mut answers = Vec::new();
        for touch in touches {
            let living = self.living(touch.id, now).ok();
            answers.push(living.is_some());
            let Some(record) = living else { continue };
            if touch.seen_at > record.info.last_seen_at {
                record.info.last_seen_at = touch.seen_at;
            }
            for predecessor in &mut record.secrets.predecessors {
                predecessor.grace_ends = predecessor.grace_ends.or(touch.grace_ends);
            }
        }
        answers
    }

    pub(super) fn rotate(&mut self, id: SessionId, rotation: &Rotation, now: Timestamp) -> Rotated {
        let record = match self.living(id, now) {
            Ok(record) => record,
            Err(gone) => return Rotated::Gone(gone),
        };
        let secrets = &mut record.secrets;
        if rotation.successor == secrets.current {
            return Rotated::Rotated(Arc::new(record.clone()));
        }
        let newest = secrets.predecessors.first().copied();
        let waits = |digest: Digest| newest == Some(Predecessor { digest, grace_ends: None });
        if rotation.presented == secrets.current {
            for predecessor in &mut secrets.predecessors {
                predecessor.grace_ends = predecessor.grace_ends.or(Some(now.after(rotation.grace)));
            }
            secrets.predecessors.insert(0, Predecessor { digest: secrets.current, grace_ends: None });
            secrets.predecessors.truncate(4);
        } else if !waits(rotation.presented) || now < secrets.issued_at.after(rotation.grace) {
            return Rotated::Superseded(Arc::new(record.clone()));
        }
        if rotation.at_once {
            secrets.predecessors.iter_mut().for_each(|dead| dead.grace_ends = Some(Timestamp::EPOCH));
        }
        secrets.current = rotation.successor;
        secrets.issued_at = now;
        secrets.rotations += 1;
        let record = record.clone();
        self.log.push(AuditEntry { by: rotation.by.clone(), ..entry(&record.info, Event::Rotated, now) });
        Rotated::Rotated(Arc::new(record))
    }

    pub(super) fn lock(&mut self, id: SessionId, lease: Duration, now: Timestamp) -> Locked {
        match self.living(id, now) {
            Err(gone) => Locked::Gone(gone),
            Ok(record) if now < record.lease.until => Locked::Held { until: record.lease.until },
            Ok(record) => {
                record.lease = Lease { number: record.lease.number + 1, until: now.after(lease) };
                Locked::Granted(Arc::new(record.clone()))
            }
        }
    }

    /// The lease of a grant that still holds.
    fn held(&mut self, id: SessionId, number: u64, now: Timestamp) -> Option<&mut Lease> {
        let lease = &mut self.living(id, now).ok()?.lease;
        (lease.number == number && now < lease.until).then_some(lease)
    }

    pub(super) fn renew(&mut self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> bool {
        let held = self.held(id, number, now);
        held.map(|held| held.until = held.until.max(now.after(lease))).is_some()
    }

    pub(super) fn unlock(&mut self, id: SessionId, number: u64, now: Timestamp) -> bool {
        self.held(id, number, now).map(|held| held.until = now).is_some()
    }

    pub(super) fn end(&mut self, which: &Which, ending: &Ending, now: Timestamp) -> Vec<EndAnswer> {
        match which {
            Which::Ids(ids) => ids.iter().map(|id| self.end_one(*id, ending, now)).collect(),
            Which::OfUser { user, except, fence } => {
                self.fences.push((user.clone(), now));
                if *fence == Fence::Disabled {
                    self.disabled.push(user.clone());
                }
                let mut of_user: Vec<_> =
                    self.sessions.iter().map(Session::info).filter(|info| info.user.as_ref() == Some(user)).collect();
                of_user.sort_by_key(|info| (info.created_at, info.id));
                let ids: Vec<_> = of_user.into_iter().rev().map(|info| info.id).collect();
                let ids = ids.into_iter().filter(|id| !except.contains(id));
                let answers: Vec<_> = ids.map(|id| self.end_one(id, ending, now)).collect();
                answers.into_iter().filter(|answer| matches!(answer, EndAnswer::EndedNow(_))).collect()
            }
        }
    }

    fn end_one(&mut self, id: SessionId, ending: &Ending, now: Timestamp) -> EndAnswer {
        let Some(session) = self.session(id) else { return EndAnswer::Unknown(id) };
        if let Some(ended) = session.end_by(now) {
            self.bury(&ended);
            return EndAnswer::EndedBefore(ended);
        }
        let Ending { reason, by, note } = ending.clone();
        let ended = Ended { id, user: session.info().user.clone(), at: now, reason, by, note };
        self.bury(&ended);
        EndAnswer::EndedNow(ended)
    }

    fn bury(&mut self, ended: &Ended) {
        let open = |session: &&mut Session| session.info().id == ended.id && session.fate == Fate::Open;
        let Some(session) = self.sessions.iter_mut().find(open) else { return };
        session.fate = Fate::Ended(ended.clone());
        let Ended { at, reason, by, note, .. } = ended.clone();
        self.log.push(AuditEntry { reason: Some(reason), by, note, ..entry(&session.record.info, Event::Ended, at) });
    }

    pub(super) fn put_user(&mut self, put: &PutUser) -> bool {
        let is = self.directory.get(&put.user).map(|(settings, _)| settings);
        if is != put.was.as_ref() && is != put.settings.as_ref() {
            return false;
        }
        match &put.settings {
            Some(settings) => {
                let entry = self.directory.entry(Arc::clone(&put.user)).or_default();
                entry.0 = Arc::clone(settings);
            }
            None => drop(self.directory.remove(&put.user)),
        }
        true
    }

    pub(super) fn users(&self) -> Vec<StoredUser> {
        let stored = self.directory.iter().map(|(user, (settings, last_sign_in))| StoredUser {
            user: Arc::clone(user),
            settings: Arc::clone(settings),
            last_sign_in: *last_sign_in,
        });
        stored.collect()
    }

    pub(super) fn enable_user(&mut self, user: &str) {
        self.disabled.retain(|disabled| **disabled != *user);
    }

    /// All living sessions that match: newest first for one user, by id otherwise.
    pub(super) fn find(&self, query: &Query, now: Timestamp) -> Vec<SessionInfo> {
        let matches = |info: &&SessionInfo| {
            (query.user.is_none() || query.user == info.user)
                && (query.impersonated_by.is_none() || query.impersonated_by.as_ref() == info.impersonator())
                && (query.ip.is_none() || query.ip == info.client.ip)
                && (query.device.is_none() || query.device == info.client.device)
                && query.last_seen_before.is_none_or(|limit| info.last_seen_at <= limit)
        };
        let living = self.sessions.iter().filter(|session| session.lives(now)).map(Session::info);
        let mut found: Vec<_> = living.filter(matches).cloned().collect();
        if query.user.is_some() {
            found.sort_by_key(|info| std::cmp::Reverse((info.created_at, info.id)));
        } else {
            found.sort_by_key(|info| info.id);
        }
        found
    }

    /// What a reap may end.
    pub(super) fn expired(&self, now: Timestamp) -> Vec<Ended> {
        let open = self.sessions.iter().filter(|session| session.fate == Fate::Open);
        open.filter_map(|session| session.end_by(now)).collect()
    }

    /// What a reap did end.
    pub(super) fn reaped(&mut self, ended: &[Ended]) {
        for ended in ended {
            self.bury(ended);
        }
    }

    pub(super) fn forget(&mut self, before: Timestamp) {
        for session in &mut self.sessions {
            if matches!(&session.fate, Fate::Ended(ended) if ended.at <= before) {
                session.fate = Fate::Forgotten;
            }
        }
        self.fences.retain(|(_, at)| *at > before);
    }
}

/// Nobody's limit holds for a session in which somebody acts as another.
fn limit_of(create: &Create) -> Option<Limit> {
    create.limit.filter(|_| create.record.info.impersonator().is_none())
}

fn size_of(data: &BTreeMap<Arc<str>, Json>) -> usize {
    data.iter().map(|(key, value)| key.len() + value.as_str().len()).sum()
}

fn entry(info: &SessionInfo, event: Event, at: Timestamp) -> AuditEntry {
    AuditEntry {
        at,
        event,
        session: info.id,
        user: info.user.clone(),
        impersonated_by: info.impersonator().cloned(),
        audit_user: info.audit_user.clone(),
        ip: info.client.ip,
        reason: None,
        by: None,
        note: None,
    }
}
