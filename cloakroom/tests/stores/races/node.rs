//! What one node does: sessions that all nodes change, users that all sign in, some of them disabled again and again.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Change, Data, Ended, Ending, Json, JsonRef, Limit, Reason, Record, Refusal, SessionId, SessionInfo, Timestamp,
    Token,
    record::Authentication,
    rules::{Create, Created, EndAnswer, Fence, Gone, Loaded, Rotated, Rotation, Rules, Touch, Updated, Which},
    store::{Digest, Partition, Query, Secrets},
};

use super::history::{Answer, Call, CallId, Recorder, Seen, Write};
use crate::common::random::Random;

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

pub(super) struct User {
    pub(super) name: &'static str,
    pub(super) limit: Option<Limit>,
    /// Whether sign-ins carry idempotency keys, of which each has one session at most.
    pub(super) keyed: bool,
    /// The node that ends all of the user's sessions from time to time, and whether it disables the user thereby.
    pub(super) sweeper: Option<(u32, bool)>,
}

pub(super) const USERS: &[User] = &[
    User { name: "anna", limit: Some(Limit::evict(3)), keyed: false, sweeper: None },
    User { name: "bert", limit: Some(Limit::refuse(3)), keyed: false, sweeper: None },
    User { name: "carl", limit: None, keyed: false, sweeper: Some((1, true)) },
    User { name: "dora", limit: None, keyed: false, sweeper: Some((2, false)) },
    User { name: "emil", limit: None, keyed: true, sweeper: None },
];

pub(super) struct Node {
    pub(super) store: Rules,
    pub(super) recorder: Recorder,
    pub(super) random: Random,
    pub(super) number: u32,
    /// Sessions that never end.
    pub(super) steady: Vec<SessionId>,
}

impl Node {
    /// Does so many things, two at a time.
    pub(super) async fn work(self: Arc<Self>, steps: u32) {
        let tasks = [0, 1].map(|task| {
            let node = Arc::clone(&self);
            tokio::spawn(async move {
                for step in 0..steps / 2 {
                    node.step(task, step).await;
                }
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
    }

    async fn step(&self, task: u32, step: u32) {
        let sweeps = |user: &&User| user.sweeper.is_some_and(|(node, _)| node == self.number);
        if task == 0
            && let Some(user) = USERS.iter().find(sweeps)
        {
            return self.sweep(user, step).await;
        }
        match self.random.below(100) {
            0..40 => {
                if let Some(id) = self.a_session().await {
                    self.change(id, task, step).await;
                }
            }
            40..48 => {
                if let Some(id) = self.a_session().await {
                    self.touch(id).await;
                }
            }
            48..56 => {
                if let Some(id) = self.a_session().await {
                    self.rotate(id).await;
                }
            }
            56..64 => {
                if let Some(id) = self.a_session().await {
                    self.load(id).await;
                }
            }
            64..88 => {
                let user = &USERS[self.random.below(USERS.len())];
                self.sign_in(user).await;
            }
            _ => {
                if let Some(id) = self.session_of(&USERS[self.random.below(USERS.len())]).await {
                    self.end(id).await;
                    if self.random.percent(50) {
                        self.load(id).await;
                    }
                }
            }
        }
    }

    /// One of the steady sessions, or one of a user that may end any time.
    async fn a_session(&self) -> Option<SessionId> {
        if self.random.percent(70) {
            return Some(self.steady[self.random.below(self.steady.len())]);
        }
        self.session_of(&USERS[self.random.below(USERS.len())]).await
    }

    async fn session_of(&self, user: &User) -> Option<SessionId> {
        let found = self.find(user.name).await;
        (!found.is_empty()).then(|| found[self.random.below(found.len())])
    }

    pub(super) async fn find(&self, user: &str) -> Vec<SessionId> {
        let call = self.recorder.begin(Call::Find { user: user.into() });
        match self.store.find(&Query::of_user(user), None, 1000, NOW).await {
            Ok(page) => {
                let found: Vec<_> = page.items.into_iter().map(|info| info.id).collect();
                self.recorder.end(call, Answer::Found(found.clone()));
                found
            }
            Err(error) => {
                self.recorder.end(call, error.into());
                Vec::new()
            }
        }
    }

    /// Starts a session that no node ends.
    pub(super) async fn start_steady(&self) -> SessionId {
        let create = creation(Partition::random().unwrap(), None);
        let id = create.record.info.id;
        let call = self.recorder.begin(Call::Create { id, user: None, key: None });
        self.create(call, create).await;
        id
    }

    async fn sign_in(&self, user: &User) {
        let partition = self.store.partition_key().partition_of(user.name);
        let mut create = creation(partition, Some(user.name));
        create.limit = user.limit;
        let key = user.keyed.then(|| u8::try_from(self.random.below(3)).unwrap());
        create.record.idempotency = key.map(|key| Digest::from_bytes([key; Digest::LEN]));
        let id = create.record.info.id;
        let call = self.recorder.begin(Call::Create { id, user: Some(user.name.into()), key });
        self.create(call, create).await;
    }

    async fn create(&self, call: CallId, mut create: Create) {
        create.by = Some(call.to_string().into());
        let answer = match self.store.create(&create, NOW).await {
            Ok(Created::Created { ended }) => {
                Answer::Created { ended: ended.into_iter().map(|ended| ended.id).collect() }
            }
            Ok(Created::Refused(refusal)) => Answer::Refused { because_disabled: refusal == Refusal::UserDisabled },
            Err(error) => error.into(),
        };
        self.recorder.end(call, answer);
    }

    pub(super) async fn load(&self, id: SessionId) -> Option<Arc<Record>> {
        let call = self.recorder.begin(Call::Load { id });
        let (answer, record) = match self.store.load(id, NOW).await {
            Ok(Loaded::Live(record)) => (Answer::Live(Seen::of(&record)), Some(record)),
            Ok(Loaded::Ended(tombstone)) => (
                Answer::Ended {
                    by: tombstone.ended.by.as_deref().map(Into::into),
                    rotations: Some(tombstone.secrets.rotations),
                },
                None,
            ),
            Ok(Loaded::Unknown) => (Answer::Unknown, None),
            Err(error) => (error.into(), None),
        };
        self.recorder.end(call, answer);
        record
    }

    async fn change(&self, id: SessionId, task: u32, step: u32) {
        let mut change = Change::new(1 << 20);
        let kind = self.random.below(4);
        let write = if kind == 0 {
            let (key, value) = (format!("own {} {task}", self.number), i64::from(step) + 1);
            set(&mut change, &key, value);
            Write::Own { key, value }
        } else {
            let Some(record) = self.load(id).await else { return };
            let seen = Seen::of(&record);
            let mut rely = |key: &str| {
                change.relied_on.insert(key.into(), record.data.get(key).map(JsonRef::to_json));
            };
            if kind == 1 {
                rely("a");
                rely("b");
                let a = i64::try_from(self.random.below(1000)).unwrap();
                set(&mut change, "a", a);
                set(&mut change, "b", -a);
                Write::Move { from: seen.value("a") }
            } else {
                rely("n");
                set(&mut change, "n", seen.value("n") + 1);
                Write::Increment { from: seen.value("n") }
            }
        };
        let call = self.recorder.begin(Call::Update { id, write });
        let answer = match self.store.update(id, &change, NOW).await {
            Ok(Updated::Applied(record)) => Answer::Applied(Seen::of(&record)),
            Ok(Updated::Conflict(record)) => Answer::Conflict(Seen::of(&record)),
            Ok(Updated::Gone(gone)) => answer(gone),
            Ok(other) => panic!("{other:?}"),
            Err(error) => error.into(),
        };
        self.recorder.end(call, answer);
    }

    async fn touch(&self, id: SessionId) {
        let at = NOW.as_millis() + i64::try_from(self.random.below(100_000)).unwrap();
        let call = self.recorder.begin(Call::Touch { id, at });
        let touch = Touch { id, seen_at: Timestamp::from_millis(at), grace_ends: None };
        let answer = match self.store.touch(&[touch], NOW).await {
            Ok(answers) => Answer::Touched(answers[0]),
            Err(error) => error.into(),
        };
        self.recorder.end(call, answer);
    }

    async fn rotate(&self, id: SessionId) {
        let Some(record) = self.load(id).await else { return };
        let rotation = Rotation {
            presented: record.secrets.current,
            successor: Token::generate(id).unwrap().digest(),
            grace: Duration::from_secs(30),
            at_once: false,
            by: None,
        };
        let call = self.recorder.begin(Call::Rotate { id });
        let answer = match self.store.rotate(id, &rotation, NOW).await {
            Ok(Rotated::Rotated(record)) => Answer::Rotated(Seen::of(&record)),
            Ok(Rotated::Superseded(record)) => Answer::Superseded(Seen::of(&record)),
            Ok(Rotated::Gone(gone)) => answer(gone),
            Err(error) => error.into(),
        };
        self.recorder.end(call, answer);
    }

    async fn end(&self, id: SessionId) {
        let call = self.recorder.begin(Call::End { id });
        let answer = match self.store.end(&Which::Ids(vec![id]), &ending(call), NOW).await {
            Ok(answers) => match &answers[..] {
                [EndAnswer::EndedNow(ended)] => Answer::EndedNow(vec![ended.id]),
                [EndAnswer::EndedBefore(_)] => Answer::EndedBefore,
                _ => Answer::Unknown,
            },
            Err(error) => error.into(),
        };
        self.recorder.end(call, answer);
    }

    /// Ends all sessions of a user. A disabled user stays so for two steps, in which nothing may start.
    async fn sweep(&self, user: &User, step: u32) {
        let disables = user.sweeper.is_some_and(|(_, disables)| disables);
        match step % 4 {
            0 => self.end_all(user.name, if disables { Fence::Disabled } else { Fence::EndedBefore }).await,
            3 if disables => {
                let call = self.recorder.begin(Call::Enable { user: user.name.into() });
                let enabled = self.store.enable_user(user.name, NOW).await;
                self.recorder.end(call, enabled.map_or_else(Into::into, |()| Answer::Enabled));
            }
            _ => {
                self.find(user.name).await;
                self.sign_in(user).await;
            }
        }
    }

    async fn end_all(&self, user: &str, fence: Fence) {
        let call = self.recorder.begin(match fence {
            Fence::Disabled => Call::Disable { user: user.into() },
            Fence::EndedBefore => Call::EndAll { user: user.into() },
        });
        let which = Which::OfUser { user: user.into(), except: Vec::new(), fence };
        let answer = match self.store.end(&which, &ending(call), NOW).await {
            Ok(answers) => {
                let ended = answers.into_iter().filter_map(EndAnswer::ended_now);
                Answer::EndedNow(ended.map(|ended| ended.id).collect())
            }
            Err(error) => error.into(),
        };
        self.recorder.end(call, answer);
    }
}

fn answer(gone: Gone) -> Answer {
    match gone {
        Gone::Ended(Ended { by, .. }) => Answer::Ended { by: by.as_deref().map(Into::into), rotations: None },
        Gone::Unknown => Answer::Unknown,
    }
}

fn ending(call: CallId) -> Ending {
    Ending::new(Reason::SignedOut).by(call.to_string())
}

fn set(change: &mut Change, key: &str, value: i64) {
    change.set(key, json(value));
}

fn json(value: i64) -> Json {
    Json::encode(&value).unwrap()
}

fn creation(partition: Partition, user: Option<&str>) -> Create {
    let id = SessionId::generate(partition).unwrap();
    let info = SessionInfo {
        user: user.map(Into::into),
        authentication: user.map(|_| Authentication::at(NOW)),
        ..SessionInfo::new(id, NOW)
    };
    let mut data = Data::new();
    for key in ["a", "b", "n"] {
        data.insert(key, json(0));
    }
    let record = Record { data, ..Record::new(info, Secrets::new(Token::generate(id).unwrap().digest(), NOW)) };
    Create { record, limit: None, replaces: None, by: None, note: None }
}
