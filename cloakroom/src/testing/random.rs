//! Random operations on a store and on the [model](super::model), compared step by step.

use std::{collections::HashMap, time::Duration};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngSeed, TestRunner},
};

use super::{
    Open, Subject, block_on,
    checks::fixtures::{GRACE, NOW, Start, json, reap_only},
    fresh,
    model::Model,
    operations::{KEYS, NewChange, NewField, NewSession, NewWho, Operation, USERS, VALUES, operation},
};
use crate::{
    admission::Limit,
    assurance::Assurance,
    audit::{AuditEntry, Event},
    change::Change,
    clock::Timestamp,
    data::JsonRef,
    ended::{Ending, Reason},
    error::Error,
    record::{Acting, Authentication, Record, SessionInfo},
    rules::{Create, Created, EndAnswer, Fence, Loaded, Reap, Rotated, Rotation, Touch, Updated, Which},
    store::{AuditQuery, PutUser, Query},
    token::{Digest, Partition, SessionId},
};

/// Drives fresh stores with random operations and compares each with the model. The
/// [`conformance!`](crate::conformance) macro's test calls it.
pub fn run_state_machine(open: Open) {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 1000, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 64;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0);
    }
    let operations = prop::collection::vec(operation(), 1..60);
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&operations, |operations| block_on(compare(open, &operations)));
    if let Err(error) = outcome {
        panic!("the store and the model disagree: {error}");
    }
}

/// Longer than any time a random sign-in lies back, so that no store can still need what is forgotten.
const RETENTION: Duration = Duration::from_secs(10);

async fn compare(open: Open, operations: &[Operation]) -> Result<(), TestCaseError> {
    let subject = fresh(open).await;
    let mut comparison = Comparison {
        model: Model::default(),
        now: NOW,
        ids: Vec::new(),
        secrets: HashMap::new(),
        last_create: None,
        last_change: None,
        last_rotation: None,
        issued: 0,
        subject,
    };
    for operation in operations {
        comparison.step(operation).await?;
    }
    comparison.everything_is_the_same().await
}

/// A store and the model of it.
struct Comparison {
    subject: Subject,
    model: Model,
    now: Timestamp,
    /// Every session ever tried to start.
    ids: Vec<SessionId>,
    /// The secrets each was given, newest first, those that lost a rotation as well.
    secrets: HashMap<SessionId, Vec<Digest>>,
    last_create: Option<Create>,
    last_change: Option<(SessionId, Change)>,
    last_rotation: Option<(SessionId, Rotation)>,
    issued: u64,
}

impl Comparison {
    async fn step(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Create(new) => self.create(new).await,
            Operation::Update(session, new) => {
                let id = self.pick(*session);
                let change = self.change(id, new);
                self.last_change = Some((id, change.clone()));
                self.update(id, &change).await
            }
            Operation::UpdateAgain => match self.last_change.clone() {
                Some((id, change)) => self.update(id, &change).await,
                None => Ok(()),
            },
            Operation::Touch(touches) => self.touch(touches).await,
            Operation::Rotate(session, secret, at_once) => self.rotate(self.pick(*session), *secret, *at_once).await,
            Operation::CreateAgain => match self.last_create.clone() {
                Some(create) => self.create_once(&create).await,
                None => Ok(()),
            },
            Operation::RotateAgain => match self.last_rotation.clone() {
                Some((id, rotation)) => self.rotate_once(id, &rotation).await,
                None => Ok(()),
            },
            Operation::Lock(session, millis) => self.lock(self.pick(*session), *millis).await,
            Operation::Renew(session, ago, millis) => self.renew(self.pick(*session), *ago, *millis).await,
            Operation::Unlock(session, ago) => self.unlock(self.pick(*session), *ago).await,
            Operation::EndIds(sessions) => {
                self.end(&Which::Ids(sessions.iter().map(|session| self.pick(*session)).collect())).await
            }
            Operation::EndOfUser { user, except, disable } => {
                let except = except.iter().map(|session| self.pick(*session)).collect();
                let fence = if *disable { Fence::Disabled } else { Fence::EndedBefore };
                self.end(&Which::OfUser { user: USERS[*user].into(), except, fence }).await
            }
            Operation::Log(session) => self.log(self.pick(*session)).await,
            Operation::Enable(user) => {
                self.model.enable_user(USERS[*user]);
                self.subject.store.enable_user(USERS[*user], self.now).await.map_err(|error| failed(&error))
            }
            Operation::PutUser(user, right, settings) => self.put_user(USERS[*user], *right, *settings).await,
            Operation::Users(page) => self.users(*page).await,
            Operation::ReapSome(limit) => self.reap_some(*limit).await,
            Operation::ReapAll => self.reap_all().await,
            Operation::Advance(millis) => {
                self.now = self.now.after(Duration::from_millis(*millis));
                Ok(())
            }
            Operation::Load(session) => self.load(self.pick(*session)).await,
            Operation::Find { user, acting, on_phone, unseen_for, page } => {
                let query = Query {
                    user: user.map(|user| USERS[user].into()),
                    impersonated_by: acting.then(|| "root".into()),
                    ip: None,
                    device: on_phone.then(|| "phone".into()),
                    last_seen_before: unseen_for.map(|millis| self.now.before(Duration::from_millis(millis))),
                };
                self.find(&query, *page).await
            }
            Operation::Audit(page) => self.audit(&AuditQuery::default(), *page).await,
        }
    }

    /// A session that was started, or now and then one that never was.
    fn pick(&self, session: Index) -> SessionId {
        let unknown = || Start::new(None, Partition::random().expect("random bytes")).id();
        self.ids.get(session.index(self.ids.len() + 1)).copied().unwrap_or_else(unknown)
    }

    async fn create(&mut self, new: &NewSession) -> Result<(), TestCaseError> {
        let now = self.now;
        let user = new.user.map(|user| USERS[user]);
        // Tries with one key are in one partition: an anonymous one's is derived from the key.
        let partition_of = self.subject.store.partition_key();
        let partition = partition_of.partition_of(user.unwrap_or("anonymous"));
        let elsewhere = SessionId::generate(partition).expect("random bytes");
        let mut start = Start::new(user, partition).at(now).by("gateway").with(|info| {
            info.client.device = new.on_phone.then(|| "phone".into());
            info.idle_timeout = new.idle.map(Duration::from_millis);
            info.ends_at = new.ends_in.map(|millis| now.after(Duration::from_millis(millis)));
            let authenticated = now.before(Duration::from_millis(new.authenticated_before));
            let NewWho { acting, audited, level, note: _ } = &new.who;
            let level = level.and_then(Assurance::from_number);
            let methods = level.map(|_| "pwd otp".into());
            info.authentication = user.map(|_| Authentication { at: authenticated, methods, level });
            let acting = user.filter(|_| *acting);
            info.acting = acting.map(|_| Acting { by: "root".into(), returns_to: Some(elsewhere) });
            info.audit_user = audited.then(|| "olga".into());
            info.client.country = audited.then(|| "DE".into());
        });
        let create = &mut start.create;
        create.note = new.who.note.map(|()| "ticket 17".into());
        for (key, value) in &new.keys {
            create.record.data.insert(KEYS[*key], json(VALUES[*value]));
        }
        let limit_of = |(max, evict)| if evict { Limit::evict(max) } else { Limit::refuse(max) };
        create.limit = new.limit.map(limit_of);
        create.replaces = new.replaces.map(|session| self.pick(session));
        create.record.idempotency = new.idempotency.map(|key| {
            let user = new.user.map_or(u8::MAX, |user| u8::try_from(user).expect("few users"));
            Digest::from_bytes([[user, key]; Digest::LEN / 2].as_flattened().try_into().expect("32 bytes"))
        });

        self.ids.push(start.id());
        self.secrets.insert(start.id(), vec![start.token.digest()]);
        self.last_create = Some(start.create.clone());
        self.create_once(&start.create).await
    }

    async fn create_once(&mut self, create: &Create) -> Result<(), TestCaseError> {
        let expected = self.model.create(create, self.now);
        let found = self.subject.store.create(create, self.now).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(in_any_order(found), in_any_order(expected));
        Ok(())
    }

    fn change(&mut self, id: SessionId, new: &NewChange) -> Change {
        let now = self.now;
        let mut change = Change::new(if new.small { 40 } else { 1000 });
        if new.remove_all {
            change.remove_all();
        }
        new.remove.iter().for_each(|key| change.remove(KEYS[*key]));
        new.set.iter().for_each(|(key, value)| change.set(KEYS[*key], json(VALUES[*value])));
        let text = |text: Option<usize>| Some(text.map(|text| USERS[text].into()));
        for field in &new.fields {
            match *field {
                NewField::FullName(name) => change.fields.full_name = text(name),
                NewField::UserType(kind) => change.fields.user_type = text(kind),
                NewField::Idle(idle) => change.fields.idle_timeout = Some(idle.map(Duration::from_millis)),
                NewField::EndsIn(end) => {
                    change.fields.ends_at = Some(end.map(|millis| now.after(Duration::from_millis(millis))));
                }
            }
        }

        let record = self.model.record(id, now);
        for (key, true_value) in &new.rely {
            let value = record.and_then(|record| record.data.get(KEYS[*key]).map(JsonRef::to_json));
            let value = if *true_value { value } else { Some(json("\"never set\"")) };
            change.relied_on.insert(KEYS[*key].into(), value);
        }
        let version = record.map_or(0, |record| record.info.version);
        let grant = record.map_or(0, |record| record.lease.number);
        change.lease = new.lease.map(|ago| grant.saturating_sub(ago));
        change.if_version = new.if_version.map(|right| if right { version } else { version + 1 });
        change
    }

    async fn update(&mut self, id: SessionId, change: &Change) -> Result<(), TestCaseError> {
        let expected = self.model.update(id, change, self.now);
        let found = self.subject.store.update(id, change, self.now).await.map_err(|error| failed(&error))?;
        let data = |updated: &Updated| match updated {
            Updated::Applied(record) | Updated::Conflict(record) => shown(record),
            Updated::LeaseLost | Updated::TooLarge(_) | Updated::Gone(_) => Vec::new(),
        };
        prop_assert_eq!(data(&found), data(&expected));
        prop_assert_eq!(found, expected);
        Ok(())
    }

    async fn touch(&mut self, touches: &[(Index, i64, bool)]) -> Result<(), TestCaseError> {
        let mut batch: Vec<Touch> = Vec::new();
        for (session, offset, confirms) in touches {
            let id = self.pick(*session);
            if batch.iter().all(|touch| touch.id != id) {
                let seen_at = Timestamp::from_millis(self.now.as_millis() + offset);
                batch.push(Touch { id, seen_at, grace_ends: confirms.then(|| self.now.after(GRACE)) });
            }
        }
        let expected = self.model.touch(&batch, self.now);
        let found = self.subject.store.touch(&batch, self.now).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(found, expected);
        Ok(())
    }

    async fn rotate(&mut self, id: SessionId, secret: usize, at_once: bool) -> Result<(), TestCaseError> {
        let successor = self.new_secret();
        let secrets = self.secrets.entry(id).or_default();
        let presented = secrets.get(secret).copied();
        secrets.insert(0, successor);
        let presented = presented.unwrap_or_else(|| self.new_secret());
        let rotation = Rotation { presented, successor, grace: GRACE, at_once, by: Some("gateway".into()) };
        self.last_rotation = Some((id, rotation.clone()));
        self.rotate_once(id, &rotation).await
    }

    async fn rotate_once(&mut self, id: SessionId, rotation: &Rotation) -> Result<(), TestCaseError> {
        let expected = self.model.rotate(id, rotation, self.now);
        let found = self.subject.store.rotate(id, rotation, self.now).await.map_err(|error| failed(&error))?;
        // Digests look the same in a failure; whether it was done does not.
        let done = |rotated: &Rotated| matches!(rotated, Rotated::Rotated(_));
        prop_assert_eq!(done(&found), done(&expected), "rotated");
        prop_assert_eq!(found, expected);
        Ok(())
    }

    async fn lock(&mut self, id: SessionId, millis: u64) -> Result<(), TestCaseError> {
        let lease = Duration::from_millis(millis);
        let found = self.subject.store.lock(id, lease, self.now).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(found, self.model.lock(id, lease, self.now));
        Ok(())
    }

    async fn renew(&mut self, id: SessionId, ago: u64, millis: u64) -> Result<(), TestCaseError> {
        let (number, lease) = (self.grant(id, ago), Duration::from_millis(millis));
        let found = self.subject.store.renew(id, number, lease, self.now).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(found, self.model.renew(id, number, lease, self.now));
        Ok(())
    }

    async fn unlock(&mut self, id: SessionId, ago: u64) -> Result<(), TestCaseError> {
        let number = self.grant(id, ago);
        let found = self.subject.store.unlock(id, number, self.now).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(found, self.model.unlock(id, number, self.now));
        Ok(())
    }

    /// The number of the grant that was so many before the latest.
    fn grant(&mut self, id: SessionId, ago: u64) -> u64 {
        let latest = self.model.record(id, self.now).map_or(0, |record| record.lease.number);
        latest.saturating_sub(ago)
    }

    fn new_secret(&mut self) -> Digest {
        self.issued += 1;
        let mut bytes = [7; Digest::LEN];
        bytes[..8].copy_from_slice(&self.issued.to_be_bytes());
        Digest::from_bytes(bytes)
    }

    async fn log(&mut self, id: SessionId) -> Result<(), TestCaseError> {
        let entry = AuditEntry {
            at: self.now,
            event: Event::Refused,
            session: id,
            user: None,
            impersonated_by: Some("root".into()),
            audit_user: None,
            ip: None,
            reason: None,
            by: Some("gateway".into()),
            note: Some("refused at random".into()),
        };
        self.model.log.push(entry.clone());
        self.subject.store.log(&entry, self.now).await.map_err(|error| failed(&error))
    }

    async fn end(&mut self, which: &Which) -> Result<(), TestCaseError> {
        let ending = Ending::new(Reason::RevokedByAdmin).by("root").note("random");
        let expected = self.model.end(which, &ending, self.now);
        let found = self.subject.store.end(which, &ending, self.now).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(&found, &expected);
        prop_assert!(
            matches!(which, Which::Ids(_)) || found.iter().all(|answer| matches!(answer, EndAnswer::EndedNow(_)))
        );
        Ok(())
    }

    /// Which of the expired sessions a limited reap ends is the store's choice.
    async fn reap_some(&mut self, limit: usize) -> Result<(), TestCaseError> {
        let expired = self.model.expired(self.now);
        let reaped = self.subject.store.reap(&reap_only(limit), self.now).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(reaped.ended.len(), limit.min(expired.len()));
        for (n, ended) in reaped.ended.iter().enumerate() {
            prop_assert!(expired.contains(ended), "{ended} was not expired so");
            prop_assert!(!reaped.ended[..n].contains(ended), "{ended} twice");
        }
        prop_assert!(reaped.more || expired.len() <= limit, "more is left");
        prop_assert!(!reaped.more || expired.len() >= limit, "nothing is left");
        self.model.reaped(&reaped.ended);
        Ok(())
    }

    async fn reap_all(&mut self) -> Result<(), TestCaseError> {
        let before = self.now.before(RETENTION);
        let reap = Reap { limit: 3, tombstones_before: before, audit_before: Timestamp::EPOCH };
        let mut expired = self.model.expired(self.now);
        let mut ended = Vec::new();
        // Whether a store forgets before it ends or after is its choice: the second round has nothing left to end.
        for _ in 0..2 {
            loop {
                let reaped = self.subject.store.reap(&reap, self.now).await.map_err(|error| failed(&error))?;
                ended.extend(reaped.ended);
                if !reaped.more {
                    break;
                }
            }
        }
        expired.sort_by_key(|ended| ended.id);
        ended.sort_by_key(|ended| ended.id);
        prop_assert_eq!(&ended, &expired);
        self.model.reaped(&ended);
        self.model.forget(before);
        Ok(())
    }

    async fn put_user(&mut self, user: &str, right: bool, settings: Option<usize>) -> Result<(), TestCaseError> {
        let known = self.model.users().into_iter().find(|stored| &*stored.user == user);
        let was = if right { known.map(|stored| stored.settings) } else { Some("never there".into()) };
        let settings = settings.map(|settings| VALUES[settings].into());
        let put = PutUser { user: user.into(), was, settings, last_sign_in: None };
        let found = self.subject.store.put_user(&put).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(found, self.model.put_user(&put));
        let found = self.subject.store.user(user).await.map_err(|error| failed(&error))?;
        let expected = self.model.users().into_iter().find(|stored| &*stored.user == user);
        prop_assert_eq!(found, expected);
        Ok(())
    }

    async fn users(&self, page: usize) -> Result<(), TestCaseError> {
        let mut found = self.subject.users_in_pages(page).await;
        found.sort_unstable_by(|one, other| one.user.cmp(&other.user));
        prop_assert_eq!(found, self.model.users());
        Ok(())
    }

    async fn load(&mut self, id: SessionId) -> Result<(), TestCaseError> {
        let expected = self.model.load(id, self.now);
        let found = self.subject.store.load(id, self.now).await.map_err(|error| failed(&error))?;
        if let Some(peeked) = self.subject.store.peek(id, self.now) {
            prop_assert_eq!(&peeked, &expected);
        }
        let data = |loaded: &Loaded| match loaded {
            Loaded::Live(record) => shown(record),
            Loaded::Ended(_) | Loaded::Unknown => Vec::new(),
        };
        prop_assert_eq!(data(&found), data(&expected));
        prop_assert_eq!(found, expected);
        Ok(())
    }

    async fn find(&self, query: &Query, page: usize) -> Result<(), TestCaseError> {
        let mut found: Vec<SessionInfo> = self.subject.find_in_pages(query, page, self.now).await;
        if query.user.is_none() {
            found.sort_by_key(|info| info.id);
        }
        prop_assert_eq!(found, self.model.find(query, self.now));
        Ok(())
    }

    /// Order is within a session; how the entries of several are mixed is the store's choice.
    async fn audit(&self, query: &AuditQuery, page: usize) -> Result<(), TestCaseError> {
        let mut found = self.subject.log_in_pages(query, page).await;
        let about = |entry: &&AuditEntry| query.user.is_none() || query.user == entry.user;
        let mut expected: Vec<_> = self.model.log.iter().filter(about).cloned().collect();
        found.sort_by_key(|entry| entry.session);
        expected.sort_by_key(|entry| entry.session);
        prop_assert_eq!(found, expected);
        Ok(())
    }

    async fn everything_is_the_same(&mut self) -> Result<(), TestCaseError> {
        for id in self.ids.clone() {
            self.load(id).await?;
        }
        self.find(&Query::default(), 5).await?;
        self.audit(&AuditQuery::default(), 7).await?;
        self.users(2).await?;
        for user in USERS {
            self.find(&Query::of_user(user), 3).await?;
            self.audit(&AuditQuery { user: Some(user.into()), session: None }, 4).await?;
        }
        Ok(())
    }
}

fn failed(error: &Error) -> TestCaseError {
    TestCaseError::fail(format!("the store failed: {error}"))
}

/// In which order a creation names what it ended is the store's choice.
fn in_any_order(mut created: Created) -> Created {
    if let Created::Created { ended } = &mut created {
        ended.sort_by_key(|ended| ended.id);
    }
    created
}

/// `Debug` hides values; a failure of the comparison must not.
fn shown(record: &Record) -> Vec<String> {
    record.data.iter().map(|(key, value)| format!("{key} = {}", value.as_str())).collect()
}
