//! What clients do on their nodes, and what they were promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use cloakroom::{
    Ending, Error, Found, JsonRef, Limit, Reason, SessionId, Sessions, SignIn, Timestamp, Token,
    rules::{EndAnswer, Updated},
    sessions::RotatedToken,
    testing::{self, ManualClock},
};

use super::{
    bugs::Bug,
    model,
    network::{Client, Server, Weather},
};
use crate::common::random::Random;

/// Users, their limits, and how long their sessions may go unused.
const USERS: [(&str, Option<Limit>, Option<Duration>); 3] = [
    ("anna", Some(Limit::evict(2)), None),
    ("ben", Some(Limit::refuse(2)), None),
    ("cleo", None, Some(Duration::from_millis(400))),
];

/// What clients know, and what they were promised.
#[derive(Default)]
struct Promises {
    tokens: Vec<(Token, &'static str)>,
    /// Increments that were answered, and those whose outcome is not known.
    increments: BTreeMap<SessionId, (u64, u64)>,
    /// Keys that were answered as set.
    keys: BTreeSet<(SessionId, String)>,
    ended: BTreeSet<SessionId>,
    disabled: BTreeSet<&'static str>,
    /// How many rotations of a session have an outcome that is not known.
    lost_rotations: BTreeMap<SessionId, u32>,
}

struct World {
    server: Arc<Server>,
    clock: ManualClock,
    nodes: Vec<Sessions>,
    random: Random,
    promises: Mutex<Promises>,
    is_fine: bool,
}

/// Runs one schedule and says what went wrong.
pub(super) fn run_schedule(seed: u64, bug: Option<Bug>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    testing::seed_random_ids(seed);
    runtime.block_on(async {
        let is_fine = seed.is_multiple_of(5);
        let weather = if is_fine { Weather::FINE } else { Weather::ROUGH };
        let server = Arc::new(Server::new(seed, weather, bug));
        server.state().history.limits = vec![("anna", 2), ("ben", 2)];
        let clock = ManualClock::new(Timestamp::from_millis(1_767_225_600_000));
        let random = Random::new(!seed);
        let nodes = (0..2 + random.below(2)).map(|_| node(&server, &clock)).collect();
        let world = Arc::new(World { server, clock, nodes, random, promises: Mutex::default(), is_fine });
        let clients: Vec<_> =
            (0..2 + world.random.below(4)).map(|n| tokio::spawn(client(Arc::clone(&world), n))).collect();
        for client in clients {
            client.await.expect("a client panicked");
        }
        world.settle().await;
        world.check_promises().await;
        let state = &mut *world.server.state();
        state.history.close(&state.model);
        std::mem::take(&mut state.history.violations)
    })
}

fn node(server: &Arc<Server>, clock: &ManualClock) -> Sessions {
    let store = Arc::new(Client(Arc::clone(server)));
    Sessions::builder(store).clock(clock.clone()).without_upkeep().build().expect("the settings are fine")
}

async fn client(world: Arc<World>, number: usize) {
    for step in 0..4 + world.random.below(8) {
        tokio::time::sleep(world.random.millis(30)).await;
        let action = world.random.below(18);
        let leaves = !world.is_fine && world.random.percent(8);
        let work = world.act(number, step, action);
        if leaves {
            // The caller goes away: its future is dropped wherever it is. What it began may be done or not.
            drop(tokio::time::timeout(world.random.millis(80), work).await);
        } else {
            work.await;
        }
    }
}

impl World {
    fn promises(&self) -> MutexGuard<'_, Promises> {
        self.promises.lock().unwrap()
    }

    fn violated(&self, what: String) {
        self.server.state().history.violated(what);
    }

    fn node(&self) -> &Sessions {
        &self.nodes[self.random.below(self.nodes.len())]
    }

    fn token(&self) -> Option<(Token, &'static str)> {
        let promises = self.promises();
        let count = promises.tokens.len();
        (count > 0).then(|| promises.tokens[self.random.below(count)].clone())
    }

    /// An error that no client should see: all but refusals, what is over, and what bad weather explains.
    fn judge(&self, what: &str, error: &Error) {
        let explained = match error {
            Error::Ended(_) | Error::UnknownSession | Error::Refused(_) => true,
            Error::Unavailable { .. } | Error::OutcomeUnknown { .. } => !self.is_fine,
            _ => false,
        };
        if !explained {
            self.violated(format!("{what}: {error}"));
        }
    }

    async fn act(&self, number: usize, step: usize, action: usize) {
        match action {
            0..=2 => self.sign_in(step).await,
            3..=5 => self.increment().await,
            6 => self.set(number, step).await,
            7 => self.end().await,
            8 => self.resume().await,
            9 | 10 => self.rotate().await,
            11 => self.end_all().await,
            // One client alone does this, so that it knows what is so.
            12 if number == 0 => self.disable().await,
            12 | 13 => self.clock.advance(self.random.millis(150)),
            14 => drop(self.node().reap().await),
            15 => self.use_at_the_deadline().await,
            16 if !self.is_fine => self.sign_in_impatiently().await,
            _ => {
                self.resume().await;
                drop(self.node().flush().await);
            }
        }
    }

    async fn sign_in(&self, step: usize) {
        let (user, limit, idle) = USERS[self.random.below(USERS.len())];
        let mut start = SignIn::new(user);
        start = limit.into_iter().fold(start, SignIn::limit);
        start = idle.into_iter().fold(start, SignIn::idle_timeout);
        let key = self.random.percent(40).then(|| format!("{user} {}", step / 3));
        start = key.iter().fold(start, |start, key| start.idempotency_key(key.as_str()));
        let was_disabled = self.promises().disabled.contains(user);
        for _ in 0..2 {
            match testing::start_from(self.node(), start.clone(), || self.random.next()).await {
                Ok(started) => {
                    let mut promises = self.promises();
                    promises.tokens.push((started.token.clone(), user));
                    promises.ended.extend(started.ended.iter().map(|ended| ended.id));
                    let still = promises.disabled.contains(user);
                    drop(promises);
                    if was_disabled && still {
                        self.violated(format!("{user} is disabled, and signed in"));
                    }
                    return;
                }
                Err(error) => self.judge("sign in", &error),
            }
            // A client that was not told tries again.
            if key.is_none() {
                return;
            }
        }
    }

    /// Clients that go away while they sign in, one after another: what they sent arrives all the same.
    async fn sign_in_impatiently(&self) {
        let (user, limit, _) = USERS[self.random.below(2)];
        for _ in 0..4 {
            let start = limit.into_iter().fold(SignIn::new(user), SignIn::limit);
            let started = testing::start_from(self.node(), start, || self.random.next());
            drop(tokio::time::timeout(self.random.millis(150), started).await);
        }
    }

    async fn increment(&self) {
        let Some((token, _)) = self.token() else { return };
        let node = self.node();
        let record = match node.resume(&token).await {
            Ok(Found::Live(record)) => record,
            Ok(_) => return,
            Err(error) => return self.judge("resume", &error),
        };
        let id = token.id();
        // Until it is answered it may be done.
        self.promises().increments.entry(id).or_default().1 += 1;
        let modified = node
            .modify(record, |record| {
                let mut change = node.change();
                let value = record.data.get("n").map(JsonRef::to_json);
                let next = value.as_ref().map_or(0, |value| value.as_str().parse::<u64>().unwrap()) + 1;
                change.relied_on.insert("n".into(), value);
                change.set("n", cloakroom::Json::from_text(&next.to_string()).unwrap());
                Ok(change)
            })
            .await;
        match modified {
            Ok(_) => {
                let mut promises = self.promises();
                let counts = promises.increments.get_mut(&id).expect("it is there");
                *counts = (counts.0 + 1, counts.1 - 1);
            }
            Err(error) => self.judge("increment", &error),
        }
    }

    async fn set(&self, number: usize, step: usize) {
        let Some((token, _)) = self.token() else { return };
        let node = self.node();
        let mut change = node.change();
        let key = format!("{number}.{step}");
        change.set(key.as_str(), cloakroom::Json::from_text("1").unwrap());
        match node.update(token.id(), &change).await {
            Ok(Updated::Applied(record)) => {
                if record.data.get(&key).is_none() {
                    self.violated(format!("the answer lacks the key {key} that was set"));
                }
                self.promises().keys.insert((token.id(), key));
            }
            Ok(_) => {}
            Err(error) => self.judge("set", &error),
        }
    }

    async fn end(&self) {
        let Some((token, _)) = self.token() else { return };
        match self.node().end(token.id(), &Ending::new(Reason::SignedOut)).await {
            Ok(EndAnswer::EndedNow(_) | EndAnswer::EndedBefore(_)) => drop(self.promises().ended.insert(token.id())),
            Ok(EndAnswer::Unknown(id)) => self.violated(format!("{id} is unknown")),
            Err(error) => self.judge("end", &error),
        }
    }

    async fn resume(&self) {
        let Some((token, _)) = self.token() else { return };
        let was_ended = self.promises().ended.contains(&token.id());
        match self.node().resume(&token).await {
            Ok(Found::Live(_)) if was_ended => self.violated(format!("{} had ended, and opens", token.id())),
            Ok(_) => {}
            Err(error) => self.judge("resume", &error),
        }
    }

    /// A use in the last moment, told while a reaper looks.
    async fn use_at_the_deadline(&self) {
        let Some((token, user)) = self.token() else { return };
        let Some(idle) = USERS.iter().find(|(name, ..)| *name == user).and_then(|(_, _, idle)| *idle) else { return };
        let seen =
            self.server.state().model.slots.get(&token.id()).and_then(|kept| Some(kept.open()?.info.last_seen_at));
        let Some(seen) = seen else { return };
        let now = cloakroom::Clock::now(&self.clock);
        self.clock.advance(seen.after(idle).before(Duration::from_millis(10)).since(now));
        let node = self.node();
        if let Err(error) = node.resume(&token).await {
            return self.judge("resume", &error);
        }
        let reap = async {
            tokio::time::sleep(self.random.millis(20)).await;
            self.clock.advance(Duration::from_millis(10));
            drop(self.node().reap().await);
        };
        drop(tokio::join!(node.flush(), reap));
    }

    async fn rotate(&self) {
        let Some((token, user)) = self.token() else { return };
        *self.promises().lost_rotations.entry(token.id()).or_default() += 1;
        let answer = self.node().rotate(&token).await;
        let mut promises = self.promises();
        if !matches!(&answer, Err(Error::OutcomeUnknown { .. })) {
            *promises.lost_rotations.get_mut(&token.id()).expect("it was counted") -= 1;
        }
        match answer {
            Ok(RotatedToken::Rotated { token, .. }) => promises.tokens.push((token, user)),
            Ok(RotatedToken::Superseded { .. }) => {}
            Err(error) => {
                drop(promises);
                self.judge("rotate", &error);
            }
        }
    }

    async fn end_all(&self) {
        let (user, _, _) = USERS[self.random.below(USERS.len())];
        let before: Vec<_> = self.ids_of(user);
        match self.node().end_all_of(user, Vec::new(), &Ending::new(Reason::SignedOutElsewhere)).await {
            Ok(_) => self.promises().ended.extend(before),
            Err(error) => self.judge("end all", &error),
        }
    }

    fn ids_of(&self, user: &str) -> Vec<SessionId> {
        self.promises().tokens.iter().filter(|(_, whose)| *whose == user).map(|(token, _)| token.id()).collect()
    }

    async fn disable(&self) {
        let (user, _, _) = USERS[self.random.below(USERS.len())];
        if self.promises().disabled.remove(user) {
            if let Err(error) = self.node().users().enable(user).await {
                self.judge("enable", &error);
            }
            return;
        }
        let before = self.ids_of(user);
        match self.node().users().disable(user, None).await {
            Ok(_) => {
                let living = self.server.state().model.of_user(user).len();
                if living > 0 {
                    self.violated(format!("{user} was disabled, and {living} of their sessions live"));
                }
                let mut promises = self.promises();
                promises.ended.extend(before);
                promises.disabled.insert(user);
            }
            Err(error) => self.judge("disable", &error),
        }
    }

    /// The weather clears, all that was late arrives, time passes, and the reapers do their work.
    async fn settle(&self) {
        self.server.heal();
        tokio::time::sleep(Duration::from_secs(5)).await;
        for node in &self.nodes {
            if let Err(error) = node.flush().await {
                self.violated(format!("flush: {error}"));
            }
        }
        self.clock.advance(Duration::from_secs(10));
        for node in self.nodes.iter().chain(&self.nodes) {
            if let Err(error) = node.reap().await {
                self.violated(format!("reap: {error}"));
            }
        }
    }

    async fn check_promises(&self) {
        let now = cloakroom::Clock::now(&self.clock);
        {
            let state = &mut *self.server.state();
            for kept in state.model.slots.values() {
                if let Some(record) = kept.open()
                    && !model::lives(record, now)
                {
                    state.history.violations.push(format!("{} expired, and was not reaped", record.info.id));
                }
            }
            let promises = self.promises();
            for id in &promises.ended {
                if state.model.slots.get(id).is_none_or(|kept| kept.open().is_some()) {
                    state.history.violations.push(format!("{id} was answered as ended, and is open"));
                }
            }
            for (id, (done, unknown)) in &promises.increments {
                let counter = state.history.counter(*id);
                if counter < *done || counter > done + unknown {
                    let what = format!("{id} counts {counter}: {done} were answered, {unknown} may be done");
                    state.history.violations.push(what);
                }
            }
            for (id, key) in &promises.keys {
                if let Some(record) = state.model.slots.get(id).and_then(|kept| kept.open())
                    && record.data.get(key).is_none()
                {
                    state.history.violations.push(format!("{id} lost the key {key}"));
                }
            }
        }
        self.check_tokens().await;
    }

    /// A session that is open is opened by one of the tokens that its clients were given.
    async fn check_tokens(&self) {
        let (tokens, lost) = {
            let promises = self.promises();
            (promises.tokens.clone(), promises.lost_rotations.clone())
        };
        let mut opens: BTreeMap<SessionId, bool> = BTreeMap::new();
        for (token, _) in &tokens {
            let id = token.id();
            let is_open = self.server.state().model.slots.get(&id).is_some_and(|kept| kept.open().is_some());
            if !is_open || lost.get(&id).is_some_and(|count| *count > 0) || opens.get(&id) == Some(&true) {
                continue;
            }
            // Only the current secret: a predecessor whose grace is over would end the session.
            let current = self.server.state().model.slots[&id]
                .open()
                .is_some_and(|record| record.secrets.current == token.digest());
            opens.insert(id, current && matches!(self.node().resume(token).await, Ok(Found::Live(_))));
        }
        for (id, opens) in opens {
            if !opens {
                self.violated(format!("{id} is open, and no token opens it"));
            }
        }
    }
}
