//! What two nodes see of each other over a real backend, and what each costs, through a proxy that counts, cuts, swallows and
//! drops.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cloakroom::{
    Ending, Found, Json, Reason, SessionId, Sessions, SignIn, Started, Token, Visitor,
    store::{BoxFuture, NearCache, NearStore, Store, feed::Ticks},
};

use crate::common::{eventually, proxy::Proxy};

/// One kind of backend.
pub(super) struct Backend {
    /// Where it is: host and port.
    pub(super) server: String,
    /// The address of this test's own store there, behind that host and port.
    pub(super) at: fn(&str, &str) -> String,
    pub(super) open: fn(String) -> BoxFuture<'static, Arc<dyn Store>>,
    /// What stands in each of its messages of changes, and in no answer.
    pub(super) message: &'static [u8],
    /// The name of this test's own store.
    pub(super) space: String,
}

/// A node with a near cache.
struct Node {
    sessions: Sessions,
    near: Arc<NearStore>,
    /// By how many milliseconds its clock is ahead.
    ahead: Arc<AtomicU64>,
}

/// As long as nothing is to be proven, links need not be.
const NEVER: Duration = Duration::from_hours(1);

impl Backend {
    async fn node(&self, server: &str, silence: Duration) -> Node {
        let store = (self.open)((self.at)(server, &self.space)).await;
        let ahead = Arc::new(AtomicU64::new(0));
        let (real, offset) = (Ticks::default(), Arc::clone(&ahead));
        let ticks = Ticks::from_fn(move || real.now() + offset.load(Ordering::SeqCst));
        let mut settings = NearCache::default();
        settings.silence = silence;
        settings.max_age = NEVER;
        let near = Arc::new(NearStore::timed(store, &settings, ticks).unwrap());
        let store = Arc::clone(&near) as Arc<dyn Store>;
        let sessions = Sessions::builder(store).without_upkeep().build().unwrap();
        Node { sessions, near, ahead }
    }
}

impl Node {
    fn pass(&self, time: Duration) {
        self.ahead.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    async fn start(&self) -> Started {
        self.sessions.start(SignIn::new("anna")).await.unwrap()
    }

    /// Loads a session until it lies near.
    async fn bring_near(&self, token: &Token) {
        eventually(|| async {
            self.sessions.resume(Visitor::new(token).touch(false)).await.ok();
            self.near.glance(token.id()).map(drop)
        })
        .await;
    }

    async fn set(&self, id: SessionId, value: u32) {
        let mut change = self.sessions.change();
        change.set("key", Json::encode(&value).unwrap());
        self.sessions.update(id, &change).await.unwrap();
    }

    /// What a handler sees.
    async fn value(&self, token: &Token) -> Option<u32> {
        match self.sessions.resume(Visitor::new(token).touch(false)).await.unwrap() {
            Found::Live(record) => Some(record.data.get("key").map_or(0, |value| value.decode().unwrap())),
            Found::Ended(_) => None,
            Found::Unknown => panic!("it is known"),
        }
    }
}

pub(super) async fn i9_round_trips(backend: Backend) {
    let proxy = Proxy::start(backend.server.clone()).await;
    let node = backend.node(&proxy.address.to_string(), NEVER).await;
    let Node { sessions, .. } = &node;
    let started = node.start().await;
    node.bring_near(&started.token).await;
    let warm = node.start().await;
    sessions.end(warm.token.id(), &Ending::new(Reason::SignedOut)).await.unwrap();
    node.set(started.token.id(), 0).await;
    node.bring_near(&started.token).await;

    let mut before = proxy.exchanges();
    let mut trips = || {
        let now = proxy.exchanges();
        now - std::mem::replace(&mut before, now)
    };
    for _ in 0..10 {
        sessions.resume(&started.token).await.unwrap();
    }
    assert_eq!(trips(), 0, "reads of what lies near, each a use");
    // As the layer does it: from the record that was read.
    for value in 1..=5u32 {
        let Found::Live(record) = sessions.resume(&started.token).await.unwrap() else { panic!("it lives") };
        let change = |_: &cloakroom::Record| {
            let mut change = sessions.change();
            change.set("key", Json::encode(&value).unwrap());
            Ok(change)
        };
        sessions.modify(record, change).await.unwrap();
        assert_eq!(node.value(&started.token).await, Some(value));
        assert!(trips() <= 1 + backend.announcements(), "a read and a change of what lies near");
    }
    let unknown = Token::generate(started.token.id()).unwrap();
    assert!(matches!(sessions.resume(&unknown).await.unwrap(), Found::Unknown));
    assert_eq!(trips(), 1, "a secret that does not fit is looked at anew");
}

impl Backend {
    /// Round trips beside the request's own, by which others are told of a change.
    fn announcements(&self) -> usize {
        usize::from(self.message != b"invalidate")
    }
}

pub(super) async fn i10_changes_and_endings_of_another_node_are_seen(backend: Backend) {
    let (one, other) = (backend.node(&backend.server, NEVER).await, backend.node(&backend.server, NEVER).await);
    let started = one.start().await;
    for value in 1..=20 {
        other.bring_near(&started.token).await;
        one.set(started.token.id(), value).await;
        assert_eq!(one.value(&started.token).await, Some(value), "what it wrote itself it sees at once");
        eventually(|| async { (other.value(&started.token).await == Some(value)).then_some(()) }).await;
    }
    other.bring_near(&started.token).await;
    one.sessions.end(started.token.id(), &Ending::new(Reason::RevokedByAdmin).by("root")).await.unwrap();
    assert_eq!(one.value(&started.token).await, None);
    eventually(|| async { other.value(&started.token).await.is_none().then_some(()) }).await;
    assert!(other.near.figures().told > 0, "it was told, and did not find out by looking");
}

pub(super) async fn i10_a_token_that_another_node_made_opens_its_session_at_once(backend: Backend) {
    let (one, other) = (backend.node(&backend.server, NEVER).await, backend.node(&backend.server, NEVER).await);
    let mut token = one.start().await.token;
    for _ in 0..50 {
        other.bring_near(&token).await;
        let rotated = one.sessions.rotate(&token).await.unwrap();
        let cloakroom::sessions::RotatedToken::Rotated { token: successor, .. } = rotated else {
            panic!("it is current")
        };
        token = successor;
        assert!(matches!(other.sessions.resume(&token).await.unwrap(), Found::Live(_)));
        one.sessions.flush().await.unwrap();
        other.sessions.flush().await.unwrap();
    }
}

pub(super) async fn i10_a_silent_link_is_believed_no_longer_than_the_bound(backend: Backend) {
    let silence = Duration::from_secs(2);
    let proxy = Proxy::start(backend.server.clone()).await;
    let (one, other) =
        (backend.node(&backend.server, silence).await, backend.node(&proxy.address.to_string(), silence).await);
    let started = one.start().await;
    other.bring_near(&started.token).await;
    // It stays near as long as the link is proven, however long that is.
    for _ in 0..4 {
        other.pass(silence / 2);
        eventually(|| async { other.near.glance(started.token.id()).map(drop) }).await;
    }
    proxy.swallow_all();
    one.sessions.end(started.token.id(), &Ending::new(Reason::RevokedByAdmin)).await.unwrap();
    other.pass(silence);
    assert_eq!(other.near.glance(started.token.id()), None, "nothing was heard for that long");
    proxy.cut_all();
    let ended = eventually(|| async { other.sessions.resume(&started.token).await.ok() }).await;
    assert!(matches!(ended, Found::Ended(_)), "{ended:?}");
    // There is another link by now, and what is looked at through it lies near.
    let started = one.start().await;
    other.bring_near(&started.token).await;
}

pub(super) async fn i10_a_link_that_was_cut_empties_the_cache(backend: Backend) {
    let proxy = Proxy::start(backend.server.clone()).await;
    let (one, other) =
        (backend.node(&backend.server, NEVER).await, backend.node(&proxy.address.to_string(), NEVER).await);
    let started = one.start().await;
    other.bring_near(&started.token).await;
    proxy.cut_all();
    eventually(|| async { (other.near.figures().slots == 0).then_some(()) }).await;
    assert_eq!(other.value(&started.token).await, Some(0), "it goes through, and nothing fails");
    other.bring_near(&started.token).await;
}

pub(super) async fn i10_a_message_that_was_dropped_is_made_good_within_the_greatest_age(backend: Backend) {
    let proxy = Proxy::start(backend.server.clone()).await;
    let (one, other) =
        (backend.node(&backend.server, NEVER).await, backend.node(&proxy.address.to_string(), NEVER * 2).await);
    let started = one.start().await;
    other.bring_near(&started.token).await;
    proxy.drop_messages(backend.message);
    one.sessions.end(started.token.id(), &Ending::new(Reason::RevokedByAdmin)).await.unwrap();
    eventually(|| async { (proxy.dropped() > 0).then_some(()) }).await;
    assert!(other.near.glance(started.token.id()).is_some(), "nothing says so");
    // As old as that, nothing is believed.
    other.pass(NEVER);
    assert_eq!(other.near.glance(started.token.id()), None);
    assert_eq!(other.value(&started.token).await, None);
}

/// Readers on one node while another changes and ends sessions, every answer kept and compared: what was answered to the
/// writer must be seen by each read that begins later than the link needs.
pub(super) async fn i10_no_read_is_staler_than_the_link(backend: Backend) {
    const SESSIONS: usize = 200;
    const BOUND: Duration = Duration::from_secs(2);
    let (one, other) = (backend.node(&backend.server, BOUND).await, backend.node(&backend.server, BOUND).await);
    let mut tokens = Vec::new();
    for _ in 0..SESSIONS {
        tokens.push(one.start().await.token);
    }
    let tokens: Arc<[Token]> = tokens.into();
    let other = Arc::new(other);
    let done = Arc::new(AtomicBool::new(false));
    // Reads: which session, when it began, what was seen. Writes: when it was answered, what is so since.
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let (tokens, other, done) = (Arc::clone(&tokens), Arc::clone(&other), Arc::clone(&done));
            tokio::spawn(async move {
                let mut reads = Vec::new();
                let mut place = reader * 31;
                while !done.load(Ordering::Relaxed) {
                    place = (place + 7) % SESSIONS;
                    let begin = Instant::now();
                    reads.push((place, begin, other.value(&tokens[place]).await));
                    if reads.len() % 64 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                reads
            })
        })
        .collect();
    let writes = Mutex::new(HashMap::<usize, Vec<(Instant, Option<u32>)>>::new());
    for value in 1..=3 {
        for (place, token) in tokens.iter().enumerate() {
            if value < 3 {
                one.set(token.id(), value).await;
            } else {
                one.sessions.end(token.id(), &Ending::new(Reason::RevokedByAdmin)).await.unwrap();
            }
            let now = (value < 3).then_some(value);
            writes.lock().unwrap().entry(place).or_default().push((Instant::now(), now));
        }
    }
    eventually(|| async {
        let mut seen = true;
        for token in tokens.iter() {
            seen &= other.value(token).await.is_none();
        }
        seen.then_some(())
    })
    .await;
    done.store(true, Ordering::Relaxed);
    let writes = writes.into_inner().unwrap();
    let (mut count, mut behind, mut worst) = (0, 0, Duration::ZERO);
    let rank = |seen: Option<u32>| seen.map_or(3, |value| value);
    for reader in readers {
        let mut newest = HashMap::new();
        for (place, begin, seen) in reader.await.unwrap() {
            count += 1;
            let answered = writes[&place].iter().filter(|(at, now)| *at <= begin && rank(*now) > rank(seen));
            if let Some(late) = answered.map(|(at, _)| begin - *at).max() {
                behind += 1;
                worst = worst.max(late);
            }
            let newest = newest.entry(place).or_insert(0);
            assert!(rank(seen) >= *newest, "a reader never sees a session go back");
            *newest = rank(seen);
        }
    }
    eprintln!("{count} reads, {behind} began while news was under way, at most {worst:?} after the answer");
    assert!(worst < BOUND, "{worst:?}");
    assert!(count > 10_000, "{count}");
    let figures = other.near.figures();
    assert!(figures.hits > figures.misses, "{figures:?}");
}

/// Mounts all of it on a kind of backend.
macro_rules! promises {
    ($backend:expr, if: $there:expr, $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if $there {
                    super::promises::$name($backend(stringify!($name))).await;
                }
            }
        )+
    };
    ($backend:expr, if: $there:expr) => {
        super::promises::promises!(
            $backend, if: $there,
            i9_round_trips,
            i10_changes_and_endings_of_another_node_are_seen,
            i10_a_token_that_another_node_made_opens_its_session_at_once,
            i10_a_silent_link_is_believed_no_longer_than_the_bound,
            i10_a_link_that_was_cut_empties_the_cache,
            i10_a_message_that_was_dropped_is_made_good_within_the_greatest_age,
            i10_no_read_is_staler_than_the_link,
        );
    };
}

pub(super) use promises;
