//! Calls on their way to the server that owns their slot: redirections, lost connections, and when to give up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as StdMutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, Value};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    address::{Address, Layout},
    calls::{Call, Effect, Track, What},
    cluster_map::ClusterMap,
    feed::Hub,
    keys,
    link::{Connected, Link, Purpose, Wants},
    reply::Reply,
    sentinels::Sentinels,
    tls,
};
use crate::{
    error::{Error, Result},
    store::feed::Channel,
};

/// All servers of a store.
pub(super) struct Servers {
    address: Address,
    map: StdMutex<Arc<ClusterMap>>,
    links: StdMutex<HashMap<Arc<str>, Arc<Link>>>,
    sentinels: Sentinels,
    looked: Mutex<Option<Instant>>,
    turn: AtomicUsize,
    hub: OnceLock<Arc<Hub>>,
}

/// The answer to a call.
pub(super) struct Answer {
    pub(super) value: Value,
    /// Where its keys are tracked: over which channel what changes in them is told, and the answer of the command
    /// [behind](Track::Behind) the call.
    pub(super) tracked: Option<(Arc<Channel>, Value)>,
}

/// Why a try of a call brought no answer.
enum Setback {
    /// It did not get as far as being sent.
    NotSent(Fault),
    /// It was sent, and nothing came back.
    Unanswered(Fault),
    /// The server said that it did nothing, and may do it later.
    NotNow(RedisError),
    /// The server is a replica, and did nothing.
    ReadOnly(RedisError),
    /// The server said that it did nothing, and another may own the slot by now.
    NotHere(Fault),
    /// Another server owns the slot.
    Moved(Arc<str>),
    /// Another server is taking over the slot, and has the keys already.
    Ask(Arc<str>),
    /// It is done, and too few replicas have heard of it.
    TooFewReplicas,
    Failed(Error),
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Servers {
    /// A replica that is further behind has not heard of it.
    const WAIT_FOR_REPLICAS: Duration = Duration::from_secs(1);
    const FIRST_PAUSE: Duration = Duration::from_millis(5);
    const LONGEST_PAUSE: Duration = Duration::from_millis(200);
    /// So many are followed at once.
    const REDIRECTIONS: u32 = 3;
    /// How long a server may take to tell who owns what.
    const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
    const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

    pub(super) fn new(address: Address) -> Self {
        let map = match address.layout {
            Layout::One => ClusterMap::of_one(address.named[0].clone()),
            Layout::Cluster | Layout::Sentinels(_) => ClusterMap::empty(),
        };
        Self {
            address,
            map: StdMutex::new(Arc::new(map)),
            links: StdMutex::default(),
            sentinels: Sentinels::default(),
            looked: Mutex::default(),
            turn: AtomicUsize::new(0),
            hub: OnceLock::new(),
        }
    }

    /// From now on calls that ask for it are tracked, and what changes is told to this hub.
    pub(super) fn track_for(&self, hub: Arc<Hub>) {
        // The first one stays.
        let _ = self.hub.set(hub);
    }

    pub(super) fn hub(&self) -> Option<&Arc<Hub>> {
        self.hub.get()
    }

    /// How many replicas must have a change before it is answered.
    pub(super) fn wait_replicas(&self) -> u32 {
        self.address.wait_replicas
    }

    /// Sends a call to the server that owns its slot, again if that is safe and there is time, and waits for the answer.
    pub(super) async fn run(&self, call: &Call<'_>) -> Result<Value> {
        Ok(self.answer(call).await?.value)
    }

    /// As [`run`](Self::run), and says what is tracked of it.
    pub(super) async fn answer(&self, call: &Call<'_>) -> Result<Answer> {
        let begin = Instant::now();
        let deadline = begin + self.address.timeout;
        let mut may_have_happened = call.again;
        let mut read_only = 0;
        let mut asked = None;
        let mut pause = Self::FIRST_PAUSE;
        let mut redirections = 0;
        loop {
            let fault = match self.attempt(call, may_have_happened, asked.take(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(Setback::Failed(error)) => return Err(error),
                Err(Setback::TooFewReplicas) => return Err(Error::OutcomeUnknown { after: begin.elapsed() }),
                Err(Setback::Moved(server)) => {
                    redirections += 1;
                    self.learn(call.slot, &server);
                    "the slots move between servers".into()
                }
                Err(Setback::Ask(server)) => {
                    redirections += 1;
                    asked = Some(server);
                    "the slots move between servers".into()
                }
                Err(Setback::NotSent(fault)) => {
                    self.look_again(deadline).await;
                    fault
                }
                Err(Setback::Unanswered(fault)) => {
                    may_have_happened = true;
                    self.look_again(deadline).await;
                    fault
                }
                Err(Setback::ReadOnly(error)) => {
                    read_only += 1;
                    // Its address may lead to another server by now; if not, there is nobody to ask for one.
                    if self.address.layout == Layout::One && read_only > 1 {
                        let message = "this Redis is a read-only replica: give the address of its primary";
                        return Err(Error::unavailable(message, error));
                    }
                    redirections = Self::REDIRECTIONS;
                    self.look_again(deadline).await;
                    error.into()
                }
                Err(Setback::NotHere(fault)) => {
                    redirections = Self::REDIRECTIONS;
                    self.look_again(deadline).await;
                    fault
                }
                Err(Setback::NotNow(error)) if !call.patient => {
                    return Err(Error::unavailable(format!("Redis says: {}", said(&error)), error));
                }
                Err(Setback::NotNow(error)) => {
                    redirections = Self::REDIRECTIONS;
                    error.into()
                }
            };
            if redirections >= Self::REDIRECTIONS {
                sleep(pause).await;
                pause = (pause * 2).min(Self::LONGEST_PAUSE);
            }
            if Instant::now() >= deadline {
                return Err(if may_have_happened && call.effect != Effect::Reads {
                    Error::OutcomeUnknown { after: begin.elapsed() }
                } else {
                    let timeout = self.address.timeout;
                    let answered = fault.downcast_ref::<RedisError>().filter(|error| was_said(error));
                    let message = match answered {
                        Some(error) => format!("Redis took no call within {timeout:?} and says: {}", said(error)),
                        None => format!("Redis did not answer within {timeout:?}"),
                    };
                    Error::unavailable(message, fault)
                });
            }
        }
    }

    /// Sends calls at the same time: those for one server travel in one pipeline.
    pub(super) async fn run_all(&self, calls: impl IntoIterator<Item = Call<'static>>) -> Result<Vec<Value>> {
        let answers = join_all(calls.into_iter().map(|call| async move { self.run(&call).await })).await;
        answers.into_iter().collect()
    }

    /// A slot of each server that owns any, so that each can be asked for itself.
    pub(super) async fn slot_of_each(&self) -> Vec<u16> {
        if self.map().servers().is_empty() {
            self.look_again(Instant::now() + self.address.timeout).await;
        }
        self.map().slot_of_each()
    }

    /// A group of each server that owns any.
    pub(super) fn group_of_each(&self) -> Vec<u16> {
        let map = self.map();
        let mut seen = Vec::new();
        let first = |group: &u16| {
            let owner = map.owner(keys::slot_of_group(*group));
            let new = owner.is_some() && !seen.contains(&owner);
            seen.push(owner);
            new
        };
        keys::groups().filter(first).collect()
    }

    /// What to say when there is no server to be found.
    pub(super) fn none_found(&self) -> String {
        match &self.address.layout {
            Layout::One => "Redis is not to be found".to_owned(),
            Layout::Cluster => "no node of the Redis Cluster answered: is one of those in the address up?".to_owned(),
            Layout::Sentinels(name) => format!(
                "no sentinel named a primary of {name:?}: is one of those in the address up, does it let us in, and is \
                 that the name in its configuration?"
            ),
        }
    }

    async fn attempt(
        &self,
        call: &Call<'_>,
        again: bool,
        asked: Option<Arc<str>>,
        deadline: Instant,
    ) -> Result<Answer, Setback> {
        let nobody = || Setback::NotSent("no server is known to own the slot".into());
        let asking = asked.is_some();
        let server = asked.or_else(|| self.map().owner(call.slot).cloned()).ok_or_else(nobody)?;
        let link = self.link(&server)?;
        let again = again || call.again;
        let waits = call.wait_key.is_some() && self.address.wait_replicas > 0;
        let hub = self.hub.get().filter(|hub| call.track.is_some() && !waits && !asking && hub.may_track());
        let purpose = match hub {
            Some(hub) => Purpose::Tracking(hub),
            None if waits => Purpose::Waiting(self.turn.fetch_add(1, Ordering::Relaxed)),
            None => Purpose::Calls,
        };
        let connected = Self::connected(&link, purpose, deadline).await?;
        // Another may have become primary meanwhile, and what was one before answers from what it had.
        if !asking && self.map().owner(call.slot) != Some(&server) {
            return Err(Setback::NotHere("its slot moved to another server".into()));
        }
        let tracks = if connected.channel.is_some() { call.track.as_ref() } else { None };
        let mut in_full = false;
        loop {
            // Half the time at most, so that a server that has gone silent leaves time to find its successor.
            let patience = deadline.min(Instant::now() + self.address.timeout / 2);
            let mut commands = redis::pipe();
            let sent = call.commands(again, in_full);
            let count = sent.len();
            if matches!(tracks, Some(Track::First)) {
                commands.cmd("CLIENT").arg("CACHING").arg("YES");
            }
            for command in sent {
                if asking {
                    commands.cmd("ASKING");
                }
                commands.add_command(command);
            }
            if let Some(key) = call.wait_key.as_ref().filter(|_| waits) {
                if again {
                    // WAIT asks about what this connection wrote, and a repeat may find that there is nothing to do.
                    if asking {
                        commands.cmd("ASKING");
                    }
                    commands.cmd("SET").arg(key).arg(1);
                }
                let wait = Self::WAIT_FOR_REPLICAS.min(self.address.timeout / 4).as_millis().max(1);
                commands.cmd("WAIT").arg(self.address.wait_replicas).arg(wait.to_string());
            }
            if let Some(Track::Behind(command)) = tracks {
                commands.cmd("CLIENT").arg("CACHING").arg("YES");
                commands.add_command(command.clone());
            }
            let answers = self.send(&link, &connected, &commands, patience).await?;
            let mut answers = answers.into_iter();
            let is_tracked = |answer: Option<Value>| matches!(answer, Some(Value::Okay));
            let mut tracked = matches!(tracks, Some(Track::First)) && is_tracked(answers.next());
            let mut own = Vec::with_capacity(count);
            let mut refused = None;
            for _ in 0..count {
                if asking {
                    answers.next();
                }
                match answers.next() {
                    Some(Value::ServerError(error)) => refused = refused.or(Some(error)),
                    Some(answer) => own.push(answer),
                    None => return Err(Setback::Unanswered("the answer was empty".into())),
                }
            }
            match refused {
                Some(error) if error.code() == "NOSCRIPT" && !in_full => {
                    in_full = true;
                    continue;
                }
                Some(error) => {
                    if error.code() == "READONLY" {
                        // It is a replica now, and what it has may be old.
                        link.drop_connection(&connected).await;
                    }
                    return Err(self.refused(&server, error.into()));
                }
                None => {}
            }
            let answer = match &call.what {
                What::Commands(_) => Value::Array(own),
                What::Script(_) | What::Either { .. } | What::Command(_) => own.pop().unwrap_or_default(),
            };
            let mut behind = Value::Nil;
            if matches!(tracks, Some(Track::Behind(_))) {
                tracked = is_tracked(answers.next());
                behind = answers.next().unwrap_or_default();
            }
            let tracked = connected.channel.as_ref().filter(|_| tracked);
            let answer = Answer { value: answer, tracked: tracked.map(|channel| (Arc::clone(channel), behind)) };
            let acknowledged = answers.last().unwrap_or_default().number::<u32>().unwrap_or_default();
            let enough = !waits || acknowledged >= self.address.wait_replicas;
            return if enough { Ok(answer) } else { Err(Setback::TooFewReplicas) };
        }
    }

    async fn connected(link: &Link, purpose: Purpose<'_>, deadline: Instant) -> Result<Connected, Setback> {
        match timeout_at(deadline, link.connect(purpose)).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => {
                if let Purpose::Tracking(hub) = purpose
                    && was_said(&error)
                {
                    hub.refused(&error);
                }
                Err(not_connected(error))
            }
            Err(late) => Err(Setback::NotSent(late.into())),
        }
    }

    async fn send(
        &self,
        link: &Link,
        connected: &Connected,
        commands: &redis::Pipeline,
        patience: Instant,
    ) -> Result<Vec<Value>, Setback> {
        let mut connection = connected.connection.clone();
        match timeout_at(patience, connection.send_packed_commands(commands, 0, commands.len())).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) => {
                link.drop_connection(connected).await;
                Err(Setback::Unanswered(error.into()))
            }
            Err(late) => {
                link.drop_connection(connected).await;
                Err(Setback::Unanswered(late.into()))
            }
        }
    }

    /// What it means that a server answers with an error: it did nothing.
    fn refused(&self, server: &str, error: RedisError) -> Setback {
        let detail = error.detail().unwrap_or_default();
        // The first word of a detail is the slot, the second the server; without a host it is the same.
        let target = || {
            let target = detail.split_ascii_whitespace().nth(1).unwrap_or_default();
            let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
            if target.starts_with(':') { format!("{host}{target}").into() } else { Arc::from(target) }
        };
        match error.code().unwrap_or_default() {
            "MOVED" | "ASK" if self.address.layout != Layout::Cluster => {
                let message = "this server belongs to a Redis Cluster: write redis-cluster:// in its address";
                Setback::Failed(Error::store(message, error))
            }
            "MOVED" => Setback::Moved(target()),
            "ASK" => Setback::Ask(target()),
            "READONLY" => Setback::ReadOnly(error),
            "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" => Setback::NotHere(error.into()),
            "TRYAGAIN" | "NOREPLICAS" | "BUSY" => Setback::NotNow(error),
            // While a slot moves, what a script found by itself may be on the other server already.
            _ if detail.contains("non local key") => Setback::NotNow(error),
            "OOM" => {
                let message = "Redis has reached its maxmemory and refuses to store more: give it more, or reap";
                Setback::Failed(Error::unavailable(message, error))
            }
            "MISCONF" => {
                let message = "Redis cannot write to its disk and therefore refuses changes: see its log";
                Setback::Failed(Error::unavailable(message, error))
            }
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Setback::Failed(not_allowed(error)),
            _ if detail.contains("ACL failure") || detail.contains("can't run this command") => {
                Setback::Failed(not_permitted(error))
            }
            _ => Setback::Failed(Error::store("Redis refused a command", error)),
        }
    }

    fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn learn(&self, slot: u16, server: &Arc<str>) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut map).set_owner(slot, server);
    }

    fn link(&self, server: &Arc<str>) -> Result<Arc<Link>, Setback> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(server) {
            return Ok(Arc::clone(link));
        }
        let wants = match self.address.layout {
            Layout::Sentinels(_) => Wants::Primary,
            Layout::One | Layout::Cluster => Wants::Anything,
        };
        let unreadable = || Setback::NotSent(format!("{server:?} is no address of a server").into());
        let client = self.address.client(server).ok_or_else(unreadable)?;
        let link = Arc::new(Link::new(client.map_err(|error| Setback::NotSent(error.into()))?, wants));
        links.insert(Arc::clone(server), Arc::clone(&link));
        Ok(link)
    }

    /// Asks any server of a cluster who owns what, or the sentinels which server is primary. Of those who come together
    /// one asks.
    async fn look_again(&self, deadline: Instant) {
        if self.address.layout == Layout::One {
            return;
        }
        let came = Instant::now();
        let look = async {
            let mut looked = self.looked.lock().await;
            if looked.is_some_and(|looked| looked > came) {
                return;
            }
            if let Some(looked) = *looked {
                tokio::time::sleep_until(looked + Self::BETWEEN_LOOKS).await;
            }
            let found = match &self.address.layout {
                Layout::One => None,
                Layout::Cluster => self.map_known_to_any().await,
                Layout::Sentinels(name) => {
                    let primary = self.sentinels.primary(&self.address, name, Self::LOOK_TIMEOUT).await;
                    primary.map(ClusterMap::of_one)
                }
            };
            if let Some(map) = found {
                *self.map.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
            }
            *looked = Some(Instant::now());
        };
        // Late is as good as never: the caller gives up then.
        let _ = timeout_at(deadline, look).await;
    }

    async fn map_known_to_any(&self) -> Option<ClusterMap> {
        let mut servers = self.address.named.clone();
        servers.extend(self.map().servers().iter().cloned());
        let count = servers.len();
        servers.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % count);
        for server in servers {
            if let Ok(Some(map)) = timeout(Self::LOOK_TIMEOUT, self.map_known_to(&server)).await {
                return Some(map);
            }
        }
        None
    }

    async fn map_known_to(&self, server: &Arc<str>) -> Option<ClusterMap> {
        let link = self.link(server).ok()?;
        let connected = link.connect(Purpose::Calls).await.ok()?;
        let mut command = redis::pipe();
        command.cmd("CLUSTER").arg("SLOTS");
        let answers = self.send(&link, &connected, &command, Instant::now() + Self::LOOK_TIMEOUT).await.ok()?;
        ClusterMap::read(answers.first()?, server).filter(|map| !map.servers().is_empty())
    }
}

impl Servers {
    /// Servers to which there is a tracked connection, each with a group that lies there.
    pub(super) async fn tracked(&self) -> Vec<(Arc<Link>, Connected, u16)> {
        let links: Vec<_> = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.iter().map(|(server, link)| (Arc::clone(server), Arc::clone(link))).collect()
        };
        let mut tracked = Vec::new();
        for (server, link) in links {
            let Some(connected) = link.tracked().await else { continue };
            let map = self.map();
            let group = keys::groups().find(|group| map.owner(keys::slot_of_group(*group)) == Some(&server));
            match group {
                Some(group) => tracked.push((link, connected, group)),
                // It owns nothing any more.
                None => link.drop_connection(&connected).await,
            }
        }
        tracked
    }
}

fn not_connected(error: RedisError) -> Setback {
    if let Some(message) = tls::distrust(&error) {
        return Setback::Failed(Error::store(message, error));
    }
    let text = said(&error);
    match error.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => return Setback::Failed(not_allowed(error)),
        Some("LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN") => return Setback::NotSent(error.into()),
        _ => {}
    }
    // How the driver tells of what the server said to a password, and to SELECT.
    if error.kind() == ErrorKind::AuthenticationFailed || text.contains("Authentication required") {
        return Setback::Failed(not_allowed(error));
    }
    if error.detail().is_some_and(|detail| detail.contains("DB index")) {
        let message = format!("Redis has no database of the number in the address, and says: {text}");
        return Setback::Failed(Error::store(message, error));
    }
    if was_said(&error) && !text.contains("max number of clients") && !text.contains("BUSY") {
        return Setback::Failed(Error::store(format!("Redis refuses the connection, and says: {text}"), error));
    }
    Setback::NotSent(error.into())
}

/// Whether the server said it.
fn was_said(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed)
}

/// The server's own words, as far as the driver has them.
fn said(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (None, Some(detail)) => detail.to_owned(),
        (_, None) => error.to_string(),
    }
}

fn not_allowed(error: RedisError) -> Error {
    if error.code() == Some("NOPERM") {
        return not_permitted(error);
    }
    let message = format!(
        "Redis does not let this user in: look at user and password in the address, which is \
         redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST where there are no users. It says: {}",
        said(&error)
    );
    Error::store(message, error)
}

fn not_permitted(error: RedisError) -> Error {
    let message = format!(
        "Redis lets this user in and does not permit all that is needed: look at its ACL. It says: {}",
        said(&error)
    );
    Error::store(message, error)
}
