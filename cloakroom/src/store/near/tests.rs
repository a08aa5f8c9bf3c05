//! What is kept, for how long, and what a race leaves, on a feed of which the tests hold every end.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use super::*;
use crate::{
    data::Json,
    ended::{Ended, Reason},
    record::SessionInfo,
    secrets::Secrets,
    store::{
        MemoryStore,
        feed::{Channel, Listeners, Looked, News, Watched},
        slots::{DataChange, Expect, Known},
    },
    token::{Digest, Partition},
};

/// A store whose news the test tells.
#[derive(Clone, Debug)]
struct Told(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    store: MemoryStore,
    listeners: Listeners,
    channel: Mutex<Arc<Channel>>,
    time: AtomicU64,
    looks: AtomicUsize,
    /// What a look must have to begin, and to be answered.
    begin: Semaphore,
    answer: Semaphore,
}

const SILENCE: u64 = 2000;
const MAX_AGE: u64 = 10_000;

impl Told {
    fn new() -> Self {
        Self(Arc::new(Inside {
            store: MemoryStore::new().unwrap(),
            listeners: Listeners::default(),
            channel: Mutex::new(Channel::since(0)),
            time: AtomicU64::new(0),
            looks: AtomicUsize::new(0),
            begin: Semaphore::new(1 << 20),
            answer: Semaphore::new(1 << 20),
        }))
    }

    fn near(&self) -> NearStore {
        self.near_of(&NearCache::default())
    }

    fn near_of(&self, settings: &NearCache) -> NearStore {
        let time = Arc::clone(&self.0);
        let ticks = Ticks::from_fn(move || time.time.load(Ordering::SeqCst));
        NearStore::timed(Arc::new(self.clone()), settings, ticks).unwrap()
    }

    fn inner(&self) -> &dyn Store {
        &self.0.store
    }

    fn channel(&self) -> Arc<Channel> {
        Arc::clone(&self.0.channel.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, news: News) {
        self.0.listeners.tell(news);
    }

    fn pass(&self, millis: u64) {
        self.0.time.fetch_add(millis, Ordering::SeqCst);
    }

    /// Time passes, and the link stays proven.
    fn pass_alive(&self, millis: u64) {
        self.pass(millis);
        self.channel().prove(self.0.time.load(Ordering::SeqCst));
    }

    fn looks(&self) -> usize {
        self.0.looks.load(Ordering::SeqCst)
    }

    /// Another node's transaction.
    async fn elsewhere(&self, writes: Vec<Write>) {
        let transaction = Transaction { id: 1, now: Timestamp::EPOCH, relies_on: Vec::new(), writes, log: Vec::new() };
        let outcome = self.0.store.commit(&[transaction], false).await.unwrap();
        assert!(matches!(outcome[..], [Outcome::Committed(_)]), "{outcome:?}");
    }

    async fn start(&self) -> SessionId {
        let id = SessionId::generate(Partition::random().unwrap()).unwrap();
        self.elsewhere(vec![Write::Create(Arc::new(record(id)))]).await;
        id
    }

    async fn end(&self, id: SessionId) {
        let (at, reason) = (Timestamp::EPOCH, Reason::RevokedByAdmin);
        self.elsewhere(vec![Write::End(Ended { id, user: None, at, reason, by: None, note: None })]).await;
    }

    async fn set(&self, id: SessionId, value: u32) {
        self.elsewhere(vec![setting(id, value, None)]).await;
    }
}

fn record(id: SessionId) -> Record {
    let secrets = Secrets::new(Digest::from_bytes([7; Digest::LEN]), Timestamp::EPOCH);
    Record { revision: 1, ..Record::new(SessionInfo::new(id, Timestamp::EPOCH), secrets) }
}

fn setting(id: SessionId, value: u32, known: Option<Known>) -> Write {
    let set = [(Arc::from("key"), Json::encode(&value).unwrap())].into();
    Write::Data { id, change: DataChange { set, ..DataChange::default() }, known }
}

fn value(slot: Option<Slot>) -> u32 {
    let Some(Slot::Open(record)) = slot else { panic!("it is open: {slot:?}") };
    record.data.get("key").map_or(0, |value| value.decode().unwrap())
}

impl Feed for Told {
    fn listen(&self, listener: Arc<dyn Listener>) {
        self.0.listeners.add(listener);
    }

    fn look(&self, id: SessionId) -> BoxFuture<'_, Result<Looked>> {
        Box::pin(async move {
            self.0.begin.acquire().await.unwrap().forget();
            self.0.looks.fetch_add(1, Ordering::SeqCst);
            let channel = self.channel();
            let slot = self.0.store.peek(id).unwrap();
            self.0.answer.acquire().await.unwrap().forget();
            Ok(Looked { slot, channel: Some(channel) })
        })
    }

    fn commit<'a>(&'a self, transactions: &'a [Transaction], again: bool) -> BoxFuture<'a, Result<Watched>> {
        Box::pin(async move {
            let outcomes = self.0.store.commit(transactions, again).await?;
            self.0.answer.acquire().await.unwrap().forget();
            Ok(Watched { outcomes, channel: Some(self.channel()) })
        })
    }
}

impl Store for Told {
    forward!(Self::inner => partition_key spans_groups read commit touch list forget audit ping edits_in_place edit examine
        adopt_partition_key near);

    fn peek(&self, _: SessionId) -> Option<Option<Slot>> {
        None
    }

    fn feed(&self, _: &Pace) -> Option<Arc<dyn Feed>> {
        Some(Arc::new(self.clone()))
    }
}

#[tokio::test]
async fn i10_a_session_is_served_from_memory_only_while_the_link_is_proven_alive() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    assert_eq!(near.glance(id), None);
    near.recent(id).await.unwrap();
    assert!(matches!(near.glance(id), Some(Some(Slot::Open(_)))));

    told.pass(SILENCE - 1);
    assert!(near.glance(id).is_some());
    told.pass(1);
    assert_eq!(near.glance(id), None, "nothing has been heard for that long");
    // The link was slow and is alive: what it told before the proof has come.
    told.pass_alive(0);
    assert!(near.glance(id).is_some());
}

#[tokio::test]
async fn i10_a_lost_link_empties_the_cache_and_reads_go_through() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    near.recent(id).await.unwrap();
    told.channel().lose();
    assert_eq!(near.glance(id), None);
    told.tell(News::Lost);
    assert_eq!((near.figures().slots, near.figures().bytes), (0, 0));
    told.channel().prove(u64::MAX);
    assert_eq!(near.glance(id), None, "a link that was lost stays lost");
    // As long as there is no other link, nothing is kept.
    near.recent(id).await.unwrap();
    assert_eq!((near.glance(id), near.figures().slots), (None, 0));
    *told.0.channel.lock().unwrap() = Channel::since(0);
    near.recent(id).await.unwrap();
    assert!(near.glance(id).is_some());
}

#[tokio::test]
async fn i10_a_lost_message_is_made_good_within_the_greatest_age() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    near.recent(id).await.unwrap();
    told.end(id).await;
    for _ in 0..MAX_AGE / 1000 - 1 {
        told.pass_alive(1000);
        assert!(matches!(near.glance(id), Some(Some(Slot::Open(_)))), "the link is alive, and did not tell");
    }
    told.pass_alive(1000);
    assert_eq!(near.glance(id), None);
    assert!(matches!(near.recent(id).await.unwrap(), Some(Slot::Ended(_))));
}

#[tokio::test]
async fn i10_what_changes_elsewhere_is_seen_when_it_is_told() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    near.recent(id).await.unwrap();
    told.set(id, 7).await;
    assert_eq!(value(near.glance(id).unwrap()), 0);
    told.tell(News::Session(id));
    assert_eq!(near.glance(id), None);
    assert_eq!(value(near.recent(id).await.unwrap()), 7);
    assert_eq!(value(near.glance(id).unwrap()), 7);
}

#[tokio::test]
async fn i10_a_load_in_flight_is_not_kept_if_news_of_its_id_arrived_meanwhile() {
    let told = Told::new();
    let (near, id) = (Arc::new(told.near()), told.start().await);
    told.0.answer.forget_permits(1 << 20);
    let loading = tokio::spawn({
        let near = Arc::clone(&near);
        async move { near.recent(id).await }
    });
    while told.looks() == 0 {
        tokio::task::yield_now().await;
    }
    told.set(id, 1).await;
    told.tell(News::Session(id));
    // Who asks after the news does not get what was looked at before it.
    let later = tokio::spawn({
        let near = Arc::clone(&near);
        async move { near.recent(id).await }
    });
    while told.looks() == 1 {
        tokio::task::yield_now().await;
    }
    told.0.answer.add_permits(2);
    assert_eq!(value(loading.await.unwrap().unwrap()), 0);
    assert_eq!(value(later.await.unwrap().unwrap()), 1);
    assert_ne!(near.glance(id).map(value), Some(0));
}

#[tokio::test]
async fn i10_own_changes_are_read_back_at_once_and_need_no_load() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    let Some(Slot::Open(record)) = near.recent(id).await.unwrap() else { panic!("it is open") };
    let known = |record: &Record| Some(Known { version: record.info.version, revision: record.revision });
    let change = |value, known| Transaction {
        id: u64::from(value) + 100,
        now: Timestamp::EPOCH,
        relies_on: vec![Expect::Live(id)],
        writes: vec![setting(id, value, known)],
        log: Vec::new(),
    };
    let outcome = near.commit(&[change(1, known(&record))], false).await.unwrap();
    let [Outcome::Committed(answers)] = &outcome[..] else { panic!("{outcome:?}") };
    let [Committed::Record(changed)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(near.glance(id).map(value), Some(1));
    assert_eq!(**changed, *told.0.store.peek(id).unwrap().map(open).unwrap());
    // Others changed it meanwhile, and the news is under way: the answer holds the record as it is.
    told.set(id, 5).await;
    near.commit(&[change(2, known(changed))], false).await.unwrap();
    assert_eq!(near.glance(id).map(value), Some(2));
    assert_eq!(near.glance(id).map(open_slot), told.0.store.peek(id).map(open_slot));
    assert_eq!(told.looks(), 1);
    // A conflict, an ending and what was not answered leave nothing that could be old.
    let mut refused = change(3, None);
    refused.relies_on.push(Expect::Version(id, 0));
    near.commit(&[refused], false).await.unwrap();
    assert_eq!(near.glance(id), None);
    near.recent(id).await.unwrap();
    let (at, reason) = (Timestamp::EPOCH, Reason::SignedOut);
    let end = Write::End(Ended { id, user: None, at, reason, by: None, note: None });
    near.commit(&[Transaction { writes: vec![end], ..change(4, None) }], false).await.unwrap();
    assert_eq!(near.glance(id), None);
    assert!(matches!(near.recent(id).await.unwrap(), Some(Slot::Ended(_))));
}

fn open(slot: Slot) -> Arc<Record> {
    let Slot::Open(record) = slot else { panic!("it is open") };
    record
}

fn open_slot(slot: Option<Slot>) -> Arc<Record> {
    open(slot.expect("it is there"))
}

#[tokio::test]
async fn i10_a_load_that_began_before_an_own_change_was_answered_is_not_kept() {
    let told = Told::new();
    let (near, id) = (Arc::new(told.near()), told.start().await);
    told.0.answer.forget_permits(1 << 20);
    let loading = tokio::spawn({
        let near = Arc::clone(&near);
        async move { near.recent(id).await }
    });
    while told.looks() == 0 {
        tokio::task::yield_now().await;
    }
    // The change is done and answered while the load's answer is under way.
    let change = Transaction {
        id: 9,
        now: Timestamp::EPOCH,
        relies_on: vec![Expect::Live(id)],
        writes: vec![setting(id, 9, None)],
        log: Vec::new(),
    };
    let committing = tokio::spawn({
        let near = Arc::clone(&near);
        async move { near.commit(&[change], false).await }
    });
    tokio::task::yield_now().await;
    told.0.answer.add_permits(2);
    loading.await.unwrap().unwrap();
    committing.await.unwrap().unwrap();
    assert_ne!(near.glance(id).map(value), Some(0));
}

#[tokio::test]
async fn i10_a_change_whose_caller_gave_up_leaves_nothing_that_could_be_old() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    near.recent(id).await.unwrap();
    told.0.answer.forget_permits(1 << 20);
    let change = Transaction {
        id: 9,
        now: Timestamp::EPOCH,
        relies_on: vec![Expect::Live(id)],
        writes: vec![setting(id, 9, None)],
        log: Vec::new(),
    };
    let transactions = [change];
    let mut committing = near.commit(&transactions, false);
    std::future::poll_fn(|context| {
        assert!(committing.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(committing);
    assert_eq!(near.glance(id), None);
}

#[tokio::test]
async fn i10_a_stampede_is_one_load() {
    let told = Told::new();
    let (near, id) = (Arc::new(told.near()), told.start().await);
    told.0.begin.forget_permits(1 << 20);
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let near = Arc::clone(&near);
            tokio::spawn(async move { near.recent(id).await })
        })
        .collect();
    while near.figures().joined < 63 {
        tokio::task::yield_now().await;
    }
    // The one who looks goes away: another takes over.
    callers[0].abort();
    told.0.begin.add_permits(1);
    for caller in callers.into_iter().skip(1) {
        assert_eq!(value(caller.await.unwrap().unwrap()), 0);
    }
    assert_eq!(told.looks(), 1);
    assert!(near.glance(id).is_some());
}

#[tokio::test]
async fn i10_a_look_that_must_be_fresh_joins_nobody() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    near.recent(id).await.unwrap();
    told.set(id, 3).await;
    assert_eq!(value(near.glance(id).unwrap()), 0);
    let found = near.read(&[Ask::Session(id)]).await.unwrap();
    let [Found::Session(slot)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(value(slot.clone()), 3);
    assert_eq!(near.glance(id).map(value), Some(3), "and is kept");
}

#[tokio::test]
async fn i10_touches_move_what_is_kept_and_invalidate_nothing() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    near.recent(id).await.unwrap();
    let at = Timestamp::from_millis(50);
    near.touch(&[SeenAt { id, at }], at).await.unwrap();
    assert_eq!(near.glance(id).map(|slot| open_slot(slot).info.last_seen_at), Some(at));
    near.touch(&[SeenAt { id, at: Timestamp::from_millis(20) }], at).await.unwrap();
    assert_eq!(near.glance(id).map(|slot| open_slot(slot).info.last_seen_at), Some(at));
    assert_eq!(told.looks(), 1);
}

#[tokio::test]
async fn i10_unknown_ids_take_no_room_from_those_that_live() {
    let told = Told::new();
    let near = told.near_of(&NearCache { max_bytes: 4 << 20, ..NearCache::default() });
    let id = told.start().await;
    near.recent(id).await.unwrap();
    let mut unknown = Vec::new();
    for _ in 0..20_000 {
        unknown.push(SessionId::generate(Partition::random().unwrap()).unwrap());
        assert_eq!(near.recent(unknown[unknown.len() - 1]).await.unwrap(), None);
    }
    assert!(near.glance(id).is_some(), "it lives");
    let figures = near.figures();
    assert!(figures.bytes < (4 << 20) / 16, "{figures:?}");
    assert!(near.glance(unknown[unknown.len() - 1]).is_some(), "the latest are kept");
}

#[tokio::test]
async fn i10_memory_is_bounded_and_what_is_used_stays() {
    let told = Told::new();
    let near = told.near_of(&NearCache { max_bytes: 4 << 20, ..NearCache::default() });
    let used = told.start().await;
    near.recent(used).await.unwrap();
    for _ in 0..20_000 {
        near.recent(told.start().await).await.unwrap();
        assert!(near.glance(used).is_some());
    }
    let figures = near.figures();
    assert!(figures.bytes <= 4 << 20, "{figures:?}");
    assert!(figures.bytes > 2 << 20, "{figures:?}");
}

#[tokio::test]
async fn figures_tell_what_the_cache_is_worth() {
    let told = Told::new();
    let (near, id) = (told.near(), told.start().await);
    near.recent(id).await.unwrap();
    near.glance(id);
    near.glance(id);
    told.tell(News::Session(id));
    let NearFigures { hits, misses, joined, told, slots, bytes } = near.figures();
    assert_eq!((hits, misses, joined, told, slots, bytes), (2, 1, 0, 1, 0, 0));
    assert_eq!(NearCache::default().silence, Duration::from_millis(SILENCE));
    assert_eq!(NearCache::default().max_age, Duration::from_millis(MAX_AGE));
}
