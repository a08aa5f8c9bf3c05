//! Beside tower-sessions' own store in memory, random programs see the same, but for what is said to differ.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use cloakroom::web::TowerSessionsStore;
use proptest::prelude::*;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tower_sessions::{
    CachingSessionStore, Expiry, MemoryStore, Session, SessionStore,
    session::{Id, Record},
    session_store::{Error, Result},
};

use super::world::sessions;

/// tower-sessions' own store, with what is said to differ: creating always chooses the id, a save never makes a session, and
/// one that was deleted is left alone.
#[derive(Clone, Debug, Default)]
struct Stated {
    memory: MemoryStore,
    deleted: Arc<Mutex<HashSet<Id>>>,
}

#[async_trait]
impl SessionStore for Stated {
    async fn create(&self, record: &mut Record) -> Result<()> {
        record.id = Id::default();
        self.memory.create(record).await
    }

    async fn save(&self, record: &Record) -> Result<()> {
        let is_there = self.memory.load(&record.id).await?.is_some();
        if is_there {
            return self.memory.save(record).await;
        }
        let is_deleted = self.deleted.lock().unwrap().contains(&record.id);
        if is_deleted || record.data.is_empty() { Ok(()) } else { Err(Error::Backend("it is gone".into())) }
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        self.memory.load(id).await
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        if self.memory.load(id).await?.is_some() {
            self.deleted.lock().unwrap().insert(*id);
        }
        self.memory.delete(id).await
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(&'static str, Value),
    Remove(&'static str),
    Get(&'static str),
    IsEmpty,
    Clear,
    Save,
    Load,
    Delete,
    Flush,
    CycleId,
    SetExpiry(u8),
    /// The response leaves, and the next request brings what the browser has by then.
    Respond,
    /// The response leaves, and the next request brings an older cookie, or one that was never given out.
    RespondToOther(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop::sample::select(vec!["a", "b", "c"]);
    let value =
        prop::sample::select(vec![json!(null), json!(0), json!(1), json!(1.0), json!("x"), json!({"y": [1, {}]})]);
    prop_oneof![
        6 => (key(), value).prop_map(|(key, value)| Op::Insert(key, value)),
        3 => key().prop_map(Op::Remove),
        2 => key().prop_map(Op::Get),
        2 => Just(Op::IsEmpty),
        1 => Just(Op::Clear),
        4 => Just(Op::Save),
        1 => Just(Op::Load),
        1 => Just(Op::Delete),
        1 => Just(Op::Flush),
        2 => Just(Op::CycleId),
        1 => (0..4_u8).prop_map(Op::SetExpiry),
        4 => Just(Op::Respond),
        1 => (0..6_usize).prop_map(Op::RespondToOther),
    ]
}

fn expiry(kind: u8) -> Expiry {
    match kind {
        0 => Expiry::OnSessionEnd,
        1 => Expiry::OnInactivity(Duration::hours(3)),
        2 => Expiry::AtDateTime(OffsetDateTime::now_utc() + Duration::hours(5)),
        _ => Expiry::AtDateTime(OffsetDateTime::now_utc() - Duration::seconds(1)),
    }
}

/// A browser, the request it has under way, and the store behind it.
struct Side<Store, Backend> {
    store: Arc<Store>,
    backend: Backend,
    session: Session,
    cookie: Option<Id>,
    given_out: Vec<Id>,
}

impl<Store: SessionStore, Backend: SessionStore> Side<Store, Backend> {
    fn new(store: Store, backend: Backend) -> Self {
        let store = Arc::new(store);
        let session = Session::new(None, store.clone(), None);
        Self { store, backend, session, cookie: None, given_out: Vec::new() }
    }

    /// Does it, and says what was seen.
    async fn play(&mut self, op: &Op) -> String {
        let session = &self.session;
        let seen = match op {
            Op::Insert(key, value) => format!("{:?}", session.insert_value(key, value.clone()).await.ok()),
            Op::Remove(key) => format!("{:?}", session.remove_value(key).await.ok()),
            Op::Get(key) => format!("{:?}", session.get_value(key).await.ok()),
            Op::IsEmpty => session.is_empty().await.to_string(),
            Op::Clear => format!("{:?}", session.clear().await),
            Op::Save => format!("{:?}", session.save().await.ok()),
            Op::Load => format!("{:?}", session.load().await.ok()),
            Op::Delete => format!("{:?}", session.delete().await.ok()),
            Op::Flush => format!("{:?}", session.flush().await.ok()),
            Op::CycleId => format!("{:?}", session.cycle_id().await.ok()),
            Op::SetExpiry(kind) => format!("{:?}", session.set_expiry(Some(expiry(*kind)))),
            Op::Respond => self.respond(None).await,
            Op::RespondToOther(which) => self.respond(Some(*which)).await,
        };
        let session = &self.session;
        let same = session.id().is_some() && session.id() == self.cookie;
        format!("{seen} modified: {}, id: {}, as came: {same}", session.is_modified(), session.id().is_some())
    }

    /// As the middleware does.
    async fn respond(&mut self, other: Option<usize>) -> String {
        let (session, empty) = (&self.session, self.session.is_empty().await);
        let mut failed = false;
        if empty && self.cookie.is_some() {
            self.cookie = None;
        } else if session.is_modified() && !empty {
            failed = session.save().await.is_err();
            if !failed {
                self.cookie = session.id();
            }
        }
        self.given_out.extend(self.cookie.filter(|id| !self.given_out.contains(id)));
        if let Some(which) = other {
            self.cookie = Some(self.given_out.get(which).copied().unwrap_or(Id(which.try_into().unwrap())));
        }
        self.session = Session::new(self.cookie, self.store.clone(), None);
        format!("failed: {failed}, cookie: {}, {}", self.cookie.is_some(), self.stored().await)
    }

    /// What each session that was ever given out is in the store itself.
    async fn stored(&self) -> String {
        let mut all = Vec::new();
        for id in &self.given_out {
            let record = self.backend.load(id).await.unwrap();
            if let Some(record) = &record {
                assert_eq!(record.id, *id);
            }
            all.push(record.map(|record| record.data.into_iter().collect::<BTreeMap<_, _>>()));
        }
        format!("{all:?}")
    }
}

fn compare<A: SessionStore, B: SessionStore>(
    mut theirs: Side<A, Stated>,
    mut ours: Side<B, TowerSessionsStore>,
    ops: &[Op],
) -> std::result::Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (step, op) in ops.iter().chain([&Op::Respond, &Op::Respond]).enumerate() {
            let (theirs, ours) = (theirs.play(op).await, ours.play(op).await);
            prop_assert_eq!(theirs, ours, "step {}: {:?} of {:?}", step, op, ops);
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_program_sees_what_tower_sessions_own_store_shows(ops in prop::collection::vec(op(), 1..40)) {
        let (theirs, ours) = (Stated::default(), TowerSessionsStore::new(&sessions().0));
        compare(Side::new(theirs.clone(), theirs), Side::new(ours.clone(), ours), &ops)?;
    }

    #[test]
    fn behind_a_cache_it_sees_the_same(ops in prop::collection::vec(op(), 1..40)) {
        let (theirs, ours) = (Stated::default(), TowerSessionsStore::new(&sessions().0));
        let cached = CachingSessionStore::new(MemoryStore::default(), theirs.clone());
        let ours_cached = CachingSessionStore::new(MemoryStore::default(), ours.clone());
        compare(Side::new(cached, theirs), Side::new(ours_cached, ours), &ops)?;
    }

    #[test]
    fn requests_at_the_same_time_lose_no_key_of_each_other(
        steps in prop::collection::vec((0..4_usize, op()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(parallel(&steps))?;
    }
}

/// Several requests of one session, which read, change and save as they like.
async fn parallel(steps: &[(usize, Op)]) -> std::result::Result<(), TestCaseError> {
    type Values = BTreeMap<String, Value>;
    let store = Arc::new(TowerSessionsStore::new(&sessions().0));
    let first = Session::new(None, store.clone(), None);
    first.insert("a", 0).await.unwrap();
    first.save().await.unwrap();
    let id = first.id();
    let requests: Vec<_> = (0..4).map(|_| Session::new(id, store.clone(), None)).collect();
    let mut stored: Values = [("a".to_owned(), json!(0))].into();
    // What each request sees, and what it saw when it loaded or saved.
    let mut views: [Option<(Values, Values)>; 4] = Default::default();
    for (number, op) in steps {
        if !matches!(op, Op::Insert(..) | Op::Remove(_) | Op::Get(_) | Op::Save) {
            continue;
        }
        let request = &requests[*number];
        let (now, before) = views[*number].get_or_insert_with(|| (stored.clone(), stored.clone()));
        match op {
            Op::Insert(key, value) => {
                request.insert_value(key, value.clone()).await.unwrap();
                now.insert((*key).into(), value.clone());
            }
            Op::Remove(key) => prop_assert_eq!(request.remove_value(key).await.unwrap(), now.remove(*key)),
            Op::Get(key) => prop_assert_eq!(&request.get_value(key).await.unwrap(), &now.get(*key).cloned()),
            _ => {
                request.save().await.unwrap();
                stored.retain(|key, _| now.contains_key(key) || !before.contains_key(key));
                let changed = now.iter().filter(|(key, value)| before.get(*key) != Some(*value));
                stored.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
                before.clone_from(now);
                let record = store.load(&id.unwrap()).await.unwrap().unwrap();
                prop_assert_eq!(&record.data.into_iter().collect::<Values>(), &stored, "{:?}", steps);
            }
        }
    }
    Ok(())
}
